"""Emulation quantisers: float32 onto a format's grid, with statistics, in one pass over memory.

    q = x / s;   number = grid(q);   out = number * s   (or the number itself)

The grid rounds once: uniform (integers low to high), floating (binary floats), log2 and logsqrt2
(powers), sign (+1 and -1). Every instruction set of `quantize_isas()` gives the same bits, for any
number of threads. The functions take addresses, because an array costs more than a small tensor's
whole quantisation; the caller answers for what lies there: contiguous float32, alive and large enough.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from bitwright.errors import InvalidValueError
from bitwright.kernels import _native
from bitwright.kernels.dispatch import check_quantize_isa, default_quantize_isa

_NO_KEY = (0, 0, 0, 0)
_LIMIT = 2**24  # integers up to here are exact in float32
_FLOAT_MAX = float.fromhex("0x1.fffffep127")


class GridKind(enum.IntEnum):
    """What a format's numbers look like."""

    UNIFORM = 0
    FLOATING = 1
    LOG2 = 2
    LOGSQRT2 = 3
    SIGN = 4


class RoundingCode(enum.IntEnum):
    """The roundings of `bitwright.formats.Rounding`, as the kernels number them."""

    NEAREST_EVEN = 0
    NEAREST_AWAY = 1
    FLOOR = 2
    CEIL = 3
    TOWARD_ZERO = 4
    STOCHASTIC = 5


class ScaleRule(enum.IntEnum):
    """How the largest magnitude amax of a block becomes the block's scale s_b; emax is
    floor(log2 elem_max), and exponents are clamped to [smin, smax] (amax = 0 gives smin).

    | rule   | s_b                                                                   |
    |--------|-----------------------------------------------------------------------|
    | FLOOR  | 2^(floor(log2 amax) - emax)                                           |
    | CEIL   | 2^(ceil(log2 amax) - emax)                                            |
    | RCEIL  | 2^ceil(log2(amax / elem_max))                                         |
    | EVEN   | as FLOOR, of amax plus half a unit in the last of elem_bits places    |
    | DIVIDE | amax / elem_max, rounded to the nearest even of a floating grid       |
    """

    FLOOR = 0
    CEIL = 1
    RCEIL = 2
    EVEN = 3
    DIVIDE = 4


def _require(holds: bool, rule: str, got: object) -> None:
    if not holds:
        raise InvalidValueError(rule, got=got, where="Grid")


@dataclass(frozen=True, eq=False)  # a NaN equals no other: grids compare by their packed form
class Grid:
    """The numbers that a format can hold at scale 1, and the fate of what it cannot.

    Args:
        kind: which of the fields below count.
        low, high: UNIFORM: the integers low to high, magnitudes at most 2^24. NaN counts as 0.
        wrap: UNIFORM: beyond the range modulo high - low + 1, a power of two, instead of saturating
            (infinities saturate); 0 lies within the range.
        mantissa_bits: FLOATING: stored significand bits, 0 to 23.
        emin: FLOATING: exponent of the smallest normal number, -127 to 127, emin - mantissa_bits >= -149.
        max: FLOATING: the largest finite number.
        beyond: FLOATING: what rounds beyond max becomes, a magnitude: max (None), infinity or NaN.
            Directed roundings toward zero leave a finite q at max.
        at_infinity: FLOATING: the magnitude of an infinite q; `beyond` where None.
        at_nan: FLOATING: of a NaN q: 0 or NaN.
        negative_zero: FLOATING: zeros keep the sign of q.
        subnormals: FLOATING: numbers between 0 and 2^emin.
        unsigned: FLOATING, LOG2, LOGSQRT2: negative q become +0.
        fields: LOG2, LOGSQRT2: 0 and +-base^k, k = 0 .. fields - 1; at most 128, 256. NaN counts as 0.
    """

    kind: GridKind
    low: float = -128.0
    high: float = 127.0
    wrap: bool = False
    mantissa_bits: int = 0
    emin: int = 0
    max: float = 1.0
    beyond: float | None = None
    at_infinity: float | None = None
    at_nan: float = 0.0
    negative_zero: bool = False
    subnormals: bool = True
    unsigned: bool = False
    fields: int = 1
    packed: bytes = field(init=False, repr=False)  # csrc/emulate.h, struct Grid

    def __post_init__(self) -> None:
        checks: dict[GridKind, Callable[[], None]] = {
            GridKind.UNIFORM: self._check_uniform,
            GridKind.FLOATING: self._check_floating,
            GridKind.LOG2: self._check_fields,
            GridKind.LOGSQRT2: self._check_fields,
        }
        if self.kind in checks:
            checks[self.kind]()
        beyond = self.max if self.beyond is None else self.beyond
        packed = struct.pack(
            "<iffiiiffffiiii",
            self.kind,
            self.low,
            self.high,
            self.wrap,
            self.mantissa_bits,
            self.emin,
            self.max,
            beyond,
            beyond if self.at_infinity is None else self.at_infinity,
            self.at_nan,
            self.negative_zero,
            self.subnormals,
            self.unsigned,
            self.fields,
        )
        object.__setattr__(self, "packed", packed)

    def __eq__(self, other: object) -> bool:
        return self.packed == other.packed if isinstance(other, Grid) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.packed)

    def _check_uniform(self) -> None:
        limits = (self.low, self.high)
        valid = all(float(v).is_integer() and abs(v) <= _LIMIT for v in limits) and self.low <= self.high
        _require(valid, "low <= high are integers of at most 2^24", f"{self.low} and {self.high}")
        if self.wrap:
            count = int(self.high - self.low) + 1
            valid = count & (count - 1) == 0 and self.low <= 0 <= self.high
            _require(valid, "a range that wraps holds 0 and a power of two of integers", f"{limits}")

    def _check_floating(self) -> None:
        _require(0 <= self.mantissa_bits <= 23, "0 to 23 mantissa bits", self.mantissa_bits)
        valid = -127 <= self.emin <= 127 and self.emin - self.mantissa_bits >= -149
        _require(valid, "-127 <= emin <= 127 and emin - mantissa_bits >= -149", self.emin)
        _require(0 < self.max <= _FLOAT_MAX, "max is a positive float32", self.max)
        for value in (self.beyond, self.at_infinity):
            valid = value is None or value == self.max or math.isinf(value) or math.isnan(value)
            _require(valid and (value is None or not value < 0), "max, infinity or NaN", value)
        _require(self.at_nan == 0 or math.isnan(self.at_nan), "a NaN becomes 0 or NaN", self.at_nan)

    def _check_fields(self) -> None:
        most = 128 if self.kind is GridKind.LOG2 else 256
        _require(1 <= self.fields <= most, f"1 to {most} fields", self.fields)


_ANY_GRID = Grid(GridKind.SIGN)


def _isa(isa: str | None) -> str:
    if isa is not None:
        return check_quantize_isa(isa, "isa")
    return default_quantize_isa()


def _check_rounding(rounding: int, key: object, where: str) -> None:
    if rounding == RoundingCode.STOCHASTIC and key is None:
        raise InvalidValueError(
            "stochastic rounding needs a key", where=where, fix="pass key=(seed, tensor, step, tail)"
        )


def quantize(
    input_ptr: int,
    output_ptr: int,
    outer: int,
    channels: int,
    inner: int,
    scale_ptr: int,
    grid: Grid,
    rounding: int = RoundingCode.NEAREST_EVEN,
    *,
    key: tuple[int, int, int, int] | None = None,
    random_bits: int = 16,
    scaled: bool = True,
    zero_point_ptr: int = 0,
    max_abs_ptr: int = 0,
    counts_ptr: int = 0,
    threads: int = 1,
    isa: str | None = None,
) -> None:
    """Quantise a contiguous float32 array (outer, channels, inner), one scale per channel.

    Args:
        input_ptr: address of the array.
        output_ptr: address of the result; may be the input's, else the two do not overlap.
        scale_ptr: address of float32 [channels], positive and finite; channels = 1 is a scale of the tensor.
        grid: what the numbers are.
        rounding: a `RoundingCode`.
        key: (seed, tensor, step, tail), 32-bit words, for stochastic rounding: key words and the last two
            counter words of Philox4x32-7; element i of the row-major order draws 16 bits of block i / 8.
        random_bits: b = 1 to 16; R = draw >> (16 - b), up where R < fraction * 2^b.
        scaled: out = number * s, else the number.
        zero_point_ptr: address of int32 [channels] or 0; UNIFORM: low and high are lowered by it.
        max_abs_ptr: address of float32 [channels] or 0: gets max |x| over the finite x.
        counts_ptr: address of int64 [2] or 0: gets the number of q, and of 2q, outside the range.
        threads: at most so many, one for every 2^18 elements.
        isa: one of `quantize_isas()`.
    """
    if rounding == RoundingCode.STOCHASTIC and key is None:
        _check_rounding(rounding, key, "quantize")
    _native.quantize(
        _isa(isa),
        input_ptr,
        output_ptr,
        outer,
        channels,
        inner,
        scale_ptr,
        zero_point_ptr,
        grid.packed,
        rounding,
        *(key or _NO_KEY),
        random_bits,
        scaled,
        max_abs_ptr,
        counts_ptr,
        threads,
    )


def quantize_blocks(
    input_ptr: int,
    output_ptr: int,
    outer: int,
    length: int,
    inner: int,
    block: int,
    grid: Grid,
    rounding: int = RoundingCode.NEAREST_EVEN,
    *,
    rule: int = ScaleRule.FLOOR,
    elem_max: float,
    elem_bits: int = 0,
    smin: int = -127,
    smax: int = 127,
    scale_grid: Grid | None = None,
    global_scale: float = 1.0,
    unit: float = 1.0,
    block_scale_ptr: int = 0,
    key: tuple[int, int, int, int] | None = None,
    random_bits: int = 16,
    scaled: bool = True,
    max_abs_ptr: int = 0,
    counts_ptr: int = 0,
    threads: int = 1,
    isa: str | None = None,
) -> None:
    """Quantise a contiguous float32 array (outer, length, inner) in blocks along `length`.

    The last block of a row may be shorter. Per block, amax = max |finite x| / global_scale gives s_b by
    `rule`, and s = (s_b * unit) * global_scale divides the elements. Where s = 0 the output is 0 and
    nothing counts as outside the range.

    Args:
        block: indices along `length` in one block.
        grid: of the elements: UNIFORM, saturating, or FLOATING.
        elem_max: the largest element, in units of s_b (UNIFORM: high * unit).
        elem_bits: mantissa bits of the elements, at most 22, for ScaleRule.EVEN.
        smin, smax: exponents that a power-of-two scale can have, within -149 to 127.
        scale_grid: FLOATING, for ScaleRule.DIVIDE.
        global_scale: positive float32, a scale above the blocks' own.
        unit: what one step of the element grid is worth.
        block_scale_ptr: address of float32 [outer, ceil(length / block), inner] or 0: gets s_b.
        max_abs_ptr: address of one float32 or 0.

    The other arguments are those of `quantize`.
    """
    if rounding == RoundingCode.STOCHASTIC and key is None:
        _check_rounding(rounding, key, "quantize_blocks")
    if rule == ScaleRule.DIVIDE and (scale_grid is None or scale_grid.kind is not GridKind.FLOATING):
        raise InvalidValueError("ScaleRule.DIVIDE needs a floating scale_grid", got=scale_grid)
    if not (0 < elem_max < math.inf and 0 < global_scale < math.inf and 0 < unit < math.inf):
        raise InvalidValueError(
            "elem_max, global_scale and unit are positive and finite",
            got=f"{elem_max}, {global_scale}, {unit}",
            where="quantize_blocks",
        )
    _native.quantize_blocks(
        _isa(isa),
        input_ptr,
        output_ptr,
        outer,
        length,
        inner,
        block,
        global_scale,
        unit,
        rule,
        elem_max,
        elem_bits,
        smin,
        smax,
        (scale_grid or _ANY_GRID).packed,
        block_scale_ptr,
        grid.packed,
        rounding,
        *(key or _NO_KEY),
        random_bits,
        scaled,
        max_abs_ptr,
        counts_ptr,
        threads,
    )


def gate(
    input_ptr: int,
    gradient_ptr: int,
    output_ptr: int,
    outer: int,
    channels: int,
    inner: int,
    scale_ptr: int,
    low: float,
    high: float,
    *,
    zero_point_ptr: int = 0,
    threads: int = 1,
    isa: str | None = None,
) -> None:
    """out = gradient where low <= x / s <= high, else 0 (also where x / s is NaN).

    Layout, scales and zero points as for `quantize`; the output may be the gradient.
    """
    _native.gate(
        _isa(isa),
        input_ptr,
        gradient_ptr,
        output_ptr,
        outer,
        channels,
        inner,
        scale_ptr,
        zero_point_ptr,
        low,
        high,
        threads,
    )


def row_abs_sum(
    input_ptr: int, rows: int, columns: int, sums_ptr: int, *, threads: int = 1, isa: str | None = None
) -> None:
    """The sum of |x| over each row of a contiguous float32 [rows, columns], to float64 [rows].

    Exact for integers as long as a sum stays below 2^53; the same bits on every instruction set.
    """
    _native.row_abs_sum(_isa(isa), input_ptr, rows, columns, sums_ptr, threads)
