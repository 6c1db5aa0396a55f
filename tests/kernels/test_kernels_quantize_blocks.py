"""Block quantisers equal their NumPy reference in every bit; the gate and the sums of magnitudes too."""

from __future__ import annotations

import numpy as np
import pytest
from quantize_native import F32, GRIDS, INF, KEY, NAN, key_for, run_blocks, same, same_bits
from quantize_reference import quantize_blocks

from bitwright.errors import InvalidValueError
from bitwright.kernels import quantize as native
from bitwright.kernels import quantize_isas
from bitwright.kernels.quantize import Grid, GridKind, RoundingCode, ScaleRule

isas = pytest.mark.parametrize("isa", quantize_isas())

E4M3_SCALE = Grid(GridKind.FLOATING, mantissa_bits=3, emin=-6, max=448)
FORMATS = {
    "mxfp8": (GRIDS["e4m3 saturating"], {"elem_max": 448.0, "elem_bits": 3}),
    "mxfp4": (GRIDS["e2m1"], {"elem_max": 6.0, "elem_bits": 1}),
    "mxint8": (Grid(GridKind.UNIFORM, -127, 127), {"elem_max": 127 / 64, "elem_bits": 6, "unit": 2.0**-6}),
    "bfp": (Grid(GridKind.UNIFORM, -128, 127), {"elem_max": 127.0, "elem_bits": 6}),
    "below 1": (Grid(GridKind.UNIFORM, -7, 7), {"elem_max": 7 / 1024, "elem_bits": 2, "unit": 2.0**-10}),
}


def hard_blocks(shape, low=-152, high=128, seed=6):
    """Groups of 8 rows, each of its own magnitude, 2^low to 2^high: normal values, powers of two, or the
    floats beside those; and zeros, NaN and infinities."""
    rng = np.random.default_rng(seed)
    groups = (shape[0], -(-shape[1] // 8), shape[2])
    exponent = rng.integers(low, high, groups).repeat(8, axis=1)[:, : shape[1]]
    kind = rng.integers(0, 4, groups).repeat(8, axis=1)[:, : shape[1]]
    with np.errstate(all="ignore"):
        power = (2.0**exponent).astype(F32)
        x = np.select(
            [kind == 0, kind == 1, kind == 2],
            [(rng.standard_normal(shape) * 2.0**exponent).astype(F32), power, np.nextafter(power, F32(INF))],
            np.nextafter(power, F32(0)),
        )
    flat = x.reshape(-1)
    flat[11::37] = NAN
    flat[7::41] = -INF
    flat[5::43] = -0.0
    flat[flat.size // 3 : flat.size * 2 // 5] = 0
    return x


@pytest.mark.parametrize("rule", [ScaleRule.FLOOR, ScaleRule.CEIL, ScaleRule.RCEIL, ScaleRule.EVEN])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(3, 333, 1), (2, 21, 67)])
def test_powers_of_two(name, rule, shape):
    grid, settings = FORMATS[name]
    x = hard_blocks(shape)
    expected = quantize_blocks(x, 8, grid, RoundingCode.NEAREST_EVEN, rule=rule, **settings)
    for isa in quantize_isas():
        same(run_blocks(x, 8, grid, RoundingCode.NEAREST_EVEN, isa=isa, rule=rule, **settings), expected, x)


@pytest.mark.parametrize("global_scale", [1.0, 0.37, 2.0**-20, 1e30])
@pytest.mark.parametrize("shape", [(1, 500, 1), (1, 30, 17)])
@isas
def test_float_scales(global_scale, shape, isa):
    """NVFP4: e4m3 scales under one scale of the tensor; scales that round to 0."""
    x = hard_blocks(shape, -14, 14) * F32(global_scale)
    settings = {
        "rule": ScaleRule.DIVIDE,
        "elem_max": 6.0,
        "scale_grid": E4M3_SCALE,
        "global_scale": global_scale,
    }
    for scaled in (True, False):
        expected = quantize_blocks(x, 16, GRIDS["e2m1"], RoundingCode.NEAREST_EVEN, scaled=scaled, **settings)
        got = run_blocks(x, 16, GRIDS["e2m1"], RoundingCode.NEAREST_EVEN, isa=isa, scaled=scaled, **settings)
        same(got, expected, x)
    assert (expected.block_scales == 0).any()


@pytest.mark.parametrize("rule", [ScaleRule.FLOOR, ScaleRule.RCEIL])
@isas
def test_global_scale_and_window(rule, isa):
    grid, settings = FORMATS["mxfp8"]
    x = hard_blocks((2, 200, 1))
    settings = dict(settings, rule=rule, smin=-20, smax=13, global_scale=0.3)
    expected = quantize_blocks(x, 32, grid, RoundingCode.NEAREST_EVEN, **settings)
    same(run_blocks(x, 32, grid, RoundingCode.NEAREST_EVEN, isa=isa, **settings), expected, x)


@pytest.mark.parametrize("rounding", list(RoundingCode), ids=lambda r: r.name.lower())
@isas
def test_roundings(rounding, isa):
    for name in ("mxfp8", "bfp"):
        grid, settings = FORMATS[name]
        for shape in ((2, 150, 1), (2, 40, 19)):
            x = hard_blocks(shape)
            settings = dict(settings, rule=ScaleRule.FLOOR, key=key_for(rounding), bits=12)
            expected = quantize_blocks(x, 32, grid, rounding, **settings)
            same(run_blocks(x, 32, grid, rounding, isa=isa, **settings), expected, x)


@pytest.mark.parametrize("block", [1, 2, 3, 8, 16, 31, 32, 33, 64, 100])
@isas
def test_sizes(block, isa):
    """Blocks around every vector, lengths that they do not divide, any place in memory, in place."""
    grid, settings = FORMATS["mxfp8"]
    settings = dict(settings, rule=ScaleRule.FLOOR)
    shapes = [(1, 1, 1), (3, 33, 1), (2, 64, 1), (2, 97, 1), (5, 7, 2), (2, 33, 64), (1, 3, 130)]
    for shape in (*shapes, (0, 4, 1), (2, 0, 1), (2, 4, 0)):
        x = np.random.default_rng(7).standard_normal(shape).astype(F32)
        expected = quantize_blocks(x, block, grid, RoundingCode.NEAREST_EVEN, **settings)
        for offset, in_place in ((0, False), (5, False), (1, True)):
            same(
                run_blocks(
                    x,
                    block,
                    grid,
                    RoundingCode.NEAREST_EVEN,
                    isa=isa,
                    offset=offset,
                    in_place=in_place,
                    **settings,
                ),
                expected,
                x,
            )


@pytest.mark.parametrize("shape", [(3, 2**19 + 21, 1), (3, 1000, 513)])
def test_threads_and_streams(shape):
    """Large enough to be cut, and to bypass the caches."""
    grid, settings = FORMATS["mxfp8"]
    x = np.random.default_rng(8).standard_normal(shape, F32)
    for rounding in (RoundingCode.NEAREST_EVEN, RoundingCode.STOCHASTIC):
        known = dict(settings, rule=ScaleRule.FLOOR, key=key_for(rounding))
        first = run_blocks(x, 32, grid, rounding, isa=quantize_isas()[0], **known)
        for isa in quantize_isas()[1:]:
            same(run_blocks(x, 32, grid, rounding, isa=isa, **known), first, x)
            same(run_blocks(x, 32, grid, rounding, isa=isa, threads=3, offset=3, **known), first, x)
            same(run_blocks(x, 32, grid, rounding, isa=isa, threads=2, in_place=True, **known), first, x)


@pytest.mark.parametrize("shape", [(1, 1, 0), (1, 1, 133), (3, 5, 1), (2, 3, 70), (1, 2, 2**18 + 3)])
@isas
def test_gate(shape, isa):
    rng = np.random.default_rng(9)
    x, gradient = rng.standard_normal((2, *shape)).astype(F32) * F32(100)
    x.ravel()[::7] = NAN
    x.ravel()[1::9] = np.resize([-32, 31.75, 32, INF, -INF, -0.0], x.ravel()[1::9].size)
    gradient.ravel()[2::11] = NAN
    scale = rng.uniform(0.2, 0.3, shape[1]).astype(F32)
    scale[0] = 0.25
    zero = rng.integers(-9, 9, shape[1]).astype(np.int32)
    for zero_point in (None, zero):
        shift = 0 if zero_point is None else zero_point[None, :, None].astype(F32)
        with np.errstate(invalid="ignore"):
            q = x / scale[None, :, None]
            inside = (q >= F32(-128) - shift) & (q <= F32(127) - shift)
        expected = np.where(inside, gradient, F32(0))
        for in_place in (False, True):
            given = gradient.copy()
            out = given if in_place else np.empty_like(x)
            native.gate(
                x.ctypes.data,
                given.ctypes.data,
                out.ctypes.data,
                *shape,
                scale.ctypes.data,
                -128,
                127,
                zero_point_ptr=0 if zero_point is None else zero.ctypes.data,
                threads=2,
                isa=isa,
            )
            same_bits(out, expected, x)


def test_row_abs_sum():
    rng = np.random.default_rng(10)
    for shape in ((0, 3), (3, 0), (1, 1), (4, 15), (3, 16), (2, 1037), (700, 800)):
        whole = rng.integers(-(2**24), 2**24, shape).astype(F32)
        fractions = rng.standard_normal(shape).astype(F32)
        sums = {}
        for isa in quantize_isas():
            sums[isa] = np.full((2, shape[0]), NAN)
            for x, out in ((whole, sums[isa][0]), (fractions, sums[isa][1])):
                native.row_abs_sum(x.ctypes.data, *shape, out.ctypes.data, threads=2, isa=isa)
        for got in sums.values():
            np.testing.assert_array_equal(got[0], np.abs(whole.astype(np.int64)).sum(1))
            np.testing.assert_array_equal(got, sums["scalar"])


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Grid(GridKind.UNIFORM, 1, 0),
        lambda: Grid(GridKind.UNIFORM, -(2**25), 0),
        lambda: Grid(GridKind.UNIFORM, 0, 0.5),
        lambda: Grid(GridKind.UNIFORM, -7, 7, wrap=True),
        lambda: Grid(GridKind.UNIFORM, 8, 15, wrap=True),
        lambda: Grid(GridKind.FLOATING, mantissa_bits=24),
        lambda: Grid(GridKind.FLOATING, mantissa_bits=23, emin=-127),
        lambda: Grid(GridKind.FLOATING, emin=-128),
        lambda: Grid(GridKind.FLOATING, max=1e39),
        lambda: Grid(GridKind.FLOATING, max=2.0, beyond=1.0),
        lambda: Grid(GridKind.FLOATING, at_nan=1.0),
        lambda: Grid(GridKind.LOG2, fields=129),
        lambda: Grid(GridKind.LOGSQRT2, fields=0),
        lambda: native.quantize(0, 0, 1, 1, 0, 0, GRIDS["int8"], RoundingCode.STOCHASTIC),
        lambda: native.quantize(0, 0, 1, 1, 0, 0, GRIDS["int8"], isa="mmx"),
        lambda: native.quantize_blocks(
            0, 0, 1, 0, 1, 32, GRIDS["int8"], RoundingCode.STOCHASTIC, elem_max=1.0
        ),
        lambda: native.quantize_blocks(0, 0, 1, 0, 1, 32, GRIDS["int8"], rule=ScaleRule.DIVIDE, elem_max=1.0),
        lambda: native.quantize_blocks(0, 0, 1, 0, 1, 32, GRIDS["int8"], elem_max=0.0),
    ],
)
def test_errors(broken):
    with pytest.raises(InvalidValueError):
        broken()


@pytest.mark.parametrize(
    "broken",
    [
        lambda: native.quantize(0, 0, -1, 1, 1, 0, GRIDS["int8"]),
        lambda: native.quantize(0, 0, 1, 0, 1, 0, GRIDS["int8"]),
        lambda: native.quantize(0, 0, 1, 1, 0, 0, GRIDS["int8"], 6),
        lambda: native.quantize(0, 0, 1, 1, 0, 0, GRIDS["int8"], 5, key=KEY, random_bits=17),
        lambda: native.quantize_blocks(0, 0, 1, 0, 1, 0, GRIDS["int8"], elem_max=1.0),
        lambda: native.quantize_blocks(0, 0, 1, 0, 1, 8, GRIDS["log2"], elem_max=1.0),
        lambda: native.quantize_blocks(0, 0, 1, 0, 1, 8, GRIDS["int8"], elem_max=1.0, elem_bits=23),
        lambda: native.quantize_blocks(0, 0, 1, 0, 1, 8, GRIDS["int8"], elem_max=1.0, smin=3, smax=2),
    ],
)
def test_native_refuses(broken):
    with pytest.raises(ValueError):  # noqa: PT011 - the native rule, for callers inside the library
        broken()
