"""Where numbers become codes, and where integers leave: input, output, argmax."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats import Format, Int, UInt
from bitwright.integer.operations.base import (
    SUM_LIMIT,
    TensorType,
    Unary,
    check_array,
    check_channels,
    check_shape,
    check_shift,
    check_sums,
    code_type,
)

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Input(Unary):
    """float32 -> level = clip(round-half-even(x / scale) + z) - z, z the zero point; or codes as they are.

    One IEEE float32 division (float64 for formats with numbers beyond 24 bits). Its `input` is "".
    """

    kind = "input"
    shape: tuple[int, ...]
    format: Format
    scale: float
    zero_point: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        return ()

    @property
    def counts(self) -> bool:
        """Whether codes are the numbers themselves, as tokens are."""
        return isinstance(self.format, Int | UInt) and self.scale == 1.0 and self.zero_point == 0

    def infer(self, *sources: TensorType) -> TensorType:
        if self.input:
            raise InvalidValueError('an input takes no tensor: its input is ""', got=repr(self.input))
        check_shape("an input", self.shape)
        made = code_type(self.shape, self.format, self.zero_point)
        if not 0 < self.scale < FLOAT32_MAX:
            got = self.scale if isinstance(self.scale, float) else "an int out of range"
            raise InvalidValueError("a scale is positive and finite in float32", got=got)
        self.format.scale_or_default(self.scale)
        return made


@dataclass(frozen=True, eq=False)
class Output(Unary):
    """float32((acc M[c] + B[c]) 2^-s): exact in float64, then one rounding to float32."""

    kind = "output"
    multiplier: np.ndarray
    offset: np.ndarray
    shift: int

    def result(self, x: TensorType) -> TensorType:
        channels = check_channels(x)
        check_array("multiplier", self.multiplier, np.int64, (channels,))
        check_array("offset", self.offset, np.int64, (channels,))
        check_shift(self.shift)
        check_sums([x], self.multiplier[None], self.offset)
        return TensorType(x.shape, -SUM_LIMIT, SUM_LIMIT)


@dataclass(frozen=True, eq=False)
class Argmax(Unary):
    """int64: the channel of the largest number, the first of equals; (C, ...) -> (...)."""

    kind = "argmax"

    def result(self, x: TensorType) -> TensorType:
        return TensorType(x.shape[1:], 0, check_channels(x) - 1)
