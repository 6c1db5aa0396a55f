"""Rounding: how a real quotient becomes an integer level. One enum, one scalar definition."""

from __future__ import annotations

import enum
import math

import numpy as np

from bitwright.errors import InvalidValueError, unknown_name

RANDOM_BITS = 16
"""Random bits that one stochastic rounding consumes."""


class Rounding(enum.Enum):
    """How `q = x / scale` becomes a level. Ties (q = n + 1/2), by example on +2.5 and -2.5:

    | rounding      | +2.5 | -2.5 | -2.3 |
    |---------------|------|------|------|
    | nearest-even  |  2   |  -2  |  -2  |
    | nearest-away  |  3   |  -3  |  -2  |
    | floor         |  2   |  -3  |  -3  |
    | ceil          |  3   |  -2  |  -2  |
    | toward-zero   |  2   |  -2  |  -2  |
    | stochastic    | floor(q) + 1 with probability ceil(2^16 (q - floor(q))) / 2^16, else floor(q) |

    The stochastic rule draws R uniform in [0, 2^16) and rounds up when R < 2^16 (q - floor(q)), so a
    level is never left when q is already an integer, and the bias is below 2^-16 of a step.
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


def round_scalar(q: np.floating, rounding: Rounding, draw: int | None = None) -> int:
    """Round the finite `q` (float32 or float64) to an integer.

    `draw` is the random number of a stochastic rounding, in [0, 2^16). The fraction q - floor(q) is
    taken in the type of q, as every faster twin takes it.
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
    return below + int(draw < float(fraction) * 2**RANDOM_BITS)
