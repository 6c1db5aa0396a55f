"""The reference interpreter: every operation in NumPy, plainly. It is the definition the engine is held to.

Tensors are int64 levels [N, *shape]. Products run as float64 matrix products, exact since a network keeps
every partial sum below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.formats import Binary, Rounding
from bitwright.integer.codes import storage_type
from bitwright.integer.operations import (
    SUM_LIMIT,
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Embedding,
    Input,
    Linear,
    MaxPool,
    Operation,
    Output,
    Reshape,
    Table,
    TensorType,
    Threshold,
    Transpose,
)

if TYPE_CHECKING:
    from bitwright.integer.network import Network

CHUNK = 64
"""Images at a time, so that convolutions fit in memory."""


def run(network: Network, x: np.ndarray) -> np.ndarray:
    """The output of a checked batch."""
    last = network.operations[-1].name
    parts = [_tensors(network, x[i : i + CHUNK])[last] for i in range(0, max(len(x), 1), CHUNK)]
    return np.concatenate(parts)


def trace(network: Network, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of a checked batch, by operation."""
    parts = [_tensors(network, x[i : i + CHUNK]) for i in range(0, max(len(x), 1), CHUNK)]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _tensors(network: Network, x: np.ndarray) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for operation in network.operations:
        sources = [tensors[name] for name in operation.inputs] or [x]
        apply = _RULES[type(operation)]
        tensors[operation.name] = apply(operation, network.types[operation.name], *sources)
    return tensors


# --- ends -------------------------------------------------------------------------------------------


def _input(operation: Input, _: TensorType, x: np.ndarray) -> np.ndarray:
    form, zero = operation.format, operation.zero_point
    if x.dtype == storage_type(form):
        return x.astype(np.int64) - zero
    if isinstance(form, Binary):
        return np.where(x >= 0, 1, -1).astype(np.int64)
    real = np.dtype(np.float64 if form.wide else np.float32)
    with np.errstate(over="ignore"):
        q = np.divide(x, np.array(operation.scale, real), dtype=real)
    # clip first: np.rint of infinity has no integer; in float64, which holds every bound
    q = np.clip(q.astype(np.float64), form.code_min - zero, form.code_max - zero)
    levels: np.ndarray = np.rint(q).astype(np.int64)
    return levels


def _output(operation: Output, _: TensorType, acc: np.ndarray) -> np.ndarray:
    # |sum| < 2^53, so float64 holds it and scaling by a power of two is exact
    y = acc * _channels(operation.multiplier, acc) + _channels(operation.offset, acc)
    numbers: np.ndarray = (y.astype(np.float64) * 2.0**-operation.shift).astype(np.float32)
    return numbers


def _argmax(operation: Argmax, _: TensorType, x: np.ndarray) -> np.ndarray:
    first: np.ndarray = np.argmax(x, axis=1).astype(np.int64)
    return first  # NumPy takes the first of equals


# --- products ---------------------------------------------------------------------------------------


def _linear(operation: Linear, result: TensorType, a: np.ndarray) -> np.ndarray:
    acc = _matmul(np.moveaxis(a, 1, -1), operation.weight.levels.T, result)
    return np.moveaxis(acc, -1, 1)


def _conv(operation: Conv, result: TensorType, a: np.ndarray) -> np.ndarray:
    """One matrix product for each tap and group; (C, L) is (C, 1, L)."""
    w, (strides, pads, dilations) = _images(operation)
    a = np.pad(_image(a), ((0, 0), (0, 0), *pads))
    size = _image_size(result)
    acc = np.zeros((len(a), len(w), *size), np.int64)
    for i, j in np.ndindex(w.shape[2:]):
        tap = a[:, :, *_taps((i, j), strides, dilations, size)]
        acc += _grouped(operation, tap, w[:, :, i, j], result)
    return acc.reshape(len(a), *result.shape)


def _conv_transpose(operation: ConvTranspose, result: TensorType, a: np.ndarray) -> np.ndarray:
    """Every input position spreads over a canvas, from which the padding is cut away."""
    w, (strides, pads, dilations) = _images(operation)
    a = _image(a)
    size = _image_size(result)
    canvas = np.zeros((len(a), len(w), *(n + sum(p) for n, p in zip(size, pads, strict=True))), np.int64)
    for i, j in np.ndindex(w.shape[2:]):
        places = _taps((i, j), strides, dilations, a.shape[2:])
        canvas[:, :, *places] += _grouped(operation, a, w[:, :, i, j], result)
    (top, _), (left, _) = pads
    cut = canvas[:, :, top : top + size[0], left : left + size[1]]
    return cut.reshape(len(a), *result.shape)


Pairs = tuple[tuple[int, int], tuple[tuple[int, int], ...], tuple[int, int]]


def _images(operation: Conv | ConvTranspose) -> tuple[np.ndarray, Pairs]:
    """Weight [O, C / groups, kh, kw], and (stride, pads, dilation) of both axes."""
    w, pads = operation.weight.levels, operation.pads
    stride, dilation = operation.stride, operation.dilations
    if operation.rank == 1:
        w, pads, stride, dilation = w[:, :, None], ((0, 0), *pads), (1, *stride), (1, *dilation)
    return w, ((stride[0], stride[1]), pads, (dilation[0], dilation[1]))


def _image(a: np.ndarray) -> np.ndarray:
    return a[:, :, None] if a.ndim == 3 else a


def _image_size(result: TensorType) -> tuple[int, int]:
    return (1, result.shape[1]) if len(result.shape) == 2 else (result.shape[1], result.shape[2])


def _taps(
    tap: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int], size: tuple[int, ...]
) -> tuple[slice, ...]:
    """Where the windows' taps (i, j) lie: i d, i d + s, ... for each axis."""
    return tuple(
        slice(i * d, i * d + (n - 1) * s + 1, s)
        for i, d, s, n in zip(tap, dilation, stride, size, strict=True)
    )


def _grouped(operation: Conv | ConvTranspose, a: np.ndarray, w: np.ndarray, result: TensorType) -> np.ndarray:
    """[N, C, H, W] times [O, C / groups], group by group."""
    n, _, height, width = a.shape
    groups = operation.groups
    a = a.reshape(n, groups, w.shape[1], height * width)
    acc = _matmul(w.reshape(groups, -1, w.shape[1]), a, result)
    return acc.reshape(n, len(w), height, width)


def _matmul(a: np.ndarray, b: np.ndarray, result: TensorType) -> np.ndarray:
    # a network's accumulators lie below 2^53, so float64 sums are exact in any order
    assert result.bound < SUM_LIMIT
    acc: np.ndarray = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)
    return acc


# --- number by number -------------------------------------------------------------------------------


def _channels(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """[C] shaped to broadcast along the channels of [N, C, ...]."""
    return values.reshape(1, -1, *(1,) * (like.ndim - 2))


def _affine(operation: Affine, _: TensorType, acc: np.ndarray) -> np.ndarray:
    y = acc * _channels(operation.multiplier, acc) + _channels(operation.offset, acc)
    return _requantise(operation, y)


def _add(operation: Add, _: TensorType, *terms: np.ndarray) -> np.ndarray:
    y = _channels(operation.offset, terms[0])
    for x, multiplier in zip(terms, operation.multiplier, strict=True):
        y = y + x * _channels(multiplier, x)
    return _requantise(operation, y)


def _requantise(operation: Affine | Add, y: np.ndarray) -> np.ndarray:
    form, zero = operation.format, operation.zero_point
    codes = round_shift(y, operation.shift, operation.rounding) + zero
    levels: np.ndarray = np.clip(codes, form.code_min, form.code_max) - zero
    return levels


def round_shift(y: np.ndarray, shift: int, rounding: Rounding) -> np.ndarray:
    """y 2^-shift, rounded, in int64: an arithmetic shift floors, then one up where the rest says so."""
    if shift == 0:
        return y
    below = y >> shift
    rest, half = y - (below << shift), 1 << shift - 1
    up = {
        Rounding.NEAREST_EVEN: (rest > half) | ((rest == half) & (below & 1 == 1)),
        Rounding.NEAREST_AWAY: (rest > half) | ((rest == half) & (y >= 0)),
        Rounding.FLOOR: np.zeros_like(rest, dtype=bool),
        Rounding.CEIL: rest > 0,
        Rounding.TOWARD_ZERO: (rest > 0) & (y < 0),
    }[rounding]
    rounded: np.ndarray = below + up
    return rounded


def _threshold(operation: Threshold, _: TensorType, acc: np.ndarray) -> np.ndarray:
    directed = acc * _channels(operation.direction.astype(np.int64), acc)
    index = np.zeros(acc.shape, dtype=np.int64)
    for limits in operation.thresholds.T:
        index += directed >= _channels(limits, acc)
    codes = np.array(operation.format.codes(), dtype=np.int64)
    levels: np.ndarray = codes[index] - operation.zero_point
    return levels


def _clip(operation: Clip, _: TensorType, x: np.ndarray) -> np.ndarray:
    levels: np.ndarray = np.clip(x, operation.low, operation.high)
    return levels


def _table(operation: Table, _: TensorType, x: np.ndarray) -> np.ndarray:
    rows = np.arange(len(operation.entries))  # one for each channel, or one for all
    levels: np.ndarray = operation.entries[_channels(rows, x), x - operation.first] - operation.zero_point
    return levels


def _embedding(operation: Embedding, _: TensorType, x: np.ndarray) -> np.ndarray:
    rows = operation.weight.levels[x].astype(np.int64) - operation.zero_point
    return np.moveaxis(rows, -1, 1)


# --- pooling and shape ------------------------------------------------------------------------------


def _max_pool(operation: MaxPool, result: TensorType, x: np.ndarray) -> np.ndarray:
    return _pool(operation, result, x, np.iinfo(np.int64).min, np.maximum)


def _avg_pool(operation: AvgPool, result: TensorType, x: np.ndarray) -> np.ndarray:
    return _pool(operation, result, x, 0, np.add)


def _pool(
    operation: MaxPool | AvgPool, result: TensorType, x: np.ndarray, outside: int, combine: np.ufunc
) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), *operation.pads), constant_values=outside)
    pooled = np.full((len(x), *result.shape), outside, dtype=np.int64)
    for tap in np.ndindex(operation.kernel):
        places = (
            slice(i, i + (n - 1) * s + 1, s)
            for i, n, s in zip(tap, result.shape[1:], operation.stride, strict=True)
        )
        combine(pooled, padded[:, :, *places], out=pooled)
    return pooled


def _reshape(operation: Reshape, _: TensorType, x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), *operation.shape)


def _transpose(operation: Transpose, _: TensorType, x: np.ndarray) -> np.ndarray:
    return x.transpose(0, *(axis + 1 for axis in operation.axes))


def _concat(operation: Concat, _: TensorType, *sources: np.ndarray) -> np.ndarray:
    return np.concatenate(sources, axis=1)


_RULES: dict[type[Operation], Callable[..., Any]] = {
    Input: _input,
    Linear: _linear,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    Affine: _affine,
    Threshold: _threshold,
    Clip: _clip,
    Add: _add,
    Concat: _concat,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    Reshape: _reshape,
    Transpose: _transpose,
    Embedding: _embedding,
    Table: _table,
    Argmax: _argmax,
    Output: _output,
}
