"""Every code: what it means, that it comes back, and that scalar reference and torch twin agree on it."""

from __future__ import annotations

import math

import pytest
import torch
from formats_catalog import (
    DETERMINISTIC,
    FLOATS,
    HALVES,
    LOGS,
    ODD_FLOATS,
    UNIFORM,
    WIDE_FLOATS,
    same,
    thinned,
)
from formats_definition import canonical_nan, number_of

from bitwright.formats import Binary, Float, Key, Specials, Ternary, twin

FLOATING = [*FLOATS, *HALVES, *ODD_FLOATS]


def test_the_catalogue_is_not_thin():
    assert len(FLOATS) == len(set(FLOATS)) > 450
    assert {f.specials for f in FLOATS} == set(Specials)
    assert {f.exponent for f in FLOATS} == set(range(1, 9))


@pytest.mark.parametrize("form", UNIFORM, ids=str)
def test_every_code_of_equally_spaced_formats_comes_back(form):
    codes = torch.tensor(list(form.codes()))
    assert len(codes) == {Binary: 2, Ternary: 3}.get(type(form), 2**form.bits)
    scale = form.default_scale or 2.0 ** -form.exponents[3 % len(form.exponents)]
    values = form.decode(codes, scale=scale)
    assert same(values, codes.float() * scale)
    assert torch.equal(form.encode(values, scale=scale).long(), codes)
    assert torch.equal(twin.codes_of(form, twin.numbers(form, values, scale)), codes)
    for rounding in DETERMINISTIC:
        assert torch.equal(form.encode(values, scale=scale, rounding=rounding).long(), codes)
    assert torch.equal(form.encode(values, scale=scale, rounding="stochastic", key=Key(1)).long(), codes)
    for code in thinned(codes, 300).tolist():
        assert form.number(code) == code
        value = form.decode(code, scale=scale)
        assert value == code * scale
        assert form.encode(value, scale=scale) == code


def expected_code(form, code, number):
    """The code that `number`, decoded from `code`, encodes to; not `code` in two cases."""
    if isinstance(form, Float) and math.isnan(number):
        return canonical_nan(form)  # IEEE has many NaN codes, fn two: they encode to one
    if isinstance(form, Float) and not form.subnormals and number == 0:
        # without subnormals every mantissa of field 0 is a redundant code of zero
        return 1 << form.bits - 1 if math.copysign(1, number) < 0 else 0
    return code


@pytest.mark.parametrize("form", [*FLOATING, *LOGS], ids=str)
def test_every_code_of_floating_point_and_logarithms_comes_back(form):
    codes = list(form.codes())
    assert len(codes) == 2**form.bits - (form in LOGS)  # logarithms: no -0
    numbers = [number_of(form, code) for code in codes]
    expected = [expected_code(form, c, n) for c, n in zip(codes, numbers, strict=True)]
    changed = sum(a != b for a, b in zip(codes, expected, strict=True))
    assert changed == redundant(form)
    tensor, numbers = torch.tensor(codes), torch.tensor(numbers)
    values = form.decode(tensor)
    assert values.dtype == torch.float32
    assert same(values, numbers)
    assert same(torch.tensor([form.number(code) for code in codes]), numbers)
    encoded = form.encode(values)
    assert encoded.tolist() == expected
    assert same(form.quantize(values), values)
    assert twin.codes_of(form, twin.numbers(form, values)).tolist() == expected
    if isinstance(form, Float) and form.zero:
        assert same(twin._float_numbers(form, tensor), numbers)  # the way of formats too wide for a table
    for code in thinned(tensor, 120).tolist():
        assert form.encode(form.decode(code)) == expected[codes.index(code)]


def redundant(form):
    """How many codes do not come back, counted from the tables."""
    if not isinstance(form, Float):
        return 0
    signs = 1 + form.signed
    nans = {
        Specials.IEEE: signs * (2**form.mantissa - 1),
        Specials.FN: signs,
        Specials.F: 0,
        Specials.FNUZ: 1,
        Specials.UZ: 1,
    }[form.specials]
    zeros = 0 if form.subnormals or not form.zero else signs * (2**form.mantissa - 1)
    return nans - (form.specials is not Specials.F) + zeros


@pytest.mark.parametrize("form", WIDE_FLOATS, ids=str)
def test_drawn_codes_of_wide_floats_come_back(form):
    generator = torch.Generator().manual_seed(form.bits)
    sign = 1 << form.bits - 1
    edges = [c for e in (1, 2, 255) for d in (-1, 0, 1) if 0 <= (c := (e << form.mantissa) + d) < sign]
    drawn = torch.randint(0, 2 * sign, (20_000,), generator=generator).tolist()
    codes = [0, sign, *edges, *(sign + c for c in edges), *drawn]
    numbers = [number_of(form, code) for code in codes]
    expected = [canonical_nan(form) if math.isnan(n) else c for c, n in zip(codes, numbers, strict=True)]
    values = form.decode(torch.tensor(codes))
    assert same(values, torch.tensor(numbers))
    assert form.encode(values).tolist() == expected
    for code, number, back in list(zip(codes, numbers, expected, strict=True))[:1000]:
        assert form.encode(number) == back
        assert same(torch.tensor(form.decode(code)), torch.tensor(number))


def test_the_smallest_formats_by_hand():
    """The tables themselves, written out."""
    inf, nan = math.inf, math.nan
    for form, numbers in {
        Float(2, 1, Specials.F): [0, 0.5, 1, 1.5, 2, 3, 4, 6],  # OCP fp4
        Float(2, 1): [0, 0.5, 1, 1.5, 2, 3, inf, nan],
        Float(2, 1, Specials.FN): [0, 0.5, 1, 1.5, 2, 3, 4, nan],
        Float(2, 1, Specials.FNUZ): [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3],
        Float(2, 1, Specials.UZ): [0, 0.25, 0.5, 0.75, 1, 1.5, 2, inf],
        Float(2, 1, Specials.F, subnormals=False): [0, 0, 1, 1.5, 2, 3, 4, 6],
        Float(2, 1, Specials.F, bias=3): [0, 0.125, 0.25, 0.375, 0.5, 0.75, 1, 1.5],
        Float(3, 0, Specials.F, signed=False): [0, 0.25, 0.5, 1, 2, 4, 8, 16],
    }.items():
        expected = torch.tensor(numbers, dtype=torch.float32)
        assert same(form.decode(torch.arange(8)), expected), form
        if form.signed:
            negative = -expected
            if form.specials in (Specials.FNUZ, Specials.UZ):
                negative[0] = nan
            assert same(form.decode(torch.arange(8, 16)), negative), form
