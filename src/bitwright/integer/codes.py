"""Stored codes in one canonical layout: one bit for binary, whole bytes otherwise.

Layout "bits": row n holds the codes of output channel n in C order; code i sits in byte i // 8, bit i % 8
(least significant first); 1 is +1 and 0 is -1. Each row starts at a new byte; padding bits are 0.
Layout "bytes": the smallest little-endian integer type that holds every code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Format, describe_codes


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of one stored tensor, packed.

    Args:
        format: of the codes.
        shape: [rows, ...] of the tensor.
        data: the packed layout: uint8 [rows, ceil(K / 8)] for binary, else an integer array of `shape`.
    """

    format: Format
    shape: tuple[int, ...]
    data: np.ndarray

    @staticmethod
    def pack(form: Format, array: np.ndarray) -> Codes:
        """From an integer array of codes with at least two axes; a code that does not exist is an error."""
        if isinstance(form, Binary):
            _check_range(form, array)
            rows = array.reshape(array.shape[0], -1) > 0
            return Codes(form, array.shape, np.packbits(rows, axis=1, bitorder="little"))
        _check_range(form, array)
        return Codes(form, array.shape, np.ascontiguousarray(array.astype(storage_type(form))))

    def __post_init__(self) -> None:
        packed = isinstance(self.format, Binary)
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        shape = (rows, -(-columns // 8)) if packed else self.shape
        dtype = np.dtype(np.uint8) if packed else storage_type(self.format)
        if self.data.shape != shape or self.data.dtype != dtype:
            raise InvalidValueError(
                f"codes of {self.format} with shape {self.shape} are stored as {dtype} {shape}",
                got=f"{self.data.dtype} {self.data.shape}",
            )
        if not packed:
            _check_range(self.format, self.data)
        elif columns % 8 and bool((self.data[:, -1] >> columns % 8).any()):
            raise InvalidValueError("padding bits are zero", got="a set bit behind a row's last code")

    @cached_property
    def array(self) -> np.ndarray:
        """The codes as integers of `shape`."""
        if not isinstance(self.format, Binary):
            return self.data
        columns = math.prod(self.shape[1:])
        bits = np.unpackbits(self.data, axis=1, count=columns, bitorder="little")
        return (bits.astype(np.int8) * 2 - 1).reshape(self.shape)


def storage_type(form: Format) -> np.dtype:
    """The smallest NumPy integer type that holds every code."""
    signed = form.code_min < 0
    for bits in (8, 16, 32):
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if low <= form.code_min and form.code_max <= high:
            return np.dtype(f"{'' if signed else 'u'}int{bits}")
    raise InvalidValueError("codes have at most 32 bits", got=form)


def _check_range(form: Format, array: np.ndarray) -> None:
    bad = (array < form.code_min) | (array > form.code_max)
    if isinstance(form, Binary):
        bad |= array == 0
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InvalidValueError(
            f"codes of {form} are {describe_codes(form)}",
            got=int(array[index]),
            where=f"index {index}",
        )
