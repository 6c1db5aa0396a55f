"""Floating point, logarithms and blocks from their definitions, on exact fractions.

A format is here the list of its magnitudes, written down code by code as its docstring says, and rounding is
a search in that list: nothing is known of quanta, bit tricks or the order in which the library does things.
The magnitudes are fractions first; they are searched as float64, which holds each of them (checked), the
middle of any two neighbours, and every float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from formats_reference import round_fraction

from bitwright.formats import Block, Float, Log, Overflow, Rounding, ScaleRule, Specials
from bitwright.formats.random import draw_scalar

HAS_INFINITY = {Specials.IEEE, Specials.UZ}
HAS_NAN = set(Specials) - {Specials.F}
HAS_NEGATIVE_ZERO = {Specials.IEEE, Specials.FN, Specials.F}


# --- what the codes mean -----------------------------------------------------------------------------------


def number_of(form, code):
    """The number of a code, from the tables of `Float` and `Specials` or from `Log`, as the float it is."""
    if isinstance(form, Log):
        sign, field = code >> form.width - 1, code & (1 << form.width - 1) - 1
        magnitude = exact(power(form.root, field - 1)) if field else 0.0
        return -magnitude if sign else magnitude
    e, m, specials = form.exponent, form.mantissa, form.specials
    sign, field, mantissa = code >> e + m, code >> m & (1 << e) - 1, code & (1 << m) - 1
    all_ones = field == (1 << e) - 1 and mantissa == (1 << m) - 1
    if specials is Specials.IEEE and field == (1 << e) - 1:
        return math.nan if mantissa else (-math.inf if sign else math.inf)
    if specials is Specials.FN and all_ones:
        return math.nan
    if specials in (Specials.FNUZ, Specials.UZ) and sign and not field and not mantissa:
        return math.nan
    if specials is Specials.UZ and all_ones:
        return -math.inf if sign else math.inf
    if field or not form.zero:
        magnitude = exact((1 + Fraction(mantissa, 1 << m)) * Fraction(2) ** (field - form.bias))
    else:
        magnitude = exact(Fraction(mantissa, 1 << m) * Fraction(2) ** (1 - form.bias) * form.subnormals)
    if not magnitude and specials not in HAS_NEGATIVE_ZERO:
        return 0.0
    return -magnitude if sign else magnitude


def canonical_nan(form):
    """The code that NaN encodes to, or None."""
    e, m = form.exponent, form.mantissa
    return {
        Specials.IEEE: (1 << e) - 1 << m | 1 << max(m - 1, 0),  # the quiet one
        Specials.FN: (1 << e + m) - 1,
        Specials.F: None,
        Specials.FNUZ: 1 << e + m,
        Specials.UZ: 1 << e + m,
    }[form.specials]


def power(root, k):
    """base^k; odd powers of sqrt(2) are float32's sqrt(2) times a power of two."""
    if not root:
        return Fraction(2) ** k
    return Fraction(2) ** (k // 2) * (Fraction(float(np.sqrt(np.float32(2)))) if k % 2 else 1)


def exact(fraction):
    """A fraction as the float that it is."""
    value = float(fraction)
    assert value == fraction, fraction
    return value


# --- the grid ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grid:
    """Finite magnitudes, ascending, then the first one that lies beyond; `patterns`: their smallest codes."""

    magnitudes: np.ndarray
    patterns: np.ndarray

    @property
    def largest(self):
        return self.magnitudes[-2]

    @property
    def middles(self):
        return (self.magnitudes[:-1] + self.magnitudes[1:]) / 2


@cache
def grid_of(form):
    half = 1 << form.bits - getattr(form, "signed", True)
    numbers = {}
    for pattern in range(half):
        number = number_of(form, pattern)
        if math.isfinite(number):
            numbers.setdefault(number, pattern)
    magnitudes = sorted(numbers)
    return Grid(
        np.array([*magnitudes, beyond(form, magnitudes[-1])]),
        np.array([*(numbers[number] for number in magnitudes), -1]),
    )


def beyond(form, largest):
    """The number that would come after the largest: what rounding sees before overflow decides."""
    if isinstance(form, Log):
        return math.inf
    binade = max(math.frexp(largest)[1] - 1, 1 - form.bias if form.zero else -form.bias)
    return largest + math.ldexp(1.0, binade - form.mantissa)


# --- rounding ----------------------------------------------------------------------------------------------


def quantised(form, q, rounding, overflow=Overflow.SATURATE, key=None):
    """The numbers (float64) that the quotients `q` (float32 or float64, one dimension) become."""
    q = np.asarray(q)
    with np.errstate(invalid="ignore"):  # signalling NaN
        negative, size = np.signbit(q), np.abs(q).astype(np.float64)
    if isinstance(form, Log):
        return log_numbers(form, q, rounding, key)
    grid = grid_of(form)
    magnitudes = grid.magnitudes
    index = np.clip(np.searchsorted(magnitudes, size, "right") - 1, 0, len(magnitudes) - 2)
    low, high = magnitudes[index], magnitudes[index + 1]
    up = goes_up(size, low, high, outward(rounding, negative), rounding, key)
    number = np.where(up & (size > low) | (size >= high), high, low)
    # beyond the largest: only what is rounded towards zero comes back
    infinite = math.inf if form.specials in HAS_INFINITY else math.nan if form.specials in HAS_NAN else None
    over = infinite if overflow is Overflow.INFINITE and infinite is not None else grid.largest
    inward = np.zeros_like(negative) if (way := outward(rounding, negative)) is None else ~way
    number = np.where(number > grid.largest, np.where(inward, grid.largest, over), number)
    at_infinity = math.inf if form.specials in HAS_INFINITY else over
    number = np.where(np.isinf(size), at_infinity, number)
    if not form.signed:
        number = np.where(negative, magnitudes[0], number)
    else:
        number = np.where(negative & ((number != 0) | (form.specials in HAS_NEGATIVE_ZERO)), -number, number)
    return np.where(np.isnan(q), math.nan if form.specials in HAS_NAN else 0.0, number)


def outward(rounding, negative):
    """Whether a directed rounding goes away from zero, by the sign; None for the others."""
    if rounding is Rounding.TOWARD_ZERO:
        return np.zeros_like(negative)
    if rounding is Rounding.FLOOR:
        return negative
    return ~negative if rounding is Rounding.CEIL else None


def goes_up(size, low, high, away, rounding, key):
    """Whether low < size < high becomes high."""
    if away is not None:
        return away
    with np.errstate(invalid="ignore"):
        step = high - low
        if rounding is Rounding.STOCHASTIC:
            return draws_of(key, len(size)) < (size - low) / step * 2**key.bits
        middle = (low + high) / 2
        odd = low / step % 2 == 1
        return (size > middle) | (size == middle) & (odd | (rounding is Rounding.NEAREST_AWAY))


def draws_of(key, count):
    return np.array([draw_scalar(key, i).value for i in range(count)])


def log_numbers(form, q, rounding, key):
    """The same for logarithmic formats: the turns are base^(k + 1/2), and NaN counts as 0."""
    grid = grid_of(form)
    negative, size = q < 0, np.nan_to_num(np.abs(q).astype(np.float64), nan=0.0, posinf=math.inf)
    magnitudes, last = grid.magnitudes, len(grid.magnitudes) - 2
    index = np.clip(np.searchsorted(magnitudes, size, "right") - 1, 0, last)
    low, high = magnitudes[index], magnitudes[np.minimum(index + 1, last)]
    up = outward(rounding, negative)
    if up is not None:
        up = up & (size > low)
    elif rounding is Rounding.STOCHASTIC:
        real = q.dtype.type
        with np.errstate(all="ignore"):  # (|q| - a) / (b - a): one division, of exact differences
            up = (
                draws_of(key, len(size))
                < ((size - low).astype(real) / (high - low).astype(real)) * 2**key.bits
            )
    else:
        up = size >= log_turns(form, q.dtype.name)[index]
    return np.where(negative, -np.where(up, high, low), np.where(up, high, low)) + 0.0


@cache
def log_turns(form, real):
    """For each magnitude, the smallest `real` at or above base^(k + 1/2), above which it moves up."""
    quarters = 1 if form.root else 2  # log2 of half a step, in quarters
    return np.array([first_at_least((2 * k + 1) * quarters, real) for k in range(-1, form.fields)])


def first_at_least(quarters, real):
    """The smallest float32 or float64 that is at least 2^(quarters / 4), by integer roots."""
    places = 200
    root = math.isqrt(math.isqrt(1 << 4 * places + quarters - quarters // 4 * 4))  # floor, irrational
    bound = Fraction(root, 1 << places) * Fraction(2) ** (quarters // 4)
    near = np.dtype(real).type(float(bound))
    return float(near if Fraction(float(near)) > bound else np.nextafter(near, np.inf))


def codes_of(form, numbers):
    """The code of each number on the grid."""
    grid = grid_of(form)
    at = np.searchsorted(grid.magnitudes[:-1], np.nan_to_num(np.abs(numbers), nan=grid.magnitudes[0]))
    codes = np.append(grid.patterns[:-1], grid.patterns.max() + 1)[at]  # infinity comes after the largest
    codes = codes + (np.signbit(numbers) * np.int64(1) << form.bits - 1)
    nan = None if isinstance(form, Log) else canonical_nan(form)
    return np.where(np.isnan(numbers), -1 if nan is None else nan, codes)


# --- blocks ------------------------------------------------------------------------------------------------


def block_scale(form, largest):
    """The scale of a block whose largest finite magnitude over the outer scale is the float32 `largest`."""
    element_max = Fraction(form.element.max_number) * Fraction(form.element.default_scale)
    if form.rule is ScaleRule.DIVIDE:
        ratio = min(np.float32(largest) / np.float32(exact(element_max)), np.float32(form.scale.max_number))
        return float(quantised(form.scale, np.array([ratio]), Rounding.NEAREST_EVEN)[0])
    grid = grid_of(form.scale).magnitudes[:-1]
    if largest == 0:
        return float(grid[0])
    largest = min(largest, np.finfo(np.float32).max)  # over an outer scale below 1
    a = Fraction(float(largest))
    top = floor_power(element_max)
    if form.rule is ScaleRule.RCEIL:  # the quotient is a float32
        with np.errstate(under="ignore"):
            ratio = Fraction(float(np.float32(largest) / np.float32(exact(element_max))))
        scale = ceil_power(ratio) if ratio else Fraction(0)
    elif form.rule is ScaleRule.CEIL:
        scale = ceil_power(a) / top
    elif form.rule is ScaleRule.EVEN:
        # half up to the mantissa of the largest element
        place = floor_power(a) / 2 ** mantissa_bits(form.element)
        rounded = round_fraction(a / place, "nearest-away") * place
        scale = floor_power(rounded) / top if rounded else Fraction(0)
    else:
        scale = floor_power(a) / top
    return float(min(max(scale, Fraction(float(grid[0]))), Fraction(float(grid[-1]))))


def mantissa_bits(element):
    return element.mantissa if isinstance(element, Float) else element.bits - 2


def floor_power(x):
    """The largest power of two that is at most x > 0."""
    k = x.numerator.bit_length() - x.denominator.bit_length()
    return Fraction(2) ** (k if Fraction(2) ** k <= x else k - 1)


def ceil_power(x):
    below = floor_power(x)
    return below if below == x else 2 * below


def block_row(form, row, outer=1.0, rounding=Rounding.NEAREST_EVEN, overflow=Overflow.SATURATE, key=None):
    """(values, scales) of one row of float32."""
    values, scales, single = [], [], np.float32
    assert isinstance(form, Block)
    with np.errstate(all="ignore"):
        for start in range(0, len(row), form.size):
            block = np.asarray(row[start : start + form.size], np.float32)
            finite = np.abs(block[np.isfinite(block)])
            largest = (finite.max() if len(finite) else single(0)) / single(outer)
            scales.append(block_scale(form, largest))
            total = single(scales[-1]) * single(form.element.default_scale) * single(outer)
            q = block / total if total else np.zeros_like(block)
            if isinstance(form.element, Float):
                number = quantised(form.element, q, rounding, overflow)
            else:
                number = np.array([integer(form.element, x, rounding, overflow) for x in q])
            assert key is None
            values += (number.astype(np.float32) * total).tolist()
    return np.array(values, np.float32), np.array(scales)


def integer(form, q, rounding, overflow, zero_point=0):
    """The level of an equally spaced format (or element) from its quotient: code - zero_point."""
    low, high = form.code_min, form.code_max
    if overflow is Overflow.SYMMETRIC:
        low = max(low, -high)
    if math.isnan(q):
        q = 0.0
    if math.isinf(q):
        return float((high if q > 0 else low) - zero_point)
    code = round_fraction(Fraction(float(q)), rounding.value) + zero_point
    if overflow is Overflow.WRAP:
        return float((code - low) % (high - low + 1) + low - zero_point)
    return float(min(max(code, low), high) - zero_point)
