"""The operations of an integer network: a closed list of frozen values.

docs/integer-network.md gives each its MUST semantics; `interpreter.py` is their executable definition.
Tensors are named after the operation that makes them. Shapes leave out the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Format, Rounding, Ternary, Uniform
from bitwright.integer.codes import Codes

SUM_LIMIT = 1 << 53
"""Every accumulator and affine sum stays below it in magnitude."""


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor: its shape without the batch, and the range of its integers."""

    shape: tuple[int, ...]
    low: int
    high: int

    @property
    def bound(self) -> int:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation. `input` names the operation whose tensor it takes."""

    kind: ClassVar[str]
    name: str
    input: str

    def infer(self, x: TensorType) -> TensorType:
        """The type of the result; raises where `x` does not fit."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Input(Operation):
    """float32 -> codes: clip(round-half-even(x / scale)), one IEEE float32 division; or codes as they are."""

    kind = "input"
    shape: tuple[int, ...]
    format: Format
    scale: float

    def infer(self, x: TensorType) -> TensorType:
        self.format.scale_or_default(self.scale)
        if not self.shape or any(n < 1 for n in self.shape):
            raise InvalidValueError("an input has a shape of positive sizes", got=self.shape)
        return TensorType(self.shape, self.format.code_min, self.format.code_max)


@dataclass(frozen=True, eq=False)
class Linear(Operation):
    """acc[o] = sum_i a[i] w[o, i], exactly."""

    kind = "linear"
    weight: Codes

    def infer(self, x: TensorType) -> TensorType:
        if len(self.weight.shape) != 2 or x.shape != self.weight.shape[1:]:
            raise InvalidValueError(
                "a linear operation takes one vector of its weight's width",
                got=f"input {x.shape}, weight {self.weight.shape}",
            )
        bound = _weight_norm(self.weight) * x.bound
        return _sum_type((self.weight.shape[0],), bound)


@dataclass(frozen=True, eq=False)
class Conv(Operation):
    """acc[o, y, x] = sum_{c, i, j} a[c, y sy + i - py, x sx + j - px] w[o, c, i, j], level 0 outside."""

    kind = "conv"
    weight: Codes
    stride: tuple[int, int]
    padding: tuple[int, int]

    def infer(self, x: TensorType) -> TensorType:
        if len(self.weight.shape) != 4 or len(x.shape) != 3 or x.shape[0] != self.weight.shape[1]:
            raise InvalidValueError(
                "a convolution takes (C, H, W) with its weight's channels",
                got=f"input {x.shape}, weight {self.weight.shape}",
            )
        _, _, kh, kw = self.weight.shape
        size = window_sizes(x.shape[1:], (kh, kw), self.stride, self.padding)
        return _sum_type((self.weight.shape[0], *size), _weight_norm(self.weight) * x.bound)


@dataclass(frozen=True, eq=False)
class Affine(Operation):
    """code = clip(round((acc M + B) 2^-s)); M, B: int64 per channel (the first axis), s: 0 to 62."""

    kind = "affine"
    multiplier: np.ndarray
    offset: np.ndarray
    shift: int
    format: Format
    rounding: Rounding

    def infer(self, x: TensorType) -> TensorType:
        check_affine(x, self.multiplier, self.offset, self.shift)
        if not isinstance(self.format, Uniform | Ternary):
            raise InvalidValueError("an affine operation makes uniform codes", got=self.format)
        if self.rounding is Rounding.STOCHASTIC:
            raise InvalidValueError("an integer network draws no random numbers", got="stochastic")
        return TensorType(x.shape, self.format.code_min, self.format.code_max)


@dataclass(frozen=True, eq=False)
class Threshold(Operation):
    """code = codes[number of k with direction[c] acc >= thresholds[c, k]].

    thresholds: int64 [C, codes - 1], ascending; direction: int8 [C], +1 or -1.
    """

    kind = "threshold"
    thresholds: np.ndarray
    direction: np.ndarray
    format: Format

    def infer(self, x: TensorType) -> TensorType:
        channels, levels = x.shape[0], len(self.format.codes())
        _check_array("thresholds", self.thresholds, np.int64, (channels, levels - 1))
        _check_array("direction", self.direction, np.int8, (channels,))
        if bool((np.abs(self.direction) != 1).any()):
            raise InvalidValueError("directions are +1 and -1", got=np.unique(self.direction))
        if bool((self.thresholds[:, 1:] < self.thresholds[:, :-1]).any()):  # differences may overflow
            raise InvalidValueError("the thresholds of a channel ascend", got="a descending pair")
        return TensorType(x.shape, self.format.code_min, self.format.code_max)


@dataclass(frozen=True, eq=False)
class Clip(Operation):
    """min(max(code, low), high): a ReLU is low = 0."""

    kind = "clip"
    low: int
    high: int

    def infer(self, x: TensorType) -> TensorType:
        if not -SUM_LIMIT < self.low <= self.high < SUM_LIMIT:
            raise InvalidValueError("low is at most high, both below 2^53", got=f"{self.low}, {self.high}")
        low, high = (min(max(v, self.low), self.high) for v in (x.low, x.high))
        return TensorType(x.shape, low, high)


@dataclass(frozen=True, eq=False)
class MaxPool(Operation):
    """The largest code of each window; positions outside the tensor do not count."""

    kind = "max_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def infer(self, x: TensorType) -> TensorType:
        if len(x.shape) != 3:
            raise InvalidValueError("a max-pool takes (C, H, W)", got=x.shape)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise InvalidValueError(
                "padding is at most half the kernel", got=f"{self.padding}, {self.kernel}"
            )
        size = window_sizes(x.shape[1:], self.kernel, self.stride, self.padding)
        return TensorType((x.shape[0], *size), x.low, x.high)


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """The same codes in C order under another shape."""

    kind = "reshape"
    shape: tuple[int, ...]

    def infer(self, x: TensorType) -> TensorType:
        if any(n < 1 for n in self.shape) or math.prod(self.shape) != math.prod(x.shape):
            raise InvalidValueError("a reshape keeps every element", got=f"{x.shape} to {self.shape}")
        return TensorType(self.shape, x.low, x.high)


@dataclass(frozen=True, eq=False)
class Output(Operation):
    """float32((acc M + B) 2^-s): exact in float64, then one rounding to float32."""

    kind = "output"
    multiplier: np.ndarray
    offset: np.ndarray
    shift: int

    def infer(self, x: TensorType) -> TensorType:
        check_affine(x, self.multiplier, self.offset, self.shift)
        return TensorType(x.shape, -SUM_LIMIT, SUM_LIMIT)


OPERATIONS: dict[str, type[Operation]] = {
    op.kind: op for op in (Input, Linear, Conv, Affine, Threshold, Clip, MaxPool, Reshape, Output)
}


def window_sizes(
    size: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, int]:
    """Output height and width of a window that slides over (H, W)."""
    if min(*kernel, *stride) < 1 or min(padding) < 0 or max(*kernel, *stride, *padding) > 1 << 16:
        raise InvalidValueError(
            "kernels and strides are positive, paddings not negative",
            got=f"kernel {kernel}, stride {stride}, padding {padding}",
        )
    height, width = (
        (n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)
    )
    if height < 1 or width < 1:
        raise InvalidValueError("a window fits into its padded input", got=f"kernel {kernel} over {size}")
    return height, width


def check_affine(x: TensorType, multiplier: np.ndarray, offset: np.ndarray, shift: int) -> None:
    """Channel arrays of the right type and length, and every sum below 2^53."""
    for name, array in (("multiplier", multiplier), ("offset", offset)):
        _check_array(name, array, np.int64, (x.shape[0],))
    if not 0 <= shift <= 62:
        raise InvalidValueError("a shift lies between 0 and 62", got=shift)
    largest = max(
        (abs(int(m)) * x.bound + abs(int(b)) for m, b in zip(multiplier, offset, strict=True)),
        default=0,
    )
    if largest >= SUM_LIMIT:
        raise InvalidValueError("acc M + B stays below 2^53", got=f"up to {largest}")


def _weight_norm(weight: Codes) -> int:
    if isinstance(weight.format, Binary):
        return math.prod(weight.shape[1:])
    rows = np.abs(weight.array.astype(np.int64)).reshape(weight.shape[0], -1)
    return int(rows.sum(axis=1).max())


def _sum_type(shape: tuple[int, ...], bound: int) -> TensorType:
    if bound >= SUM_LIMIT:
        raise InvalidValueError("an accumulator stays below 2^53", got=f"a bound of {bound}")
    return TensorType(shape, -bound, bound)


def _check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InvalidValueError(f"{name} is {np.dtype(dtype)} {shape}", got=f"{array.dtype} {array.shape}")
