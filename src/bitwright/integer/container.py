"""A safetensors file, read without copying: the header, and each tensor as a view of the file's bytes.

https://github.com/huggingface/safetensors#format: eight bytes with the length of a JSON header, the header,
then the tensors without gaps. Only integer tensors occur in a network.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import FileFormatError

DTYPES = {name: np.dtype(kind) for name, kind in {
    "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "I64": "<i8",
}.items()}  # fmt: skip
MAX_HEADER = 2_000_000
"""Bytes: thousands of operations. Parsed JSON may take thirty times its text."""
MAX_TENSOR_AXES = 8


def read_tensors(path: Path, *, mapped: bool) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the tensors of a file, read-only views of one buffer.

    Args:
        path: of the file.
        mapped: map the file instead of reading it: its pages are then read when they are first used, and
            the file must be left as it is until the arrays are gone.

    Raises:
        FileFormatError: it is no complete safetensors file of integers.
    """
    if not path.is_file():
        raise FileFormatError("the model file exists", got="no such file")
    try:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if mapped else file.read()
    except (OSError, ValueError) as error:
        raise _incomplete(error) from error
    if len(buffer) < 8:
        raise _incomplete(f"{len(buffer)} bytes")
    start = 8 + int.from_bytes(buffer[:8], "little")
    if start > min(len(buffer), MAX_HEADER):
        raise _incomplete(f"a header of {start - 8} bytes in a file of {len(buffer)}")
    header = read_json(buffer[8:start], "the header of a safetensors file")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _incomplete("metadata that is no table of texts")
    tensors: dict[str, np.ndarray] = {}
    places: list[tuple[int, int]] = []
    for name, described in header.items():
        dtype, shape, begin, end = _describe(name, described)
        if end - begin != math.prod(shape) * dtype.itemsize or end > len(buffer) - start:
            raise _incomplete(f"{name!r} of {dtype} {shape} in the bytes {begin} to {end}")
        places.append((begin, end))
        array = np.frombuffer(buffer, dtype, math.prod(shape), start + begin).reshape(shape)
        tensors[name] = array if array.flags.aligned else array.copy()
    end = 0
    for begin, after in sorted(places):
        if begin != end:
            raise _incomplete(f"a gap or an overlap at byte {begin}")
        end = after
    if end != len(buffer) - start:
        raise _incomplete(f"{len(buffer) - start} bytes of tensors instead of {end}")
    return metadata, tensors


def read_json(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object in which no key comes twice."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{what} is JSON", got=error, fix="is the file truncated?") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{what} is a JSON object", got=type(value).__name__)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key comes twice")
    return table


def _describe(name: str, described: object) -> tuple[np.dtype, tuple[int, ...], int, int]:
    if not isinstance(described, Mapping) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise _incomplete(f"{name!r} without type, shape and place")
    kind, shape, place = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise FileFormatError(f"a tensor is one of {', '.join(DTYPES)}", got=repr(kind), where=repr(name))
    for numbers in (shape, place):
        if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
            raise _incomplete(f"{name!r} with {numbers!r}")
    if 0 in shape:
        raise _incomplete(f"{name!r} with an empty shape {shape}")
    if len(shape) > MAX_TENSOR_AXES or len(place) != 2 or place[1] < place[0]:
        raise _incomplete(f"{name!r} of {shape} at {place}")
    return DTYPES[kind], tuple(shape), place[0], place[1]


def _incomplete(got: object) -> FileFormatError:
    return FileFormatError("a model file is complete safetensors", got=got, fix="is it truncated?")
