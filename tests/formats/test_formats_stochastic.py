"""Stochastic rounding: its probabilities, its independence, and that nothing but the key decides it."""

from __future__ import annotations

import math

import pytest
import torch
from formats_catalog import implementations, same

from bitwright.formats import Binary, Fixed, Float, Int, Key, Log, Specials, UInt
from bitwright.formats.random import draw, draw_scalar

FRACTIONS = (2.0**-12, 0.25, 0.5, 1 - 2.0**-12)
CHUNK = 2_000_000


def ups(form, x, low, count, bits):
    """How many of `count` equal elements go up, in chunks of one step each."""
    up = 0
    for step in range(count // CHUNK):
        key = Key(9, "statistics", step=step, bits=bits)
        up += int((form.quantize(x, rounding="stochastic", key=key) != low).sum())
    return up


def check_bias(form, low, step, fraction, bits, count):
    """The mean within 4 sigma, and the stated bias of at most 2^-bits."""
    x = torch.full((CHUNK,), low + fraction * step)
    assert x[0].item() == low + fraction * step
    p = math.ceil(fraction * 2**bits) / 2**bits
    up = ups(form, x, low, count, bits)
    sigma = math.sqrt(count * p * (1 - p))
    assert abs(up - count * p) <= 4 * sigma
    assert 0 <= p - fraction < 2.0**-bits
    assert abs(up - count * fraction) <= 4 * sigma + count * 2.0**-bits


CASES = [
    (Int(8), -3.0, 1.0),
    (Fixed(8, 4), 1.0, 2.0**-4),
    (Float(4, 3, Specials.FN), 1.0, 0.125),
    (Log(4), 4.0, 4.0),
]


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize(("form", "low", "step"), CASES[::2], ids=str)
def test_the_bias_over_two_million_draws(form, low, step, fraction):
    check_bias(form, low, step, fraction, 16, CHUNK)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize(("form", "low", "step"), CASES, ids=str)
def test_the_bias_over_a_hundred_million_draws(form, low, step, fraction):
    """About three minutes for the sixteen."""
    check_bias(form, low, step, fraction, 16, 50 * CHUNK)


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
@pytest.mark.parametrize("fraction", [2.0**-5, 0.25, 0.7])
def test_fewer_bits_round_the_probability_up(bits, fraction):
    count = 200_000
    key = Key(4, "few", bits=bits)
    x = torch.full((count,), 5 + fraction)
    p = math.ceil((x[0].item() - 5) * 2**bits) / 2**bits
    up = int((Int(8).quantize(x, rounding="stochastic", key=key) == 6).sum())
    assert abs(up - count * p) <= 4 * math.sqrt(count * p * (1 - p))


@pytest.mark.parametrize("bits", range(1, 17))
def test_fewer_bits_are_the_high_bits_of_the_sixteen(bits):
    size, device = torch.Size((1000,)), torch.device("cpu")
    all_bits = draw(Key(1, "a"), size, device)
    few = draw(Key(1, "a", bits=bits), size, device)
    assert torch.equal(few, all_bits >> 16 - bits)
    assert few[:20].tolist() == [draw_scalar(Key(1, "a", bits=bits), i).value for i in range(20)]


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
@pytest.mark.parametrize("form", [Int(8), UInt(4), Fixed(8, 4), Binary(), Float(5, 2), Log(5, True)], ids=str)
def test_all_implementations_draw_alike(form, bits):
    x = torch.randn(600, generator=torch.Generator().manual_seed(bits)) * form.max_number / 3
    key = Key(8, "alike", 2**40 + 1, 3, bits)
    results = [quantise(x, rounding="stochastic", key=key) for _, quantise in implementations(form)]
    assert all(same(results[0], result) for result in results[1:])


def uniform(count, key):
    """Draws as numbers of mean 0 and deviation 1."""
    return (draw(key, torch.Size((count,)), torch.device("cpu")).float() + 0.5 - 2**15) / (
        2**16 / math.sqrt(12)
    )


def check_correlations(count):
    """Between 100 tensors, and between consecutive steps: all below 5 / sqrt(n)."""
    names = [f"layer{i}.weight" for i in range(50)] + list(range(50))
    tensors = torch.stack([uniform(count, Key(0, name)) for name in names])
    steps = torch.stack([uniform(count, Key(0, "layer0.weight", step=step)) for step in range(20)])
    calls = torch.stack([uniform(count, Key(0, "layer0.weight", call=call)) for call in range(1, 20)])
    for group in (tensors, torch.cat([steps, calls])):
        correlation = group @ group.T / count
        assert abs(correlation.diagonal() - 1).max() < 5 * 0.9 / math.sqrt(count)
        assert abs(correlation.fill_diagonal_(0)).max() < 5 / math.sqrt(count)


def test_tensors_and_steps_are_uncorrelated():
    check_correlations(100_000)


@pytest.mark.slow
def test_tensors_and_steps_are_uncorrelated_over_a_million_draws():
    """About five seconds, and 1 GB of memory."""
    check_correlations(1_000_000)


@pytest.mark.parametrize("form", [Int(4), Float(4, 3, Specials.FN), Binary(), Log(4)], ids=str)
def test_memory_layout_changes_nothing(form):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 4, 5, 6, generator=generator) * 3
    key = Key(9, "layout")
    expected = form.quantize(x, rounding="stochastic", key=key)
    last = x.to(memory_format=torch.channels_last)
    transposed = x.transpose(0, 3).contiguous().transpose(0, 3)
    wide = torch.empty(3, 4, 5, 12)[..., ::2].copy_(x)
    for other in (last, transposed, wide):
        assert not other.is_contiguous()
        for name, quantise in implementations(form):
            assert same(quantise(other, rounding="stochastic", key=key).contiguous(), expected), name
        out = torch.empty_like(other)
        form.quantize(other, rounding="stochastic", key=key, out=out)
        assert same(out.contiguous(), expected)
        codes = form.encode(other, rounding="stochastic", key=key)
        assert same(form.decode(codes).contiguous(), expected)


def test_part_of_a_tensor_draws_by_its_own_index():
    """The row-major index within what is given: a slice is a tensor of its own."""
    x, key = torch.rand(64) * 6, Key(2, "slice")
    assert torch.equal(
        Int(4).quantize(x[8:], rounding="stochastic", key=key),
        Int(4).quantize(x[8:].clone(), rounding="stochastic", key=key),
    )


def test_what_lies_on_the_grid_never_moves():
    for form in (Int(8), Float(4, 3, Specials.FN), Float(5, 2, subnormals=False), Log(6), Log(5, True)):
        grid = torch.tensor([v for v in form.grid() if math.isfinite(v)])
        for step in range(50):
            values = form.quantize(grid, rounding="stochastic", key=Key(1, "grid", step, bits=1 + step % 16))
            assert same(values, grid)
