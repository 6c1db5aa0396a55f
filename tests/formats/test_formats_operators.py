"""The registered operators: the kernels' bits are the twin's, for every family, rounding and layout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.library import opcheck

from bitwright.errors import InvalidValueError
from bitwright.formats import Block, Int, Key, Overflow, Rounding, UInt, operators, parse
from bitwright.formats.random import key_tensor

NAMES = [
    "int8",
    "uint4",
    "int1",
    "uint1",
    "int16",
    "fixed8.4",
    "fixed8.-2",
    "ufixed8.8",
    "int25",
    "ternary",
    "binary",
    "e4m3fn",
    "e5m2",
    "e3m4",
    "e4m3",
    "e4m3fnuz",
    "e5m2fnuz",
    "e4m3b11fnuz",
    "e2m1f",
    "e2m3f",
    "e3m2f",
    "bf16",
    "fp16",
    "tf32",
    "fp32",
    "binary8p3",
    "e8m1fnuz",
    "e8m1uz",
    "ue4m3fn",
    "e4m3fn-flush",
    "e1m3f",
    "log2",
    "log4",
    "log8",
    "log2-sqrt2",
    "log4-sqrt2",
    "log8-sqrt2",
    "mxfp8e4m3",
    "mxfp8e5m2",
    "mxfp6e3m2",
    "mxfp6e2m3",
    "mxfp4",
    "mxint8",
    "nvfp4",
    "bfp8x32",
    "bfp4x16",
    "block7-e4m3fn-e8m0fnu-rceil",
    "block7-int4-e8m0fnu-ceil",
    "block16-e2m1f-e8m0fnu-even",
    "block5-e3m2f-e5m2-divide",
]
FALLING_BACK = ["int26", "int32", "e8m0fnu"]
"""Which the kernels leave to the twin: numbers beyond 24 bits, and the scale format without a zero."""
KEY = key_tensor(Key(3, "x", 7, 2))


def hard_values() -> torch.Tensor:
    """[64, 100]: all exponents, ties, and everything special."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4000, generator=generator) * torch.exp2(
        torch.randint(-150, 128, (4000,), generator=generator).float()
    )
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3.4e38, -3.4e38])
    x = torch.cat([wide, torch.randn(1991, generator=generator) * 5, torch.arange(-200, 200) * 0.25, special])
    return x[torch.randperm(len(x), generator=generator)].reshape(64, 100)


X = hard_values()


def assert_same_bits(left: torch.Tensor, right: torch.Tensor) -> None:
    assert left.shape == right.shape
    a, b = left.numpy(), right.numpy()
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
    if a.dtype.kind == "f":
        numbers = ~np.isnan(a)
        np.testing.assert_array_equal(np.signbit(a)[numbers], np.signbit(b)[numbers])


def both(form, x, scale=None, rounding=Rounding.NEAREST_EVEN, overflow=Overflow.SATURATE, **more):
    """(fused, twin) for the same arguments."""
    bits, zero_point = more.get("bits", 16), more.get("zero_point")
    scaled, axis = more.get("scaled", True), more.get("axis", -1)
    fused = operators.quantize(
        form, x, scale, rounding, overflow, KEY, bits, zero_point, scaled=scaled, axis=axis
    )
    twin = operators._twin(form, x, scale, zero_point, KEY, rounding, overflow, bits, scaled, axis, None)
    return fused, twin


def rules(form):
    for overflow in Overflow:
        try:
            form.check_overflow(overflow)
        except InvalidValueError:
            continue
        yield overflow


@pytest.mark.parametrize("rounding", Rounding, ids=lambda r: r.value)
@pytest.mark.parametrize("name", NAMES + FALLING_BACK)
def test_kernels_give_the_twins_bits_and_statistics(name, rounding):
    form = parse(name)
    scales = [None, torch.tensor(0.37), torch.rand(64, 1) + 0.1, torch.rand(100) + 0.1]
    for overflow in rules(form):
        for scale in scales[:2] if isinstance(form, Block) else scales:
            for axis in (-1, 0) if isinstance(form, Block) else (-1,):
                for left, right in zip(*both(form, X, scale, rounding, overflow, axis=axis), strict=True):
                    assert_same_bits(left, right)
    if not isinstance(form, Block):
        for left, right in zip(*both(form, X, None, rounding, bits=5, scaled=False), strict=True):
            assert_same_bits(left, right)


@pytest.mark.parametrize("form", [Int(8), UInt(8), Int(4)], ids=str)
@pytest.mark.parametrize("overflow", ["saturate", "symmetric", "wrap"])
def test_zero_points(form, overflow):
    low, high = form.limits(Overflow(overflow))
    for zero in {low, 0, 3, high}:
        zero_point = torch.tensor(zero, dtype=torch.int32)
        pair = both(form, X, torch.tensor(0.37), overflow=Overflow(overflow), zero_point=zero_point)
        for left, right in zip(*pair, strict=True):
            assert_same_bits(left, right)
    per_channel = torch.randint(low, high + 1, (64, 1), dtype=torch.int32)
    for scale in (torch.rand(64, 1) + 0.1, torch.tensor(0.37)):
        for left, right in zip(*both(form, X, scale, zero_point=per_channel), strict=True):
            assert_same_bits(left, right)


def test_the_kernels_take_what_they_are_expected_to_take():
    """Otherwise the test above would compare the twin with itself."""
    from bitwright.formats import grids

    for name in NAMES:
        form = parse(name)
        assert grids.grid_of(form.element if isinstance(form, Block) else form, Overflow.SATURATE), name
    for name in FALLING_BACK:
        assert grids.grid_of(parse(name), Overflow.SATURATE) is None, name


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
@pytest.mark.parametrize("name", ["fixed8.4", "e4m3fn", "log4", "mxfp8e4m3"])
def test_memory_layout_changes_nothing(name, rounding):
    form, x = parse(name), torch.randn(4, 6, 5, 7) * 3
    axis = {"axis": 1} if isinstance(form, Block) else {}
    key = Key(1)
    plain = form.quantize(x, rounding=rounding, key=key, **axis)
    last = form.quantize(x.to(memory_format=torch.channels_last), rounding=rounding, key=key, **axis)
    assert last.is_contiguous(memory_format=torch.channels_last)
    gaps = torch.empty(4, 6, 5, 14)[..., ::2].copy_(x)
    assert torch.equal(last, plain)
    assert torch.equal(form.quantize(gaps, rounding=rounding, key=key, **axis), plain)
    out = torch.empty_like(gaps)
    assert form.quantize(x, rounding=rounding, key=key, out=out, **axis) is out
    assert torch.equal(out, plain)
    here = x.clone()
    form.quantize(here, rounding=rounding, key=key, out=here, **axis)
    assert torch.equal(here, plain)


@pytest.mark.parametrize("name", ["fixed8.4", "e4m3fn", "log4", "binary", "bfp8x32", "nvfp4"])
def test_threads_change_nothing(name):
    form, x = parse(name), torch.randn(1 << 20)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(operators.quantize(form, x, None, Rounding.STOCHASTIC, key=KEY))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("rounding", ["nearest-even", "stochastic"])
@pytest.mark.parametrize("name", ["int8", "e4m3fn", "log4", "binary", "int32", "mxfp8e4m3"])
def test_opcheck(name, rounding):
    x, scale = torch.randn(6, 8), None if name.startswith("mx") else torch.tensor(0.1)
    arguments = (x, scale, None, KEY, name, rounding, "saturate", 16, True, -1)
    opcheck(torch.ops.bitwright.quantize.default, arguments)
    out = torch.empty(6, 8, dtype=torch.float64 if name == "int32" else torch.float32)
    opcheck(torch.ops.bitwright.quantize_out.default, arguments, {"out": out})


@pytest.mark.parametrize("name", ["fixed8.4", "e4m3fn", "mxfp4"])
def test_compiled_without_a_graph_break(name):
    form = parse(name)

    def run(x, key):
        values, max_abs, counts = operators.quantize(form, x, None, Rounding.STOCHASTIC, key=key)
        return values + 1, max_abs, counts

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    x = torch.randn(64, 64)
    for step in range(3):
        key = key_tensor(Key(1, 2, step))
        for left, right in zip(compiled(x, key), run(x, key), strict=True):
            assert torch.equal(left, right)


def test_other_types_and_shapes():
    form = parse("fixed8.4")
    x = torch.randn(3, 5)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(form.quantize(x.to(dtype)), form.quantize(x.to(dtype).float()).float())
    for shape in ((), (0,), (0, 3), (1, 1, 1)):
        assert form.quantize(torch.zeros(shape)).shape == shape
    assert operators.quantize(form, torch.zeros(0))[1] == 0
    two_axes = torch.rand(3, 5) + 0.1
    for left, right in zip(*both(form, x, two_axes), strict=True):
        assert_same_bits(left, right)


@pytest.mark.parametrize("call", ["quantize", "encode"])
@pytest.mark.parametrize("shape", [(3, 1), (5, 1), (7,), (2, 4, 6), (0,), (6, 1, 1)])
def test_what_does_not_broadcast_is_refused(call, shape):
    """A kernel would read beyond it, or the result would have another shape."""
    x = torch.randn(4, 6)
    with pytest.raises(InvalidValueError, match="broadcast to the tensor"):
        getattr(parse("fixed12"), call)(x, scale=torch.ones(shape))
    with pytest.raises(InvalidValueError, match="broadcast to the tensor"):
        getattr(parse("uint8"), call)(x, zero_point=torch.ones(shape, dtype=torch.int32))
    with pytest.raises(InvalidValueError, match="broadcast to the tensor"):
        operators.quantize(parse("fixed12"), x, torch.ones(shape))
    with pytest.raises(InvalidValueError, match="broadcast to the tensor"):
        operators.gate(parse("fixed12"), x, x, torch.ones(shape))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_scales_in_tensors_are_checked_like_numbers(bad):
    form, x = parse("fixed12"), torch.randn(4, 6)
    for call in (form.quantize, form.encode):
        with pytest.raises(InvalidValueError, match="positive and finite"):
            call(x, scale=torch.tensor([1.0, 1.0, bad, 1.0]).view(4, 1))
    with pytest.raises(InvalidValueError, match="positive and finite"):
        form.decode(torch.zeros(3, dtype=torch.int16), scale=torch.tensor(bad))


@pytest.mark.parametrize("shift", [1, 8, 16, 4096])
@pytest.mark.parametrize("name", ["fixed8.4", "e4m3fn", "bfp8x32"])
def test_out_may_overlap_the_input(name, shift):
    form, memory = parse(name), torch.randn(1 << 18)
    for source, target in (
        (slice(None, -shift), slice(shift, None)),
        (slice(shift, None), slice(None, -shift)),
    ):
        shared = memory.clone()
        expected = form.quantize(shared[source].clone())
        assert torch.equal(form.quantize(shared[source], out=shared[target]), expected)
