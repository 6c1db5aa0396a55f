"""What a job will cost, from a few of its steps."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from bitwright.experiments.definition import Experiment, Job, Scale
from bitwright.experiments.exactness import backends
from bitwright.experiments.kinds import Splits
from bitwright.experiments.runner import unfinished
from bitwright.lowering import lower
from bitwright.training import Watcher, error_rate, train

STEPS = 6
"""Steps that are timed; the first is left out."""

IMAGES = 50
"""Test images that are timed."""


class _Clock(Watcher):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step_ends(self, loss: float) -> None:
        self.times.append(time.perf_counter())


def estimate(kind: str, job: Job, splits: Splits, scale: Scale) -> float:
    """Seconds that a job will take on this machine, as busy as it is now: an estimate.

    Runs a few steps of it, evaluates a few images, and multiplies.
    """
    settings = replace(job.settings, examples=None)
    few = splits.test.subset(min(IMAGES, len(splits.test)))
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        part = splits.training.subset(min(STEPS * settings.batch, len(splits.training)))
        model, _ = train(replace(settings, epochs=1), part, few, Path(folder), watchers=(clock,))
    between = [end - begin for begin, end in zip(clock.times, clock.times[1:], strict=False)]
    step = statistics.median(between) if between else 0.0
    began = time.perf_counter()
    error_rate(model, few)
    image = (time.perf_counter() - began) / len(few)
    steps = len(splits.training) // settings.batch
    seconds = settings.epochs * (steps * step + len(splits.test) * image)
    if kind == "exactness":
        network = lower(model, torch.from_numpy(few.inputs(0, 1)))
        for backend in backends(network, compiled=True):
            began = time.perf_counter()
            backend.check(model, network, few, None)
            images = backend.images(splits.test, scale.slow_examples)
            seconds += (time.perf_counter() - began) * len(images) / len(few)
    return seconds


def estimates(
    experiment: Experiment, scale: Scale, out: Path, only: str | None = None
) -> Iterator[tuple[str, int, float]]:
    """For each run that is not finished: its name, how many of its seeds are left, the seconds of one."""
    left = unfinished(experiment, scale, out, only)
    for run in dict.fromkeys(job.run.name for job, _ in left):
        jobs = [(job, splits) for job, splits in left if job.run.name == run]
        yield run, len(jobs), estimate(experiment.kind, *jobs[0], scale)
