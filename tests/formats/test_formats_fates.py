"""What becomes of NaN, infinities, -0 and what is too large or too small, format by format."""

from __future__ import annotations

import math

import pytest
import torch
from formats_catalog import implementations, same

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Flex, Float, Int, Log, Specials, Ternary, UInt, parse

INF, NAN = math.inf, math.nan
#            NaN,  inf, -inf,   -0,    huge,   -huge
FATES = {
    "int8": (0.0, 127, -128, 0.0, 127, -128),
    "uint8": (0.0, 255, 0.0, 0.0, 255, 0.0),
    "fixed8.4": (0.0, 7.9375, -8, 0.0, 7.9375, -8),
    "ufixed8.8": (0.0, 0.99609375, 0.0, 0.0, 0.99609375, 0.0),
    "ternary": (0.0, 1, -1, 0.0, 1, -1),
    "binary": (1, 1, -1, 1, 1, -1),
    "log4": (0.0, 64, -64, 0.0, 64, -64),
    "log3-sqrt2": (0.0, 2, -2, 0.0, 2, -2),
    "fp16": (NAN, INF, -INF, -0.0, 65504, -65504),
    "e5m2": (NAN, INF, -INF, -0.0, 57344, -57344),
    "e4m3": (NAN, INF, -INF, -0.0, 240, -240),
    "e4m3fn": (NAN, 448, -448, -0.0, 448, -448),
    "e2m1fn": (0.0, 6, -6, -0.0, 6, -6),
    "e4m3fnuz": (NAN, 240, -240, 0.0, 240, -240),
    "e4m3b11fnuz": (NAN, 30, -30, 0.0, 30, -30),
    "binary8p4": (NAN, INF, -INF, 0.0, 224, -224),
    "ue4m3fn": (NAN, 448, 0.0, 0.0, 448, 0.0),
    "ue4m3": (NAN, INF, 0.0, 0.0, 240, 0.0),
    "e8m0fnu": (NAN, 2.0**127, 2.0**-127, 2.0**-127, 2.0**127, 2.0**-127),
    "e4m3fn-flush": (NAN, 448, -448, -0.0, 448, -448),
    "e4m3fnuz-flush": (NAN, 240, -240, 0.0, 240, -240),
}
INFINITE = {  # the same under overflow="infinite"
    "fp16": (NAN, INF, -INF, -0.0, INF, -INF),
    "e5m2": (NAN, INF, -INF, -0.0, INF, -INF),
    "e4m3fn": (NAN, NAN, NAN, -0.0, NAN, NAN),
    "e2m1fn": (0.0, 6, -6, -0.0, 6, -6),
    "e4m3fnuz": (NAN, NAN, NAN, 0.0, NAN, NAN),
    "binary8p4": (NAN, INF, -INF, 0.0, INF, -INF),
    "ue4m3fn": (NAN, NAN, 0.0, 0.0, NAN, 0.0),
    "e8m0fnu": (NAN, NAN, 2.0**-127, 2.0**-127, NAN, 2.0**-127),
    "log4": (0.0, 64, -64, 0.0, 64, -64),
    "binary": (1, 1, -1, 1, 1, -1),
}
X = torch.tensor([NAN, INF, -INF, -0.0, 3.4e38, -3.4e38])


@pytest.mark.parametrize(
    ("name", "overflow", "fates"),
    [
        *((name, "saturate", fates) for name, fates in FATES.items()),
        *((name, "infinite", fates) for name, fates in INFINITE.items()),
    ],
)
def test_fates(name, overflow, fates):
    form = parse(name)
    for rounding in ("nearest-even", "nearest-away"):
        for which, quantise in implementations(form):
            values = quantise(X, overflow=overflow, rounding=rounding)
            assert same(values, torch.tensor(fates, dtype=torch.float32)), (which, values)
    codes = form.encode(X, overflow=overflow)
    assert same(form.decode(codes), form.quantize(X, overflow=overflow))
    assert [form.encode(v, overflow=overflow) for v in X.tolist()] == codes.tolist()


@pytest.mark.parametrize("specials", [s for s in Specials if s.infinities], ids=lambda s: s.value)
def test_directed_roundings_stop_at_the_largest_number(specials):
    """IEEE 754: what is finite overflows only away from zero; infinity stays infinite."""
    form = Float(4, 3, specials)
    top = form.max_number
    x = torch.tensor([1e9, -1e9, INF, -INF])
    for rounding, values in {
        "toward-zero": [top, -top, INF, -INF],
        "floor": [top, -INF, INF, -INF],
        "ceil": [INF, -top, INF, -INF],
        "nearest-even": [INF, -INF, INF, -INF],
    }.items():
        for name, quantise in implementations(form):
            assert quantise(x, rounding=rounding, overflow="infinite").tolist() == values, (name, rounding)


def test_overflow_begins_half_a_step_beyond_the_largest():
    """e4m3fn: 448, then 464 = 448 + 16 would be a tie with 480; fp16: 65520 is one with 65536."""
    for name, largest, tie, at_tie in (
        ("e4m3fn", 448, 464, 448),
        ("fp16", 65504, 65520, INF),
        ("e4m3", 240, 248, INF),
    ):
        form = parse(name)
        x = torch.tensor([float(tie)])
        below, above = (torch.nextafter(x, torch.tensor(w)) for w in (0.0, INF))
        beyond = INF if form.specials.infinities else NAN
        for which, quantise in implementations(form):
            results = [quantise(v, overflow="infinite") for v in (below, x, above)]
            assert same(torch.cat(results), torch.tensor([largest, at_tie, beyond])), (name, which)
            away = quantise(x, overflow="infinite", rounding="nearest-away")
            assert same(away, torch.tensor([beyond]))


def test_which_overflows_are_refused():
    for form in (Int(8), UInt(4), Fixed(8, 4), Flex(16, 5), Ternary()):
        with pytest.raises(InvalidValueError, match="no infinity"):
            form.quantize(1.0, scale=2.0**-10, overflow="infinite")
    for form in (Float(4, 3), Ternary()):
        with pytest.raises(InvalidValueError, match="wrap"):
            form.quantize(torch.ones(1), overflow="wrap")
    for form in (Binary(), Log(4)):  # which saturate, whatever is asked
        for overflow in ("saturate", "symmetric", "wrap", "infinite"):
            assert form.quantize(1e9, overflow=overflow) == form.max_number


def test_float64_beyond_float32():
    x = torch.tensor([1e300, -1e300, 1e-300, -1e-300], dtype=torch.float64)
    assert same(parse("e5m2").quantize(x), torch.tensor([57344.0, -57344.0, 0.0, -0.0]))
    assert same(parse("fp32").quantize(x, overflow="infinite"), torch.tensor([INF, -INF, 0.0, -0.0]))
    assert same(parse("e8m0fnu").quantize(x), torch.tensor([2.0**127, *[2.0**-127] * 3]))
    assert parse("log4").quantize(x).tolist() == [64, -64, 0, 0]
