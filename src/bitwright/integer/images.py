"""How tensors of any rank become images (C, H, W), which the kernels know, and windows over them.

Every tensor keeps its C order: (C, H, W) of a vector is (C, 1, 1), of (C, L) is (C, 1, L), of more axes
(C, first, rest).
"""

from __future__ import annotations

import math

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.integer.operations import AvgPool, Conv, ConvTranspose, MaxPool
from bitwright.kernels.tensors import Shape, Window

MAX_MOVED = 1 << 26


def image_shape(shape: tuple[int, ...]) -> Shape:
    """(C, H, W) of one example."""
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    if len(shape) >= 3:
        return shape[0], shape[1], math.prod(shape[2:])
    return math.prod(shape), 1, 1


def conv_window(operation: Conv | ConvTranspose) -> Window:
    """The window of a convolution; the kernel is the weight's."""
    return Window((1, 1), _pair(operation.stride), _pads(operation.pads), _pair(operation.dilations))


def pool_window(operation: MaxPool | AvgPool) -> Window:
    """The window of a pool."""
    return Window(_pair(operation.kernel), _pair(operation.stride), _pads(operation.pads))


def image_weight(weight: np.ndarray) -> np.ndarray:
    """[N, C], [N, C, k] or [N, C, kh, kw] as [N, C, kh, kw]."""
    return weight.reshape(*weight.shape[:2], *(1,) * (4 - weight.ndim), *weight.shape[2:])


def spread(shape: Shape, window: Window, size: tuple[int, int]) -> tuple[np.ndarray, Shape]:
    """A transposed convolution as a plain one: its input with zeros between, over which the flipped kernel
    slides by one, without padding.

    Input position v lies at v s + d (k - 1) - top; what falls beside the canvas is cut away.

    Returns:
        int64: the input's element for each of the canvas in C order, -1 where it is empty; and its shape.
    """
    channels, *sizes = shape
    places, extents = [], []
    for n, out, k, s, d, (before, _) in zip(
        sizes, size, window.kernel, window.stride, window.dilation, window.pads, strict=True
    ):
        extent = out + d * (k - 1)
        at = np.arange(n) * s + d * (k - 1) - before
        places.append(at[(at >= 0) & (at < extent)])
        extents.append((extent, (at >= 0) & (at < extent)))
    (height, rows), (width, columns) = extents
    check_moved(channels * height * width)
    canvas = np.full((channels, height, width), -1, np.int64)
    source = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    canvas[:, places[0][:, None], places[1]] = source[:, rows][:, :, columns]
    return canvas.reshape(-1), (channels, height, width)


def check_moved(count: int) -> int:
    """`count`, if a copy can take so many numbers one by one: each has an entry in a list."""
    if count > MAX_MOVED:
        raise InvalidValueError("a copy in another order moves at most 2^26 numbers", got=count)
    return count


def dense(weight: np.ndarray, groups: int) -> np.ndarray:
    """A grouped weight [N, C / groups, kh, kw] as [N, C, kh, kw], 0 between groups."""
    channels, width = weight.shape[:2]
    full = np.zeros((channels, groups * width, *weight.shape[2:]), weight.dtype)
    for n in range(channels):
        first = n * groups // channels * width
        full[n, first : first + width] = weight[n]
    return full


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _pads(pads: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    return ((0, 0), pads[0]) if len(pads) == 1 else (pads[0], pads[1])
