"""Which sum of products a compute layer takes: three of them for a training step.

    forward   y  = a . w        a: activation [N, ...], w: weight [O, ...]
    dgrad     dx = e . w        e: error, shaped like y
    wgrad     dw = e . a

Each is available as torch's own operation (`native`) and as one matrix product (`matrices` and `tensor`),
which integer types need and which no convolution algorithm (Winograd, FFT) can round.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Types = tuple[torch.dtype, torch.dtype]


class Kind(enum.Enum):
    """The product of a training step; its (left, right) operands are named in the module's table."""

    FORWARD = "forward"
    DGRAD = "dgrad"
    WGRAD = "wgrad"


@dataclass(frozen=True)
class LinearGeometry:
    """y[n, o] = sum_i a[n, i] w[o, i]; leading axes of a are kept."""

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


@dataclass(frozen=True)
class ConvGeometry:
    """Two-dimensional correlation of a [N, C, H, W] with w [O, C, kh, kw], zero padding."""

    stride: tuple[int, int]
    padding: tuple[int, int]

    def output(self, a_shape: torch.Size, w_shape: torch.Size) -> list[int]:
        """The shape of y: [N, O, H', W']."""
        sizes = zip(a_shape[2:], w_shape[2:], self.stride, self.padding, strict=True)
        return [a_shape[0], w_shape[0], *((size + 2 * p - k) // s + 1 for size, k, s, p in sizes)]

    def native(self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """The product in the operands' own type."""
        if kind is Kind.FORWARD:
            return F.conv2d(left, right, stride=self.stride, padding=self.padding).contiguous()
        unread = left.new_empty(shape)  # only its shape counts
        input_, weight = (unread, right) if kind is Kind.DGRAD else (right, unread)
        wanted = [kind is Kind.DGRAD, kind is Kind.WGRAD, False]
        stride, padding = list(self.stride), list(self.padding)
        grads = torch.ops.aten.convolution_backward(
            left, input_, weight, None, stride, padding, [1, 1], False, [0, 0], 1, wanted
        )
        result: torch.Tensor = grads[0 if kind is Kind.DGRAD else 1]
        return result.contiguous()

    def matrices(
        self, kind: Kind, left: torch.Tensor, right: torch.Tensor, shape: list[int], types: Types
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[M, K] and [K, N] of the given types, whose product is the result as a matrix.

        Channels are the fastest axis of the patches: they are copied in runs. dgrad correlates the error,
        spread by the stride, with the mirrored weight.
        """
        if kind is Kind.WGRAD:
            errors = left.transpose(0, 1).to(types[0]).flatten(1)
            size = _reach(left.shape[2:], self.stride, shape[2:])
            return errors, _patches(
                _spread(right, self.padding, (1, 1), size, types[1]), shape[2:], self.stride
            )
        kernel = right.shape[2:]
        if kind is Kind.FORWARD:
            weight = right.permute(0, 2, 3, 1).to(types[1]).flatten(1)
            size = _reach(shape[2:], self.stride, kernel)
            return _patches(
                _spread(left, self.padding, (1, 1), size, types[0]), kernel, self.stride
            ), weight.T
        weight = right.flip(2, 3).permute(1, 2, 3, 0).to(types[1]).flatten(1)
        margin = [k - 1 - p for k, p in zip(kernel, self.padding, strict=True)]
        size = _reach(shape[2:], (1, 1), kernel)
        return _patches(_spread(left, margin, self.stride, size, types[0]), kernel, (1, 1)), weight.T

    def tensor(self, kind: Kind, matrix: torch.Tensor, shape: list[int]) -> torch.Tensor:
        """[M, N] -> the result's shape: both have their channels last."""
        return matrix.view(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)

    def reduction(self, kind: Kind, left: torch.Size, right: torch.Size) -> int:
        """How many products one output sums, at most."""
        if kind is Kind.FORWARD:
            return right[1:].numel()
        if kind is Kind.WGRAD:
            return left[0] * left[2] * left[3]
        taps = [-(-k // s) for k, s in zip(right[2:], self.stride, strict=True)]  # the others meet no error
        return right[0] * taps[0] * taps[1]

    def sides(self, kind: Kind, shape: Sequence[int]) -> tuple[int, int]:
        """The lengths of the result as a matrix, in either order."""
        if kind is Kind.WGRAD:
            return shape[0], math.prod(shape[1:])
        return shape[1], shape[0] * math.prod(shape[2:])

    def terms(self, kind: Kind, left: torch.Tensor, right: torch.Tensor) -> tuple[int, torch.Tensor]:
        """One operand (0: left, 1: right) as rows, each of which holds all that an output sums of it."""
        if kind is Kind.FORWARD:
            return 1, right.flatten(1)
        side, tensor = (1, right) if kind is Kind.DGRAD else (0, left)
        return side, tensor.transpose(0, 1).flatten(1)

    def per_channel(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """[C] -> a shape that broadcasts over an output of `dim` axes."""
        return values.reshape((-1,) + (1,) * 2)


Geometry = LinearGeometry | ConvGeometry


def _reach(outputs: Sequence[int], stride: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """The size of the image that so many windows see."""
    return [(n - 1) * s + k for n, s, k in zip(outputs, stride, kernel, strict=True)]


def _spread(
    x: torch.Tensor, offset: Sequence[int], step: Sequence[int], size: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """[N, C, H, W] -> [N, *size, C] of zeros with x[.., i, j] at offset + step (i, j), if that is inside."""
    spread = x.new_zeros((x.shape[0], *size, x.shape[1]), dtype=dtype)
    source, target = [], []
    for start, stride, there, here in zip(offset, step, size, x.shape[2:], strict=True):
        first = max(0, -(start // stride))  # rounded up
        end = max(first, min(here, -((start - there) // stride)))
        source.append(slice(first, end))
        target.append(slice(start + stride * first, max(start + stride * end, 0), stride))
    if all(s.stop > s.start for s in source):
        spread[:, target[0], target[1]] = x[:, :, source[0], source[1]].permute(0, 2, 3, 1)
    return spread


def _patches(image: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """[N, H, W, C] -> [N H' W', kh kw C]: what each window sees."""
    windows = image.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel[0] * kernel[1] * image.shape[3])
