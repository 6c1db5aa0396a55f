"""What is done for one job of an experiment: by kind, from its images to its row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bitwright.data import Dataset
from bitwright.errors import InvalidValueError
from bitwright.experiments.compiled import find_compiler
from bitwright.experiments.definition import Job, Scale
from bitwright.experiments.exactness import backends, counts, left_out, verify_everywhere
from bitwright.integer import load
from bitwright.kernels import available_isas
from bitwright.lowering import NotLowerableError
from bitwright.recipes import is_quantised
from bitwright.training import (
    CHECKPOINT,
    MODEL,
    RUN,
    DivergedError,
    Settings,
    Watcher,
    finish,
    machine,
    train,
)

SMOKE_PART = 10
"""A smoke run trains on and measures so many times fewer examples."""

VERIFIED = 1000
"""Test images on which a trained network is compared with its integer network, on the fastest backend."""

Advance = Callable[[float], None]
"""Called with the work that was done, in training steps."""


@dataclass(frozen=True)
class Splits:
    """The images of one job."""

    training: Dataset
    test: Dataset


def cut(whole: Splits, job: Job, scale: Scale) -> Splits:
    """The images that settings and scale leave: the first ones; of those a tenth, for smoke."""
    training = whole.training.subset(min(job.settings.examples or 1 << 62, len(whole.training)))
    test = whole.test.subset(min(scale.test_examples or 1 << 62, len(whole.test)))
    if scale.is_smoke:
        part = max(len(training) // SMOKE_PART, job.settings.batch)
        training = training.subset(min(part, len(training)))
        test = test.subset(max(len(test) // SMOKE_PART, 1))
    return Splits(training, test)


def work(kind: str, job: Job, splits: Splits, scale: Scale) -> float:
    """About how many training steps a job is worth: comparing a batch counts as one."""
    settings = job.settings
    steps = float(settings.epochs * (len(splits.training) // settings.batch))
    if kind == "exactness":
        few = min(scale.slow_examples, len(splits.test))
        # the other instruction sets, the interpreter and compiled C
        others = len(available_isas()) + (find_compiler() is not None)
        steps += (len(splits.test) + others * few) / settings.batch
    return steps


def measure(kind: str, job: Job, splits: Splits, scale: Scale, out: Path, advance: Advance) -> dict[str, Any]:
    """The row of one job: its figure as `value`, and how it came about, as JSON values.

    Args:
        kind: one of `KINDS`.
        job, splits, scale: what is run.
        out: run folder; a half-done training in it goes on, bit for bit.
        advance: is told of the work that was done.
    """
    return KINDS[kind].run(job, splits, scale, out, advance)


def _test_error(job: Job, splits: Splits, scale: Scale, out: Path, advance: Advance) -> dict[str, Any]:
    """Kind `train`: the error after the last epoch; its integer network is compared on the way."""
    try:
        model, result = _train(job, splits, out, advance)
    except DivergedError as error:
        examples = {"training": len(splits.training), "test": len(splits.test)}
        return {"value": None, "diverged": str(error), "examples": examples, "machine": machine()}
    row = {"value": result["test_error"], **_kept(result)}
    if is_quantised(model) and "not_lowered" not in result:
        network = load(out / MODEL)
        images = splits.test.subset(min(VERIFIED, len(splits.test)))
        row["verified"] = counts(
            verify_everywhere(model, network, images, len(images), chosen=backends(network)[:1])
        )
    return row


def _differing_codes(job: Job, splits: Splits, scale: Scale, out: Path, advance: Advance) -> dict[str, Any]:
    """Kind `exactness`: how many codes differ, over every backend."""
    began = time.perf_counter()
    model, result = _train(job, splits, out, advance)
    if "not_lowered" in result:
        raise NotLowerableError(**result["not_lowered"])
    network = load(out / MODEL)
    batch = job.settings.batch
    checks = verify_everywhere(
        model, network, splits.test, scale.slow_examples, lambda images: advance(images / batch)
    )
    return _kept(result) | {
        "value": sum(check.differing for check in checks),
        "test_error": result["test_error"],
        "left_out": left_out(network),
        "verified": counts(checks),
        "seconds": round(time.perf_counter() - began, 1),
    }


@dataclass(frozen=True)
class Kind:
    """What an experiment measures of each run.

    Args:
        measure: what the figures are.
        run: (job, splits, scale, out, advance) -> the row, with the figure as `value`.
    """

    measure: str
    run: Callable[[Job, Splits, Scale, Path, Advance], dict[str, Any]]


KINDS = {
    "train": Kind("test error (%)", _test_error),
    "exactness": Kind("differing codes", _differing_codes),
}


class _Steps(Watcher):
    """Tells of the steps of a training, of those before it was resumed at once."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.has_begun = False

    def epoch_begins(self, epoch: int, steps: int) -> None:
        if not self.has_begun:
            self.advance(float(epoch * steps))
        self.has_begun = True

    def step_ends(self, loss: float) -> None:
        self.advance(1.0)


def _train(job: Job, splits: Splits, out: Path, advance: Advance) -> tuple[nn.Module, dict[str, Any]]:
    """Train, or go on where an interrupted training stopped."""
    settings = replace(job.settings, examples=None)  # the images are cut already
    resume = (out / CHECKPOINT).exists()
    if resume and Settings.read(out / RUN).to_json() != json.loads(json.dumps(settings.to_json())):
        raise InvalidValueError(
            "a half-done training goes on with its own settings",
            got="others",
            where=out,
            fix="remove the folder, or choose another --out",
        )
    steps = _Steps(advance)
    model, result = train(settings, splits.training, splits.test, out, watchers=(steps,), resume=resume)
    return model, finish(settings, model, splits.test, out, result, picture=False)


def _kept(result: dict[str, Any]) -> dict[str, Any]:
    """What a row keeps of a training's result."""
    kept = ("examples", "history", "weight_bits", "not_lowered", "machine")
    return {key: result[key] for key in kept if key in result} | {
        "seconds": round(sum(epoch["seconds"] for epoch in result["history"]), 1),
    }
