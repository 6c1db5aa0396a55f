"""The file of an integer network: safetensors with one JSON header, checked before it is used.

docs/model-file.md is the format's page. The header's SHA-256 covers the header itself and every tensor,
so that no edited byte passes unseen.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from bitwright.errors import BitwrightError, FileFormatError, InvalidTypeError
from bitwright.formats import Format, Rounding, parse
from bitwright.integer.codes import Codes
from bitwright.integer.network import Network
from bitwright.integer.operations import OPERATIONS, Operation

MAGIC = "bitwright-network"
VERSION = 1


def save(network: Network, path: str | Path) -> None:
    """Write `network` to `path`: to a temporary file beside it, synced, then renamed."""
    tensors: dict[str, np.ndarray] = {}
    header = {
        "format": MAGIC,
        "version": VERSION,
        "operations": [_describe(o, tensors) for o in network.operations],
        "meta": network.meta,
    }
    try:
        header = json.loads(_canonical(header))  # as it will be read, which is what is hashed
    except (TypeError, ValueError) as error:
        raise InvalidTypeError("the meta of a network is JSON", got=error, where=path) from error
    header["sha256"] = _digest(header, tensors)
    data = serialize(tensors, metadata={"bitwright": _canonical(header)})
    write_atomic(Path(path), data)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a folder that cannot be written to is a clear error."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise FileFormatError(
            "the folder can be written to", got=error, where=path, fix="choose another with --out"
        ) from error
    finally:  # neither an error nor Ctrl-C leaves half a file behind
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def load(path: str | Path, *, check: bool = True) -> Network:
    """Read a network.

    Args:
        path: a file that `Network.save` wrote.
        check: compare the SHA-256 of header and tensors. Structure, shapes, ranges and padding are
            checked in any case.

    Raises:
        FileFormatError: missing, truncated, edited, from a newer version, or not such a file.
    """
    path = Path(path)
    text, header, tensors = _read(path)
    try:
        if header.get("format") != MAGIC:
            raise FileFormatError(f"the header names the format {MAGIC!r}", got=header.get("format"))
        version = header.get("version")
        if type(version) is not int or version != VERSION:
            raise FileFormatError(
                f"this library reads version {VERSION}",
                got=version,
                fix="use the bitwright that wrote the file, or a newer one",
            )
        if check and (text != _canonical(header) or header.get("sha256") != _digest(header, tensors)):
            raise FileFormatError(
                "the SHA-256 in the header is that of the contents",
                got="another: the file was edited or damaged",
                fix="fetch or write it again (check=False, or --no-check, reads it all the same)",
            )
        operations = [_build(d, tensors) for d in _typed(header, "operations", list)]
        if tensors:
            raise FileFormatError("every tensor belongs to an operation", got=sorted(tensors))
        return Network(operations, _typed(header, "meta", dict))
    except FileFormatError as error:
        raise FileFormatError(str(error), where=path) from error
    except (BitwrightError, TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise FileFormatError("the file describes a well-formed network", got=error, where=path) from error


def _read(path: Path) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise FileFormatError("the model file exists", got="no such file", where=path)
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("bitwright", "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileFormatError(
            "a model file is complete safetensors", got=error, where=path, fix="is it truncated?"
        ) from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError("the header is JSON", got=error, where=path) from error
    if not isinstance(header, dict):
        raise FileFormatError("the file holds a bitwright header", got=type(header).__name__, where=path)
    return text, header, tensors


def _describe(operation: Operation, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """One operation as JSON; its arrays go to `tensors`."""
    described: dict[str, Any] = {"op": operation.kind}
    for item in fields(operation):
        value = getattr(operation, item.name)
        if isinstance(value, Codes):
            tensors[f"{operation.name}.{item.name}"] = value.data
            value = {"format": value.format.name, "shape": list(value.shape)}
        elif isinstance(value, np.ndarray):
            tensors[f"{operation.name}.{item.name}"] = value
            continue
        elif isinstance(value, Format):
            value = value.name
        elif isinstance(value, Enum):
            value = value.value
        elif isinstance(value, tuple):
            value = list(value)
        described[item.name] = value
    return described


def _build(described: Any, tensors: dict[str, np.ndarray]) -> Operation:
    """One operation from JSON and its arrays, which are taken out of `tensors`; strict."""
    if not isinstance(described, dict):
        raise FileFormatError("an operation is a JSON object", got=type(described).__name__)
    described = dict(described)
    kind = described.pop("op", None)
    cls = OPERATIONS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise FileFormatError(f"an operation is one of {', '.join(OPERATIONS)}", got=repr(kind))
    name = _typed(described, "name", str)
    values: dict[str, Any] = {}
    for item in fields(cls):
        where, key = f"{item.name} of operation {name!r}", f"{name}.{item.name}"
        if item.type == "np.ndarray":
            values[item.name] = _take(tensors, key)
            continue
        if item.name not in described:
            raise FileFormatError("every field is present", got="nothing", where=where)
        value = described.pop(item.name)
        try:
            values[item.name] = _decode(str(item.type), value, tensors, key)
        except BitwrightError as error:
            raise FileFormatError(str(error), where=where) from error
    if described:
        raise FileFormatError(
            "an operation has no other fields", got=sorted(described), where=f"operation {name!r}"
        )
    return cls(**values)


def _decode(kind: str, value: Any, tensors: dict[str, np.ndarray], key: str) -> Any:
    if kind == "Codes":
        if not isinstance(value, dict):
            raise FileFormatError("stored codes have a format and a shape", got=value)
        shape = _integers(_typed(value, "shape", list))
        if not shape or any(n < 1 for n in shape):
            raise FileFormatError("a weight has a shape of positive sizes", got=shape)
        return Codes(parse(_typed(value, "format", str)), shape, _take(tensors, key))
    if kind == "Format":
        return parse(value)
    if kind == "Rounding":
        return Rounding.of(value)
    if kind.startswith("tuple"):
        numbers = _integers(value)
        if "..." not in kind and len(numbers) != 2:
            raise FileFormatError("a pair of numbers", got=value)
        return numbers
    expected: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int)}
    if not isinstance(value, expected[kind]) or isinstance(value, bool):
        raise FileFormatError(f"a value of type {kind}", got=repr(value))
    return value


def _integers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(n) is not int for n in value) or len(value) > 8:
        raise FileFormatError("a short list of integers", got=repr(value))
    return tuple(value)


def _typed(table: Mapping[str, Any], key: str, kind: type) -> Any:
    value = table.get(key)
    if not isinstance(value, kind):
        raise FileFormatError(f"{key!r} is a {kind.__name__}", got=type(value).__name__)
    return value


def _take(tensors: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in tensors:
        raise FileFormatError("every array of an operation is in the file", got=f"no tensor {key!r}")
    return tensors.pop(key)


def _canonical(header: Mapping[str, Any]) -> str:
    return json.dumps(header, sort_keys=True)


def _digest(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the header without its own hash, then of each tensor: name, type, shape, bytes."""
    sha = hashlib.sha256()
    bare = {key: value for key, value in header.items() if key != "sha256"}
    sha.update(_canonical(bare).encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
