"""The products of a training step by their definition, in int64 (every bound here is below 2^63)."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from bitwright.nn.arithmetic import (
    FLOAT32_EXACT,
    FLOAT64_EXACT,
    INT32_EXACT,
    Path,
    fit_int8,
    split,
)
from bitwright.nn.geometry import Kind, LinearGeometry, TransposedGeometry
from bitwright.nn.product import sums


def reference(geometry, kind, left, right, shape):
    """The integers of one product of levels."""
    left, right = left.to(torch.int64).numpy(), right.to(torch.int64).numpy()
    result = np.zeros(shape, np.int64)
    if isinstance(geometry, LinearGeometry):
        shapes = {Kind.FORWARD: "ni,oi->no", Kind.DGRAD: "no,oi->ni", Kind.WGRAD: "no,ni->oi"}
        flat = [t.reshape(-1, t.shape[-1]) for t in (left, right)]
        return torch.from_numpy(np.einsum(shapes[kind], *flat).reshape(shape))
    # places [N, A, *places] join an image [N, B, *size] by a weight [A, B / G, *kernel]; a convolution makes
    # places from images, a transposed one images from places
    transposed = isinstance(geometry, TransposedGeometry)
    conv = geometry.conv if transposed else geometry
    if kind is Kind.WGRAD:
        places, image, weight = (right, left, result) if transposed else (left, right, result)
    elif (kind is Kind.FORWARD) != transposed:
        places, image, weight = result, left, right
    else:
        places, image, weight = left, result, right
    many, few = weight.shape[0] // conv.groups, weight.shape[1]
    taps = itertools.product(*map(range, places.shape[2:]), *map(range, weight.shape[2:]))
    for at in taps:
        window, tap = at[: conv.rank], at[conv.rank :]
        steps = zip(window, tap, conv.stride, conv.steps, conv.pads, strict=True)
        there = tuple(v * s + i * d - before for v, i, s, d, (before, _) in steps)
        if not all(0 <= u < n for u, n in zip(there, image.shape[2:], strict=True)):
            continue
        for group in range(conv.groups):
            a, b = slice(group * many, (group + 1) * many), slice(group * few, (group + 1) * few)
            one, other, w = places[:, a][:, :, *window], image[:, b][:, :, *there], weight[a][:, :, *tap]
            if result is places:
                one += other @ w.T
            elif result is image:
                other += one @ w
            else:
                w += one.T @ other
    return torch.from_numpy(result)


def shapes_of(geometry, kind, a_shape, w_shape):
    """(left, right, result)."""
    y_shape = tuple(geometry.output(torch.Size(a_shape), torch.Size(w_shape)))
    return {
        Kind.FORWARD: (a_shape, w_shape, y_shape),
        Kind.DGRAD: (y_shape, w_shape, a_shape),
        Kind.WGRAD: (y_shape, a_shape, w_shape),
    }[kind]


def levels(operand, shape, seed, extreme=None):
    """Random levels, or those at the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    if extreme is not None:
        ends = {"high": (operand.highest,) * 2, "low": (operand.lowest,) * 2}
        low, high = ends.get(extreme, (operand.lowest, operand.highest))
        return torch.where(torch.rand(shape, generator=generator) < 0.5, low, high).to(torch.float32)
    return torch.randint(operand.lowest, operand.highest + 1, shape, generator=generator).to(torch.float32)


def allowed(operands, reduction):
    """The paths that the widths alone prove."""
    widths = reduction * operands[0].level_max * operands[1].level_max
    if widths <= FLOAT32_EXACT:
        yield Path.FLOAT32
    if fit_int8(operands) and widths <= INT32_EXACT:
        yield Path.INT8
    if split(operands, tuple(reduction * o.level_max for o in operands)):
        yield Path.SPLIT
    if widths <= FLOAT64_EXACT:
        yield Path.FLOAT64


def check_every_path(geometry, kind, a_shape, w_shape, operands, seed=0, extreme=None):
    """Every path that the widths prove gives the integers of the definition, and so does the choice."""
    left_shape, right_shape, shape = shapes_of(geometry, kind, a_shape, w_shape)
    left = levels(operands[0], left_shape, seed, extreme)
    right = levels(operands[1], right_shape, seed + 1, extreme)
    expected = reference(geometry, kind, left, right, shape)
    reduction = geometry.reduction(kind, left.shape, right.shape)
    assert expected.abs().max() <= reduction * operands[0].level_max * operands[1].level_max
    paths = [None, *allowed(operands, reduction)]
    assert len(paths) > 1
    for path in paths:
        got = sums(geometry, kind, left, right, list(shape), operands, path=path)
        assert got.dtype == (torch.float32 if Path.FLOAT32 in paths else torch.float64)
        assert got.is_contiguous()
        assert torch.equal(got.to(torch.int64), expected), path
    return expected
