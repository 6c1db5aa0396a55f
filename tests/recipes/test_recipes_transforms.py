"""DoReFa and WAGE: their formulas in numpy and plain torch, number by number, and a training step of each."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed, Int, Key, Ternary, tensor_id
from bitwright.quantize import MaxAbs, Quantizer, QuantizerSpec, Static, Transform

SIGMA = 2.0**-7


def drawn(*shape, seed=0, size=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size


class Round(torch.autograd.Function):
    """quantise_k's straight-through gradient (DoReFa, equation 5)."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize("k", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_dorefas_weights_and_their_gradient(k, size):
    n = 2**k - 1
    spec = QuantizerSpec(Int(k + 1), Static(1 / n), transform=Transform.TANH)
    w = drawn(30, 40, size=size).requires_grad_()
    quantised = Quantizer(spec, "w")(w)
    upstream = drawn(30, 40, seed=1)
    (gradient,) = torch.autograd.grad(quantised.value(), w, upstream)

    v = w.detach().clone().requires_grad_()
    t = torch.tanh(v)
    steps = Round.apply(n * (t / (2 * t.abs().max()) + 0.5))
    (wanted,) = torch.autograd.grad(2 * steps, v, upstream)  # of n times the value

    # the levels are the odd numbers 2 i - n
    assert torch.equal(quantised.levels, 2 * steps.detach() - n)
    assert set(quantised.levels.unique().tolist()) <= set(range(-n, n + 1, 2))
    assert torch.allclose(gradient, wanted / n, rtol=1e-5, atol=1e-6)
    assert gradient.abs().sum() > 0


def test_dorefas_weights_of_zeros_and_of_one():
    spec = QuantizerSpec(Int(3), Static(1 / 3), transform=Transform.TANH)
    zeros = Quantizer(spec, "w")(torch.zeros(4, requires_grad=True))
    assert zeros.levels.tolist() == [1.0] * 4  # round(3/2) = 2
    one = Quantizer(spec, "w")(torch.tensor([-0.25]))
    assert one.levels.tolist() == [-3.0]


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_dorefas_activations(k):
    n = 2**k - 1
    spec = bw.recipe("dorefa", activation={"format": f"uint{k}", "scale": 1 / n, "estimator": "clipped"})
    quantizer = Quantizer(spec.roles["activation"], "a")
    x = torch.cat([drawn(1000), torch.tensor([0.0, 1.0, -0.0, 1.5])]).requires_grad_()
    quantised = quantizer(x)
    assert torch.equal(quantised.levels, torch.round(n * x.detach().clamp(0, 1)))
    (gradient,) = torch.autograd.grad(quantised.value(), x, torch.ones_like(x))
    assert torch.equal(gradient, ((x >= 0) & (x <= 1)).float())


def test_dorefa_leaves_the_first_and_last_layer_in_float():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    report = bw.quantize_(model, "dorefa", verbose=False)
    assert {row.tensor for row in report.rows} == {"2:weight", "2:activation", "2:error"}
    assert {skipped.name for skipped in report.skipped} >= {"0", "4"}


@pytest.mark.parametrize("bits", [2, 4])
def test_a_network_of_tanh_weights_lowers(tmp_path, bits):
    """Their odd numbers are ordinary codes to the integer network."""
    n = 2**bits - 1
    path = tmp_path / "inner.toml"
    path.write_text(
        'name = "inner"\n[roles]\n'
        f'weight = {{ format = "int{bits + 1}", scale = {1 / n!r}, transform = "tanh" }}\n'
        f'activation = {{ format = "uint{bits}", scale = {1 / n!r}, estimator = "clipped" }}\n'
    )
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)
    )
    recipe = bw.recipe(path)
    bw.quantize_(model, recipe, verbose=False)
    optimizer = recipe.optimizer(model)
    x = drawn(20, 1, 6, 6).abs()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(20) % 5).backward()
        optimizer.step()
    network = bw.lower(model, x)
    assert bw.verify(model, network, [x]).differing == 0


def shift(x):
    """WAGE's Shift in float64."""
    return 2.0 ** np.round(np.log2(np.float64(x)))


def q(x, bits):
    """Q(x, k): clip(round(x / s) s, -1 + s, 1 - s), s = 2^(1 - k)."""
    step = 2.0 ** (1 - bits)
    return np.clip(np.round(np.float64(x) / step) * step, -1 + step, 1 - step)


@pytest.mark.parametrize("size", [1e-20, 3e-5, 1.0, 77.0])
def test_wages_errors(size):
    roles = bw.recipe("wage").roles
    e = drawn(13, 50, size=size)
    e[3] = 0.0
    e[0, 0] = -e.abs().max() * 1.2  # the lowest code is -127, not -128
    got = Quantizer(roles["error"], "e")(e).value()
    assert np.array_equal(got.numpy(), q(e.numpy() / shift(e.abs().max()), 8))
    zeros = torch.zeros(3, 4)
    assert torch.equal(Quantizer(roles["error"], "e")(zeros).value(), zeros)


def test_wages_weights_and_activations():
    roles = bw.recipe("wage").roles
    w = torch.cat([drawn(1000), torch.tensor([0.25, -0.25, 0.75, -0.75])])
    assert np.array_equal(Quantizer(roles["weight"], "w")(w).value().numpy(), q(w.numpy(), 2))
    a = torch.relu(drawn(1000, seed=2))
    assert np.array_equal(Quantizer(roles["activation"], "a")(a).value().numpy(), q(a.numpy(), 8))


def test_a_training_step_of_wage_is_that_of_plain_torch():
    """Errors normalised and 8-bit in both products; the update clipped, then stochastic on sigma's grid."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10, bias=False), nn.ReLU(), nn.Linear(10, 4, bias=False))
    plain = copy.deepcopy(model)
    bw.quantize_(model, "wage", verbose=False)
    rate = 8 * SIGMA
    optimizer = bw.recipe("wage").optimizer(model, lr=rate)
    grid = Fixed(8, 7)
    limit = 1 - SIGMA
    w0, w2 = (grid.quantize(plain[i].weight.detach().clamp(-limit, limit), rounding="stochastic",
                            key=Key(0, tensor_id(f"{i}.weight.primal"), 0)) for i in (0, 2))  # fmt: skip
    assert torch.equal(model[0].weight, w0)
    labels = torch.arange(16) % 4

    def half(w):
        return (2 * w).round().clamp(-1, 1) / 2

    def eight(x):
        return grid.quantize(x)

    def normalised(e):
        return e / float(shift(e.abs().max()))

    for step in range(1, 5):
        x = drawn(16, 12, seed=step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

        a0 = eight(x)
        z = a0 @ half(w0).T
        a2 = eight(torch.relu(z))
        y = (a2 @ half(w2).T).requires_grad_()
        nn.functional.cross_entropy(y, labels).backward()
        e2 = normalised(y.grad)
        e2 = eight(e2.clamp(-limit, limit))
        passed = (e2 @ half(w2)) * (torch.relu(z) <= limit) * (z > 0)
        e0 = eight(normalised(passed).clamp(-limit, limit))
        moved = []
        for w, g, i in ((w0, e0.T @ a0, 0), (w2, e2.T @ a2, 2)):
            new = w.add(normalised(g), alpha=-rate).clamp(-limit, limit)
            key = Key(0, tensor_id(f"{i}.weight.primal"), step)
            moved.append(grid.quantize(new, rounding="stochastic", key=key))
        w0, w2 = moved
        assert torch.equal(model[0].weight, w0)
        assert torch.equal(model[2].weight, w2)
        assert float(w0.abs().max()) <= limit
    assert len(w0.unique()) > 20


def test_wages_update_has_the_distribution_of_the_paper():
    """w - sigma sr(u) and sr(w - sigma u) have the same two outcomes with the same probabilities."""
    grid, w = Fixed(8, 7), 5 * SIGMA
    for u in (-2.75, -0.4, 0.3, 1.25):
        rounded = grid.quantize(
            torch.full((200_000,), w - SIGMA * u), rounding="stochastic", key=bw.Key(seed=1)
        )
        levels = (rounded / SIGMA).unique().tolist()
        assert levels == sorted({5 - np.floor(u), 5 - np.ceil(u)})
        up = float((rounded == (5 - np.ceil(u)) * SIGMA).float().mean())
        assert up == pytest.approx(u - np.floor(u), abs=0.006)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"weight": {"format": "uint3", "scale": 1 / 3, "transform": "tanh"}}, "odd numbers"),
        ({"weight": {"format": "int3", "scale": 0.5, "transform": "tanh"}}, "3 steps"),
        ({"weight": {"format": "int3", "transform": "tanh"}}, "3 steps"),
        ({"weight": {"format": "int3", "scale": 1 / 3, "transform": "tan"}}, "did you mean 'tanh'"),
        ({"weight": {"format": "fixed8.7", "transform": "shift"}}, "for error and weight_grad"),
        ({"error": {"format": "int3", "scale": 1 / 3, "transform": "tanh"}}, "for weight"),
        ({"error": {"format": "int8", "controller": "max-abs", "transform": "shift"}}, "static"),
    ],
)
def test_what_a_transform_cannot_serve_is_refused(roles, message):
    with pytest.raises(InvalidValueError, match=message):
        bw.recipe("float", **roles)


def test_a_spec_names_its_transform():
    assert str(bw.recipe("wage").roles["error"]) == "fixed8.7 (shift first)"
    assert QuantizerSpec(Ternary(), MaxAbs()).transform is Transform.NONE


@pytest.mark.parametrize("name", ["dorefa", "wage"])
def test_the_recipe_learns(name):
    """Far from chance on three separable classes; with torch's own small weights all of WAGE's would be 0."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(12, 64), nn.BatchNorm1d(64), nn.ReLU()),
        *(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()),
        *(nn.Linear(64, 3), nn.BatchNorm1d(3)),
    )
    recipe = bw.recipe(name)
    if recipe.initial_weights == "uniform":
        for index in (0, 3, 6):
            nn.init.uniform_(model[index].weight, -1.0, 1.0)
    bw.quantize_(model, recipe, verbose=False)
    optimizer = recipe.optimizer(model, lr=0.01)
    x, labels = drawn(120, 12) * 0.2, torch.arange(120) % 3
    x[torch.arange(120), labels] += 0.8
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    assert (model(x).argmax(1) == labels).float().mean() > 0.9
