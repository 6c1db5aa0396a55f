"""Equally spaced formats and binary in every rounding and overflow mode, with zero points and any scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from formats_catalog import DETERMINISTIC, UNIFORM, differing, implementations, overflows, same, thinned
from formats_definition import integer
from formats_reference import interesting_values

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Integers, Ternary, UFixed, UInt

FORMS = [f for f in UNIFORM if not isinstance(f, Binary)]
WIDE = [
    *[kind(width) for kind in (Int, UInt) for width in (17, 23, 24, 25, 26, 31, 32)],
    *[kind(width, fraction) for kind in (Fixed, UFixed) for width in (24, 25, 32) for fraction in (-2, 12)],
]


def scale_of(form):
    return form.default_scale or 2.0 ** -form.exponents[0]


def values_of(form, scale):
    x = interesting_values(form, scale)
    beyond = [form.code_max * f * scale for f in (1.5, 2, 3, 1e6)]
    return torch.tensor([*x, *beyond, *(-v for v in beyond)], dtype=torch.float32)


def expected(form, x, scale, rounding, overflow):
    real = form.float_type
    with np.errstate(all="ignore"):
        q = x.numpy().astype(real) / real(scale)
        levels = np.array([integer(form, v, rounding, overflow) for v in q])
        return torch.from_numpy(levels.astype(real) * real(scale))


@pytest.mark.parametrize("form", [*FORMS, *WIDE], ids=str)
def test_every_mode_equals_the_definition(form):
    scale = scale_of(form)
    x = thinned(values_of(form, scale), 90)
    for overflow in overflows(form):
        for rounding in DETERMINISTIC:
            right = expected(form, x, scale, rounding, overflow)
            for name, quantise in implementations(form):
                some = slice(None, None, 8 if name == "scalar" else 1)
                values = quantise(x[some], scale=scale, rounding=rounding.value, overflow=overflow.value)
                assert same(values, right[some]), (
                    name,
                    rounding,
                    overflow,
                    differing(x[some], values, right[some]),
                )


def test_overflow_by_hand():
    table = {
        (Int(4), "saturate"): [-8, 7, 7, -8, -8, 7],
        (Int(4), "symmetric"): [-7, 7, 7, -7, -7, 7],
        (Int(4), "wrap"): [-8, -8, 3, 7, -8, 7],
        (UInt(4), "saturate"): [0, 8, 15, 0, 0, 15],
        (UInt(4), "symmetric"): [0, 8, 15, 0, 0, 15],
        (UInt(4), "wrap"): [8, 8, 3, 7, 0, 15],
        (Ternary(), "saturate"): [-1, 1, 1, -1, -1, 1],
        (Int(1), "saturate"): [-1, 0, 0, -1, -1, 0],
        (Int(1), "symmetric"): [0, 0, 0, 0, 0, 0],
        (Int(1), "wrap"): [0, 0, -1, -1, -1, 0],
    }
    x = torch.tensor([-8.0, 8.0, 19.0, -9.0, -math.inf, math.inf])
    for (form, overflow), codes in table.items():
        for name, quantise in implementations(form):
            assert quantise(x, overflow=overflow).tolist() == codes, (form, overflow, name)
        assert form.encode(x, overflow=overflow).tolist() == codes


@pytest.mark.parametrize("form", [Int(8), UInt(8), Int(4), UInt(1), UInt(16)], ids=str)
@pytest.mark.parametrize("zero_point", [0, 1, -3, 128, 255])
def test_zero_points(form, zero_point):
    """code = clip(round(x / scale) + z), value = (code - z) scale; z is a code."""
    scale = np.float32(0.1)
    values = interesting_values(form, float(scale))
    x = torch.tensor([*values, *np.linspace(-60, 60, 101).tolist()], dtype=torch.float32)
    zeros = torch.tensor(zero_point, dtype=torch.int32)
    for overflow in overflows(form):
        low, high = form.limits(overflow)
        if not low <= zero_point <= high:
            for value in (0.5, x):
                with pytest.raises(InvalidValueError, match="a zero point of"):
                    form.encode(value, zero_point=zero_point, overflow=overflow)
            continue
        for rounding in DETERMINISTIC:
            how = {"scale": float(scale), "rounding": rounding, "overflow": overflow}
            with np.errstate(all="ignore"):
                q = x.numpy() / scale
            levels = [integer(form, v, rounding, overflow, zero_point) for v in q]
            codes = form.encode(x, zero_point=zeros, **how)
            zero = form.encode(0.0, zero_point=zero_point, **how)
            assert set(codes[x.isnan()].tolist()) == {zero}  # NaN counts as 0
            assert codes.tolist() == [int(v) + zero_point for v in levels]
            result = form.quantize(x, zero_point=zeros, **how)
            assert same(result, torch.tensor(levels, dtype=torch.float32) * scale)
            assert same(result, form.decode(codes, scale=float(scale), zero_point=zeros))
            for v, code, value in list(zip(x.tolist(), codes.tolist(), result.tolist(), strict=True))[::13]:
                assert form.encode(v, zero_point=zero_point, **how) == code
                assert form.quantize(v, zero_point=zero_point, **how) == value


def test_zero_points_broadcast():
    x = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    points = torch.tensor([[0], [10]], dtype=torch.int32)
    assert UInt(8).encode(x, zero_point=points).tolist() == [[0, 1, 2], [10, 11, 12]]
    assert torch.equal(UInt(8).quantize(x, zero_point=points), x)


def test_only_integers_have_a_zero_point():
    for form in (Fixed(8, 4), Binary(), Ternary()):
        for call in (form.quantize, form.encode):
            with pytest.raises(TypeError, match="no zero point"):
                call(torch.ones(2), scale=1.0, zero_point=1)
        with pytest.raises(TypeError, match="no zero point"):
            form.decode(torch.ones(2, dtype=torch.int8), scale=1.0, zero_point=1)
    assert isinstance(Int(8), Integers)


def test_binary_is_the_sign_in_every_mode():
    form = Binary()
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 5.0, -5.0, math.inf, -math.inf, math.nan])
    for overflow in overflows(form):
        for rounding in DETERMINISTIC:
            for _, quantise in implementations(form):
                values = quantise(x, rounding=rounding, overflow=overflow)
                assert values.tolist() == [1, 1, 1, -1, 1, -1, 1, -1, 1]
