"""Which sum of products a compute layer takes: three of them for a training step.

    forward   y  = a . w        a: activation [N, ...], w: weight [O, ...]
    dgrad     dx = e . w        e: error, shaped like y
    wgrad     dw = e . a

Each is available as torch's own operation (`native`) and as one matrix product (`matrices` and `tensor`),
which integer types need and which no convolution algorithm (Winograd, FFT) can round. Convolutions in groups
are one matrix product for each group, side by side.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

from bitwright.nn.windows import patches, reach, spread

Types = tuple[torch.dtype, torch.dtype]


class Kind(enum.Enum):
    """The product of a training step; its (left, right) operands are named in the module's table."""

    FORWARD = "forward"
    DGRAD = "dgrad"
    WGRAD = "wgrad"


@dataclass(frozen=True)
class LinearGeometry:
    """y[n, o] = sum_i a[n, i] w[o, i]; leading axes of a are kept."""

    groups: ClassVar[int] = 1

    def numbers(self) -> list[int]:
        """What `geometry_of` reads back."""
        return []

    def output(self, a_shape: torch.Size, w_shape: torch.Size) -> list[int]:
        """The shape of y."""
        return [*a_shape[:-1], w_shape[0]]

    def native(self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """The product in the operands' own type."""
        if kind is Kind.FORWARD:
            return F.linear(left, right)
        first, second = self.matrices(kind, left, right, shape, (left.dtype, right.dtype))
        return (first @ second).view(shape)

    def matrices(
        self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int], types: Types
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[M, K] and [K, N] of the given types, whose product is the result as a matrix."""
        left, right = left.reshape(-1, left.shape[-1]).to(types[0]), right.to(types[1])
        if kind is Kind.FORWARD:
            return left, right.T
        if kind is Kind.DGRAD:
            return left, right
        return left.T, right.reshape(-1, right.shape[-1])

    def tensor(self, kind: Kind, matrix: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """[M, N] -> the result's shape."""
        return matrix.view(shape)

    def reduction(self, kind: Kind, left: torch.Size, right: torch.Size) -> int:
        """How many products one output sums, at most."""
        if kind is Kind.FORWARD:
            return right[1]
        return left[-1] if kind is Kind.DGRAD else left[:-1].numel()

    def sides(self, kind: Kind, shape: Sequence[int]) -> tuple[int, int]:
        """The lengths of the result as a matrix, in either order."""
        return shape[-1], math.prod(shape[:-1])

    def terms(self, kind: Kind, left: torch.Tensor, right: torch.Tensor) -> tuple[int, torch.Tensor]:
        """One operand (0: left, 1: right) as rows, each of which holds all that an output sums of it."""
        if kind is Kind.FORWARD:
            return 1, right
        rows = left.reshape(-1, left.shape[-1])
        return 0, rows if kind is Kind.DGRAD else rows.T

    def per_channel(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """[C] -> a shape that broadcasts over an output of `dim` axes."""
        return values.flatten()

    def by_output(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its output channel first: a row holds all that an output sums of it."""
        return weight

    def weight_scales(self, scale: torch.Tensor) -> torch.Tensor:
        """Scales of the weight, one or one a channel -> [1] or one for each output channel."""
        return scale.flatten()


@dataclass(frozen=True)
class ConvGeometry:
    """Correlation of a [N, C, *size] with w [O, C / groups, *kernel] along one or two axes, zero padding.

        y[n, o, v] = sum_{c, i} a[n, g C/G + c, v s + i d - before] w[o, c, i],   g = floor(o G / O)

    Args:
        stride: one number for each axis.
        padding: one number for each axis, or two: (left, right), (top, bottom, left, right).
        dilation: one number for each axis; () is 1.
        groups: G.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def rank(self) -> int:
        """How many axes the window slides along."""
        return len(self.stride)

    @property
    def pads(self) -> list[tuple[int, int]]:
        """(before, after) for each axis."""
        if len(self.padding) == self.rank:
            return [(p, p) for p in self.padding]
        return list(zip(self.padding[::2], self.padding[1::2], strict=True))

    @property
    def steps(self) -> tuple[int, ...]:
        """The dilation of each axis."""
        return self.dilation or (1,) * self.rank

    def numbers(self) -> list[int]:
        """What `geometry_of` reads back."""
        pads = [p for pair in self.pads for p in pair]
        return [self.groups, *self.stride, *self.steps, *pads]

    def output(self, a_shape: torch.Size, w_shape: torch.Size) -> list[int]:
        """The shape of y: [N, O, *size']."""
        sizes = zip(a_shape[2:], w_shape[2:], self.stride, self.steps, self.pads, strict=True)
        return [
            a_shape[0],
            w_shape[0],
            *((n + before + after - d * (k - 1) - 1) // s + 1 for n, k, s, d, (before, after) in sizes),
        ]

    def native(self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """The product in the operands' own type."""
        if any(before != after for before, after in self.pads):
            return self._padded(kind, left, right, shape)
        padding = [before for before, _ in self.pads]
        window = [*self.stride], padding, [*self.steps], False, [0] * self.rank, self.groups
        return _convolve(kind, left, right, shape, window)

    def _padded(self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """`native` where the sides are not padded alike, as torch does: the image brings its margins."""
        bare = replace(self, padding=(0,) * self.rank)
        margins = [p for pair in reversed(self.pads) for p in pair]
        if kind is Kind.FORWARD:
            return bare.native(kind, F.pad(left, margins), right, shape)
        if kind is Kind.WGRAD:
            return bare.native(kind, left, F.pad(right, margins), shape)
        whole = [n + sum(pair) for n, pair in zip(shape[2:], self.pads, strict=True)]
        result = bare.native(kind, left, right, [*shape[:2], *whole])
        for axis, (before, _) in enumerate(self.pads, start=2):
            result = result.narrow(axis, before, shape[axis])
        return result.contiguous()

    def matrices(
        self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int], types: Types
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[M, K] and [K, N] of the given types, whose product is the result as a matrix; [G, ...] of groups.

        Channels are the fastest axis of the patches: they are copied in runs. dgrad correlates the error,
        spread by the stride, with the mirrored weight.
        """
        before = [pair[0] for pair in self.pads]
        ones = (1,) * self.rank
        if kind is Kind.WGRAD:
            first = self._rows(left.transpose(0, 1).to(types[0]))
            size = reach(left.shape[2:], self.stride, shape[2:], self.steps)
            image = spread(right, before, ones, size, types[1])
            second = patches(image, shape[2:], self.stride, self.steps, self.groups)
        elif kind is Kind.FORWARD:
            kernel = right.shape[2:]
            size = reach(shape[2:], self.stride, kernel, self.steps)
            image = spread(left, before, ones, size, types[0])
            first = patches(image, kernel, self.stride, self.steps, self.groups)
            second = self._rows(right.movedim(1, -1).to(types[1])).mT
        else:
            kernel = right.shape[2:]
            margin = [d * (k - 1) - p for d, k, p in zip(self.steps, kernel, before, strict=True)]
            size = reach(shape[2:], ones, kernel, self.steps)
            image = spread(left, margin, self.stride, size, types[0])
            first = patches(image, kernel, ones, self.steps, self.groups)
            mirrored = self.turned(right.flip(tuple(range(2, right.dim()))))
            second = self._rows(mirrored.movedim(1, -1).to(types[1])).mT
        return (first[0], second[0]) if self.groups == 1 else (first, second)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """[C, ...] -> [G, C / G, ...], its last axes as one."""
        return torch.unflatten(x.flatten(1), 0, (self.groups, -1))

    def tensor(self, kind: Kind, matrix: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """[M, N] or [G, M, N] -> the result's shape: all have their channels last."""
        if kind is Kind.WGRAD:
            return matrix.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
        split = matrix.reshape(self.groups, shape[0], *shape[2:], shape[1] // self.groups)
        return split.movedim((0, -1), (1, 2)).flatten(1, 2)

    def reduction(self, kind: Kind, left: torch.Size, right: torch.Size) -> int:
        """How many products one output sums, at most."""
        if kind is Kind.FORWARD:
            return right[1:].numel()
        if kind is Kind.WGRAD:
            return left[0] * left[2:].numel()
        taps = right[0] // self.groups
        for k, s, d in zip(right[2:], self.stride, self.steps, strict=True):
            taps *= -(-k // (s // math.gcd(s, d)))  # the others meet no error
        return taps

    def sides(self, kind: Kind, shape: Sequence[int]) -> tuple[int, int]:
        """The lengths of the result as a matrix (of one group), in either order."""
        if kind is Kind.WGRAD:
            return shape[0] // self.groups, math.prod(shape[1:])
        return shape[1] // self.groups, shape[0] * math.prod(shape[2:])

    def terms(self, kind: Kind, left: torch.Tensor, right: torch.Tensor) -> tuple[int, torch.Tensor]:
        """One operand (0: left, 1: right) as rows, each of which holds all that an output sums of it."""
        if kind is Kind.WGRAD:
            return 0, left.transpose(0, 1).flatten(1)
        return 1, (right if kind is Kind.FORWARD else self.turned(right)).flatten(1)

    def turned(self, weight: torch.Tensor) -> torch.Tensor:
        """[O, C / G, *kernel] -> [C, O / G, *kernel]: in each group, channels change places."""
        return torch.unflatten(weight, 0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def per_channel(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """[C] -> a shape that broadcasts over an output of `dim` axes."""
        return values.reshape((-1,) + (1,) * self.rank)

    def by_output(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its output channel first: a row holds all that an output sums of it."""
        return weight

    def weight_scales(self, scale: torch.Tensor) -> torch.Tensor:
        """Scales of the weight, one or one a channel -> [1] or one for each output channel."""
        return scale.flatten()


@dataclass(frozen=True)
class TransposedGeometry:
    """Transposed convolution of a [N, C, *size] with w [C, O / groups, *kernel]: the adjoint of `conv`.

    Its forward product is the dgrad of that convolution, its dgrad the forward product, and in wgrad
    activation and error change places.

    Args:
        conv: the convolution that it turns around, with both sides padded alike.
        output_padding: rows and columns added behind, one number for each axis.
    """

    conv: ConvGeometry
    output_padding: tuple[int, ...]

    @property
    def groups(self) -> int:
        """G."""
        return self.conv.groups

    def numbers(self) -> list[int]:
        """What `geometry_of` reads back."""
        return [*self.conv.numbers(), *self.output_padding]

    def output(self, a_shape: torch.Size, w_shape: torch.Size) -> list[int]:
        """The shape of y: [N, O, *size']."""
        conv = self.conv
        sizes = zip(
            a_shape[2:], w_shape[2:], conv.stride, conv.steps, conv.pads, self.output_padding, strict=True
        )
        return [
            a_shape[0],
            w_shape[1] * conv.groups,
            *((n - 1) * s + d * (k - 1) + 1 + more - sum(pair) for n, k, s, d, pair, more in sizes),
        ]

    def native(self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """The product in the operands' own type."""
        conv = self.conv
        padding = [before for before, _ in conv.pads]
        window = [*conv.stride], padding, [*conv.steps], True, [*self.output_padding], conv.groups
        return _convolve(kind, left, right, shape, window)

    def matrices(
        self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int], types: Types
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the convolution's; those of wgrad come from (right, left)."""
        if kind is Kind.WGRAD:
            return self.conv.matrices(kind, right, left, shape, (types[1], types[0]))
        return self.conv.matrices(_ADJOINT[kind], left, right, shape, types)

    def tensor(self, kind: Kind, matrix: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """[M, N] or [G, M, N] -> the result's shape."""
        return self.conv.tensor(_ADJOINT[kind], matrix, shape)

    def reduction(self, kind: Kind, left: torch.Size, right: torch.Size) -> int:
        """How many products one output sums, at most."""
        if kind is Kind.WGRAD:
            return self.conv.reduction(kind, right, left)
        return self.conv.reduction(_ADJOINT[kind], left, right)

    def sides(self, kind: Kind, shape: Sequence[int]) -> tuple[int, int]:
        """The lengths of the result as a matrix (of one group), in either order."""
        return self.conv.sides(_ADJOINT[kind], shape)

    def terms(self, kind: Kind, left: torch.Tensor, right: torch.Tensor) -> tuple[int, torch.Tensor]:
        """One operand (0: left, 1: right) as rows, each of which holds all that an output sums of it."""
        if kind is Kind.WGRAD:
            side, rows = self.conv.terms(kind, right, left)
            return 1 - side, rows
        return self.conv.terms(_ADJOINT[kind], left, right)

    def per_channel(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """[C] -> a shape that broadcasts over an output of `dim` axes."""
        return self.conv.per_channel(values, dim)

    def by_output(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its output channel first, [O, C / G, *kernel]."""
        return self.conv.turned(weight)

    def weight_scales(self, scale: torch.Tensor) -> torch.Tensor:
        """Scales of the weight, one or one a channel of axis 1, which groups share -> [1] or one each."""
        return scale.flatten() if scale.numel() == 1 else scale.flatten().repeat(self.groups)


_ADJOINT = {Kind.FORWARD: Kind.DGRAD, Kind.DGRAD: Kind.FORWARD, Kind.WGRAD: Kind.WGRAD}

Geometry = LinearGeometry | ConvGeometry | TransposedGeometry


def geometry_of(numbers: list[int]) -> Geometry:
    """From the numbers of a geometry: none; or groups, then for each axis stride, dilation, two paddings and
    the output padding of a transposed one. One or two axes: 5, 9 numbers, or 6, 11."""
    if not numbers:
        return LinearGeometry()
    rank = 1 if len(numbers) < 9 else 2
    stride, steps = tuple(numbers[1 : 1 + rank]), tuple(numbers[1 + rank : 1 + 2 * rank])
    conv = ConvGeometry(stride, tuple(numbers[1 + 2 * rank : 1 + 4 * rank]), steps, numbers[0])
    more = tuple(numbers[1 + 4 * rank :])
    return TransposedGeometry(conv, more) if more else conv


_Window = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, transposed, output padding, groups: as torch's convolution takes them."""


def _convolve(
    kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int], window: _Window
) -> torch.Tensor:
    """torch's own convolution, or one of its gradients."""
    if kind is Kind.FORWARD:
        y: torch.Tensor = torch.ops.aten.convolution(left, right, None, *window)
        return y.contiguous()
    unread = left.new_empty(shape)  # only its shape counts
    input_, weight = (unread, right) if kind is Kind.DGRAD else (right, unread)
    wanted = [kind is Kind.DGRAD, kind is Kind.WGRAD, False]
    grads = torch.ops.aten.convolution_backward(left, input_, weight, None, *window, wanted)
    result: torch.Tensor = grads[0 if kind is Kind.DGRAD else 1]
    return result.contiguous()
