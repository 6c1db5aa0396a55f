"""What a graph is made of: tensors and how they are stored, windows, epilogues. Plain values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidValueError

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]


class Element(enum.Enum):
    """How a tensor is stored: planes of bits, bytes, int32 sums, int16 or int64 (csrc/layout.h)."""

    BITS = 0
    BYTES = 1
    SUMS = 2
    SHORTS = 3
    LONGS = 4


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph: level = factor * stored - zero.

    Args:
        index: its number in the graph.
        shape: (C, H, W).
        planes: of bits, least significant first.
    """

    index: int
    element: Element
    shape: Shape
    planes: int = 1
    factor: int = 1
    zero: int = 0


@dataclass(frozen=True)
class Window:
    """What slides over (H, W): kernel, stride, ((top, bottom), (left, right)), dilation."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)

    def output(self, shape: Shape, channels: int) -> Shape:
        """The result's shape; raises where the window does not fit."""
        numbers, pads = (*self.kernel, *self.stride, *self.dilation), (*self.pads[0], *self.pads[1])
        if min(numbers) < 1 or min(pads) < 0 or max(*numbers, *pads) > 1 << 16:
            raise InvalidValueError(
                "kernels, strides, dilations are positive, pads not negative, at most 2^16", got=self
            )
        height, width = (
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                shape[1:], self.kernel, self.stride, self.pads, self.dilation, strict=True
            )
        )
        if height < 1 or width < 1:
            raise InvalidValueError("a window fits into its padded input", got=f"{self} over {shape}")
        return channels, height, width

    @property
    def native(self) -> tuple[int, ...]:
        (top, bottom), (left, right) = self.pads
        return (*self.kernel, *self.stride, top, left, bottom, right, *self.dilation)


@dataclass(frozen=True, eq=False)
class Sums:
    """The accumulator itself."""


@dataclass(frozen=True, eq=False)
class Bits:
    """Level +1 where (acc >= threshold) xor flip, else -1; thresholds int32 [N], flip bool [N]."""

    thresholds: Array
    flip: Array


@dataclass(frozen=True, eq=False)
class Levels:
    """level = first[n] + step[n] * (number of k with acc >= thresholds[k, n]), from low to high.

    thresholds int32 [K, N]; first and step int32 [N].
    """

    thresholds: Array
    first: Array
    step: Array
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Codes:
    """level = clip(round((acc M[n] + B[n]) 2^-shift), low, high), |acc M + B| < 2^53.

    multiplier, offset: int64 [N]; rounding: its name, such as "nearest-even".
    """

    multiplier: Array
    offset: Array
    shift: int
    rounding: str
    low: int
    high: int


Epilogue = Sums | Bits | Levels | Codes
ROUNDINGS = ("nearest-even", "nearest-away", "floor", "ceil", "toward-zero")


def zero_of(low: int, high: int) -> int | None:
    """The byte of level 0 where bytes hold `low` to `high` and level 0; None where they cannot."""
    lowest = min(low, 0)
    return -lowest if max(high, 0) - lowest <= 255 else None


def element_of(low: int, high: int) -> Element:
    """The smallest element that holds the levels from `low` to `high`, and level 0."""
    if zero_of(low, high) is not None:
        return Element.BYTES
    for element, dtype in ((Element.SHORTS, np.int16), (Element.SUMS, np.int32)):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return element
    return Element.LONGS


def stored(levels: Array, tensor: Tensor) -> Array:
    """Levels as a tensor stores them: uint8, int16, int32 or int64."""
    types = {
        Element.BYTES: np.uint8,
        Element.SHORTS: np.int16,
        Element.SUMS: np.int32,
        Element.LONGS: np.int64,
    }
    return (levels + tensor.zero).astype(types[tensor.element])
