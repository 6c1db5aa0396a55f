"""Tensors from files of others: .npy, .npz, .safetensors, and torch checkpoints without their code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitwright.errors import (
    BitwrightError,
    FileFormatError,
    InvalidTypeError,
    InvalidValueError,
    unknown_name,
)

TORCH_SUFFIXES = (".pt", ".pth", ".th")
SUFFIXES = (".npy", ".npz", ".safetensors", *TORCH_SUFFIXES)
SHOWN_NAMES = 12


def read_tensor(path: Path, key: str | None = None) -> tuple[str, torch.Tensor]:
    """(name, float tensor) from a file; `key` says which tensor where the file holds several.

    Torch files are read with weights_only=True: numbers, never code. Nested dictionaries give dotted names.

    Raises:
        FileFormatError: no such file, an unknown ending, or not what its ending says.
        InvalidValueError: the key is missing or unknown (the message lists the names), or no elements.
        InvalidTypeError: the tensor holds no floating point.
    """
    if not path.is_file():
        raise FileFormatError("no such file", got=path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FileFormatError(f"tensors are read from {', '.join(SUFFIXES)}", got=path.name)
    try:
        name, tensor = _READERS[suffix](path, key)
    except BitwrightError:
        raise
    except Exception as error:  # numpy, zipfile, pickle, safetensors and torch each raise their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(
            f"the file is no {suffix} that can be read safely: {reason}", where=path
        ) from None
    return name, _checked(tensor, f"{path.name}, {name}")


def _checked(tensor: torch.Tensor, where: str) -> torch.Tensor:
    if not tensor.is_floating_point():
        raise InvalidTypeError(
            "only float tensors are quantised", got=str(tensor.dtype), where=where, fix="convert it first"
        )
    if tensor.is_sparse or tensor.layout is not torch.strided:
        raise InvalidTypeError("only dense tensors are quantised", got=str(tensor.layout), where=where)
    if not tensor.numel():
        raise InvalidValueError("a tensor with elements", got=f"shape {tuple(tensor.shape)}", where=where)
    tensor = tensor.detach()
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def _read_npy(path: Path, key: str | None) -> tuple[str, torch.Tensor]:
    if key is not None:
        raise InvalidValueError(
            "a .npy file holds one tensor, without a name", got=f"--key {key}", where=path
        )
    return path.stem, _from_numpy(np.load(path, allow_pickle=False), path.name)


def _read_npz(path: Path, key: str | None) -> tuple[str, torch.Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        name = _pick(key, archive.files, path)
        return name, _from_numpy(archive[name], f"{path.name}, {name}")


def _from_numpy(array: np.ndarray[Any, Any], where: str) -> torch.Tensor:
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise InvalidTypeError(
            "only float tensors of at most 64 bits are quantised",
            got=array.dtype,
            where=where,
            fix="convert it first",
        )
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _read_safetensors(path: Path, key: str | None) -> tuple[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        name = _pick(key, list(file.keys()), path)
        return name, file.get_tensor(name)


def _read_torch(path: Path, key: str | None) -> tuple[str, torch.Tensor]:
    if not (zipfile.is_zipfile(path) or path.read_bytes()[:1] == b"\x80"):
        raise pickle.UnpicklingError("neither a zip archive nor a pickle")
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    tensors = dict(_named_tensors(loaded, ""))
    name = _pick(key, list(tensors), path)
    return name or path.stem, tensors[name]


def _named_tensors(value: Any, name: str) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    return [pair for k, v in items for pair in _named_tensors(v, f"{name}.{k}" if name else str(k))]


def _pick(key: str | None, names: list[str], path: Path) -> str:
    """The name that is meant."""
    if not names:
        raise InvalidValueError("the file holds a tensor", got="none", where=path)
    if key is None:
        if len(names) == 1:
            return names[0]
        shown = ", ".join(names[:SHOWN_NAMES])
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        raise InvalidValueError(
            f"{path.name} holds {len(names)} tensors: {shown}{more}", fix="pick one by --key"
        )
    if key not in names:
        raise unknown_name("tensor", key, names)
    return key


_READERS: dict[str, Callable[[Path, str | None], tuple[str, torch.Tensor]]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    **dict.fromkeys(TORCH_SUFFIXES, _read_torch),
}
