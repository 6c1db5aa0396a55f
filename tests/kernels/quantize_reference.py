"""An independent reference for the emulation quantisers: NumPy, float64, one sentence per line.

Only the quotient, the stochastic fractions and the products by scales are float32, as the contract says;
every float32 is exact in float64, so all else here is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitwright.formats.random import Key, draw_scalar
from bitwright.kernels.quantize import Grid, GridKind, RoundingCode, ScaleRule

F32 = np.float32


_drawn: dict[tuple[int, int, int, int], list[int]] = {}  # slow to compute, so kept


def draws(count, key, bits):
    """R of `count` elements for key = (seed, tensor, step, tail)."""
    seed, tensor, step, tail = key
    named = Key(seed=seed, tensor=tensor, step=step | (tail >> 16) << 32, call=tail & 0xFFFF)
    known = _drawn.setdefault(key, [])
    known.extend(draw_scalar(named, i).value for i in range(len(known), count))
    return np.array(known[:count], np.int64) >> (16 - bits)


@dataclass
class Draw:
    """R of each element, b bits of it; `up(fraction)` is R < fraction * 2^b in float32."""

    r: np.ndarray
    bits: int

    def up(self, fraction):
        return self.r.astype(F32) < np.asarray(fraction, F32) * F32(2.0**self.bits)


def floor32(t):
    return np.floor(t).astype(F32)


def round_signed(t, rounding, draw):
    """float64 t (float32 values) to integers."""
    if rounding == RoundingCode.NEAREST_EVEN:
        return np.rint(t)
    if rounding == RoundingCode.NEAREST_AWAY:
        return np.trunc(t) + np.where(np.abs(t - np.trunc(t)) >= 0.5, np.copysign(1, t), 0)
    if rounding == RoundingCode.FLOOR:
        return np.floor(t)
    if rounding == RoundingCode.CEIL:
        return np.ceil(t)
    if rounding == RoundingCode.TOWARD_ZERO:
        return np.trunc(t)
    return np.floor(t) + draw.up(t.astype(F32) - floor32(t))


def away(rounding, q):
    """Where a directed rounding of q goes away from zero."""
    if rounding == RoundingCode.FLOOR:
        return q < 0
    if rounding == RoundingCode.CEIL:
        return q > 0
    return np.zeros(q.shape, bool)


def uniform(q, grid: Grid, rounding, draw, zero_point=0):
    low, high = grid.low - zero_point, grid.high - zero_point
    r = round_signed(np.where(np.isnan(q), 0, q), rounding, draw)
    saturated = np.clip(r, low, high)
    if not grid.wrap:
        return saturated + 0.0
    n = int(grid.high - grid.low) + 1
    wrapped = [
        float((int(v) - int(low[i])) % n + int(low[i])) if np.isfinite(v) else saturated[i]
        for i, v in enumerate(r)
    ]
    return np.array(wrapped, np.float64) + 0.0


def floating(q, grid: Grid, rounding, draw):
    u = np.abs(q)
    if grid.unsigned:
        u = np.where(q < 0, 0, u)
    finite = np.where(np.isfinite(u), u, 1.0)
    exponent = np.maximum(np.frexp(finite)[1] - 1, grid.emin)
    exponent = np.where(finite == 0, grid.emin, exponent)
    last = exponent - grid.mantissa_bits  # exponent of the last place
    if not grid.subnormals:
        last = np.where(finite < 2.0**grid.emin, grid.emin, last)
    t = np.ldexp(finite, -last)
    if rounding == RoundingCode.STOCHASTIC:
        # a fraction below 2^-17 is as good as any other: R = 0 alone is below it
        small = np.where(t > 0, np.maximum(t, 2.0**-100), 0)
        r = round_signed(small, rounding, draw)
    elif rounding in (RoundingCode.FLOOR, RoundingCode.CEIL):
        r = np.where(away(rounding, q), np.ceil(t), np.floor(t))
    else:
        r = round_signed(t, rounding, draw)
    number = np.ldexp(r, last)
    beyond = np.float64(grid.max if grid.beyond is None else grid.beyond)
    at_infinity = beyond if grid.at_infinity is None else np.float64(grid.at_infinity)
    stays = np.zeros(q.shape, bool)
    if rounding in (RoundingCode.FLOOR, RoundingCode.CEIL, RoundingCode.TOWARD_ZERO):
        stays = ~away(rounding, q)
    number = np.where(number > grid.max, np.where(stays, grid.max, beyond), number)
    number = np.where(np.isinf(u), at_infinity, number)
    if not grid.unsigned:
        number = np.copysign(number, q)
    number = np.where(np.isnan(q), grid.at_nan, number)
    number = np.where(np.isnan(number), np.nan, number)
    return number if grid.negative_zero else number + 0.0


def log_points(grid: Grid):
    if grid.kind is GridKind.LOG2:
        return np.array([2.0**k for k in range(grid.fields)])
    root = float(np.sqrt(F32(2)))
    return np.array([2.0 ** (k // 2) * (root if k % 2 else 1) for k in range(grid.fields)])


def smallest_at_least(power):
    """The smallest float32 whose fourth power is at least 2^power."""
    from fractions import Fraction

    value = F32(2.0 ** (power / 4))
    value = np.nextafter(value, F32(0), dtype=F32)
    while Fraction(float(value)) ** 4 < Fraction(2) ** power:
        value = np.nextafter(value, F32(np.inf), dtype=F32)
    return float(value)


def logarithmic(q, grid: Grid, rounding, draw):
    points = log_points(grid)
    per_octave = 1 if grid.kind is GridKind.LOG2 else 2
    u = np.where(np.isnan(q), 0, np.abs(q))
    if grid.unsigned:
        u = np.where(q < 0, 0, u)
    u = np.minimum(u, float(np.finfo(F32).max))
    # one point more, so that what lies above the last one has two neighbours
    following = 2.0 ** (grid.fields // per_octave)
    if per_octave == 2 and grid.fields % 2:
        following = float(np.sqrt(F32(2))) * 2.0 ** ((grid.fields - 1) // 2)
    all_points = np.concatenate([[0.0], points, [following]])
    index = np.minimum(
        np.searchsorted(all_points, u, side="right") - 1, grid.fields
    )  # all_points[index] <= u
    below, above = all_points[index], all_points[np.minimum(index + 1, grid.fields + 1)]
    if rounding in (RoundingCode.NEAREST_EVEN, RoundingCode.NEAREST_AWAY):
        quarters = 4 // per_octave  # in fourths of an octave: points lie every `quarters`
        k = np.arange(grid.fields + 1)
        bounds = np.array([smallest_at_least(quarters * int(i) - quarters // 2) for i in k])
        up = u >= bounds[np.minimum(index, grid.fields)]
    elif rounding == RoundingCode.STOCHASTIC:
        with np.errstate(over="ignore", invalid="ignore"):
            gap = above.astype(F32) - below.astype(F32)
            fraction = (u.astype(F32) - below.astype(F32)) / gap
        up = draw.up(fraction)
    else:
        up = away(rounding, q) & (u > below)
    number = np.where(up, above, below)
    number = np.minimum(number, points[-1])
    return (number if grid.unsigned else np.copysign(number, q)) + 0.0


def sign(q, rounding, draw):
    if rounding == RoundingCode.STOCHASTIC:
        chance = np.where(np.isnan(q), 0, q).astype(F32) + F32(1)
        return np.where(draw.r.astype(F32) < chance * F32(2.0 ** (draw.bits - 1)), 1.0, -1.0)
    return np.where(q < 0, -1.0, 1.0)


def numbers(q, grid: Grid, rounding, draw, zero_point):
    if grid.kind is GridKind.UNIFORM:
        return uniform(q, grid, rounding, draw, zero_point)
    if grid.kind is GridKind.FLOATING:
        return floating(q, grid, rounding, draw)
    if grid.kind is GridKind.SIGN:
        return sign(q, rounding, draw)
    return logarithmic(q, grid, rounding, draw)


def outside(q, grid: Grid, zero_point):
    if grid.kind is GridKind.UNIFORM:
        return (q < grid.low - zero_point) | (q > grid.high - zero_point)
    if grid.kind is GridKind.SIGN:
        return np.zeros(q.shape, bool)
    largest = float(F32(grid.max)) if grid.kind is GridKind.FLOATING else log_points(grid)[-1]
    return np.abs(q) > largest


@dataclass
class Result:
    output: np.ndarray
    max_abs: np.ndarray
    over: int
    over_half: int
    block_scales: np.ndarray | None = None


@np.errstate(all="ignore")
def quantize(x, scale, grid: Grid, rounding, *, key=None, bits=16, scaled=True, zero_point=None) -> Result:
    """x float32 (outer, channels, inner), scale float32 [channels]."""
    full = np.broadcast_to(scale[None, :, None], x.shape).ravel()
    zero = np.zeros(len(scale), np.int32) if zero_point is None else zero_point
    zero = np.broadcast_to(zero[None, :, None], x.shape).ravel().astype(np.float64)
    draw = Draw(draws(x.size, key, bits), bits) if rounding == RoundingCode.STOCHASTIC else None
    q = (x.ravel() / full).astype(np.float64)
    number = numbers(q, grid, rounding, draw, zero).astype(F32)
    out = number * full if scaled else number
    finite = np.where(np.isfinite(x), np.abs(x), F32(0))
    max_abs = finite.max(axis=(0, 2), initial=0)
    return Result(
        out.reshape(x.shape),
        max_abs,
        int(outside(q, grid, zero).sum()),
        int(outside(2 * q, grid, zero).sum()),
    )


def log2_floor(a):
    return int(np.frexp(float(a))[1]) - 1


def log2_ceil(a):
    mantissa, exponent = np.frexp(float(a))
    return int(exponent) - (1 if mantissa == 0.5 else 0)


def block_scale(amax, rule, elem_max, elem_bits, smin, smax, scale_grid):
    """s_b of one block, from float32 amax."""
    ratio = F32(amax / F32(elem_max))
    if rule == ScaleRule.DIVIDE:
        return F32(floating(np.array([ratio], np.float64), scale_grid, RoundingCode.NEAREST_EVEN, None)[0])
    if amax == 0 or (rule == ScaleRule.RCEIL and ratio == 0):
        return F32(2.0**smin)
    if np.isinf(amax) or (rule == ScaleRule.RCEIL and np.isinf(ratio)):
        exponent = 10**6
    elif rule == ScaleRule.FLOOR:
        exponent = log2_floor(amax) - log2_floor(elem_max)
    elif rule == ScaleRule.CEIL:
        exponent = log2_ceil(amax) - log2_floor(elem_max)
    elif rule == ScaleRule.RCEIL:
        exponent = log2_ceil(ratio)
    else:
        half_place = 2.0 ** (log2_floor(amax) - elem_bits - 1)
        exponent = log2_floor(float(amax) + half_place) - log2_floor(elem_max)
    return F32(2.0 ** min(max(exponent, smin), smax))


@np.errstate(all="ignore")
def quantize_blocks(
    x,
    block,
    grid: Grid,
    rounding,
    *,
    rule,
    elem_max,
    elem_bits=0,
    smin=-127,
    smax=127,
    scale_grid=None,
    global_scale=1.0,
    unit=1.0,
    key=None,
    bits=16,
    scaled=True,
) -> Result:
    """x float32 (outer, length, inner)."""
    outer, length, inner = x.shape
    count = -(-length // block)
    scales = np.zeros((outer, count, inner), F32)
    full = np.zeros(x.shape, F32)
    for o in range(outer):
        for b in range(count):
            rows = slice(b * block, min((b + 1) * block, length))
            for i in range(inner):
                values = np.abs(x[o, rows, i])
                amax = np.max(values[np.isfinite(values)], initial=F32(0)).astype(F32)
                amax = F32(amax / F32(global_scale))
                own = block_scale(amax, rule, elem_max, elem_bits, smin, smax, scale_grid)
                scales[o, b, i] = own
                full[o, rows, i] = F32(F32(own * F32(unit)) * F32(global_scale))
    draw = Draw(draws(x.size, key, bits), bits) if rounding == RoundingCode.STOCHASTIC else None
    full = full.ravel()
    live = full != 0
    q = np.where(live, x.ravel() / full, F32(0)).astype(np.float64)
    number = numbers(q, grid, rounding, draw, np.zeros(q.shape)).astype(F32)
    out = np.where(live, number * full if scaled else number, F32(0))
    finite = np.where(np.isfinite(x), np.abs(x), F32(0))
    max_abs = finite.max(initial=0).reshape(1)
    zero = np.zeros(q.shape)
    return Result(
        out.reshape(x.shape),
        max_abs,
        int((outside(q, grid, zero) & live).sum()),
        int((outside(2 * q, grid, zero) & live).sum()),
        scales,
    )
