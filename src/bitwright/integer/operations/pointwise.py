"""Number by number: from sums to codes, and from codes to codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Format, Rounding
from bitwright.integer.codes import Codes, level_range
from bitwright.integer.operations.base import (
    SUM_LIMIT,
    Join,
    TensorType,
    Unary,
    check_array,
    check_channels,
    check_sums,
    code_type,
    rounded_type,
)

MAX_TABLE = 256
"""Entries of a table."""


@dataclass(frozen=True, eq=False)
class Affine(Unary):
    """level = clip(round((acc M[c] + B[c]) 2^-s) + z) - z; M, B: int64 per channel, s: 0 to 62."""

    kind = "affine"
    multiplier: np.ndarray
    offset: np.ndarray
    shift: int
    format: Format
    rounding: Rounding
    zero_point: int = 0

    def result(self, x: TensorType) -> TensorType:
        channels = check_channels(x)
        check_array("multiplier", self.multiplier, np.int64, (channels,))
        check_array("offset", self.offset, np.int64, (channels,))
        made = rounded_type(x.shape, self.format, self.zero_point, self.shift, self.rounding)
        check_sums([x], self.multiplier[None], self.offset)
        return made


@dataclass(frozen=True, eq=False)
class Add(Join):
    """level = clip(round((x_1 M[1, c] + ... + x_n M[n, c] + B[c]) 2^-s) + z) - z: sums of several scales.

    multiplier: int64 [inputs, C]; offset: int64 [C].
    """

    kind = "add"
    multiplier: np.ndarray
    offset: np.ndarray
    shift: int
    format: Format
    rounding: Rounding
    zero_point: int = 0

    def infer(self, *sources: TensorType) -> TensorType:
        check_joined("an add", sources)
        shapes = {x.shape for x in sources}
        if len(shapes) > 1:
            raise InvalidValueError("an add takes tensors of one shape", got=sorted(shapes))
        channels = check_channels(sources[0])
        check_array("multiplier", self.multiplier, np.int64, (len(sources), channels))
        check_array("offset", self.offset, np.int64, (channels,))
        made = rounded_type(sources[0].shape, self.format, self.zero_point, self.shift, self.rounding)
        check_sums(sources, self.multiplier, self.offset)
        return made


@dataclass(frozen=True, eq=False)
class Threshold(Unary):
    """level = codes[number of k with direction[c] acc >= thresholds[c, k]] - z.

    thresholds: int64 [C, codes - 1], ascending; direction: int8 [C], +1 or -1.
    """

    kind = "threshold"
    thresholds: np.ndarray
    direction: np.ndarray
    format: Format
    zero_point: int = 0

    def result(self, x: TensorType) -> TensorType:
        made = code_type(x.shape, self.format, self.zero_point)
        channels, levels = check_channels(x), len(self.format.codes())
        check_array("thresholds", self.thresholds, np.int64, (channels, levels - 1))
        check_array("direction", self.direction, np.int8, (channels,))
        if bool((np.abs(self.direction) != 1).any()):
            raise InvalidValueError("directions are +1 and -1", got=np.unique(self.direction))
        if bool((self.thresholds[:, 1:] < self.thresholds[:, :-1]).any()):  # differences may overflow
            raise InvalidValueError("the thresholds of a channel ascend", got="a descending pair")
        return made


@dataclass(frozen=True, eq=False)
class Clip(Unary):
    """min(max(level, low), high): a ReLU is low = 0."""

    kind = "clip"
    low: int
    high: int

    def result(self, x: TensorType) -> TensorType:
        if not -SUM_LIMIT < self.low <= self.high < SUM_LIMIT:
            raise InvalidValueError("low is at most high, both below 2^53", got=f"{self.low}, {self.high}")
        low, high = (min(max(v, self.low), self.high) for v in (x.low, x.high))
        if (low, high) == (x.low, x.high):
            return x
        inside = x.low <= low <= high <= x.high and not isinstance(x.format, Binary)  # -1, +1: none between
        return TensorType(x.shape, low, high, *((x.format, x.zero_point) if inside else ()))


@dataclass(frozen=True, eq=False)
class Table(Unary):
    """level = entries[c, level - first] - z: any function of one code, such as a sigmoid.

    entries: int64 [C, n] or [1, n], n <= 256, codes of `format`; levels of the input lie in first to
    first + n - 1.
    """

    kind = "table"
    first: int
    entries: np.ndarray
    format: Format
    zero_point: int = 0

    def result(self, x: TensorType) -> TensorType:
        channels = check_channels(x)
        rows, columns = self.entries.shape if self.entries.ndim == 2 else (0, 0)
        if self.entries.dtype != np.int64 or rows not in (1, channels) or not 1 <= columns <= MAX_TABLE:
            raise InvalidValueError(
                f"entries is int64 (1, n) or ({channels}, n), n from 1 to {MAX_TABLE}",
                got=f"{self.entries.dtype} {self.entries.shape}",
            )
        if not self.first <= x.low <= x.high < self.first + columns:
            raise InvalidValueError(
                f"a table from {self.first} to {self.first + columns - 1} has an entry for every level",
                got=f"levels {x.low} to {x.high}",
            )
        made = code_type(x.shape, self.format, self.zero_point)
        form = self.format
        bad = (self.entries < form.code_min) | (self.entries > form.code_max)
        bad |= (self.entries == 0) & (0 not in form.codes())
        if bool(bad.any()):
            raise InvalidValueError(f"entries are codes of {form}", got=int(self.entries[bad][0]))
        return made


@dataclass(frozen=True, eq=False)
class Embedding(Unary):
    """level[d, ...] = weight[level, d] - z: a row of stored codes for each token, channels first.

    weight: [tokens, D]; the input's levels lie in 0 to tokens - 1.
    """

    kind = "embedding"
    weight: Codes
    zero_point: int = 0

    def result(self, x: TensorType) -> TensorType:
        if len(self.weight.shape) != 2:
            raise InvalidValueError("an embedding has rows of codes", got=f"weight {self.weight.shape}")
        if not 0 <= x.low <= x.high < self.weight.shape[0]:
            raise InvalidValueError(
                f"tokens lie between 0 and {self.weight.shape[0] - 1}",
                got=f"levels {x.low} to {x.high}",
                fix="put a clip in front",
            )
        shape, form = (self.weight.shape[1], *x.shape), self.weight.format
        if self.zero_point:
            return code_type(shape, form, self.zero_point)
        return TensorType(shape, *level_range(form), form)


def check_joined(what: str, sources: tuple[TensorType, ...]) -> None:
    """Raise where an operation on several tensors has none."""
    if not sources:
        raise InvalidValueError(f"{what} takes at least one tensor", got="none")
