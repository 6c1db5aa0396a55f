"""Eval is integers: the float64 arithmetic of `Fold` equals Python integers, also at ties and extremes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed, Int, Rounding, UInt
from bitwright.integer import round_shift
from bitwright.nn import Accumulators, Fold
from bitwright.nn.fold import fold_constants
from bitwright.quantize import MaxAbs, Quantizer, QuantizerSpec, Static
from bitwright.recipes import Recipe

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]
FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    constants=st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=5),
    bound=st.integers(1, 2**30),
)
def test_folded_integers_are_as_fine_as_53_bits_allow(constants, bound):
    slope = torch.tensor([c[0] for c in constants], dtype=torch.float64)
    intercept = torch.tensor([c[1] for c in constants], dtype=torch.float64)
    affine = fold_constants(slope, intercept, bound, "here")
    assert 0 <= affine.shift <= 62
    sums = [
        abs(m) * bound + abs(b)
        for m, b in zip(affine.multiplier.tolist(), affine.offset.tolist(), strict=True)
    ]
    assert max(sums) < 2**53
    for k, (a, b) in enumerate(constants):
        assert abs(Fraction(int(affine.multiplier[k])) - Fraction(a) * 2**affine.shift) <= Fraction(1, 2)
        assert abs(Fraction(int(affine.offset[k])) - Fraction(b) * 2**affine.shift) <= Fraction(1, 2)
    assert affine.shift == 0 or affine.multiplier.abs().max() <= 2**31
    # no finer shift would do
    if affine.shift < 62 and slope.any():
        finest = max(abs(c[0]) for c in constants) * 2.0 ** (affine.shift + 1)
        total = max(abs(c[0]) for c in constants) * bound + max(abs(c[1]) for c in constants)
        assert finest >= 2**31 or total * 2.0 ** (affine.shift + 1) >= 2**51


def one_layer(consumer, slope=1.0, intercept=0.0):
    """A Fold whose affine map is slope, intercept: a 1 x 1 linear layer in front of a consumer."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(intercept)
    roles = {"activation": QuantizerSpec(Int(16), Static(slope)), "weight": QuantizerSpec(Int(8))}
    bw.quantize_(model, Recipe("fold", roles=roles), verbose=False)
    model.eval()
    return Fold(Accumulators(model[0]), None, Quantizer(consumer).eval() if consumer else None)


def apply(fold, acc):
    return fold.apply((acc,), fold.source.line(torch.ones(1, 1)), 0)


@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
@pytest.mark.parametrize("form", [Int(8), UInt(3), Fixed(6, 2)], ids=str)
@pytest.mark.parametrize(
    ("slope", "intercept"), [(0.5, 0.0), (0.25, 0.125), (1.0, -0.5), (2.0**-10, 0.0), (0.37, 1.1)]
)
def test_emulation_equals_integers_at_every_tie(rounding, form, slope, intercept):
    fold = one_layer(QuantizerSpec(form, rounding=rounding), slope, intercept)
    weight = torch.ones(1, 1)
    affine = fold.affine(fold.source.line(weight))
    acc = torch.arange(-3000, 3001)
    values = apply(fold, acc.float().view(-1, 1))
    levels = (values.double() / form.default_scale).flatten()
    sums = acc.numpy() * affine.multiplier[0].numpy() + affine.offset.numpy()
    codes = np.clip(round_shift(sums, affine.shift, rounding), form.code_min, form.code_max)
    assert levels.tolist() == codes.tolist()


def test_extreme_sums_stay_exact():
    fold = one_layer(None, 1.9999, 0.9999)
    weight = torch.ones(1, 1)
    affine = fold.affine(fold.source.line(weight))
    acc = torch.tensor([32767.0, -32768.0, 32766.0, 1.0, 0.0]).view(-1, 1)
    got = apply(fold, acc).flatten().tolist()
    for a, y in zip(acc.flatten().tolist(), got, strict=True):
        exact = Fraction(int(a) * int(affine.multiplier) + int(affine.offset), 2**affine.shift)
        assert y == float(np.float32(float(exact)))


def test_zero_has_no_sign():
    fold = one_layer(None, 1.0, -0.0)
    assert math.copysign(1.0, apply(fold, torch.tensor([[-0.0]])).item()) == 1.0


@pytest.mark.parametrize("rounding", ["floor", "ceil", "toward-zero", "nearest-even", "nearest-away"])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_the_consumer_gets_its_levels_back_whatever_its_rounding(rounding, bits):
    """(n s) / s is n only where the product is exact."""
    spec = QuantizerSpec(Int(bits), Static(0.0123), Rounding.of(rounding))
    fold = one_layer(spec, 0.0123)
    acc = torch.arange(-32768, 32768, 7).float().view(-1, 1)
    values = apply(fold, acc)
    again = fold.consumer(values).levels
    expected = apply(fold, acc) / torch.tensor(0.0123, dtype=torch.float32).double()
    assert torch.equal(again.double(), expected)
    assert torch.equal(expected, expected.round())


def test_what_is_not_finite_is_named():
    ones = torch.ones(3, dtype=torch.float64)
    bad = torch.tensor([1.0, math.nan, 2.0], dtype=torch.float64)
    with pytest.raises(InvalidValueError, match="folded slope is finite; got nan; at channel 1 of fc7"):
        fold_constants(bad, ones, 10, "fc7")
    with pytest.raises(InvalidValueError, match="folded offset is finite; got inf; at channel 0 of fc7"):
        fold_constants(ones, ones * math.inf, 10, "fc7")
    # steep, but the sums fit
    assert fold_constants(ones * 2.0**40, ones, 10, "fc7").multiplier.tolist() == [2**40] * 3
    with pytest.raises(InvalidValueError, match=r"below 2\^51; got values up to 1e\+31"):
        fold_constants(ones * 1e30, ones, 10, "fc7")


def chain(*layers, activation="int8", weight="int8"):
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    bw.quantize_(model, bw.recipe("float", activation=activation, weight=weight), verbose=False)
    return model


def test_batch_norm_in_eval_is_near_torchs_own():
    """The integers stand for the same function; a stated tolerance, since torch rounds elsewhere."""
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3)]
    model = chain(*layers, activation="fixed12.8", weight="fixed8.7")
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.weight.uniform_(-2, 2)
            norm.bias.uniform_(-2, 2)
    x = torch.rand(30, 2, 6, 6, generator=torch.Generator().manual_seed(1)) * 4 + 3
    for _ in range(50):
        trained = model(x).detach()
    model.eval()
    got = model(x)
    assert torch.allclose(got, trained, atol=0.1)  # running statistics lag by 0.9^50
    for module in model:
        module.fold = None  # torch's float chain
    other = model(x)
    assert not torch.equal(got, other)
    # a step of the slot between, 2^-8, through the second layer's slope
    assert torch.allclose(got, other, atol=0.05)


@pytest.mark.parametrize(
    "between", [[], [nn.MaxPool2d(2)], [nn.Dropout(0.5)], [nn.Identity(), nn.MaxPool2d(2)]]
)
def test_norms_behind_pools_are_folded(between):
    model = chain(nn.Conv2d(1, 2, 3), *between, nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    assert model[0].fold.norm is model[1 + len(between)]


@pytest.mark.parametrize(
    "between", [[nn.ReLU()], [nn.Hardtanh()], [nn.BatchNorm2d(2)], [nn.ReLU(), nn.MaxPool2d(2)]]
)
def test_norms_behind_clips_are_not_folded(between):
    model = chain(nn.Conv2d(1, 2, 3), *between, nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    assert model[0].fold is None
    model(torch.randn(2, 1, 8, 8))
    assert model.eval()(torch.randn(2, 1, 8, 8)).isfinite().all()


def test_a_norm_behind_a_flatten_has_other_channels_and_is_not_folded():
    model = chain(nn.Conv2d(1, 1, 2), nn.Flatten(), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2))
    assert model[0].fold is None
    x = torch.randn(4, 1, 4, 4)
    model(x)
    assert model.eval()(x).shape == (4, 2)
    with pytest.raises(InvalidValueError, match=r"2 \(BatchNorm1d\) is not directly behind it"):
        bw.lower(model, x)


def test_eval_needs_running_statistics():
    model = chain(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(InvalidValueError, match="running statistics"):
        model.eval()(torch.randn(4, 3))


def test_train_and_eval_switch_layer_by_layer():
    """A norm kept in training mode keeps its layer on the float chain."""
    torch.manual_seed(0)  # a unit whose batch hardly varies has no mean of 0
    model = chain(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Hardtanh(), nn.Linear(3, 2))
    model.eval()
    assert model[0].fold.active(2)
    model[1].train()
    assert not model[0].fold.active(2)
    x = torch.randn(8, 3)
    h = model[0](x)
    assert torch.allclose(model[1](h).mean(0), torch.zeros(3), atol=1e-5)


def test_moving_scale_reaches_the_fold():
    model = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(), nn.Linear(2, 2))
    spec = QuantizerSpec(Int(8), MaxAbs())
    bw.quantize_(
        model,
        Recipe("m", roles={"activation": spec, "weight": QuantizerSpec(Int(8), MaxAbs("channel"))}),
        verbose=False,
    )
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        model(x)
    trained = model(x).detach()
    model.eval()
    assert torch.allclose(model(x), trained, atol=0.05)


def test_a_norm_over_another_axis_than_the_layers_channels_stays_float():
    """Linear over [N, L, C], then BatchNorm1d over L, which may well have C's length."""
    model = chain(
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.Hardtanh(),
        nn.Linear(6, 3),
        activation="fixed12.8",
        weight="fixed12.8",
    )
    x = torch.rand(8, 6, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(100):
        model(x)
    trained = model(x).detach()
    assert torch.allclose(model.eval()(x), trained, atol=0.02)
    with pytest.raises(InvalidValueError):
        bw.lower(model, x)
