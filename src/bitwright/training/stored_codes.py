"""Tensors on a grid as packed codes and scales, for checkpoints: no float of theirs is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bitwright.errors import BitwrightError, FileFormatError
from bitwright.formats import Binary, Block, Format, Log, Ternary, Uniform, parse
from bitwright.integer import Codes

Tensors = dict[str, torch.Tensor]


def encode(name: str, tensor: torch.Tensor, form: Format, scale: torch.Tensor | None) -> Tensors | None:
    """The codes of `tensor` under its name, and what decodes them under "scale of <name>".

    None where its values are not on the grid (they were changed since the last step): they stay floats.
    """
    held = tensor.detach().cpu()
    if isinstance(form, Block):
        codes, scales = form.encode(held)
        restored = form.decode(codes, scales)
        parts = {name: codes, _scale_name(name): scales}
    else:
        scale = None if scale is None else scale.detach().cpu()
        codes = form.encode(held, scale=scale)
        restored = form.decode(codes, scale=scale)
        packed = codes if not _packs(form) or held.dim() == 0 else _packed(form, codes)
        parts = {name: packed} | ({} if scale is None else {_scale_name(name): scale.clone()})
    return parts if torch.equal(restored.to(held.dtype), held) else None


def describe(tensor: torch.Tensor, form: Format) -> dict[str, Any]:
    """What a checkpoint's header says of one: format, shape and type."""
    return {
        "format": str(form),
        "shape": list(tensor.shape),
        "type": str(tensor.dtype).removeprefix("torch."),
    }


def decode(name: str, parts: Tensors, described: Mapping[str, Any], where: object) -> torch.Tensor:
    """The tensor that `encode` was given.

    Raises:
        FileFormatError: codes, scale, format and shape do not fit.
    """
    try:
        form, shape = parse(described["format"]), tuple(described["shape"])
        dtype = getattr(torch, described["type"])
        codes, scale = parts[name], parts.get(_scale_name(name))
        if isinstance(form, Block):
            values = form.decode(codes, scale)
        else:
            if _packs(form) and shape:
                array = Codes(form, shape, codes.contiguous().numpy()).array
                codes = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
            values = form.decode(codes, scale=scale)
        result: torch.Tensor = values.to(dtype).reshape(shape)
    except (BitwrightError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise FileFormatError(
            "stored codes fit their format and shape", got=error, where=f"{where}, {name}"
        ) from error
    return result


def scale_names(names: Mapping[str, Any]) -> set[str]:
    """The names of the scales beside those codes."""
    return {_scale_name(name) for name in names}


def _scale_name(name: str) -> str:
    return f"scale of {name}"


def _packs(form: Format) -> bool:
    """Whether the integer network's layout of codes holds them, bit by bit."""
    return isinstance(form, Uniform | Ternary | Binary | Log) and form.bits <= 32


def _packed(form: Format, codes: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(Codes.pack(form, codes.contiguous().numpy()).packed.copy())
