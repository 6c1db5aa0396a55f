"""Equally spaced numbers: integers, fixed point, shared-exponent integers, ternary; and the sign alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats.number import Format, check_integer
from bitwright.formats.rounding import Draw, Overflow, Rounding, round_scalar

MAX_BITS = 32
MAX_FRACTION = 100  # 2^-100 and 2^(32 + 100) are ordinary float64, and float32 wherever it is used


class Uniform(Format):
    """Consecutive integers from code_min to code_max; the number is the code.

        code = clip(round(x / scale), code_min, code_max)

    NaN counts as 0; infinities saturate. With a zero point z: code = clip(round(x / scale) + z, ...) and
    value = (code - z) * scale.
    """

    def number(self, code: int) -> float:
        return float(code)

    @property
    def integral(self) -> bool:
        return True

    def limits(self, overflow: Overflow) -> tuple[int, int]:
        """The smallest and the largest code that `overflow` leaves."""
        low, high = self.code_min, self.code_max
        return (max(low, -high), high) if overflow is Overflow.SYMMETRIC else (low, high)

    def code_of(self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None) -> int:
        return self.shifted_code(q, rounding, overflow, draw, 0)

    def shifted_code(
        self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None, zero_point: int
    ) -> int:
        low, high = self.limits(overflow)
        if not low <= zero_point <= high:
            raise InvalidValueError(f"a zero point of {self} lies between {low} and {high}", got=zero_point)
        if np.isinf(q):
            return high if q > 0 else low
        code = (0 if np.isnan(q) else round_scalar(q, rounding, draw)) + zero_point
        if overflow is Overflow.WRAP:
            return (code - low) % (high - low + 1) + low
        return min(max(code, low), high)

    @property
    def wide(self) -> bool:
        return max(abs(self.code_min), abs(self.code_max)) > 1 << 24

    def _check_affine(self) -> None:
        """Integers have a zero point."""


@dataclass(frozen=True)
class Integers(Uniform):
    """All integers of a width."""

    width: int

    def __post_init__(self) -> None:
        check_integer("bits", self.width, 1, MAX_BITS, self)

    @property
    def bits(self) -> int:
        return self.width

    @property
    def signed(self) -> bool:
        return True

    @property
    def code_min(self) -> int:
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def code_max(self) -> int:
        return (1 << self.bits - 1) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Int(Integers):
    """Two's-complement integers: `Int(8)` has codes -128 to 127. One step is worth 1 by default."""

    @property
    def name(self) -> str:
        return f"int{self.width}"


@dataclass(frozen=True)
class UInt(Integers):
    """Unsigned integers: `UInt(4)` has codes 0 to 15. One step is worth 1 by default."""

    @property
    def name(self) -> str:
        return f"uint{self.width}"

    @property
    def signed(self) -> bool:
        return False


@dataclass(frozen=True)
class Fixed(Integers):
    """Two's-complement fixed point: `Fixed(8, 4)` has steps of 2^-4 and reaches from -8 to 7.9375.

    The fraction may be negative (steps above 1) or larger than the width (all values below 1). Without
    a fraction (`fixed12`) the point is left to a controller, and a scale is needed.
    """

    fraction: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction is not None:
            check_integer("fraction", self.fraction, -MAX_FRACTION, MAX_FRACTION, self)

    @property
    def name(self) -> str:
        point = "" if self.fraction is None else f".{self.fraction}"
        return f"{'' if self.signed else 'u'}fixed{self.width}{point}"

    @property
    def default_scale(self) -> float | None:
        return None if self.fraction is None else 2.0**-self.fraction

    def _check_affine(self) -> None:
        Format._check_affine(self)


@dataclass(frozen=True)
class UFixed(Fixed):
    """Unsigned fixed point: `UFixed(8, 8)` has steps of 2^-8 and reaches from 0 to 255/256."""

    @property
    def signed(self) -> bool:
        return False


@dataclass(frozen=True)
class Flex(Integers):
    """Flexpoint's flexN+M: N-bit integers under one shared exponent e of M bits (section 3 of the paper).

    value = code * 2^-e, with e in the window [exponent_min, exponent_min + 2^M - 1]. The paper leaves the
    window's place open; ours puts a quarter of it where the largest value lies above 1: `flex16+5` has e
    from 7 (largest value 256) to 38 (largest value 2^-23). The scale 2^-e belongs to a controller, and a
    scale outside the window, or no power of two, is an error.

    Args:
        width: N, 2 to 32.
        exponent_bits: M, 1 to 8.
        exponent_min: smallest e; None takes N - 1 - 2^(M-2).
    """

    exponent_bits: int
    exponent_min: int | None = None

    def __post_init__(self) -> None:
        check_integer("bits", self.width, 2, MAX_BITS, self)
        check_integer("exponent bits", self.exponent_bits, 1, 8, self)
        usual = self.width - 1 - (1 << self.exponent_bits) // 4
        if self.exponent_min is None:
            object.__setattr__(self, "exponent_min", usual)
        check_integer("smallest exponent", self.exponent_min, -126, 126, self)

    @property
    def name(self) -> str:
        usual = self.width - 1 - (1 << self.exponent_bits) // 4
        place = "" if self.exponent_min == usual else f"@{self.exponent_min}"
        return f"flex{self.width}+{self.exponent_bits}{place}"

    @property
    def exponents(self) -> range:
        """Every exponent e of the window, within what a float32 scale can hold."""
        assert self.exponent_min is not None
        return range(self.exponent_min, min(self.exponent_min + (1 << self.exponent_bits), 127))

    @property
    def default_scale(self) -> float | None:
        return None

    def scale_or_default(self, scale: Any) -> Any:
        scale = super().scale_or_default(scale)
        if isinstance(scale, float):
            exponent = -np.log2(scale)
            if exponent != round(exponent) or int(exponent) not in self.exponents:
                low, high = self.exponents[0], self.exponents[-1]
                raise InvalidValueError(
                    f"a scale of {self} is a power of two from 2^-{high} to 2^-{low}", got=scale
                )
        return scale

    def _check_affine(self) -> None:
        Format._check_affine(self)


@dataclass(frozen=True)
class Ternary(Uniform):
    """Levels -1, 0, 1: round(x / scale), clipped. Two bits store one code."""

    @property
    def name(self) -> str:
        return "ternary"

    @property
    def bits(self) -> int:
        return 2

    @property
    def code_min(self) -> int:
        return -1

    @property
    def code_max(self) -> int:
        return 1

    def check_overflow(self, overflow: Overflow) -> None:
        if overflow is Overflow.WRAP:
            raise InvalidValueError("three levels do not wrap", got="wrap", where=self.name)
        super().check_overflow(overflow)

    def _check_affine(self) -> None:
        Format._check_affine(self)


@dataclass(frozen=True)
class Binary(Format):
    """Levels -1 and +1 (QNN, section 1): +1 where x >= 0, so sign(0) = +1; also NaN and -0 give +1.

    Every deterministic rounding gives the sign. The stochastic one gives +1 with probability
    clip((x / scale + 1) / 2, 0, 1), in units of 2^-b.
    """

    @property
    def name(self) -> str:
        return "binary"

    @property
    def bits(self) -> int:
        return 1

    @property
    def code_min(self) -> int:
        return -1

    @property
    def code_max(self) -> int:
        return 1

    def codes(self) -> Sequence[int]:
        return (-1, 1)

    def number(self, code: int) -> float:
        return float(code)

    @property
    def integral(self) -> bool:
        return True

    def check_overflow(self, overflow: Overflow) -> None:
        """Every overflow gives the sign."""

    def code_of(self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None) -> int:
        q = type(q)(0) if np.isnan(q) else q
        if rounding is not Rounding.STOCHASTIC or draw is None:
            return 1 if q >= 0 else -1
        # P(+1) = (q + 1) / 2
        half = type(q)(0.5)
        with np.errstate(over="ignore"):
            return 1 if draw.below(float((q + type(q)(1)) * half)) else -1
