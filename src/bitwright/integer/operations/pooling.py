"""The largest, or the sum, of each window. A global pool has a kernel of its input's size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.errors import InvalidValueError
from bitwright.integer.operations.base import TensorType, Unary, sum_type
from bitwright.integer.operations.windows import Pads, check_window, pads_of, window_sizes


@dataclass(frozen=True, eq=False)
class Pool(Unary):
    """A window over (C, H, W) or (C, L); padding is at most half the kernel, so that no window is empty."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def pads(self) -> Pads:
        """((before, after), ...) for each axis."""
        return pads_of(self.padding, len(self.kernel))

    def pooled(self, x: TensorType) -> tuple[int, ...]:
        """The shape of the result."""
        rank = len(x.shape) - 1
        if rank not in (1, 2):
            raise InvalidValueError("a pool takes (C, H, W) or (C, L)", got=x.shape)
        check_window(rank, kernel=self.kernel)
        if any(2 * max(p) > k for p, k in zip(self.pads, self.kernel, strict=True)):
            raise InvalidValueError(
                "padding is at most half the kernel", got=f"{self.padding}, {self.kernel}"
            )
        return (
            x.shape[0],
            *window_sizes(x.shape[1:], self.kernel, self.stride, self.pads, (1,) * rank),
        )


@dataclass(frozen=True, eq=False)
class MaxPool(Pool):
    """The largest level of each window; positions outside the tensor do not count."""

    kind = "max_pool"

    def result(self, x: TensorType) -> TensorType:
        return TensorType(self.pooled(x), x.low, x.high, x.format, x.zero_point)


@dataclass(frozen=True, eq=False)
class AvgPool(Pool):
    """The exact sum of each window; positions outside count 0. What follows divides by the window's size."""

    kind = "avg_pool"

    def result(self, x: TensorType) -> TensorType:
        shape, taps = self.pooled(x), math.prod(self.kernel)
        low, high = x.low * taps, x.high * taps
        if any(map(any, self.pads)):  # a window may hold fewer
            low, high = min(low, x.low), max(high, x.high)
        return sum_type(shape, low, high)
