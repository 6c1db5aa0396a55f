"""Checkpoints: all that a run needs to go on, bit for bit, in one file without pickle.

What a recipe's `primal` and `state` put on a grid is written as packed codes and scales, never as floats.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import nn

from bitwright.errors import FileFormatError
from bitwright.integer import write_atomic
from bitwright.optim import stored_tensors
from bitwright.training import stored_codes

VERSION = 2
READABLE = (1, 2)
"""Version 1 knows no codes."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a checkpoint's tensors, and of the same tensors in memory."""

    written: int
    plain: int


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> Sizes:
    """Write model, optimiser state and `progress` (JSON values), whole or not at all; returns the sizes."""
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            elif value is not None:
                raise FileFormatError(
                    "optimiser state is tensors",
                    got=f"{key} = {value!r}",
                    where=type(optimizer).__name__,
                )
    plain = sum(t.numel() * t.element_size() for t in tensors.values())
    codes = _encode(tensors, model, optimizer)
    # shared storage would be refused, and views would drag their base along
    tensors = {name: t.detach().clone().contiguous() for name, t in tensors.items()}
    header = {"format": "bitwright-checkpoint", "version": VERSION, "progress": progress, "codes": codes}
    written = sum(t.numel() * t.element_size() for t in tensors.values())
    write_atomic(path, serialize(tensors, metadata={"bitwright": json.dumps(header)}))
    return Sizes(written, plain)


def _encode(
    tensors: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Replace every tensor on a grid by its codes; returns what decodes them, by name."""
    name_of = {parameter: f"model.{name}" for name, parameter in model.named_parameters()}
    index_of = {
        parameter: index
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    described = {}
    for stored in stored_tensors(optimizer):
        parameter, key = stored.parameter, stored.state
        name = name_of.get(parameter) if key is None else f"optimizer.{index_of[parameter]}.{key}"
        if name is None or name not in tensors:
            continue
        codes = stored_codes.encode(name, tensors[name], stored.format, stored.scale)
        if codes is not None:
            described[name] = stored_codes.describe(tensors[name], stored.format)
            tensors |= codes
    return described


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Restore what `save_checkpoint` wrote; returns the progress.

    Raises:
        FileFormatError: missing, truncated, or of another model.
    """
    if not path.is_file():
        raise FileFormatError("a run to go on with has a checkpoint", got="none", where=path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("bitwright", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError("a checkpoint is complete safetensors", got=error, where=path) from error
    if not isinstance(header, dict) or header.get("format") != "bitwright-checkpoint":
        raise FileFormatError("the file is a bitwright checkpoint", got=header, where=path)
    if header.get("version") not in READABLE:
        raise FileFormatError(
            f"this library reads checkpoints of version {' and '.join(map(str, READABLE))}",
            got=header.get("version"),
            where=path,
        )
    _decode(tensors, header.get("codes", {}), path)
    model_state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    try:
        model.load_state_dict(model_state)
    except RuntimeError as error:
        raise FileFormatError(
            "the checkpoint fits the model",
            got=error,
            where=path,
            fix="same recipe, model and width?",
        ) from error
    if optimizer is not None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                index, _, key = name.removeprefix("optimizer.").partition(".")
                if not index.isdecimal():
                    raise FileFormatError("optimiser state is numbered", got=name, where=path)
                state.setdefault(int(index), {})[key] = tensor
        whole = optimizer.state_dict()
        whole["state"] = state
        optimizer.load_state_dict(whole)
    progress = header.get("progress")
    if not isinstance(progress, dict) or not isinstance(progress.get("history"), list):
        raise FileFormatError("a checkpoint holds the history of its run", got=progress, where=path)
    return progress


def _decode(tensors: dict[str, torch.Tensor], described: Any, path: Path) -> None:
    """Replace codes by their values."""
    if not isinstance(described, dict) or not described.keys() <= tensors.keys():
        raise FileFormatError("the header names the tensors that are codes", got=described, where=path)
    values = {name: stored_codes.decode(name, tensors, what, path) for name, what in described.items()}
    for name in stored_codes.scale_names(described):
        tensors.pop(name, None)
    tensors |= values
