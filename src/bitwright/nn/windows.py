"""Windows that slide along the axes behind the channel, and what they see as the rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def reach(
    outputs: Sequence[int], stride: Sequence[int], kernel: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """The size of the image that so many windows see."""
    sizes = zip(outputs, stride, kernel, dilation, strict=True)
    return [(n - 1) * s + d * (k - 1) + 1 for n, s, k, d in sizes]


def spread(
    x: torch.Tensor, offset: Sequence[int], step: Sequence[int], size: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    """[N, C, *here] -> [N, *size, C] of zeros with x[.., i, j] at offset + step (i, j), if that is inside."""
    image = x.new_zeros((x.shape[0], *size, x.shape[1]), dtype=dtype)
    source, target = [slice(None)], [slice(None)]
    for start, stride, there, here in zip(offset, step, size, x.shape[2:], strict=True):
        first = max(0, -(start // stride))  # rounded up
        end = max(first, min(here, -((start - there) // stride)))
        source.append(slice(first, end))
        target.append(slice(start + stride * first, max(start + stride * end, 0), stride))
    if all(s.stop > s.start for s in source[1:]):
        image[tuple(target)] = x.movedim(1, -1)[tuple(source)]
    return image


def patches(
    image: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> torch.Tensor:
    """[N, *size, C] -> [G, N * windows, taps * C / G]: what each window sees of each group."""
    windows, rank = image, len(kernel)
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), start=1):
        windows = windows.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    windows = torch.unflatten(windows, 1 + rank, (groups, -1))  # [N, *places, G, C / G, *taps]
    windows = windows.movedim((1 + rank, 2 + rank), (0, -1))
    return windows.reshape(groups, -1, math.prod(kernel) * image.shape[-1] // groups)
