"""Floating point of any size up to float32, described by separate facts."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats.number import Format, check_integer
from bitwright.formats.rounding import Draw, Overflow, Rounding, of_magnitude, round_scalar


class Specials(enum.Enum):
    """Which codes are no ordinary numbers.

    | specials | infinities                     | NaN                             | -0  |
    |----------|--------------------------------|---------------------------------|-----|
    | ieee     | largest exponent, mantissa 0   | largest exponent, mantissa not 0 | yes |
    | fn       | none                           | all ones                        | yes |
    | f        | none                           | none                            | yes |
    | fnuz     | none                           | the code of -0                  | no  |
    | uz       | all ones but the sign          | the code of -0                  | no  |
    """

    IEEE = "ieee"
    FN = "fn"
    F = "f"
    FNUZ = "fnuz"
    UZ = "uz"

    @property
    def infinities(self) -> bool:
        """Whether infinities have codes."""
        return self in (Specials.IEEE, Specials.UZ)

    @property
    def nan(self) -> bool:
        """Whether NaN has a code."""
        return self is not Specials.F

    @property
    def negative_zero(self) -> bool:
        """Whether -0 has a code."""
        return self not in (Specials.FNUZ, Specials.UZ)


@dataclass(frozen=True)
class Float(Format):
    """Sign, exponent and mantissa fields; the code is the bit pattern.

        number = (-1)^sign * 2^(field - bias) * (1 + mantissa / 2^m)          field > 0
                 (-1)^sign * 2^(1 - bias) * mantissa / 2^m                    field = 0

    Rounding picks a multiple of the quantum 2^(max(E, emin) - m), E = floor(log2 |q|), emin the exponent of
    the smallest normal number. NaN stays NaN where the format has one, else it counts as 0; infinity stays
    where the format has one, else it saturates. Several NaN codes (ieee) decode to the one NaN, which
    encodes to the quiet one without sign. The sign of zero is kept where -0 has a code.

    Args:
        exponent: bits of the exponent field, 1 to 8.
        mantissa: bits of the mantissa field, 0 to 23.
        specials: which codes are infinities and NaN.
        bias: of the exponent; None takes 2^(e-1) - 1, or 2^(e-1) for fnuz and uz.
        subnormals: False leaves zero alone in field 0: what lies below the smallest normal number is
            rounded between it and 0.
        signed: False has no sign bit; what is negative becomes 0.
        zero: False makes field 0 an ordinary exponent, so that there is no 0 (e8m0fnu).
    """

    exponent: int
    mantissa: int
    specials: Specials = Specials.IEEE
    bias: int | None = None
    subnormals: bool = True
    signed: bool = True
    zero: bool = True

    def __post_init__(self) -> None:
        check_integer("exponent bits", self.exponent, 1, 8, self)
        check_integer("mantissa bits", self.mantissa, 0, 23, self)
        if self.bias is None:
            odd = 0 if self.specials in (Specials.FNUZ, Specials.UZ) else 1
            object.__setattr__(self, "bias", (1 << self.exponent - 1) - odd)
        check_integer("bias", self.bias, 0, 150, self)
        if self.specials is Specials.IEEE and not self.mantissa:
            raise InvalidValueError("an IEEE NaN needs a mantissa bit", got="none", where=self.name)
        if not self.signed and not self.specials.negative_zero:
            raise InvalidValueError("NaN in the place of -0 needs a sign", where=self.name)
        if not self.zero and (self.mantissa or self.signed or self.subnormals):
            raise InvalidValueError("only an unsigned power of two goes without zero", where=self.name)
        if not self.max_number > 0:
            raise InvalidValueError("a format has a finite number beside 0", where=self.name)
        if self.max_exponent > 127 or self.emin - self.mantissa < -149:
            raise InvalidValueError(
                "numbers of a Float are float32 numbers", got=f"bias {self.bias}", where=self.name
            )

    @property
    def name(self) -> str:
        from bitwright.formats.names import float_name

        return float_name(self)

    @property
    def bits(self) -> int:
        return self.signed + self.exponent + self.mantissa

    @property
    def code_min(self) -> int:
        return 0

    @property
    def code_max(self) -> int:
        return (1 << self.bits) - 1

    # --- the layout of the codes ----------------------------------------------------------------------

    @property
    def usual_bias(self) -> int:
        """The bias that the name leaves unsaid."""
        return (1 << self.exponent - 1) - (self.specials not in (Specials.FNUZ, Specials.UZ))

    @property
    def emin(self) -> int:
        """The exponent of the smallest normal number."""
        assert self.bias is not None
        return (1 if self.zero else 0) - self.bias

    @property
    def _sign(self) -> int:
        """The sign bit's worth."""
        return 1 << self.exponent + self.mantissa

    @property
    def _top(self) -> int:
        """The largest finite magnitude's pattern."""
        last = self._sign - 1
        if self.specials is Specials.IEEE:
            return last - (1 << self.mantissa)
        return last - (self.specials in (Specials.FN, Specials.UZ))

    @property
    def max_exponent(self) -> int:
        """The exponent of the largest finite number."""
        return math.frexp(self.max_number)[1] - 1

    @property
    def max_number(self) -> float:
        return self._magnitude(self._top)

    @property
    def min_number(self) -> float:
        if self.signed:
            return -self.max_number
        return 0.0 if self.zero else self._magnitude(0)

    @property
    def unit(self) -> float:
        return math.ldexp(1.0, self.emin - (self.mantissa if self.subnormals else 0))

    @property
    def nan_code(self) -> int | None:
        """The code that NaN encodes to; None where there is none."""
        if self.specials is Specials.IEEE:
            return self._sign - (1 << self.mantissa) + (1 << self.mantissa - 1)
        if self.specials is Specials.FN:
            return self._sign - 1
        return None if self.specials is Specials.F else self._sign

    @property
    def infinity_code(self) -> int | None:
        """The code of +infinity; None where there is none."""
        return self._top + 1 if self.specials.infinities else None

    def _magnitude(self, pattern: int) -> float:
        field, mantissa = divmod(pattern, 1 << self.mantissa)
        if not self.zero:
            return math.ldexp(1.0, field + self.emin)
        if field == 0:
            return math.ldexp(mantissa, self.emin - self.mantissa) if self.subnormals else 0.0
        return math.ldexp(mantissa + (1 << self.mantissa), field - 1 + self.emin - self.mantissa)

    def number(self, code: int) -> float:
        sign, pattern = divmod(code, self._sign)
        if sign and not pattern and not self.specials.negative_zero:
            return math.nan
        if pattern > self._top:
            if pattern != self.infinity_code:
                return math.nan
            return -math.inf if sign else math.inf
        magnitude = self._magnitude(pattern)
        negative = sign and (magnitude > 0 or self.specials.negative_zero)
        return -magnitude if negative else magnitude

    def _pattern(self, magnitude: float) -> int:
        """The pattern of a magnitude on the grid."""
        if magnitude == 0:
            return 0
        exponent = math.frexp(magnitude)[1] - 1
        if exponent < self.emin:
            return int(math.ldexp(magnitude, self.mantissa - self.emin))
        field = exponent - self.emin + self.zero
        significand = int(math.ldexp(magnitude, self.mantissa - exponent))
        return (field - 1 << self.mantissa) + significand

    # --- the scalar reference --------------------------------------------------------------------------

    def check_overflow(self, overflow: Overflow) -> None:
        if overflow is Overflow.WRAP:
            raise InvalidValueError("floating point does not wrap", got="wrap", where=self.name)

    def beyond(self, overflow: Overflow) -> float:
        """What a finite magnitude beyond the largest becomes."""
        if overflow is not Overflow.INFINITE or self.specials is Specials.F:
            return self.max_number
        return math.inf if self.specials.infinities else math.nan

    def at_infinity(self, overflow: Overflow) -> float:
        """What an infinite magnitude becomes."""
        return math.inf if self.specials.infinities else self.beyond(overflow)

    def code_of(self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None) -> int:
        if np.isnan(q):
            return self.nan_code or 0
        negative = bool(np.signbit(q))
        if negative and not self.signed:
            return 0
        number = self._round(q, rounding, overflow, draw)
        if math.isnan(number):
            assert self.nan_code is not None
            return self.nan_code
        pattern = self._pattern(number) if math.isfinite(number) else self._top + 1
        keep = negative and self.signed and (pattern > 0 or self.specials.negative_zero)
        return pattern + self._sign * keep

    def _round(self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None) -> float:
        """The magnitude of the number that q becomes: finite on the grid, infinite or NaN."""
        if np.isinf(q):
            return self.at_infinity(overflow)
        magnitude = abs(float(q))
        mode = of_magnitude(rounding, bool(q < 0))
        exponent = max(math.frexp(magnitude)[1] - 1, self.emin) if magnitude else self.emin
        quantum = exponent - self.mantissa
        if exponent == self.emin and magnitude < math.ldexp(1.0, self.emin):
            if not self.zero:
                return math.ldexp(1.0, self.emin)
            if not self.subnormals:
                quantum = self.emin
        steps = round_scalar(np.float64(math.ldexp(magnitude, -quantum)), mode, draw)
        number = math.ldexp(steps, quantum)
        if number <= self.max_number:
            return number
        inward = mode in (Rounding.FLOOR, Rounding.TOWARD_ZERO)
        return self.max_number if inward else self.beyond(overflow)
