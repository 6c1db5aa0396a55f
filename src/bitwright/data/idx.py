"""IDX: the file format of MNIST."""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt

from bitwright.errors import FileFormatError

_UBYTE = 0x08
_OTHER_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


def read_idx(data: bytes, *, where: object = None) -> npt.NDArray[np.uint8]:
    """The array of an unpacked IDX file of unsigned bytes.

    An IDX file is: two zero bytes, a type byte (8 is uint8), a byte with the number of dimensions,
    each dimension as a big-endian uint32, then the elements in row-major order and nothing more.

    Args:
        data: the whole file.
        where: what an error message calls it.

    Returns:
        uint8, in memory of its own.

    Raises:
        FileFormatError: anything else. Nothing is allocated before the length is seen to fit.
    """
    if len(data) < 4 or data[:2] != b"\0\0":
        raise FileFormatError(
            "an IDX file must begin with two zero bytes, a type and a number of dimensions",
            got=data[:4].hex(" ") or "an empty file",
            where=where,
        )
    kind, dimensions = data[2], data[3]
    if kind != _UBYTE:
        raise FileFormatError(
            "an IDX file must hold uint8 (type 8)",
            got=f"type {kind} ({_OTHER_TYPES.get(kind, 'unknown')})",
            where=where,
        )
    header = 4 + 4 * dimensions
    if dimensions == 0 or len(data) < header:
        raise FileFormatError(
            "an IDX file must have one dimension at least, and all of their sizes",
            got=f"{dimensions} dimensions in {len(data)} bytes",
            where=where,
        )
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if dimensions > 4 or math.prod(shape) == 0 or math.prod(shape) != len(data) - header:
        shown = " x ".join(map(str, shape[:5])) + (" x ..." if dimensions > 5 else "")
        raise FileFormatError(
            "an IDX file must have one to four dimensions, none 0, and the elements that they say",
            got=f"{shown} and {len(data) - header} bytes of elements",
            where=where,
            fix="the file is truncated or edited: get it again",
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()
