"""The emulation quantisers on NumPy arrays, in guarded memory, and inputs that are hard to get right."""

from __future__ import annotations

import numpy as np
from quantize_reference import Result, log_points

from bitwright.kernels import quantize as native
from bitwright.kernels.quantize import Grid, GridKind, RoundingCode

F32 = np.float32
KEY = (0x12345678, 0x9ABCDEF0, 0xFFFFFFFF, 0x00050003)
GUARD = F32(-12345.5)
INF, NAN = float("inf"), float("nan")

GRIDS = {
    "int8": Grid(GridKind.UNIFORM),
    "uint8": Grid(GridKind.UNIFORM, 0, 255),
    "symmetric4": Grid(GridKind.UNIFORM, -7, 7),
    "int24": Grid(GridKind.UNIFORM, -(2**23), 2**23 - 1),
    "wrap8": Grid(GridKind.UNIFORM, -128, 127, wrap=True),
    "wrapu4": Grid(GridKind.UNIFORM, 0, 15, wrap=True),
    "wrap24": Grid(GridKind.UNIFORM, -(2**23), 2**23 - 1, wrap=True),
    "e4m3fn": Grid(
        GridKind.FLOATING, mantissa_bits=3, emin=-6, max=448, beyond=NAN, at_nan=NAN, negative_zero=True
    ),
    "e4m3 saturating": Grid(
        GridKind.FLOATING, mantissa_bits=3, emin=-6, max=448, at_nan=NAN, negative_zero=True
    ),
    "e5m2": Grid(
        GridKind.FLOATING, mantissa_bits=2, emin=-14, max=57344, beyond=INF, at_nan=NAN, negative_zero=True
    ),
    "e2m1": Grid(GridKind.FLOATING, mantissa_bits=1, emin=0, max=6),
    "e3m0": Grid(GridKind.FLOATING, mantissa_bits=0, emin=-2, max=16, negative_zero=True),
    "bfloat16": Grid(
        GridKind.FLOATING,
        mantissa_bits=7,
        emin=-126,
        max=float.fromhex("0x1.fep127"),
        beyond=INF,
        at_nan=NAN,
        negative_zero=True,
    ),
    "float16": Grid(
        GridKind.FLOATING, mantissa_bits=10, emin=-14, max=65504, beyond=INF, at_nan=NAN, negative_zero=True
    ),
    "float32": Grid(
        GridKind.FLOATING,
        mantissa_bits=23,
        emin=-126,
        max=float.fromhex("0x1.fffffep127"),
        beyond=INF,
        at_nan=NAN,
        negative_zero=True,
    ),
    "e8m0": Grid(
        GridKind.FLOATING,
        mantissa_bits=0,
        emin=-127,
        max=2.0**127,
        at_infinity=NAN,
        at_nan=NAN,
        subnormals=False,
        unsigned=True,
    ),
    "no subnormals": Grid(
        GridKind.FLOATING, mantissa_bits=3, emin=-6, max=480, subnormals=False, at_infinity=NAN, at_nan=NAN
    ),
    "no subnormals, low": Grid(GridKind.FLOATING, mantissa_bits=22, emin=-127, max=1.0, subnormals=False),
    "unsigned": Grid(
        GridKind.FLOATING, mantissa_bits=4, emin=-6, max=500, beyond=INF, unsigned=True, negative_zero=True
    ),
    "high": Grid(GridKind.FLOATING, mantissa_bits=2, emin=100, max=2.0**120),
    "highest": Grid(GridKind.FLOATING, mantissa_bits=1, emin=127, max=1.5 * 2.0**127, subnormals=False),
    "lowest": Grid(GridKind.FLOATING, mantissa_bits=20, emin=-127, max=2.0**-120),
    "tiny max": Grid(GridKind.FLOATING, mantissa_bits=23, emin=-126, max=3 * 2.0**-149),
    "log2": Grid(GridKind.LOG2, fields=8),
    "log2 one": Grid(GridKind.LOG2, fields=1),
    "log2 all": Grid(GridKind.LOG2, fields=128),
    "log2 unsigned": Grid(GridKind.LOG2, fields=15, unsigned=True),
    "logsqrt2": Grid(GridKind.LOGSQRT2, fields=15),
    "logsqrt2 even": Grid(GridKind.LOGSQRT2, fields=8),
    "logsqrt2 all": Grid(GridKind.LOGSQRT2, fields=256),
    "sign": Grid(GridKind.SIGN),
}


def neighbours(values):
    """Each value, the floats beside it, and the negatives of all."""
    with np.errstate(over="ignore"):
        values = np.asarray(values, np.float64).astype(F32)
        around = [values, np.nextafter(values, F32(np.inf)), np.nextafter(values, F32(-np.inf))]
    return np.concatenate([*around, *(-v for v in around)])


def special_patterns():
    """Every sign and exponent with the lowest, the highest and a middle mantissa; NaNs with payloads."""
    upper = (np.arange(2**9, dtype=np.uint32) << 23)[:, None]
    mantissas = np.array([0, 1, 0x200000, 0x3504F3, 0x3504F4, 0x400000, 0x7FFFFF], np.uint32)
    return (upper | mantissas).ravel().view(F32)


def hard_quotients(grid: Grid, count=1500):
    """Ties and limits of the grid with their neighbours, all exponents, specials, random bits."""
    rng = np.random.default_rng(5)
    parts = [special_patterns(), rng.integers(0, 2**32, count, np.uint32, endpoint=False).view(F32)]
    if grid.kind is GridKind.UNIFORM:
        ends = [grid.low, grid.high, grid.low / 2, grid.high / 2]
        parts.append(neighbours([e + d for e in ends for d in (-1, -0.5, 0, 0.5, 1)]))
        parts.append(neighbours(np.arange(-40, 41) / 4))
        parts.append(rng.uniform(2 * grid.low - 3, 2 * grid.high + 3, count).astype(F32))
    elif grid.kind is GridKind.FLOATING:
        numbers = np.ldexp(
            rng.integers(1, 2 ** (grid.mantissa_bits + 2), count) / 2, grid.emin - grid.mantissa_bits
        )  # subnormals, first normals, and the ties between
        parts.append(neighbours(numbers[:300]))
        parts.append(neighbours([2.0**grid.emin, 2.0 ** (grid.emin - 1), 2.0 ** (grid.emin - 2)]))
        parts.append(neighbours(grid.max * np.array([0.5, 1, 1 + 2.0 ** (-grid.mantissa_bits - 1), 1.5, 2])))
        parts.append((rng.standard_normal(count) * min(grid.max / 8, 1e37)).astype(F32))
    elif grid.kind is not GridKind.SIGN:
        points = log_points(grid)
        parts.append(neighbours(points))
        parts.append(neighbours(np.sqrt(points[1:] * points[:-1])))
        parts.append(neighbours([0.5, 2**-0.25, 2**-0.5, 2**-0.75, points[-1] * 1.2, points[-1] / 2]))
    else:
        parts.append(rng.uniform(-1.2, 1.2, count).astype(F32))
    return np.concatenate(parts)


def aligned(size, offset):
    """A guarded float32 array that starts `offset` elements behind a 64-byte boundary."""
    room = np.full(size + 64, GUARD, F32)
    start = (-room.ctypes.data // 4) % 16 + 16 + offset
    return room, slice(start, start + size)


def guarded(x, offset, in_place):
    """Input and output views at an odd place, and a check that nothing beside them was written."""
    in_room, where = aligned(x.size, offset)
    in_room[where] = x.ravel()
    out_room, out_where = (in_room, where) if in_place else aligned(x.size, offset)

    def intact():
        for room, used in ((in_room, where), (out_room, out_where)):
            outside = np.concatenate([room[: used.start], room[used.stop :]])
            assert (outside == GUARD).all()
        if not in_place:
            np.testing.assert_array_equal(in_room[where].view(np.uint32), x.ravel().view(np.uint32))

    return in_room[where], out_room[out_where], intact


def run(
    x,
    scale,
    grid,
    rounding,
    *,
    isa,
    key=None,
    bits=16,
    scaled=True,
    zero_point=None,
    threads=1,
    offset=0,
    in_place=False,
) -> Result:
    """`native.quantize` of x (outer, channels, inner)."""
    given, output, intact = guarded(x, offset, in_place)
    max_abs = np.full(len(scale), NAN, F32)
    counts = np.full(2, -1, np.int64)
    native.quantize(
        given.ctypes.data,
        output.ctypes.data,
        *x.shape,
        scale.ctypes.data,
        grid,
        rounding,
        key=key,
        random_bits=bits,
        scaled=scaled,
        zero_point_ptr=0 if zero_point is None else zero_point.ctypes.data,
        max_abs_ptr=max_abs.ctypes.data,
        counts_ptr=counts.ctypes.data,
        threads=threads,
        isa=isa,
    )
    intact()
    return Result(output.reshape(x.shape).copy(), max_abs, int(counts[0]), int(counts[1]))


def run_blocks(
    x, block, grid, rounding, *, isa, threads=1, offset=0, in_place=False, bits=16, **settings
) -> Result:
    """`native.quantize_blocks` of x (outer, length, inner)."""
    given, output, intact = guarded(x, offset, in_place)
    max_abs = np.full(1, NAN, F32)
    counts = np.full(2, -1, np.int64)
    outer, length, inner = x.shape
    scales = np.full((outer, -(-length // block), inner), NAN, F32)
    native.quantize_blocks(
        given.ctypes.data,
        output.ctypes.data,
        outer,
        length,
        inner,
        block,
        grid,
        rounding,
        block_scale_ptr=scales.ctypes.data,
        max_abs_ptr=max_abs.ctypes.data,
        counts_ptr=counts.ctypes.data,
        threads=threads,
        isa=isa,
        random_bits=bits,
        **settings,
    )
    intact()
    return Result(output.reshape(x.shape).copy(), max_abs, int(counts[0]), int(counts[1]), scales)


def same_bits(a, b, x=None):
    """Equal in every bit."""
    different = np.flatnonzero(a.ravel().view(np.uint32) != b.ravel().view(np.uint32))
    if different.size:
        i = different[0]
        given = "" if x is None else f" for x = {float(x.ravel()[i]).hex()}"
        found = f"{a.ravel()[i]!r}, not {b.ravel()[i]!r}{given}"
        raise AssertionError(f"{different.size} of {a.size} differ, first at {i}: {found}")


def same(got: Result, expected: Result, x=None):
    same_bits(got.output, expected.output, x)
    same_bits(got.max_abs, expected.max_abs)
    assert (got.over, got.over_half) == (expected.over, expected.over_half)
    if expected.block_scales is not None:
        same_bits(got.block_scales, expected.block_scales)


def key_for(rounding):
    return KEY if rounding == RoundingCode.STOCHASTIC else None
