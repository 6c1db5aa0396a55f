"""Checkpoints: all that a run needs to go on, bit for bit, in one file without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import nn

from bitwright.errors import FileFormatError
from bitwright.integer import write_atomic

VERSION = 1


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write model, optimiser state and `progress` (JSON values); whole or not at all."""
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
    # shared storage would be refused, and views would drag their base along
    tensors = {name: t.detach().clone().contiguous() for name, t in tensors.items()}
    header = {"format": "bitwright-checkpoint", "version": VERSION, "progress": progress}
    write_atomic(path, serialize(tensors, metadata={"bitwright": json.dumps(header)}))


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
    if header.get("version") != VERSION:
        raise FileFormatError(
            f"this library reads checkpoints of version {VERSION}",
            got=header.get("version"),
            where=path,
        )
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
