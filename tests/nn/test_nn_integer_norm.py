"""Integer batch norm against its formulas on Python's integers and fractions, bit for bit."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.nn import IntegerBatchNorm1d, IntegerBatchNorm2d, integer_norm_pass
from bitwright.recipes import recipe

F, BITS = 8, 12


def nearest_up(a, n):
    """round(a / n), a half going up."""
    return (2 * a + n) // (2 * n)


def inverse_root(v):
    """1 / sqrt(v 2^-16) to 16 bits, by integer square roots."""
    e = 64
    while True:  # the power with 2^(e - 1) <= 1 / sqrt(v 2^-16) < 2^e
        e -= 1
        if Fraction(2) ** (2 * e) * v <= 2**16:
            break
    # x^2 = N / v, and floor(2x) = isqrt(4 N // v)
    n = Fraction(2) ** (2 * (15 - e) + 16) * 4
    whole = math.isqrt(int(n // v))
    return Fraction((whole + 1) // 2) / Fraction(2) ** (15 - e)


def sixteen(x):
    """x to 16 significant bits, ties to even."""
    if x == 0:
        return x
    e = math.frexp(float(x))[1]
    unit = Fraction(2) ** (e - 16)
    return round(x / unit) * unit


def half_even(x):
    return round(x)


def channel(s, g, gamma, beta, eps, unit):
    """One channel: integers s, integers g, fractions gamma and beta."""
    n = len(s)
    mu = nearest_up(sum(s), n)
    squares = sum((v - mu) ** 2 for v in s)
    whole, rest = divmod(squares, n)
    variance = (whole << 16) + nearest_up(rest << 16, n)
    eps_integer = max(1, half_even(Fraction(eps) * 2**16 / unit**2))
    inverse = inverse_root(variance + eps_integer)
    top = 2 ** (BITS - 1) - 1
    codes = [max(-top - 1, min(top, half_even((v - mu) * inverse * 2**F))) for v in s]
    y = [gamma * Fraction(c, 2**F) + beta for c in codes]
    k1 = nearest_up(sum(g) << 16, n)
    crossed = sum(a * b for a, b in zip(g, codes, strict=True))
    k2 = nearest_up(crossed << 16 - F, n)
    gain = sixteen(gamma * inverse / unit)
    means = [Fraction(k1, 2**16) + Fraction(c, 2**F) * Fraction(k2, 2**16) for c in codes]
    terms = [b - mean for b, mean in zip(g, means, strict=True)]
    return mu, variance, y, [gain * t for t in terms], Fraction(crossed, 2**F), sum(g)


def single(values):
    """Fractions of at most 53 bits to float32."""
    assert all(Fraction(float(v)) == v for v in values)
    return np.array([float(v) for v in values]).astype(np.float32)


def layer_and_norm(shape, weight="binary", **extra):
    """A quantised layer with a norm behind it, whose `fold` gives the unit."""
    torch.manual_seed(0)
    if len(shape) == 4:
        layers = (nn.Conv2d(4, shape[1], 3, bias=False), nn.BatchNorm2d(shape[1], eps=1e-4))
    else:
        layers = (nn.Linear(40, shape[1], bias=False), nn.BatchNorm1d(shape[1], eps=1e-4))
    model = nn.Sequential(*layers)
    roles = {"weight": weight, "activation": "fixed8.7", "error": {"format": "fixed12.14"}}
    bw.quantize_(model, recipe("float", norm="integer", **roles | extra), verbose=False)
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-1.5, 2, shape[1]))
        model[1].bias.copy_(torch.linspace(-1, 1, shape[1]))
    return model


@pytest.mark.parametrize("piece", [1 << 16, 40])
@pytest.mark.parametrize("shape", [(50, 3), (6, 3, 5, 7)], ids=str)
def test_both_passes_are_those_of_the_formulas(shape, piece, monkeypatch):
    monkeypatch.setattr(integer_norm_pass, "PIECE", piece)
    norm = layer_and_norm(shape)[1]
    generator = torch.Generator().manual_seed(1)
    s = torch.randint(-3000, 3000, shape, generator=generator)
    s[:, 0] = s[:, 0] // 100 + 5  # a channel of small integers
    g = torch.randint(-2048, 2048, shape, generator=generator)
    g[:, 1] = g[:, 1] // 2000
    unit, step = 2.0**-7, 2.0**-14
    x = (s * unit).float().requires_grad_()
    norm.train()
    y = norm(x)
    y.backward((g * step).float())
    column = lambda t, c: t.transpose(0, 1)[c].flatten()  # noqa: E731
    for c in range(3):
        gamma, beta = (Fraction(float(p[c].detach())) for p in (norm.weight, norm.bias))
        mu, variance, values, dx, dgamma, dbeta = channel(
            column(s, c).tolist(), column(g, c).tolist(), gamma, beta, norm.eps, Fraction(unit)
        )
        assert np.array_equal(column(y, c).detach().numpy(), single(values))
        assert np.array_equal(column(x.grad, c).numpy(), single([v * Fraction(step) for v in dx]))
        assert float(norm.weight.grad[c]) == single([dgamma * Fraction(step)])[0]
        assert float(norm.bias.grad[c]) == single([dbeta * Fraction(step)])[0]
        # running statistics began at mean 0 and variance 1 of values: 2^16 and 2^30 in integers
        assert int(norm.running_mean[c]) == nearest_up(mu << 16, 8)
        assert int(norm.running_var[c]) == 2**30 + nearest_up(variance - 2**30, 8)
    assert norm.unit.tolist() == [unit]


def test_statistics_are_integers_and_eval_is_their_affine_map():
    model = layer_and_norm((8, 3, 4, 4))
    norm = model[1]
    for seed in range(3):
        model(torch.rand(4, 4, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1)
    assert norm.running_mean.dtype == norm.running_var.dtype == torch.int64
    mean, gain, beta = norm.statistics()
    for c in range(3):
        assert Fraction(float(mean[c])) == Fraction(int(norm.running_mean[c]), 2**16) / 2**7
        eps = max(1, round(Fraction(norm.eps) * 2**16 * 2**14))
        exact = Fraction(float(norm.weight[c].detach())) * inverse_root(int(norm.running_var[c]) + eps)
        assert Fraction(float(gain[c])) == exact * 2**7
    assert torch.equal(beta, norm.bias.detach().double())


def test_scales_that_are_no_powers_of_two_and_move():
    spec = {"format": "int6", "controller": "max-abs", "per": "channel"}
    model = layer_and_norm((8, 3, 4, 4), weight=spec)
    norm = model[1]
    x = torch.rand(4, 4, 6, 6) * 2 - 1
    model(x)
    scale = model[0].slots.of("forward.weight").current_scale().flatten().double()
    assert torch.equal(norm.unit, scale * 2**-7)
    before, moved = norm.running_var.clone(), norm.unit.clone()
    with torch.no_grad():
        model[0].weight *= 3
    model[0](x)  # measures
    model(x)
    ratio = moved / norm.unit
    assert not torch.equal(norm.unit, moved)
    # the old statistics moved to the new unit before this step's came in: a smaller number of larger integers
    stored = (before.double() * ratio.square()).round().to(torch.int64)
    assert (norm.running_var >= stored - stored // 8 - 1).all()
    # the layer's values give its integers back, whatever the unit
    y = model[0](x)
    integers = y.double() / norm.fold.source.worth().view(1, -1, 1, 1)
    assert (integers - integers.round()).abs().max() < 2**-10


@pytest.mark.parametrize("name", ["fxpnet", "qnn-shift"])
@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_trained_networks_lower_and_verify(name, kind):
    from bitwright import models, training

    shape = (1, 6, 6) if kind == "mlp" else (2, 8, 8)
    torch.manual_seed(0)
    model = models.build(kind, 4, shape, 5)
    chosen = recipe(name)
    bw.quantize_(model, chosen, verbose=False)
    optimizer = chosen.optimizer(model)
    x, t = torch.rand(20, *shape) * 2 - 1, torch.arange(20) % 5
    losses = []
    for _ in range(25 if kind == "mlp" else 6):
        optimizer.zero_grad()
        loss = training.loss(chosen.loss, model(x), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
    model.eval()
    checked = bw.verify(model, bw.lower(model, x[:1]), [x])
    assert checked.differing == 0


def test_float_checkpoints_load_and_plain_modules_come_back():
    plain = nn.Sequential(nn.Linear(40, 3, bias=False), nn.BatchNorm1d(3, eps=1e-4))
    plain[1].running_mean.copy_(torch.tensor([0.5, -3.25, 100.0]))
    plain[1].running_var.copy_(torch.tensor([2.0, 0.125, 9.0]))
    model = layer_and_norm((8, 3))
    model.load_state_dict(plain.state_dict())
    norm = model[1]
    assert norm.running_mean.tolist() == [2**15, -13 * 2**14, 100 * 2**16]
    model(torch.rand(10, 40))
    twin = copy.deepcopy(model)
    other = layer_and_norm((8, 3))
    other.load_state_dict(model.state_dict())
    for a, b in zip(other.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
    mean, gain, _ = norm.statistics()
    gamma = norm.weight.detach().double()
    bw.dequantize_(model)
    assert type(model[1]) is nn.BatchNorm1d
    assert set(model.state_dict()) == set(plain.state_dict())
    assert torch.equal(model[1].running_mean, mean.float())
    back = gamma / (model[1].running_var.double() + 1e-4).sqrt()
    assert ((back - gain).abs() <= gain.abs() * 2**-15).all()  # the mantissa of 16 bits


def test_float_errors_and_errors_of_powers():
    for error in ("float", {"format": "log6", "controller": "max-abs", "power_of_two": True}):
        model = layer_and_norm((8, 3), error=error)
        x = torch.rand(10, 40) * 2 - 1
        model(x).square().sum().backward()
        assert model[0].weight.grad.isfinite().all()
        assert model[1].weight.grad.abs().sum() > 0


def test_what_it_cannot_stand_behind_is_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    bw.quantize_(model, recipe("float", norm="integer", weight="binary"), verbose=False)
    with pytest.raises(InvalidValueError, match=r"integers; got forward\.activation in float"):
        model(torch.rand(5, 4))
    alone = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    bw.quantize_(alone, recipe("float", norm="integer", weight="binary", activation="int8"), verbose=False)
    with pytest.raises(InvalidValueError, match="stands behind a quantised layer"):
        alone(torch.rand(5, 4))
    lost = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(InvalidValueError, match="keeps running statistics"):
        bw.quantize_(lost, recipe("float", norm="integer", weight="binary"), verbose=False)
    assert type(lost[1]) is nn.BatchNorm1d
    with pytest.raises(InvalidValueError, match="unknown norm 'shifted'"):
        recipe("qnn", norm="shifted")
    for form in ("int8", "fixed18.4", "fixed12"):
        with pytest.raises(InvalidValueError, match="normalised values have"):
            recipe("qnn", norm={"kind": "integer", "format": form})


def test_both_classes_stand_for_their_torch_class():
    assert issubclass(IntegerBatchNorm1d, nn.BatchNorm1d)
    assert issubclass(IntegerBatchNorm2d, nn.BatchNorm2d)
