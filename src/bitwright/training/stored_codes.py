"""Tensors on a grid as packed codes and scales, in checkpoints and in memory: no float of theirs is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bitwright.errors import BitwrightError, FileFormatError
from bitwright.formats import Binary, Block, Format, Log, Ternary, UInt, Uniform, parse
from bitwright.integer import Codes
from bitwright.integer.codes import BLOCK, WHOLE, storage_type

Tensors = dict[str, torch.Tensor]


def codes_of(
    tensor: torch.Tensor, form: Format, scale: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """(codes, scale) of a tensor; of a block format, the codes of its scales. All on the host.

    None where its values are not on the grid (they were changed since the last step).
    """
    held = tensor.detach().cpu()
    if isinstance(form, Block):
        codes, scale = form.encode(held)
    else:
        scale = None if scale is None else scale.detach().cpu().clone()
        codes = form.encode(held, scale=scale)
    restored = values_of(form, codes, scale)
    return (codes, scale) if torch.equal(restored.to(held.dtype), held) else None


def values_of(form: Format, codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """What `codes_of` was given."""
    values: torch.Tensor
    values = form.decode(codes, scale) if isinstance(form, Block) else form.decode(codes, scale=scale)
    return values


def encode(name: str, tensor: torch.Tensor, form: Format, scale: torch.Tensor | None) -> Tensors | None:
    """The codes of `tensor` under its name, and what decodes them under "scale of <name>".

    None where its values are not on the grid: they stay floats.
    """
    found = codes_of(tensor, form, scale)
    if found is None:
        return None
    codes, scale = found
    if _packs(form) and codes.dim():
        codes = torch.from_numpy(Codes.pack(form, codes.contiguous().numpy()).packed.copy())
    return {name: codes} | ({} if scale is None else {_scale_name(name): scale})


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
        if _packs(form) and shape:
            array = Codes(form, shape, codes.contiguous().numpy()).array
            codes = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        result: torch.Tensor = values_of(form, codes, scale).to(dtype).reshape(shape)
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


def pack_bits(form: Format, codes: torch.Tensor) -> torch.Tensor:
    """Codes of any shape -> uint8 [ceil(codes * bits / 8)]: one row of the layout that files have."""
    carrier, row = _carrier(form), codes.contiguous().view(1, -1).numpy()
    pieces = [Codes.pack(carrier, row[:, i : i + BLOCK]) for i in range(0, row.shape[1], BLOCK)]
    return torch.from_numpy(np.concatenate([piece.packed.view(np.uint8).reshape(-1) for piece in pieces]))


def unpack_bits(form: Format, bits: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The codes that `pack_bits` was given."""
    carrier = _carrier(form)
    packed = bits.numpy().view(storage_type(carrier) if carrier.bits in WHOLE else np.uint8)
    array = Codes(carrier, (1, shape.numel()), packed.reshape(1, -1)).array
    if array.dtype in (np.uint16, np.uint32):  # torch computes with neither
        array = array.astype(np.int64)
    return torch.from_numpy(array).view(shape)


def _carrier(form: Format) -> Format:
    """The format whose packing holds the codes of `form`: bit patterns are packed as unsigned integers."""
    form = form.element if isinstance(form, Block) else form
    return form if _packs(form) else UInt(form.bits)
