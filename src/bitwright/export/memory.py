"""What lies in the memory of an exported network: C types, strides, and buffers in one arena."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.integer import TensorType

INTEGERS = {
    "int8_t": (-(1 << 7), (1 << 7) - 1),
    "uint8_t": (0, (1 << 8) - 1),
    "int16_t": (-(1 << 15), (1 << 15) - 1),
    "uint16_t": (0, (1 << 16) - 1),
    "int32_t": (-(1 << 31), (1 << 31) - 1),
    "uint32_t": (0, (1 << 32) - 1),
    "int64_t": (-(1 << 63), (1 << 63) - 1),
}
SIZES = {name: (high - low).bit_length() // 8 for name, (low, high) in INTEGERS.items()}
ALIGNMENT = 8


def c_type(low: int, high: int) -> str:
    """The smallest C type of every integer from `low` to `high`."""
    return next(name for name, (a, b) in INTEGERS.items() if a <= low and high <= b)


def value_type(bound: int) -> str:
    """The C type to compute in where magnitudes stay within `bound`, with room for one more."""
    return "int32_t" if bound < (1 << 31) - 1 else "int64_t"


@dataclass(eq=False)
class Buffer:
    """Bytes that are in use from stage `first` to stage `last`; `offset` is their place in the arena."""

    bytes: int
    first: int
    last: int
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Tensor:
    """Numbers in memory: level = stored + base, at place * place_stride + channel * channel_stride.

    Args:
        type: of its levels. Axis 0 are the channels, the others the places, in C order.
        buffer: where it lies; None is the caller's.
        order: of a flattened image: which of the vector's numbers each one in memory is.
    """

    type: TensorType
    c_type: str
    base: int
    channel_stride: int
    place_stride: int
    buffer: Buffer | None
    order: np.ndarray | None = None

    @property
    def channels(self) -> int:
        """Length of axis 0."""
        return self.type.shape[0] if self.type.shape else 1

    @property
    def places(self) -> int:
        """Numbers of a channel."""
        return self.type.elements // self.channels

    @property
    def bytes(self) -> int:
        """In memory."""
        return self.type.elements * SIZES[self.c_type]

    @property
    def plain(self) -> bool:
        """Whether memory has the order of the shape."""
        channel_first = self.channels == 1 or self.channel_stride == self.places
        return self.order is None and channel_first and (self.places == 1 or self.place_stride == 1)

    @property
    def strides(self) -> list[int]:
        """Of each axis."""
        rest = self.type.shape[1:]
        steps = [self.place_stride * math.prod(rest[i + 1 :]) for i in range(len(rest))]
        return [self.channel_stride, *steps]

    @property
    def image(self) -> tuple[int, int]:
        """The places as rows and columns."""
        rest = self.type.shape[1:]
        return (rest[0], rest[1]) if len(rest) == 2 else (1, math.prod(rest))


def stored_as(kind: TensorType) -> tuple[str, int]:
    """C type and base of a tensor: of its codes where they are smaller than its levels."""
    zero = kind.zero_point
    levels, codes = c_type(kind.low, kind.high), c_type(kind.low + zero, kind.high + zero)
    return (codes, -zero) if SIZES[codes] < SIZES[levels] else (levels, 0)


def place(buffers: Sequence[Buffer]) -> int:
    """Give every buffer its offset, the largest first at the lowest free place; returns the arena's size."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        together = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
        offset = 0
        for other in sorted(together, key=lambda b: b.offset):
            if offset + buffer.bytes <= other.offset:
                break
            offset = max(offset, _aligned(other.offset + other.bytes))
        buffer.offset = offset
        placed.append(buffer)
    return max((_aligned(b.offset + b.bytes) for b in placed), default=ALIGNMENT)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
