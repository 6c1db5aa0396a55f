"""Adds, pools, concats, shortcuts and requantised slots against exact arithmetic on their own."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.formats import Binary, Fixed, Int, Rounding, Ternary, UInt
from bitwright.integer import round_shift
from bitwright.nn import (
    Add,
    BatchNorm2d,
    ComputeLayer,
    Concat,
    Fold,
    Join,
    Levels,
    Shortcut,
    Slots,
    pool_problem,
    window,
)
from bitwright.nn.fold import requantize
from bitwright.quantize import Quantizer, QuantizerSpec, Static
from bitwright.recipes import Recipe

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]


def quantizer(form, scale=None, rounding=Rounding.NEAREST_EVEN):
    return Quantizer(QuantizerSpec(form, Static(scale), rounding)).eval()


def rounded(y, shift, q):
    """Levels of sums of integers y 2^-shift, in Python's own integers."""
    if isinstance(q.format, Binary):
        return np.where(y >= 0, 1, -1)
    return np.clip(round_shift(y, shift, q.spec.rounding), q.format.code_min, q.format.code_max)


@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
@pytest.mark.parametrize("scales", [(0.25, 0.5, 0.5), (0.1, 0.37, 0.2), (3.0, 0.001, 0.7), (1.0, 1.0, 1e-4)])
@pytest.mark.parametrize("form", [Int(4), UInt(3), Ternary(), Int(9)], ids=str)
def test_a_sum_is_one_rounding_of_both_levels(form, scales, rounding):
    """Every pair of 4-bit codes; the constants are the scales' quotients to the last bit of 2^-s."""
    first, second = quantizer(Int(4), scales[0]), quantizer(Int(4), scales[1])
    consumer = quantizer(form, scales[2], rounding)
    fold = Fold(Levels("sum", [first, second]), None, consumer, by_norm=False)
    affine = fold.affine(fold.source.line())
    steps = [Fraction(float(np.float32(s))) for s in scales]
    for multiplier, step in zip(affine.multiplier.flatten().tolist(), steps, strict=False):
        slope = Fraction(float(step) / float(steps[2]))
        assert abs(multiplier - slope * 2**affine.shift) <= Fraction(1, 2)
    a, b = np.array(list(itertools.product(range(-8, 8), repeat=2))).T
    m0, m1 = affine.multiplier.flatten().tolist()
    expected = rounded(a * m0 + b * m1, affine.shift, consumer)
    module = Add()
    module.slots = Slots({}, "sum")
    module.slots.add_module("0_activation", first)
    module.slots.add_module("1_activation", second)
    module.fold = fold
    module.eval()
    x, y = torch.tensor(a * float(steps[0])).float(), torch.tensor(b * float(steps[1])).float()
    made = module(x.view(-1, 1), y.view(-1, 1)).flatten()
    assert consumer(made).levels.tolist() == expected.tolist()


@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
@pytest.mark.parametrize(
    "target", [(Int(4), 0.5), (UInt(8), 0.013), (Ternary(), 0.3), (Binary(), None), (Int(12), 0.001)]
)
def test_codes_of_one_quantiser_become_those_of_another(target, rounding):
    rounding = Rounding.NEAREST_EVEN if isinstance(target[0], Binary) else rounding
    primary, other = quantizer(Int(8), 0.0371), quantizer(*target, rounding)
    levels = torch.arange(-128, 128)
    values = levels.double() * float(primary.current_scale())
    fold = Fold(Levels("slot", [primary]), None, other)
    affine = fold.affine(fold.source.line())
    expected = rounded(levels.numpy() * affine.multiplier.item(), affine.shift, other)
    found = requantize(primary, other, values, "slot")
    assert found.levels.dtype == torch.float32
    assert found.levels.tolist() == expected.tolist()
    # bounds of a clip lie between the codes, and count as the nearest one
    beside = values + 0.01 * float(primary.current_scale())
    assert requantize(primary, other, beside, "slot").levels.tolist() == expected.tolist()


class Fixed8(nn.Module):
    """Scales, slopes and window sizes that are powers of two: float32 computes it without an error."""

    def __init__(self, layers):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1, 2)
        self.norm, self.early, self.short = nn.BatchNorm2d(4), nn.BatchNorm2d(4), Shortcut(2, 1, 3)
        self.fc, self.layers = nn.Linear(12, 5), layers

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.norm(self.b(x) + x)) + F.hardtanh(self.early(x), -0.7, 1.3)
        y = torch.cat([self.short(x), F.avg_pool2d(x, 2) + self.c(x)], 1)
        return self.fc(y.mean((2, 3)))


def exact_model():
    torch.manual_seed(3)
    model = Fixed8(None)
    spec = {"activation": QuantizerSpec(Fixed(8, 5)), "weight": QuantizerSpec(Fixed(6, 6))}
    for norm in (model.norm, model.early):
        norm.eps = 0.0
        norm.running_var.copy_(torch.tensor([4.0, 0.25, 1.0, 16.0]))
        norm.running_mean.copy_(torch.tensor([0.5, -0.25, 0.0, 1.0]))
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -0.5, 2.0, 4.0]))
            norm.bias.copy_(torch.tensor([0.25, 0.5, -0.125, 0.0]))
    for layer in (model.a, model.b, model.c, model.fc):
        with torch.no_grad():
            layer.bias.copy_((layer.bias * 64).round() / 64)
    bw.quantize_(model, Recipe("exact", roles=spec), verbose=False)
    return model.eval(), torch.randn(16, 2, 8, 8)


def test_the_integers_are_the_float_chain_where_float_is_exact():
    model, x = exact_model()
    with torch.no_grad():
        integers = model(x)
        folds = [m for m in model.modules() if isinstance(m, ComputeLayer | Join | BatchNorm2d)]
        folds = [module for module in folds if not isinstance(module, Concat)]
        assert all(module.fold is not None for module in folds)
        for module in folds:
            module.fold = None
        # a norm that stands alone takes codes, in float too
        codes = model.b.slots.of("forward.activation")
        model.early.register_forward_pre_hook(lambda _, inputs: (codes(inputs[0]).value(),))
        floats = model(x)
    assert len(integers.unique()) > 40
    assert torch.equal(integers, floats)


def test_training_is_torchs_float_arithmetic_on_quantised_values():
    form = Fixed(5, 2)
    model = nn.Sequential(nn.Identity())
    x, y = torch.randn(3, 2, 4, 4, requires_grad=True), torch.randn(3, 2, 4, 4, requires_grad=True)

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 1, 1)

        def forward(self, x, y):
            z = torch.cat([x + y, F.avg_pool2d(x, 3, 1, 1)], 1)
            return z.mean((2, 3)), self.conv(z)

    model = Joined()
    bw.quantize_(model, Recipe("t", roles={"activation": QuantizerSpec(form)}), verbose=False)
    mean, _ = model(x, y)
    q = form.quantize
    z = torch.cat([q(q(x) + q(y)), q(F.avg_pool2d(q(x), 3, 1, 1))], 1)
    assert torch.equal(mean, q(z).mean((2, 3)))
    mean.sum().backward()
    assert torch.allclose(y.grad, torch.full_like(y, 1 / 16))
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 2), (3, 0)])
def test_shortcuts_slice_and_pad(stride, before, after):
    x = torch.randn(2, 3, 7, 5)
    y = Shortcut(stride, before, after)(x)
    assert y.shape == (2, before + 3 + after, math.ceil(7 / stride), math.ceil(5 / stride))
    assert torch.equal(y[:, before : before + 3], x[:, :, ::stride, ::stride])
    assert not y[:, :before].any()
    assert not y[:, before + 3 :].any()


def test_windows_and_what_has_none():
    assert window(bw.nn.AvgPool2d((2, 3), 1, (1, 0)), (8, 8)).divisor == 6
    assert window(bw.nn.AvgPool2d(2, divisor_override=5), (8, 8)).divisor == 5
    for pool, word in [
        (nn.AvgPool2d(2, ceil_mode=True), "ceil_mode"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), "count_include_pad"),
        (nn.AdaptiveAvgPool2d((1, 2)), "output_size"),
        (nn.AdaptiveAvgPool1d(3), "output_size"),
    ]:
        assert word in str(pool_problem(pool))
        model = nn.Sequential(nn.Conv2d(1, 1, 1), pool)
        report = bw.quantize_(model, bw.recipe("float", activation="int8", weight="int8"), verbose=False)
        assert [(s.name, word in s.reason) for s in report.skipped] == [("1", True)]
    for pool in (
        nn.AvgPool2d(3, padding=1),
        nn.AvgPool2d(3, 2, count_include_pad=False),
        nn.AdaptiveAvgPool2d((1, 1)),
    ):
        assert pool_problem(pool) is None
