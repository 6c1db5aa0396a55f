"""ml_dtypes (JAX's and TensorFlow's number types) as a judge of floating point and of small integers.

Its overflow goes to infinity or NaN, ours does so under overflow="infinite". What differs, with the reason:

- NaN. Ours has one code, without sign where there is a choice; ml_dtypes keeps the sign, and what overflows
  an fn format becomes a NaN of that sign. As values they are alike.
- NaN in the formats without one (OCP's fp4 and fp6). Ours counts as +0, as in every format of this library
  that has no NaN; ml_dtypes gives a zero of the opposite sign.
- Zero and negative numbers in e8m0fnu, which has neither. Ours become the smallest number, 2^-127 (the scale
  of a block of zeros); ml_dtypes gives NaN.
- float32 subnormals in e8m0fnu. Ours are rounded to the nearest power of two, a tie upwards; ml_dtypes rounds
  the field of the float32, and above 2^-127 everything goes up to 2^-126.
- Infinities and NaN in integers. Ours saturate and count as 0; ml_dtypes gives 0, and truncates and wraps
  everything else: rounding="toward-zero", overflow="wrap".
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from oracles_draws import NONE, disagreements, drawn

from bitwright.formats import Float, Specials, parse

FLOATS = {
    "float8_e3m4": Float(3, 4),
    "float8_e4m3": Float(4, 3),
    "float8_e4m3b11fnuz": Float(4, 3, Specials.FNUZ, bias=11),
    "float8_e4m3fn": Float(4, 3, Specials.FN),
    "float8_e4m3fnuz": Float(4, 3, Specials.FNUZ),
    "float8_e5m2": Float(5, 2),
    "float8_e5m2fnuz": Float(5, 2, Specials.FNUZ),
    "float8_e8m0fnu": Float(8, 0, Specials.FN, subnormals=False, signed=False, zero=False),
    "float6_e2m3fn": Float(2, 3, Specials.F),
    "float6_e3m2fn": Float(3, 2, Specials.F),
    "float4_e2m1fn": Float(2, 1, Specials.F),
    "bfloat16": Float(8, 7),
}


def stored(form):
    return np.uint16 if form.bits > 8 else np.uint8


@pytest.mark.parametrize("name", FLOATS)
def test_every_code_decodes_alike(name):
    form = FLOATS[name]
    assert parse(name) == form
    codes = np.arange(1 << form.bits, dtype=np.int64)
    theirs = codes.astype(stored(form)).view(getattr(ml_dtypes, name)).astype(np.float32)
    assert disagreements(codes, form.decode(torch.from_numpy(codes)), theirs) == NONE


@pytest.mark.parametrize("name", FLOATS)
def test_a_million_floats_convert_alike(name):
    form = FLOATS[name]
    x = drawn(form)
    with np.errstate(all="ignore"):
        theirs = x.astype(getattr(ml_dtypes, name))
    their_codes, theirs = theirs.view(stored(form)), theirs.astype(np.float32)
    ours = form.quantize(torch.from_numpy(x), overflow="infinite").numpy()
    our_codes = form.encode(torch.from_numpy(x), overflow="infinite").numpy()
    nan = np.isnan(x)
    if form.specials is Specials.F:
        assert not ours[nan].any() | np.signbit(ours[nan]).any()
        assert not theirs[nan].any()
        assert np.array_equal(np.signbit(theirs[nan]), ~np.signbit(x[nan]))
        compared = ~nan
    elif not form.signed:
        assert set(ours[x <= 0]) == {2.0**-127}
        assert np.isnan(theirs[x <= 0]).all()
        low = (x > 2.0**-127) & (x < 1.5 * 2.0**-127)
        assert set(ours[low]) == {2.0**-127}
        assert set(theirs[low]) == {2.0**-126}
        compared = ~(low | (x <= 0))
    else:
        compared = np.full(len(x), True)
    assert compared.sum() > 450_000
    assert disagreements(x[compared], ours[compared], theirs[compared]) == NONE
    number = compared & ~np.isnan(ours)
    assert np.array_equal(our_codes[number], their_codes[number])
    if form.specials in (Specials.IEEE, Specials.FN) and form.signed:
        sign = np.uint32(1 << form.bits - 1)
        assert np.array_equal(our_codes[~number] | sign * np.signbit(x[~number]), their_codes[~number])


@pytest.mark.parametrize("name", ["int2", "int4", "uint2", "uint4"])
def test_small_integers(name):
    form, theirs = parse(name), getattr(ml_dtypes, name)
    codes = torch.tensor(list(form.codes()))
    info = ml_dtypes.iinfo(theirs)
    assert (info.min, info.max, info.bits) == (form.code_min, form.code_max, form.bits)
    low_bits = (codes & (1 << form.bits) - 1).numpy().astype(np.uint8)
    assert form.decode(codes).tolist() == low_bits.view(theirs).astype(np.float32).tolist()
    generator = np.random.default_rng(1)
    x = (generator.standard_normal(1_000_000) * 10).astype(np.float32)
    x[::3] = np.round(2 * x[::3]) / 2  # ties
    ours = form.quantize(torch.from_numpy(x), rounding="toward-zero", overflow="wrap").numpy()
    assert np.array_equal(ours, x.astype(theirs).astype(np.float32))
