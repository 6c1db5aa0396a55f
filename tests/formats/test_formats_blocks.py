"""Blocks: every element under every scale, and scales and values of drawn rows, against the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from formats_catalog import BLOCKS, differing, implementations, modes, same, thinned
from formats_definition import block_row, block_scale, number_of

from bitwright.formats import Block, Float, Int, Key, Overflow, Rounding, ScaleRule, Specials, UFixed, parse

blocks = pytest.mark.parametrize("form", BLOCKS, ids=str)


def table(form):
    """(element codes, numbers, scale codes, scales), from the definition."""
    element, scale = form.element, form.scale
    codes = torch.tensor(list(element.codes()))
    numbers = [number_of(element, c) if isinstance(element, Float) else float(c) for c in codes.tolist()]
    scale_codes = torch.tensor(list(scale.codes()))
    if scale.bits > 8:
        scale_codes = scale_codes[:: 2 ** (scale.bits - 8)]
    scales = [number_of(scale, c) for c in scale_codes.tolist()]
    return codes, torch.tensor(numbers), scale_codes, torch.tensor(scales)


@blocks
def test_every_element_decodes_under_every_scale(form):
    """value = number * (s * step), two float32 products; the scalar reference on every 16th scale."""
    check_decode(form, scalar=16)


@pytest.mark.slow
@blocks
def test_every_element_decodes_under_every_scale_in_the_scalar_reference(form):
    """About ten seconds for all."""
    check_decode(form, scalar=1)


def check_decode(form, scalar):
    codes, numbers, scale_codes, scales = table(form)
    assert form.element.bits <= 8
    rows = codes.repeat(len(scales), 1)
    blocks = -(-len(codes) // form.size)
    expected = numbers * (scales * np.float32(form.element.default_scale))[:, None]
    assert same(form.decode(rows, scale_codes[:, None].repeat(1, blocks)), expected)
    for row, scale_code in list(zip(expected, scale_codes.tolist(), strict=True))[::scalar]:
        assert same(torch.tensor(form.decode_row(codes.tolist(), [scale_code] * blocks)), row)
        some = thinned(codes, 8)
        assert same(torch.tensor([form.decode(c, scale_code) for c in some.tolist()]), thinned(row, 8))


@blocks
def test_pinned_blocks_come_back_under_every_scale(form):
    check_pinned(form, scalar=32)


@pytest.mark.slow
@blocks
def test_pinned_blocks_come_back_under_every_scale_in_the_scalar_reference(form):
    """About ten seconds for all."""
    check_pinned(form, scalar=1)


def check_pinned(form, scalar):
    """A block whose largest element fixes its scale is quantised to itself, code by code.

    Not every code can lie in such a block:

    - NaN and infinite elements: there is no value to give back;
    - beside the pin nothing may be larger: two's complement's lowest code is, and under `ceil` what is above
      the power of two at which the scale changes;
    - scales that are negative, zero, infinite or NaN follow from no block;
    - where the pin's value leaves float32, or the smallest element's falls below its 2^-149.
    """
    codes, numbers, scale_codes, scales = table(form)
    finite = numbers.isfinite() & ~((numbers == 0) & numbers.signbit() & torch.tensor(form.element.bits > 8))
    values = numbers * form.step
    # the largest element; under ceil the largest power of two
    pin = form.element_max
    if form.rule is ScaleRule.CEIL:
        pin = 2.0 ** math.floor(math.log2(pin))
    usable = finite & (values.abs() <= pin)
    pin_code = codes[usable & (values == pin)][0]
    unit = form.element.unit * form.step
    fits = scales.isfinite() & (scales > 0) & ~((scales == 0) | scales.signbit())
    fits &= (pin * scales.double() < 3.4e38) & (unit * scales.double() >= 2.0**-149)
    assert fits.sum() >= 0.4 * len(scales), "most scales are tried"
    others = codes[usable]
    each = form.size - 1
    pad = -len(others) % each
    others = torch.cat([others, pin_code.expand(pad)]).view(-1, each)
    row = torch.cat([pin_code.expand(len(others), 1), others], 1).flatten()
    rows = row.repeat(int(fits.sum()), 1)
    row_scales = scale_codes[fits][:, None].repeat(1, len(others))
    x = form.decode(rows, row_scales)
    for again in (form.encode(x), form.encode(form.quantize(x))):
        assert torch.equal(again[1].long(), row_scales)
        assert torch.equal(again[0].long(), rows)
    assert same(form.quantize(x), x)
    for line, scale_code in list(zip(x, row_scales[:, 0].tolist(), strict=True))[::scalar]:
        assert form.encode_row(line.tolist()) == (row.tolist(), [scale_code] * len(others))


def rows(form, seed=0):
    """Rows of blocks of every magnitude, with what is special."""
    generator = np.random.default_rng(seed)
    length = 3 * form.size - (form.size > 1)  # a ragged end
    top = 127 - math.ceil(math.log2(form.element_max))
    x = generator.standard_normal((12, length)) * 2.0 ** generator.integers(-20, 20, (12, 1))
    with np.errstate(over="ignore"):
        wild = generator.standard_normal((12, length)) * 2.0 ** generator.integers(-148, top, (12, 1))
        # maxima beside powers of two, and beside what the scale rules turn at
        edge = form.element_max * 2.0 ** generator.integers(-100, 100, (12, 1))
        x, wild, edge = (a.astype(np.float32) for a in (x, wild, edge))
        edges = edge * generator.random((12, length), np.float32) ** 3
        edges[:, 0] = np.nextafter(edge[:, 0], edge[:, 0] * generator.choice(np.float32([0, 1, 2]), 12))
        edges[:6, -1] = 2.0 ** np.round(np.log2(edge[:6, 0]))
        edges[6:, -1] = np.nextafter(edges[6:, -1], np.float32(np.inf))
    special = x.copy()
    special[0] = 0
    special[1] = -0.0
    special[2, ::3] = math.nan
    special[3, ::4] = math.inf
    special[4, ::4] = -math.inf
    special[5] = math.nan
    special[6] = math.inf
    special[7] = 1e-45
    special[8, 0] = 3.4028235e38
    special[9] = -3.4028235e38
    special[10] = 1.1754942e-38
    return torch.from_numpy(np.concatenate([x, wild, edges, special]))


def check(form, x, rounding, overflow=Overflow.SATURATE, outer=1.0):
    expected = [block_row(form, row, outer, rounding, overflow) for row in x.numpy()]
    values = torch.from_numpy(np.array([e[0] for e in expected]))
    scales = np.array([e[1] for e in expected])
    for name, quantise in implementations(form):
        result = quantise(x, rounding=rounding.value, overflow=overflow.value, scale=outer)
        assert same(result, values), (
            name,
            rounding,
            overflow,
            differing(x.flatten(), result.flatten(), values.flatten()),
        )
    codes, scale_codes = form.encode(x, rounding=rounding, overflow=overflow, scale=outer)
    assert [[form.scale.number(c) for c in row] for row in scale_codes.tolist()] == scales.tolist()
    assert same(form.decode(codes, scale_codes, scale=outer), values)


@blocks
def test_rows_equal_the_definition(form):
    check(form, rows(form), Rounding.NEAREST_EVEN)


@blocks
def test_every_mode(form):
    x = rows(form, 1)[::5]
    for rounding, overflow in modes(form.element):
        check(form, x, rounding, overflow)


@pytest.mark.parametrize("form", [parse(n) for n in ("nvfp4", "mxfp8e4m3", "mxint8", "bfp4x3")], ids=str)
@pytest.mark.parametrize("outer", [0.25, 0.1, 7.0, 1e-30, 1e30])
def test_an_outer_scale(form, outer):
    check(form, rows(form, 2)[::2], Rounding.NEAREST_EVEN, outer=float(np.float32(outer)))


@blocks
def test_stochastic_elements_draw_by_their_own_index(form):
    x = rows(form, 3)[::3].contiguous()
    for bits in (1, 8, 16):
        key = Key(2, "blocks", bits=bits)
        results = [q(x, rounding="stochastic", key=key) for _, q in implementations(form)]
        assert all(same(results[0], other) for other in results[1:])
        low, high = (form.quantize(x, rounding=r) for r in ("floor", "ceil"))
        ok = (results[0] == low) | (results[0] == high) | results[0].isnan()
        assert ok.all()


@pytest.mark.parametrize("form", [parse(n) for n in ("mxfp4", "bfp4x3", "nvfp4")], ids=str)
def test_blocks_run_along_their_axis(form):
    x = torch.randn(7, 5, 34, generator=torch.Generator().manual_seed(1))
    for axis in (0, 1, 2, -1, -2):
        expected = form.quantize(x.movedim(axis, -1).contiguous()).movedim(-1, axis)
        assert same(form.quantize(x, axis=axis), expected)
        codes, scales = form.encode(x, axis=axis)
        assert codes.shape == x.shape
        assert scales.shape[axis] == -(-x.shape[axis] // form.size)
        assert same(form.decode(codes, scales, axis=axis), expected)
        for _, quantise in implementations(form):
            assert same(quantise(x, axis=axis), expected)


@pytest.mark.parametrize(
    ("name", "largest", "scale"),
    [
        ("mxfp4", 6.0, 1.0), ("mxfp4", 7.9, 1.0), ("mxfp4", 8.0, 2.0), ("mxfp4", 3.99, 0.5),
        ("block32-e2m1f-e8m0fnu-ceil", 4.0, 1.0), ("block32-e2m1f-e8m0fnu-ceil", 4.01, 2.0),
        ("block32-e2m1f-e8m0fnu-rceil", 6.0, 1.0), ("block32-e2m1f-e8m0fnu-rceil", 6.01, 2.0),
        ("block32-e2m1f-e8m0fnu-even", 6.99, 1.0), ("block32-e2m1f-e8m0fnu-even", 7.0, 2.0),
        ("nvfp4", 6.0, 1.0), ("nvfp4", 6.37, 1.0), ("nvfp4", 6.38, 1.125), ("nvfp4", 1e9, 448.0),
        ("mxint8", 1.984375, 1.0), ("mxint8", 2.0, 2.0), ("mxfp8e4m3", 448.0, 1.0),
        ("mxfp8e5m2", 57344.0, 1.0),
    ],
)  # fmt: skip
def test_scales_by_hand(name, largest, scale):
    form = parse(name)
    assert form.scale.number(form.encode_row([largest])[1][0]) == scale
    assert block_scale(form, np.float32(largest)) == scale
    assert form.encode(torch.tensor([0.0, -largest]))[1].tolist() == form.encode_row([0.0, -largest])[1]


def test_scales_are_clamped_to_their_format():
    form = Block(Float(4, 3, Specials.FN), 4)
    assert form.encode_row([1e-45])[1] == [0]
    assert form.encode_row([0.0])[1] == [0]
    assert form.encode(torch.tensor([1e-45]))[1].tolist() == [0]
    tiny = Block(Float(2, 1, Specials.F, bias=140), 4)  # elements below 2^-137
    assert tiny.encode_row([1.0])[1] == [254]
    assert tiny.encode(torch.tensor([1.0]))[1].tolist() == [254]


def test_refusals():
    for build in (
        lambda: Block(UFixed(8, 8)),
        lambda: Block(Int(8), 0),
        lambda: Block(Int(8), rule=ScaleRule.DIVIDE),
        lambda: Block(Int(8), scale=Float(4, 3), rule=ScaleRule.FLOOR),
    ):
        with pytest.raises((ValueError, TypeError)):
            build()
