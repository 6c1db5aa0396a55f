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
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialize

from bitwright.errors import BitwrightError, FileFormatError, InvalidTypeError, InvalidValueError
from bitwright.formats import Format
from bitwright.integer.codes import Codes
from bitwright.integer.container import MAX_HEADER, read_json, read_tensors
from bitwright.integer.network import Network
from bitwright.integer.operations import Operation
from bitwright.integer.reader import Reader, typed

MAGIC = "bitwright-network"
VERSION = 3
"""What is written."""
READABLE = (1, 2, 3)
FIELDS = {"format", "version", "operations", "meta", "sha256"}


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
    if len(_canonical(header)) > MAX_HEADER // 2:  # it is JSON inside JSON, beside the list of tensors
        raise InvalidValueError(
            f"names and meta of a network take at most {MAX_HEADER // 2:,} bytes",
            got=len(_canonical(header)),
            where=path,
        )
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
        check: read the whole file, compare the SHA-256 of header and tensors, and check every stored code.
            Without it the file is mapped: structure, shapes, small arrays and bounds are checked now, the
            codes of a weight when they are first read, the SHA-256 never. The file must then be replaced,
            not edited, while the network lives.

    Raises:
        FileFormatError: missing, truncated, edited, from a newer version, or not such a file.
    """
    path = Path(path)
    try:
        text, header, tensors = _read(path, mapped=not check)
        if check and not _fits(text, header, tensors):
            raise FileFormatError(
                "the SHA-256 in the header is that of the contents",
                got="another: the file was edited or damaged",
                fix="fetch or write it again (check=False, or --no-check, reads it all the same)",
            )
        reader = Reader(path, header["version"], tensors, deferred=not check)
        operations = [reader.operation(d) for d in typed(header, "operations", list)]
        if tensors:
            raise FileFormatError("every tensor belongs to an operation", got=sorted(tensors))
        if header["version"] < 3 and any(o.kind == "output" for o in operations[:-1]):
            raise FileFormatError("an argmax of an output came with version 3", got=header["version"])
        return Network(operations, typed(header, "meta", dict))
    except FileFormatError as error:
        raise FileFormatError(str(error), where=path) from error
    except (BitwrightError, TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise FileFormatError("the file describes a well-formed network", got=error, where=path) from error


@dataclass(frozen=True)
class Identity:
    """What a file says of itself."""

    bytes: int
    version: int
    sha256: str
    fits: bool
    """Whether the SHA-256 is that of the contents."""


def identify(path: str | Path) -> Identity:
    """Size, version and hash of a model file; raises FileFormatError where it is none."""
    path = Path(path)
    try:
        text, header, tensors = _read(path, mapped=True)
    except FileFormatError as error:
        raise FileFormatError(str(error), where=path) from error
    fits = _fits(text, header, tensors)
    return Identity(path.stat().st_size, header["version"], str(header["sha256"]), fits)


def _read(path: Path, *, mapped: bool) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """The header as text and as checked JSON, and the tensors."""
    metadata, tensors = read_tensors(path, mapped=mapped)
    text = metadata.get("bitwright", "null")
    header = read_json(text, "the bitwright header")
    if header.get("format") != MAGIC:
        raise FileFormatError(f"the header names the format {MAGIC!r}", got=header.get("format"))
    version = header.get("version")
    if type(version) is not int or version not in READABLE:
        raise FileFormatError(
            f"this library reads the versions {', '.join(map(str, READABLE))}",
            got=repr(version),
            fix="use the bitwright that wrote the file, or a newer one",
        )
    if set(header) != FIELDS:
        raise FileFormatError(f"the header has the fields {sorted(FIELDS)}", got=sorted(header))
    return text, header, tensors


def _fits(text: str, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the header is spelt as it was hashed, and the hash is that of header and tensors."""
    return text == _canonical(header) and header["sha256"] == _digest(header, tensors)


def _describe(operation: Operation, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """One operation as JSON; its arrays go to `tensors`."""
    described: dict[str, Any] = {"op": operation.kind}
    for item in fields(operation):
        value = getattr(operation, item.name)
        if isinstance(value, Codes):
            tensors[f"{operation.name}.{item.name}"] = value.data
            value = {"format": value.format.name, "shape": list(value.shape), "norm": value.norm}
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
