"""The training loop: epochs, evaluation, a checkpoint after each, exact resume.

Every epoch reseeds its own random numbers from (seed, epoch), and the learning rate is a function
of the step, so that a checkpoint needs no generator or scheduler state and N + M epochs equal N,
load, M.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright.data import Dataset
from bitwright.errors import InvalidValueError
from bitwright.integer import write_atomic
from bitwright.training.checkpoint import Sizes, load_checkpoint, save_checkpoint
from bitwright.training.losses import loss
from bitwright.training.machine import machine
from bitwright.training.relax import relax_
from bitwright.training.settings import Settings

CHECKPOINT, RUN, RESULT, MODEL, PICTURE = (
    "checkpoint.safetensors",
    "run.json",
    "result.json",
    "model.bw",
    "picture.png",
)
"""The files of a run folder."""


class DivergedError(InvalidValueError):
    """The loss of a training is no longer finite."""


class Watcher:
    """What wants to see a run go by: a progress bar, TensorBoard, a test. Each method may be overridden."""

    def run_begins(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """The model and the optimiser that will be trained."""

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """Epoch `epoch`, counted from 0 over the whole run, has so many steps."""

    def step_ends(self, loss: float) -> None:
        """The loss of a step that is done."""

    def epoch_ends(self, row: dict[str, Any]) -> None:
        """Epoch, loss, test error and seconds, as in the history."""


def train(
    settings: Settings,
    training: Dataset,
    test: Dataset,
    out: Path,
    *,
    watchers: tuple[Watcher, ...] = (),
    resume: bool = False,
    stop_after: int | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train as `settings` say; the run folder holds a checkpoint after each epoch.

    Args:
        settings: the run.
        training, test: the two splits.
        out: run folder.
        watchers: are told of every step and epoch.
        resume: go on from the folder's checkpoint.
        stop_after: end after this epoch (the decay still spans the whole run).

    Returns:
        The trained model in eval mode, and the result (also in result.json).

    Raises:
        DivergedError: the loss is no longer finite.
        InvalidValueError: the folder holds another run.
        FileFormatError: the folder cannot be written to.
    """
    where = machine()
    model, _ = settings.build(training)
    recipe = settings.find_recipe()
    optimizer = recipe.optimizer(model, settings.learning_rate(0.0))
    history: list[dict[str, Any]] = []
    sizes: Sizes | None = None
    if resume:
        progress = load_checkpoint(out / CHECKPOINT, model, optimizer)
        history = progress["history"]
    elif (out / CHECKPOINT).exists():
        raise InvalidValueError(
            "a run folder holds one run",
            got="a checkpoint of an earlier one",
            where=out,
            fix="go on with --resume, or choose another --out",
        )
    write_json(out / RUN, {"settings": settings.to_json()})
    if settings.examples is not None:
        training = training.subset(settings.examples)
    last = min(settings.epochs, stop_after or settings.epochs)
    steps = len(training) // settings.batch
    if steps == 0:
        raise InvalidValueError(
            "a batch is at most the training set", got=f"{settings.batch} of {len(training)}"
        )
    for watcher in watchers:
        watcher.run_begins(model, optimizer)
    with torch.random.fork_rng(devices=[]):
        for epoch in range(len(history), last):
            for watcher in watchers:
                watcher.epoch_begins(epoch, steps)
            began = time.perf_counter()
            if recipe.relax is not None and epoch >= recipe.relax.after * settings.epochs:
                relax_(model, recipe.relax.bound)
            torch.manual_seed(settings.seed * 1_000_003 + epoch)
            mean = _epoch(settings, recipe.loss, model, optimizer, training, epoch, watchers)
            row = {
                "epoch": epoch + 1,
                "loss": mean,
                "test_error": error_rate(model, test),
                "seconds": round(time.perf_counter() - began, 2),
            }
            history.append(row)
            sizes = save_checkpoint(out / CHECKPOINT, model, optimizer, {"history": history})
            for watcher in watchers:
                watcher.epoch_ends(row)
    model.eval()
    result = {
        "settings": settings.to_json(),
        "examples": {"training": len(training), "test": len(test)},
        "test_error": history[-1]["test_error"],
        "history": history,
        "machine": where,
    }
    if sizes is not None:
        result["checkpoint_bytes"] = {"tensors": sizes.written, "in_memory": sizes.plain}
    write_json(out / RESULT, result)
    return model, result


def _epoch(
    settings: Settings,
    loss_name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    training: Dataset,
    epoch: int,
    watchers: tuple[Watcher, ...],
) -> float:
    model.train()
    order = torch.randperm(len(training)).numpy()
    labels = torch.from_numpy(training.labels)
    steps = len(training) // settings.batch
    total = 0.0
    for step in range(steps):
        chosen = order[step * settings.batch : (step + 1) * settings.batch]
        x = torch.from_numpy(training.preprocessing(training.images[chosen]))
        rate = settings.learning_rate((epoch + step / steps) / settings.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("step_scale", 1.0)
        optimizer.zero_grad()
        value = loss(loss_name, model(x), labels[chosen])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        current = value.item()
        if not math.isfinite(current):
            raise DivergedError(
                "the loss stays finite",
                got=current,
                where=f"step {step + 1} of epoch {epoch + 1}",
                fix="lower --lr; the checkpoint of the epoch before is intact",
            )
        total += current
        for watcher in watchers:
            watcher.step_ends(current)
    return total / steps


def batches(dataset: Dataset, size: int = 250) -> Iterator[torch.Tensor]:
    """The inputs of a data set, float32 [<= size, C, H, W]."""
    for start in range(0, len(dataset), size):
        yield torch.from_numpy(dataset.inputs(start, min(start + size, len(dataset))))


def error_rate(model: nn.Module, dataset: Dataset) -> float:
    """Share of wrong answers, in percent, in eval mode."""
    training = model.training
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(x).argmax(1) for x in batches(dataset)])
    model.train(training)
    return float((answers != torch.from_numpy(dataset.labels)).double().mean()) * 100


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a result or settings file, whole or not at all."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())
