"""The same numbers in another order or company: reshape, transpose, concat."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from bitwright.errors import InvalidValueError
from bitwright.integer.operations.base import Join, TensorType, Unary, check_channels, check_shape
from bitwright.integer.operations.pointwise import check_joined


@dataclass(frozen=True, eq=False)
class Reshape(Unary):
    """The same numbers in C order under another shape."""

    kind = "reshape"
    shape: tuple[int, ...]

    def result(self, x: TensorType) -> TensorType:
        if any(n < 1 for n in self.shape) or math.prod(self.shape) != x.elements:
            raise InvalidValueError("a reshape keeps every element", got=f"{x.shape} to {self.shape}")
        check_shape("a reshape", self.shape)
        return replace(x, shape=self.shape)


@dataclass(frozen=True, eq=False)
class Transpose(Unary):
    """Axis i of the result is axis axes[i] of the input; the batch is not counted."""

    kind = "transpose"
    axes: tuple[int, ...]

    def result(self, x: TensorType) -> TensorType:
        if sorted(self.axes) != list(range(len(x.shape))):
            raise InvalidValueError(f"axes order those of {x.shape}", got=self.axes)
        return replace(x, shape=tuple(x.shape[a] for a in self.axes))


@dataclass(frozen=True, eq=False)
class Concat(Join):
    """The channels of several tensors of one format and zero point, one after the other."""

    kind = "concat"

    def infer(self, *sources: TensorType) -> TensorType:
        check_joined("a concat", sources)
        channels = sum(check_channels(x) for x in sources)
        rest = {(x.shape[1:], x.format, x.zero_point) for x in sources}
        if len(rest) > 1:
            raise InvalidValueError(
                "a concat takes tensors of one format, zero point and size behind the channels",
                got=", ".join(f"{x.format or 'sums'} {x.shape} (zero {x.zero_point})" for x in sources),
            )
        low, high = min(x.low for x in sources), max(x.high for x in sources)
        return replace(sources[0], shape=(channels, *sources[0].shape[1:]), low=low, high=high)
