"""Sums of products with stored weights: linear, convolution, transposed convolution.

The first axis of every weight is the output channel, so that the norm of a row bounds an accumulator:
|acc| <= max over outputs of sum |w| times max |a|, and every partial sum obeys it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.errors import InvalidValueError
from bitwright.integer.codes import Codes
from bitwright.integer.operations.base import TensorType, Unary, sum_type
from bitwright.integer.operations.windows import Pads, check_pads, check_window, pads_of, window_sizes


@dataclass(frozen=True, eq=False)
class Product(Unary):
    """acc = sum of levels times weights, exactly. A weight has rows of one output channel each."""

    weight: Codes

    def sums(self, shape: tuple[int, ...], x: TensorType) -> TensorType:
        """The type of the accumulators."""
        bound = self.weight.norm * x.bound
        return sum_type((self.weight.shape[0], *shape), -bound, bound)

    def macs(self, *sources: TensorType) -> int:
        return math.prod(self.weight.shape[1:]) * self.infer(*sources).elements


@dataclass(frozen=True, eq=False)
class Linear(Product):
    """acc[o, ...] = sum_i a[i, ...] w[o, i]: over the channels, at every place of the other axes alike."""

    kind = "linear"

    def result(self, x: TensorType) -> TensorType:
        if len(self.weight.shape) != 2 or x.shape[:1] != self.weight.shape[1:]:
            raise InvalidValueError(
                "a linear operation takes vectors of its weight's width",
                got=f"input {x.shape}, weight {self.weight.shape}",
            )
        return self.sums(x.shape[1:], x)


@dataclass(frozen=True, eq=False)
class Convolution(Product):
    """Over (C, H, W) with a weight [O, C / groups, kh, kw], or over (C, L) with [O, C / groups, k].

    Output o belongs to group g = o G // O and sees the channels g C/G to (g + 1) C/G - 1. Stride, padding
    and dilation: see `windows`.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def rank(self) -> int:
        """How many axes the window slides along: 1 or 2."""
        return len(self.weight.shape) - 2

    @property
    def kernel(self) -> tuple[int, ...]:
        """The size of the window."""
        return self.weight.shape[2:]

    @property
    def pads(self) -> Pads:
        """((before, after), ...) for each axis."""
        return pads_of(self.padding, self.rank)

    @property
    def dilations(self) -> tuple[int, ...]:
        """The dilation of each axis; () is 1 everywhere."""
        return self.dilation or (1,) * self.rank

    def check_channels(self, x: TensorType) -> None:
        """Raise where weight, groups and input do not fit together."""
        weight, groups = self.weight.shape, self.groups
        if self.rank not in (1, 2) or len(x.shape) != self.rank + 1 or x.shape[0] != weight[1] * groups:
            raise InvalidValueError(
                "a convolution takes (C, H, W), or (C, L), with its weight's channels",
                got=f"input {x.shape}, weight {weight}, groups {groups}",
            )
        if groups < 1 or weight[0] % groups:
            raise InvalidValueError("groups divide the output channels", got=f"{groups} of {weight[0]}")


@dataclass(frozen=True, eq=False)
class Conv(Convolution):
    """acc[o, y, x] = sum_{c, i, j} a[g C/G + c, y sy + i dy - top, x sx + j dx - left] w[o, c, i, j].

    Positions outside count as level 0, also where 0 is not a code.
    """

    kind = "conv"

    def result(self, x: TensorType) -> TensorType:
        self.check_channels(x)
        size = window_sizes(x.shape[1:], self.kernel, self.stride, self.pads, self.dilations)
        return self.sums(size, x)


@dataclass(frozen=True, eq=False)
class ConvTranspose(Convolution):
    """acc[o, y, x] = sum of a[g C/G + c, v, u] w[o, c, i, j] over y = v sy + i dy - top and x alike.

    The adjoint of a convolution: size (n - 1) s + d (k - 1) + 1 + output_padding - before - after.
    The weight has its output channel first, like every weight here.
    """

    kind = "conv_transpose"
    output_padding: tuple[int, ...] = ()

    @property
    def output_pads(self) -> tuple[int, ...]:
        """Rows and columns added behind; () is none."""
        return self.output_padding or (0,) * self.rank

    def result(self, x: TensorType) -> TensorType:
        self.check_channels(x)
        rank, more = self.rank, self.output_pads
        check_window(rank, kernel=self.kernel, stride=self.stride, dilation=self.dilations)
        check_pads(self.pads)
        if len(more) != rank or any(
            not 0 <= p < max(s, d) for p, s, d in zip(more, self.stride, self.dilations, strict=False)
        ):
            raise InvalidValueError(
                f"an output padding has {rank} numbers from 0, below stride or dilation", got=more
            )
        size = tuple(
            (n - 1) * s + d * (k - 1) + 1 + o - sum(p)
            for n, k, s, d, o, p in zip(
                x.shape[1:], self.kernel, self.stride, self.dilations, more, self.pads, strict=True
            )
        )
        if min(size) < 1:
            raise InvalidValueError("a transposed convolution leaves something", got=f"size {size}")
        return self.sums(size, x)

    def macs(self, *sources: TensorType) -> int:
        return math.prod(self.weight.shape) * math.prod(sources[0].shape[1:])
