"""Quantising: every implementation against the definition, in every rounding and overflow mode.

The values are every number of a format, every tie, the float32 beside each, zeros, float32 subnormals, what
lies beyond the largest number, infinities and NaN.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formats_catalog import (
    DETERMINISTIC,
    FLOATS,
    HALVES,
    LOGS,
    ODD_FLOATS,
    WIDE_FLOATS,
    differing,
    implementations,
    modes,
    overflows,
    same,
    stride,
    thinned,
    trying_values,
)
from formats_definition import codes_of, quantised

from bitwright.formats import Float, Key, Log, Overflow, Rounding, Specials

KEY = Key(3, "drawn", 5, 1)


def check(form, x, rounding, overflow, most_scalar, key=None):
    """All implementations on `x`, the slow scalar one on `most_scalar` of it."""
    right = torch.from_numpy(quantised(form, x.numpy(), rounding, overflow, key)).float()
    for name, quantise in implementations(form):
        # draws go by the index: the first ones, then
        few = slice(None, most_scalar) if key else slice(None, None, stride(x, most_scalar))
        part = few if name == "scalar" else slice(None)
        values = quantise(x[part], rounding=rounding.value, overflow=overflow.value, key=key)
        assert same(values, right[part]), (name, rounding, overflow, differing(x[part], values, right[part]))


def check_every_mode(form, values, most_scalar):
    x = trying_values(form, values)
    for rounding, overflow in modes(form):
        check(form, x, rounding, overflow, most_scalar)
    for overflow in overflows(form):
        check(form, thinned(x, 300).flip(0), Rounding.STOCHASTIC, overflow, most_scalar, KEY)


@pytest.mark.parametrize("form", FLOATS, ids=str)
def test_small_floats_equal_the_definition_in_every_mode(form):
    check_every_mode(form, values=300, most_scalar=9)


@pytest.mark.parametrize("form", [*HALVES, *ODD_FLOATS, *LOGS], ids=str)
def test_named_floats_and_logarithms_equal_the_definition_in_every_mode(form):
    check_every_mode(form, values=3000, most_scalar=40)


@pytest.mark.slow
@pytest.mark.parametrize("form", [*FLOATS, *HALVES, *ODD_FLOATS, *LOGS], ids=str)
def test_every_float_and_logarithm_at_length(form):
    """Every number and tie, and many for the scalar reference too. About a minute and a half for all."""
    check_every_mode(form, values=1 << 18, most_scalar=300)


@pytest.mark.parametrize("form", [*HALVES, *ODD_FLOATS, *LOGS, *FLOATS[::29]], ids=str)
def test_encode_gives_the_code_of_the_number(form):
    x = trying_values(form, 600)
    for rounding, overflow in modes(form):
        how = {"rounding": rounding, "overflow": overflow}
        codes = form.encode(x, **how)
        expected = codes_of(form, quantised(form, x.numpy(), rounding, overflow))
        assert codes.tolist() == expected.tolist()
        assert same(form.decode(codes), form.quantize(x, **how))
        few = thinned(x, 30)
        assert [form.encode(v, **how) for v in few.tolist()] == thinned(codes, 30).tolist()


@pytest.mark.parametrize("form", WIDE_FLOATS, ids=str)
def test_random_bits_of_float32(form):
    """float32 itself changes nothing but NaN; tf32 against the grid."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(-(2**31), 2**31, (50_000,), generator=generator).to(torch.int32).view(torch.float32)
    for rounding in DETERMINISTIC:
        for name, quantise in implementations(form):
            some = thinned(x, 300) if name == "scalar" else x
            values = quantise(some, rounding=rounding)
            expected = (
                some if form.mantissa == 23 else torch.from_numpy(quantised(form, some.numpy(), rounding))
            )
            assert same(values, expected.float()), (name, rounding)


@pytest.mark.parametrize("form", [*HALVES, *ODD_FLOATS, *FLOATS[::41]], ids=str)
def test_float64_input_is_rounded_once(form):
    """Float64 beside a tie: rounding to float32 first would see the tie."""
    if not form.zero:
        pytest.skip("a power of two alone: its ties always go up")
    single = trying_values(form, 600).double()
    single = single[single.isfinite() & (single != 0)]
    x = torch.cat([single, *(torch.nextafter(single, torch.tensor(s * np.inf).double()) for s in (-1, 1))])
    for rounding in DETERMINISTIC:
        for overflow in (Overflow.SATURATE, Overflow.INFINITE):
            expected = torch.from_numpy(quantised(form, x.numpy(), rounding, overflow)).float()
            values = form.quantize(x, rounding=rounding, overflow=overflow)
            assert same(values, expected), (rounding, overflow, differing(x, values, expected))


@pytest.mark.parametrize("form", LOGS, ids=str)
def test_float64_input_of_logarithms_is_rounded_once(form):
    single = trying_values(form).double()
    x = torch.cat([single, *(torch.nextafter(single, torch.tensor(s * np.inf).double()) for s in (-1, 1))])
    for k in range(-2, 2 * form.fields):
        turn = torch.tensor([2.0 ** (k / 4)], dtype=torch.float64)
        x = torch.cat([x, turn, *(torch.nextafter(turn, torch.tensor(s * np.inf).double()) for s in (-1, 1))])
    for rounding in DETERMINISTIC:
        expected = torch.from_numpy(quantised(form, x.numpy(), rounding)).float()
        values = form.quantize(x, rounding=rounding)
        assert same(values, expected), (rounding, differing(x, values, expected))


@pytest.mark.parametrize("form", [Float(4, 3, Specials.FN), Float(5, 10), Log(5), Log(4, True)], ids=str)
@pytest.mark.parametrize("scale", [0.25, 0.1, 3.0, 1e-30, 1e30, 2.0**-126])
def test_any_scale_is_one_division_and_one_multiplication(form, scale):
    single = np.float32(scale)
    with np.errstate(all="ignore"):
        x = torch.from_numpy(trying_values(form, 900).numpy() * single)
        q = x.numpy() / single
        for rounding in DETERMINISTIC:
            numbers = quantised(form, q, rounding).astype(np.float32)
            expected = torch.from_numpy(numbers * single)
            for name, quantise in implementations(form):
                part = slice(None, None, 37 if name == "scalar" else 1)
                for step in (scale, torch.tensor(scale)):
                    if name == "scalar" and step is not scale:
                        continue
                    values = quantise(x[part], scale=step, rounding=rounding)
                    assert same(values, expected[part]), (name, rounding)
