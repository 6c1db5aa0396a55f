"""The documented ties of every rounding, and what nearest-away is not."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from formats_catalog import DETERMINISTIC, implementations
from formats_reference import round_fraction
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed, Float, Int, Log, Overflow, Rounding, Specials
from bitwright.formats.rounding import round_scalar

#                 2.5 -2.5 -2.3 0.5 -0.5 1.5 -1.5 3.5 -3.5
TIES = {
    "nearest-even": (2, -2, -2, 0, 0, 2, -2, 4, -4),
    "nearest-away": (3, -3, -2, 1, -1, 2, -2, 4, -4),
    "floor": (2, -3, -3, 0, -1, 1, -2, 3, -4),
    "ceil": (3, -2, -2, 1, 0, 2, -1, 4, -3),
    "toward-zero": (2, -2, -2, 0, 0, 1, -1, 3, -3),
}
X = torch.tensor([2.5, -2.5, -2.3, 0.5, -0.5, 1.5, -1.5, 3.5, -3.5])


@pytest.mark.parametrize("rounding", TIES)
@pytest.mark.parametrize(
    "form", [Int(8), Fixed(12, 0), Float(4, 2, Specials.F, bias=3), Float(5, 3, bias=4)], ids=str
)
def test_the_table_of_ties(form, rounding):
    """In integers; and in floats, at a scale at which the smallest step is 1."""
    scale = 1.0 if not isinstance(form, Float) else 1 / form.unit
    values = torch.tensor(TIES[rounding], dtype=torch.float32)
    for name, quantise in implementations(form):
        result = quantise(X, scale=scale, rounding=rounding)
        assert torch.equal(result, values), (name, result)
    assert [round_scalar(np.float32(x), Rounding(rounding)) for x in X.tolist()] == list(TIES[rounding])
    assert [round_fraction(Fraction(x), rounding) for x in X.tolist()] == list(TIES[rounding])


def test_the_docstring_holds_the_table():
    rows = [
        line.strip().strip("|").split("|") for line in Rounding.__doc__.splitlines() if line.count("|") > 3
    ]
    table = {row[0].strip(): tuple(int(cell) for cell in row[1:4]) for row in rows if row[0].strip() in TIES}
    assert table == {name: ties[:3] for name, ties in TIES.items()}


def test_nearest_away_is_not_floor_of_half_more():
    """In float32, 0.49999997 + 0.5 rounds to 1; and above 2^23 the addition makes odd integers even."""
    naive = lambda x: torch.copysign(torch.floor(x.abs() + 0.5), x)  # noqa: E731
    x = torch.tensor([0.49999997, -0.49999997, 8388609.0, 8388611.0, -16777215.0])
    right = torch.tensor([0.0, -0.0, 8388609.0, 8388611.0, -16777215.0])
    assert (naive(x) != right).sum() >= 3
    assert naive(x)[0] == 1.0
    for _, quantise in implementations(Int(25)):
        assert torch.equal(quantise(x, rounding="nearest-away"), right)
    small = Float(4, 0, Specials.F, bias=0, subnormals=False)  # 0, 2, 4, 8: |q| / 2 = 0.49999997
    y = torch.tensor([0.99999994])
    assert naive(y / 2) == 1.0
    for _, quantise in implementations(small):
        assert quantise(y, rounding="nearest-away").item() == 0.0


@settings(deadline=None, derandomize=True, max_examples=400)
@given(x=st.floats(width=32, allow_nan=False, allow_infinity=False), rounding=st.sampled_from(DETERMINISTIC))
def test_rounding_of_any_float_is_that_of_its_fraction(x, rounding):
    assert round_scalar(np.float32(x), rounding) == round_fraction(Fraction(x), rounding.value)


def test_all_roundings_are_monotone_and_keep_the_grid():
    x = torch.linspace(-20, 20, 4001)
    for form in (
        Int(5),
        Fixed(6, 2),
        Float(3, 2),
        Float(2, 1, Specials.F, subnormals=False),
        Log(4),
        Log(4, True),
    ):
        grid = torch.tensor([v for v in form.grid() if math.isfinite(v)])
        for rounding in DETERMINISTIC:
            values = form.quantize(x, rounding=rounding)
            assert (values.diff() >= 0).all(), (form, rounding)
            assert torch.equal(form.quantize(grid, rounding=rounding), grid)


def test_directed_roundings_bracket_the_nearest():
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 3
    for form in (Int(4), Float(4, 3, Specials.FN), Float(5, 2, Specials.UZ), Log(5)):
        inside = x.clamp(form.min_number, form.max_number)
        low, high, zero = (form.quantize(inside, rounding=r) for r in ("floor", "ceil", "toward-zero"))
        assert (low <= inside).all()
        assert (inside <= high).all()
        assert torch.equal(zero.abs(), torch.minimum(low.abs(), high.abs()))
        for rounding in ("nearest-even", "nearest-away"):
            near = form.quantize(inside, rounding=rounding)
            assert ((near == low) | (near == high)).all()
            if not isinstance(form, Log):
                assert ((near - inside).abs() <= torch.minimum(inside - low, high - inside)).all()


def test_log_rounds_in_the_logarithm():
    """Base 2: the turn lies at sqrt(2), not at 1.5; below 2^-1/2 there is 0."""
    root = math.sqrt(2)
    for _, quantise in implementations(Log(4)):
        x = torch.tensor([1.41421354, 1.41421366, 1.45, 2.83, 0.70710677, 0.7071068, 0.75])
        assert quantise(x).tolist() == [1.0, 2.0, 2.0, 4.0, 0.0, 1.0, 1.0]
    assert 1.41421354 < root < 1.41421366


def test_unknown_names_list_the_valid_ones():
    for kind, members in ((Rounding, TIES), (Overflow, ("saturate", "symmetric", "wrap", "infinite"))):
        with pytest.raises(InvalidValueError) as info:
            kind.of("nearst-even")
        assert all(name in str(info.value) for name in members)
        assert all(kind.of(member.value) is member is kind.of(member) for member in kind)
