"""Thresholds: an affine map and its rounding to few codes, as comparisons of the accumulator."""

from __future__ import annotations

import numpy as np

from bitwright import integer
from bitwright.formats import Binary, Format, Rounding


def find_thresholds(
    multiplier: np.ndarray,
    offset: np.ndarray,
    shift: int,
    form: Format,
    rounding: Rounding,
    bound: int,
    zero_point: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The accumulators at which y = (acc M + B) 2^-s rounds to the next code, by bisection on integers.

    Returns:
        thresholds: int64 [C, codes - 1], ascending: the smallest d = direction * acc, within the bound,
            that gives at least each code; bound + 1 where none does.
        direction: int8 [C], the sign of M (+1 where M = 0).
    """
    codes = np.array(form.codes(), dtype=np.int64)
    direction = np.where(multiplier < 0, -1, 1).astype(np.int8)
    slope = np.abs(multiplier)[:, None]

    def index(directed: np.ndarray) -> np.ndarray:
        """How many codes lie at or below that of the accumulator direction * directed."""
        y = directed * slope + offset[:, None]
        if isinstance(form, Binary):
            above: np.ndarray = (y >= 0).astype(np.int64)
            return above
        low, high = form.code_min - zero_point, form.code_max - zero_point
        level: np.ndarray = np.clip(integer.round_shift(y, shift, rounding), low, high)
        return level - low

    wanted = np.arange(1, len(codes))[None, :]
    low = np.full((len(multiplier), len(codes) - 1), -bound, dtype=np.int64)
    high = np.full_like(low, bound + 1)
    while (low < high).any():
        middle = (low + high) >> 1
        reached = index(middle) >= wanted
        # middle = bound + 1 only where low = high already
        low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
    return low, direction
