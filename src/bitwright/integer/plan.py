"""Which kernel runs a product: int8 dot products over bytes, or popcounts over planes of bits.

The costs are vector instructions of an AVX-512 machine, weighted by how many start in a cycle: 64 taps of
16 channels are 16 dot products (2 a cycle), or 6 logical instructions for each pair of planes (4 a cycle).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bitwright.kernels.graph import weight_planes

DOT_UNIT = 0.5
"""Cycles for 4 taps of 16 channels."""
PAIR_WORD = 1.6
"""Cycles for 64 taps of 16 channels, for one pair of planes."""
PAIR = 4.0
"""Cycles for a pair's own epilogue."""


@dataclass(frozen=True)
class Choice:
    """A kernel, and why."""

    kernel: str
    reason: str


def choose(weight: np.ndarray, low: int, high: int, binary: bool, groups: int) -> Choice:
    """The kernel for a weight [N, C, kh, kw] over levels from `low` to `high`, or of -1 and 1 alone."""
    channels, taps = weight.shape[1], math.prod(weight.shape[2:])
    if groups > 1:
        depthwise = channels == 1 and len(weight) == groups
        return Choice("depthwise", "one weight a channel") if depthwise else Choice("dot", "groups")
    planes, _, _ = weight_planes(weight)
    activation = 1 if binary else max(1, (max(high, 0) - min(low, 0)).bit_length())
    pairs = planes * activation
    dot = DOT_UNIT * taps * -(-channels // 4)
    popcount = pairs * (PAIR_WORD * taps * -(-channels // 64) + PAIR)
    text = f"{activation} x {planes} planes {popcount:.0f} cycles a row, int8 {dot:.0f}"
    return Choice("planes" if popcount < dot else "dot", text)
