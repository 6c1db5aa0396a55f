"""Rounding: how a real quotient becomes an integer level. One enum, one scalar definition."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from bitwright.errors import InvalidValueError, unknown_name

RANDOM_BITS = 16
"""Random bits that one stochastic rounding consumes, unless its key says otherwise."""


class Rounding(enum.Enum):
    """How `q = x / scale` becomes a level. Ties (q = n + 1/2), by example on +2.5 and -2.5:

    | rounding      | +2.5 | -2.5 | -2.3 |
    |---------------|------|------|------|
    | nearest-even  |  2   |  -2  |  -2  |
    | nearest-away  |  3   |  -3  |  -2  |
    | floor         |  2   |  -3  |  -3  |
    | ceil          |  3   |  -2  |  -2  |
    | toward-zero   |  2   |  -2  |  -2  |
    | stochastic    | floor(q) + 1 with probability ceil(2^b (q - floor(q))) / 2^b, else floor(q) |

    The stochastic rule draws R uniform in [0, 2^b), b = 16 random bits unless the key says otherwise,
    and rounds up when R < 2^b (q - floor(q)): a level is never left when q is already an integer, and the
    bias is below 2^-b of a step. Floating point and logarithmic formats round |q| by the same rules,
    with floor and ceil turned into toward zero and away from zero by the sign.

    nearest-away is not floor(|q| + 1/2): in float32 that addition rounds 0.49999997 up to 1.
    """

    NEAREST_EVEN = "nearest-even"
    NEAREST_AWAY = "nearest-away"
    FLOOR = "floor"
    CEIL = "ceil"
    TOWARD_ZERO = "toward-zero"
    STOCHASTIC = "stochastic"

    @staticmethod
    def of(value: Rounding | str) -> Rounding:
        """The rounding of that name; an unknown name lists the valid ones."""
        if isinstance(value, Rounding):
            return value
        try:
            return Rounding(value)
        except ValueError:
            raise unknown_name("rounding", value, [r.value for r in Rounding]) from None


class Overflow(enum.Enum):
    """What a number beyond the largest one of its format becomes.

    | overflow  | integers, fixed point                      | floating point            |
    |-----------|--------------------------------------------|---------------------------|
    | saturate  | the nearest limit                          | the largest finite number |
    | symmetric | the nearest limit of -max to max           | the same                  |
    | wrap      | the low bits, as two's complement hardware | an error                  |
    | infinite  | an error                                   | see below                 |

    "infinite" gives infinity where the format has one, else NaN where it has one, else the largest; directed
    roundings toward zero stop at the largest finite number, as IEEE 754 says. Infinity itself stays infinity
    where the format has one; elsewhere it saturates (under "infinite": NaN where the format has one).
    The binary and logarithmic formats always saturate.
    """

    SATURATE = "saturate"
    SYMMETRIC = "symmetric"
    WRAP = "wrap"
    INFINITE = "infinite"

    @staticmethod
    def of(value: Overflow | str) -> Overflow:
        """The overflow rule of that name; an unknown name lists the valid ones."""
        if isinstance(value, Overflow):
            return value
        try:
            return Overflow(value)
        except ValueError:
            raise unknown_name("overflow", value, [o.value for o in Overflow]) from None


@dataclass(frozen=True)
class Draw:
    """The random number of one stochastic rounding: `value` in [0, 2^bits)."""

    value: int
    bits: int = RANDOM_BITS

    def below(self, fraction: float) -> bool:
        """Whether value < fraction * 2^bits."""
        return bool(self.value < float(fraction) * 2**self.bits)


def round_scalar(q: np.floating, rounding: Rounding, draw: Draw | None = None) -> int:
    """Round the finite `q` (float32 or float64) to an integer.

    `draw` is the random number of a stochastic rounding. The fraction q - floor(q) is taken in the type
    of q, as every faster twin takes it.
    """
    value = float(q)
    if rounding is Rounding.NEAREST_EVEN:
        return round(value)
    if rounding is Rounding.NEAREST_AWAY:
        whole = math.trunc(value)
        return whole + int(math.copysign(abs(value - whole) >= 0.5, value))
    if rounding is Rounding.FLOOR:
        return math.floor(value)
    if rounding is Rounding.CEIL:
        return math.ceil(value)
    if rounding is Rounding.TOWARD_ZERO:
        return math.trunc(value)
    if draw is None:
        raise InvalidValueError("stochastic rounding needs a key", fix="pass key=bw.Key(seed=...)")
    below = math.floor(value)
    fraction = q - type(q)(below)
    return below + int(draw.below(float(fraction)))


def of_magnitude(rounding: Rounding, negative: bool) -> Rounding:
    """The rounding of |q| that rounds q as `rounding` says: floor and ceil depend on the sign."""
    if rounding is Rounding.FLOOR:
        return Rounding.CEIL if negative else Rounding.FLOOR
    if rounding is Rounding.CEIL:
        return Rounding.FLOOR if negative else Rounding.CEIL
    return rounding
