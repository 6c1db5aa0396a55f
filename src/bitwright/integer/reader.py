"""From the JSON and the arrays of a model file to operations; strict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError, FileFormatError
from bitwright.formats import Rounding, parse
from bitwright.integer.codes import WHOLE, Codes, Declared, check_format, storage_type
from bitwright.integer.operations import OPERATIONS, Operation

MAX_NUMBERS = 8
"""In a list of a field: an axis each."""
VERSION_1 = ("input", "linear", "conv", "affine", "threshold", "clip", "max_pool", "reshape", "output")
"""The operations of version 1, whose fields had no defaults."""


@dataclass
class Reader:
    """Builds operations and takes their arrays out of `tensors`.

    Args:
        path: for messages.
        version: of the file.
        tensors: by name; what is left at the end belongs to nobody.
        deferred: leave the contents of stored codes to be checked when they are first read.
    """

    path: Path
    version: int
    tensors: dict[str, np.ndarray]
    deferred: bool

    def operation(self, described: Any) -> Operation:
        """One operation from its JSON object."""
        if not isinstance(described, dict):
            raise FileFormatError("an operation is a JSON object", got=type(described).__name__)
        described = dict(described)
        kind = described.pop("op", None)
        known = [k for k in OPERATIONS if self.version > 1 or k in VERSION_1]
        if not isinstance(kind, str) or kind not in known:
            raise FileFormatError(f"an operation is one of {', '.join(known)}", got=repr(kind))
        cls, name = OPERATIONS[kind], typed(described, "name", str)
        values: dict[str, Any] = {}
        for item in fields(cls):
            where, key = f"{item.name} of operation {name!r}", f"{name}.{item.name}"
            if item.type == "np.ndarray":
                values[item.name] = self._take(key).copy()
                continue
            if self.version == 1 and item.default is not MISSING:
                continue  # a field that came later
            if item.name not in described:
                raise FileFormatError("every field is present", got="nothing", where=where)
            try:
                values[item.name] = self._decode(str(item.type), described.pop(item.name), key)
            except BitwrightError as error:
                raise FileFormatError(str(error), where=where) from error
        if described:
            raise FileFormatError(
                "an operation has no other fields", got=sorted(described), where=f"operation {name!r}"
            )
        return cls(**values)

    def _decode(self, kind: str, value: Any, key: str) -> Any:
        if kind == "Codes":
            return self._codes(value, key)
        if kind == "Format":
            return parse(value)
        if kind == "Rounding":
            return Rounding.of(value)
        if kind == "tuple[int, ...]":
            return _integers(value)
        if kind == "tuple[str, ...]":
            if not isinstance(value, list) or any(not isinstance(n, str) for n in value):
                raise FileFormatError("a list of names", got=repr(value))
            return tuple(value)
        expected: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int)}
        if not isinstance(value, expected[kind]) or isinstance(value, bool):
            raise FileFormatError(f"a value of type {kind}", got=repr(value))
        return value

    def _codes(self, value: Any, key: str) -> Codes:
        expected = {"format", "shape", "norm"} if self.version > 1 else {"format", "shape"}
        if not isinstance(value, dict) or set(value) != expected:
            raise FileFormatError(f"stored codes have {sorted(expected)} and nothing else", got=value)
        shape, form = _integers(typed(value, "shape", list)), parse(typed(value, "format", str))
        check_format(form)
        array = self._take(key)
        if self.version == 1:
            if form.bits == 1 and form.name == "binary":
                return Codes(form, shape, array)
            if array.shape != shape or array.dtype != storage_type(form):
                raise FileFormatError(f"codes of {form} are {storage_type(form)} {shape}", got=array.shape)
            return Codes(form, shape, array) if form.bits in WHOLE else Codes.pack(form, array)
        norm = value["norm"]
        if type(norm) is not int or not 0 <= norm < 1 << 63:
            raise FileFormatError("a norm is an integer from 0 to 2^63 - 1", got=repr(norm))
        codes = Codes(form, shape, array, Declared(norm, f"tensor {key!r} of {self.path}"))
        if not self.deferred:
            codes.check()
        return codes

    def _take(self, key: str) -> np.ndarray:
        if key not in self.tensors:
            raise FileFormatError("every array of an operation is in the file", got=f"no tensor {key!r}")
        return self.tensors.pop(key)


def typed(table: Mapping[str, Any], key: str, kind: type) -> Any:
    """The value of a key, which has to be of that type."""
    value = table.get(key)
    if not isinstance(value, kind):
        raise FileFormatError(f"{key!r} is a {kind.__name__}", got=type(value).__name__)
    return value


def _integers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(n) is not int for n in value) or len(value) > MAX_NUMBERS:
        raise FileFormatError("a short list of integers", got=repr(value))
    return tuple(value)
