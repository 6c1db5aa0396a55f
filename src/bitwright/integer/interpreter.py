"""The reference interpreter: every operation in NumPy, plainly. It is the definition the engine is held to.

Products run as float64 matrix products, exact since a network keeps every partial sum below 2^53.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.formats import Binary, Rounding
from bitwright.integer.codes import storage_type
from bitwright.integer.operations import (
    SUM_LIMIT,
    Affine,
    Clip,
    Conv,
    Input,
    Linear,
    MaxPool,
    Operation,
    Output,
    Reshape,
    TensorType,
    Threshold,
    window_sizes,
)

if TYPE_CHECKING:
    from bitwright.integer.network import Network

CHUNK = 64
"""Images at a time, so that convolutions fit in memory."""


def run(network: Network, x: np.ndarray) -> np.ndarray:
    """The float32 output of a checked batch."""
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
        source = tensors.get(operation.input, x)
        apply = _RULES[type(operation)]
        tensors[operation.name] = apply(operation, source, network.types[operation.name])
    return tensors


def _input(operation: Input, x: np.ndarray, _: TensorType) -> np.ndarray:
    form = operation.format
    if x.dtype == storage_type(form):
        return x.astype(np.int64)
    if isinstance(form, Binary):
        return np.where(x >= 0, 1, -1).astype(np.int64)
    real = np.dtype(np.float64 if form.wide else np.float32)
    with np.errstate(over="ignore"):
        q = np.divide(x, np.array(operation.scale, real), dtype=real)
    # clip first: np.rint of infinity has no integer
    codes: np.ndarray = np.rint(np.clip(q, form.code_min, form.code_max)).astype(np.int64)
    return codes


def _linear(operation: Linear, a: np.ndarray, result: TensorType) -> np.ndarray:
    return _matmul(a, operation.weight.array.T, result)


def _conv(operation: Conv, a: np.ndarray, result: TensorType) -> np.ndarray:
    _, _, kh, kw = operation.weight.shape
    (sh, sw), (ph, pw) = operation.stride, operation.padding
    padded = np.pad(a, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), axis=(2, 3))
    windows = windows[:, :, ::sh, ::sw].transpose(0, 2, 3, 1, 4, 5)
    n, height, width = windows.shape[:3]
    weight = operation.weight.array.reshape(operation.weight.shape[0], -1)
    acc = _matmul(windows.reshape(n * height * width, weight.shape[1]), weight.T, result)
    return acc.reshape(n, height, width, len(weight)).transpose(0, 3, 1, 2)


def _matmul(a: np.ndarray, w: np.ndarray, result: TensorType) -> np.ndarray:
    # a network's accumulators lie below 2^53, so float64 sums are exact in any order
    assert result.bound < SUM_LIMIT
    acc: np.ndarray = (a.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)
    return acc


def _affine_sum(operation: Affine | Output, acc: np.ndarray) -> np.ndarray:
    axes = (1, -1) + (1,) * (acc.ndim - 2)
    y: np.ndarray = acc * operation.multiplier.reshape(axes) + operation.offset.reshape(axes)
    return y


def _affine(operation: Affine, acc: np.ndarray, _: TensorType) -> np.ndarray:
    y = round_shift(_affine_sum(operation, acc), operation.shift, operation.rounding)
    codes: np.ndarray = np.clip(y, operation.format.code_min, operation.format.code_max)
    return codes


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


def _threshold(operation: Threshold, acc: np.ndarray, _: TensorType) -> np.ndarray:
    spatial = (1,) * (acc.ndim - 2)
    directed = acc * operation.direction.astype(np.int64).reshape(1, -1, *spatial)
    index = np.zeros(acc.shape, dtype=np.int64)
    for k in range(operation.thresholds.shape[1]):
        index += directed >= operation.thresholds[:, k].reshape(1, -1, *spatial)
    codes: np.ndarray = np.array(operation.format.codes(), dtype=np.int64)[index]
    return codes


def _clip(operation: Clip, x: np.ndarray, _: TensorType) -> np.ndarray:
    codes: np.ndarray = np.clip(x, operation.low, operation.high)
    return codes


def _max_pool(operation: MaxPool, x: np.ndarray, result: TensorType) -> np.ndarray:
    (kh, kw), (sh, sw), (ph, pw) = operation.kernel, operation.stride, operation.padding
    lowest = np.iinfo(np.int64).min
    height, width = window_sizes(x.shape[2:], (kh, kw), (sh, sw), (ph, pw))
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=lowest)
    pooled = np.full((*x.shape[:2], height, width), lowest, dtype=np.int64)
    for i in range(kh):
        for j in range(kw):
            tap = padded[:, :, i : i + (height - 1) * sh + 1 : sh, j : j + (width - 1) * sw + 1 : sw]
            np.maximum(pooled, tap, out=pooled)
    return pooled


def _reshape(operation: Reshape, x: np.ndarray, _: TensorType) -> np.ndarray:
    return x.reshape(len(x), *operation.shape)


def _output(operation: Output, acc: np.ndarray, _: TensorType) -> np.ndarray:
    # |sum| < 2^53, so float64 holds it and scaling by a power of two is exact
    return (_affine_sum(operation, acc).astype(np.float64) * 2.0**-operation.shift).astype(np.float32)


_RULES: dict[type[Operation], Callable[[Any, np.ndarray, TensorType], np.ndarray]] = {
    Input: _input,
    Linear: _linear,
    Conv: _conv,
    Affine: _affine,
    Threshold: _threshold,
    Clip: _clip,
    MaxPool: _max_pool,
    Reshape: _reshape,
    Output: _output,
}
