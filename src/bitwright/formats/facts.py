"""What a format holds, counted: its range, its steps, its special codes. No tensor, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bitwright.formats.block import Block
from bitwright.formats.floating import Float
from bitwright.formats.logarithmic import Log
from bitwright.formats.number import Format, check_integer
from bitwright.formats.rounding import Overflow
from bitwright.formats.uniform import Binary, Uniform

FLOAT32_EXACT = 1 << 24
INT32_EXACT = 1 << 31
FLOAT64_EXACT = 1 << 53


@dataclass(frozen=True)
class Facts:
    """A format at one scale. Values, steps and limits are `number * scale`; None: there is no such thing.

    Attributes:
        codes: patterns of `bits` bits.
        values: different finite values.
        infinities, nans: how many codes stand for them.
        negative_zero: whether -0 has a code of its own.
        unused: patterns that are no code (log, ternary), or other names of 0 (floats without subnormals).
        low, high: the smallest and the largest finite value.
        smallest: the smallest value above 0.
        smallest_normal: the smallest floating-point value with its full mantissa.
        step_low, step_high: the smallest and the largest distance of neighbours at or above 0.
        dynamic_range: 20 log10(high / smallest), in dB.
        unit: the worth of one level in values.
        level_max: the largest |level|.
    """

    codes: int
    values: int
    infinities: int
    nans: int
    negative_zero: bool
    unused: int
    low: float
    high: float
    smallest: float | None
    smallest_normal: float | None
    step_low: float | None
    step_high: float | None
    dynamic_range: float | None
    unit: float
    level_max: int

    @property
    def exact_terms(self) -> dict[str, int]:
        """How many products of two such levels each accumulator sums exactly, whatever the levels are."""
        square = self.level_max**2
        limits = {"float32": FLOAT32_EXACT, "int32": INT32_EXACT - 1, "float64": FLOAT64_EXACT}
        return {name: limit // square for name, limit in limits.items()}


def facts(form: Format, scale: float | None = None, zero_point: int | None = None) -> Facts:
    """Count `form` at a scale (its own by default), with a zero point where it is affine.

    A block format is told by its elements at block scale 1; `block_range` has the rest.
    """
    if isinstance(form, Block):
        return facts(form.element, form.step * form.scale_or_default(scale))
    worth = float(form.scale_or_default(scale))
    shift = check_zero_point(form, zero_point) or 0
    low, high = (form.min_number - shift) * worth, (form.max_number - shift) * worth
    magnitudes = _Magnitudes(form)
    smallest = magnitudes.smallest
    step_low, step_high = magnitudes.steps
    if shift:  # whole steps on both sides of the zero point
        smallest, step_low, step_high = 1.0 if high > 0 else None, 1.0, 1.0
    codes, finite, infinities = 1 << form.bits, len(form.codes()), 0
    nans, negative_zero, unused = 0, False, 0
    if isinstance(form, Float):
        negative_zero = form.signed and form.specials.negative_zero
        finite = (magnitudes.last + 1) * (1 + form.signed)
        infinities = (1 + form.signed) * form.specials.infinities
        nans = codes - finite - infinities
        if form.signed and not negative_zero:
            finite, nans = finite - 1, nans + 1  # NaN in the place of -0
        if not form.subnormals and form.zero:
            unused = ((1 << form.mantissa) - 1) * (1 + form.signed)
    else:
        unused = codes - finite
    values = finite - negative_zero - (unused if isinstance(form, Float) else 0)
    return Facts(
        codes=codes,
        values=values,
        infinities=infinities,
        nans=nans,
        negative_zero=negative_zero,
        unused=unused,
        low=low,
        high=high,
        smallest=None if smallest is None else smallest * worth,
        smallest_normal=None if magnitudes.normal is None else magnitudes.normal * worth,
        step_low=None if step_low is None else step_low * worth,
        step_high=None if step_high is None else step_high * worth,
        dynamic_range=None if smallest is None or high <= 0 else 20 * math.log10(high / (smallest * worth)),
        unit=form.unit * worth,
        level_max=round(max(abs(low), abs(high)) / worth) if shift else form.level_max,
    )


def check_zero_point(form: Format, zero_point: int | None) -> int | None:
    """`zero_point`, where `form` has one and it is one of its codes."""
    if zero_point is not None:
        form._check_affine()
        check_integer("zero point", zero_point, form.code_min, form.code_max, form)
    return zero_point


class _Magnitudes:
    """The numbers at or above 0 of a format: codes first to last, in order of their worth."""

    def __init__(self, form: Format) -> None:
        self.form = form
        if isinstance(form, Float):
            self.last = int(form.encode(form.max_number))
            self.first = 1 << form.mantissa if form.zero and not form.subnormals else int(form.zero)
        else:
            self.last = (form.code_max >> 1) if isinstance(form, Log) else form.code_max
            self.first = 1

    @property
    def smallest(self) -> float | None:
        """The smallest number above 0."""
        return self.form.number(self.first) if self.first <= self.last else None

    @property
    def normal(self) -> float | None:
        """The smallest normal number of a float."""
        if not isinstance(self.form, Float):
            return None
        number = math.ldexp(1.0, self.form.emin)
        return number if number <= self.form.max_number else None

    @property
    def steps(self) -> tuple[float | None, float | None]:
        """The smallest and the largest distance of neighbours."""
        form = self.form
        if isinstance(form, Binary):
            return 2.0, 2.0
        if self.first > self.last:
            return 1.0, 1.0  # int1: -1 and 0
        if isinstance(form, Uniform):
            return 1.0, 1.0
        number = form.number
        gaps = [number(self.first)] if number(self.first - 1) == 0 or self.first > 1 else []
        gaps += [number(c + 1) - number(c) for c in self._corners()]
        return min(gaps), max(gaps)

    def _corners(self) -> Iterator[int]:
        # neighbours grow apart with the magnitude, so the ends decide; log formats are short
        if isinstance(self.form, Log):
            yield from range(self.first, self.last)
        else:
            yield from sorted({min(self.first, self.last - 1), self.last - 1} - {self.first - 1})


@dataclass(frozen=True)
class BlockRange:
    """What the block scales add: limits over all of them, in float32."""

    bits_per_element: float
    scale_low: float
    scale_high: float
    smallest: float
    high: float
    dynamic_range: float


def block_range(form: Block, scale: float | None = None) -> BlockRange:
    """The range over every block scale, at outer scale `scale`."""
    outer = form.scale_or_default(scale)
    scales = facts(form.scale)
    inner = facts(form, outer)
    assert scales.smallest is not None
    assert inner.smallest is not None
    low = inner.smallest * scales.smallest
    high = min(inner.high * scales.high, FLOAT32_MAX)
    return BlockRange(
        form.bits_per_element, scales.smallest, scales.high, low, high, 20 * math.log10(high / low)
    )


FLOAT32_MAX = math.ldexp(2 - 2.0**-23, 127)

# --- codes as bits ---------------------------------------------------------------------------------------


def pattern(form: Format, code: int) -> str:
    """The bits of a code, split into its fields: "0 1000 011"."""
    form = form.element if isinstance(form, Block) else form
    stored = int(code > 0) if isinstance(form, Binary) else code & (1 << form.bits) - 1
    bits = format(stored, f"0{form.bits}b")
    return " ".join(bits[start:end] for start, end in _field_ends(form) if end > start)


def field_names(form: Format) -> list[str]:
    """The fields of a code, as `pattern` splits it."""
    form = form.element if isinstance(form, Block) else form
    if isinstance(form, Float):
        fields = (("sign", form.signed), ("exponent", form.exponent), ("mantissa", form.mantissa))
        return [name for name, width in fields if width]
    return ["sign", "exponent"] if isinstance(form, Log) else ["bits"]


def _field_ends(form: Format) -> Sequence[tuple[int, int]]:
    if isinstance(form, Float):
        sign, exponent = int(form.signed), form.signed + form.exponent
        return (0, sign), (sign, exponent), (exponent, form.bits)
    if isinstance(form, Log):
        return (0, 1), (1, form.bits)
    return ((0, form.bits),)


def kind_of(form: Format, code: int) -> str:
    """What is special about a code: "NaN", "-0", "subnormal"...; "" for an ordinary one."""
    form = form.element if isinstance(form, Block) else form
    number = form.number(code)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "infinity"
    if not isinstance(form, Float):
        return ""
    if number == 0 and form.zero and code & (1 << form.mantissa) - 1 and not form.subnormals:
        return "another 0"
    if number == 0:
        return "-0" if math.copysign(1.0, number) < 0 else ""
    if abs(number) == form.max_number:
        return "largest"
    smallest = math.ldexp(1.0, form.emin)
    if abs(number) == smallest:
        return "smallest normal" if form.mantissa else "smallest"
    return "subnormal" if abs(number) < smallest else ""


# --- fates -----------------------------------------------------------------------------------------------


def overflows(form: Format) -> list[Overflow]:
    """The overflow rules that `form` knows."""
    known = []
    for overflow in Overflow:
        try:
            form.check_overflow(overflow)
        except ValueError:
            continue
        known.append(overflow)
    return known


def fates(
    form: Format, scale: float | None = None, zero_point: int | None = None
) -> dict[Overflow, dict[str, float]]:
    """What NaN, the infinities and 1.5 times the largest value become, under each overflow rule."""
    inner = form.element if isinstance(form, Block) else form
    worth = float(form.scale_or_default(scale)) * (form.step if isinstance(form, Block) else 1.0)
    fact = facts(inner, worth, zero_point)
    largest = max(abs(fact.low), abs(fact.high))
    options: dict[str, Any] = {} if zero_point is None else {"zero_point": zero_point}
    inputs = {"NaN": math.nan, "+inf": math.inf, "-inf": -math.inf}
    # beyond float32 there is only infinity
    if 1.5 * largest < FLOAT32_MAX:
        inputs |= {"beyond": 1.5 * largest, "-beyond": -1.5 * largest}
    return {
        overflow: {
            name: inner.quantize(x, scale=worth, overflow=overflow, **options) for name, x in inputs.items()
        }
        for overflow in overflows(form)
    }
