"""Logarithmic codes: zero and signed powers of 2 or of sqrt(2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.formats.number import Format, check_integer
from bitwright.formats.rounding import Draw, Overflow, Rounding, of_magnitude

ROOT = float(np.float32(math.sqrt(2)))
"""sqrt(2) in float32: what an odd power of it is worth, times a power of two."""


@dataclass(frozen=True)
class Log(Format):
    """0 and +-base^k, k = 0 to 2^(bits-1) - 2 (QNN's LogQuant; Miyashita et al. 2016).

    The code is the bit pattern: a sign bit above a field f; f = 0 is 0, otherwise the number is
    base^(f - 1). There is no -0, so one bit pattern is no code. Odd powers of sqrt(2) are the float32
    neighbour of sqrt(2) times a power of two.

    Nearest means nearest in the logarithm: |q| moves up from base^k where |q| >= base^(k + 1/2), and what
    lies below base^(-1/2) becomes 0. Stochastic rounding is linear, hence unbiased: between neighbours
    a < b, up with probability (|q| - a) / (b - a). NaN counts as 0; infinities saturate.

    Args:
        width: bits with the sign, 2 to 8.
        root: base sqrt(2) in place of 2.
    """

    width: int
    root: bool = False

    def __post_init__(self) -> None:
        check_integer("bits", self.width, 2, 8, self)

    @property
    def name(self) -> str:
        return f"log{self.width}" + ("-sqrt2" if self.root else "")

    @property
    def bits(self) -> int:
        return self.width

    @property
    def fields(self) -> int:
        """How many positive numbers there are."""
        return (1 << self.width - 1) - 1

    @property
    def code_min(self) -> int:
        return 0

    @property
    def code_max(self) -> int:
        return (1 << self.width) - 1

    def codes(self) -> Sequence[int]:
        sign = self.fields + 1
        return (*range(sign), *range(sign + 1, 2 * sign))

    def power(self, k: int) -> float:
        """base^k."""
        if not self.root:
            return math.ldexp(1.0, k)
        return math.ldexp(ROOT if k % 2 else 1.0, k // 2)

    def number(self, code: int) -> float:
        sign, field = divmod(code, self.fields + 1)
        magnitude = self.power(field - 1) if field else 0.0
        return -magnitude if sign else magnitude

    @property
    def max_number(self) -> float:
        return self.power(self.fields - 1)

    @property
    def min_number(self) -> float:
        return -self.max_number

    @property
    def unit(self) -> float:
        # float32's sqrt(2) is 11863283 * 2^-23
        return math.ldexp(1.0, -23) if self.root and self.fields > 1 else 1.0

    def code_of(self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None) -> int:
        if np.isnan(q) or q == 0:
            return 0
        field = self._field(q, of_magnitude(rounding, bool(q < 0)), draw)
        return field + (self.fields + 1 if q < 0 and field else 0)

    def _field(self, q: np.floating, rounding: Rounding, draw: Draw | None) -> int:
        magnitude = abs(q)
        if magnitude >= self.max_number:
            return self.fields
        # powers below and above: `below` = field of the largest power <= magnitude, 0 for zero
        below = sum(1 for k in range(self.fields) if self.power(k) <= magnitude)
        low = self.power(below - 1) if below else 0.0
        if rounding in (Rounding.FLOOR, Rounding.TOWARD_ZERO) or magnitude == low:
            return below
        if rounding is Rounding.CEIL:
            return below + 1
        if rounding is Rounding.STOCHASTIC:
            assert draw is not None
            real = type(q)
            span = real(self.power(below)) - real(low)
            return below + int(draw.below(float((magnitude - real(low)) / span)))
        # |q| >= base^(k + 1/2), which is 2^(k + 1/2) or 2^(k/2 + 1/4)
        k = below - 1
        return below + int(_at_least_power(float(magnitude), (2 * k + 1) * (1 if self.root else 2)))

    def check_overflow(self, overflow: Overflow) -> None:
        """Every overflow saturates."""


def _at_least_power(magnitude: float, quarters: int) -> bool:
    """magnitude >= 2^(quarters / 4), decided in integers."""
    numerator, denominator = magnitude.as_integer_ratio()
    left, right = numerator**4, denominator**4
    return left >= right << quarters if quarters >= 0 else left << -quarters >= right
