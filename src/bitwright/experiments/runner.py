"""Running an experiment: one job after the other, each written when it ends, all of it resumable."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from bitwright import data
from bitwright.errors import FileFormatError, InvalidValueError
from bitwright.experiments.definition import Experiment, Job, Scale
from bitwright.experiments.kinds import Splits, cut, measure, work
from bitwright.training import write_json


class Watcher(Protocol):
    """Who wants to see an experiment go by. Work is counted in training steps."""

    def job_begins(self, job: Job, done: float, total: float) -> None: ...
    def advances(self, work: float) -> None: ...
    def job_ends(self, job: Job, row: dict[str, Any]) -> None: ...


def reproduce(
    experiment: Experiment,
    scale: Scale,
    out: Path,
    *,
    only: str | None = None,
    watcher: Watcher | None = None,
) -> list[dict[str, Any]]:
    """Run what is not finished yet; every job that ends is written at once.

    Args:
        experiment, scale: what to run.
        out: folder of this experiment at this scale: a JSON file and a run folder for each job.
        only: glob of run names: the others are not run.
        watcher: sees the jobs go by.

    Returns:
        The rows of all finished jobs, earlier ones too, in the order of the experiment.

    Raises:
        InvalidValueError: `out` holds rows of other settings, or `only` names no run.
    """

    left = unfinished(experiment, scale, out, only)
    total = sum(work(experiment.kind, job, splits, scale) for job, splits in left)
    done = 0.0
    for job, splits in left:
        if watcher is not None:
            watcher.job_begins(job, done, total)
        advance = watcher.advances if watcher is not None else lambda work: None
        row = measure(experiment.kind, job, splits, scale, out / job.name, advance)
        row = {"run": job.run.name, "seed": job.settings.seed, "wanted": wanted(job, scale)} | row
        write_json(out / f"{job.name}.json", row)
        done += work(experiment.kind, job, splits, scale)
        if watcher is not None:
            watcher.job_ends(job, row)
    rows = [finished(job, scale, out) for job in experiment.jobs(scale)]
    return [row for row in rows if row is not None]


def unfinished(
    experiment: Experiment, scale: Scale, out: Path, only: str | None = None
) -> list[tuple[Job, Splits]]:
    """The jobs that have no row in `out` yet, with their images."""

    @cache
    def whole(name: str) -> Splits:
        return Splits(data.load(name, "train"), data.load(name, "test"))

    jobs = [job for job in experiment.jobs(scale, only) if finished(job, scale, out) is None]
    return [(job, cut(whole(job.settings.data), job, scale)) for job in jobs]


def wanted(job: Job, scale: Scale) -> dict[str, Any]:
    """What makes a job what it is, as JSON values: a finished row is taken for no other."""
    values = job.settings.to_json() | {
        "test_examples": scale.test_examples,
        "slow_examples": scale.slow_examples,
        "smoke": scale.is_smoke,
    }
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def finished(job: Job, scale: Scale, out: Path) -> dict[str, Any] | None:
    """The row of a job that ended, or None.

    Raises:
        InvalidValueError: it is of other settings.
        FileFormatError: it cannot be read.
    """
    path = out / f"{job.name}.json"
    if not path.is_file():
        return None
    try:
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same = row["wanted"] == wanted(job, scale)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileFormatError(
            "a finished run is readable JSON", got=error, where=path, fix="remove the file"
        ) from error
    if not same:
        raise InvalidValueError(
            "a results folder holds the runs of one state of an experiment",
            got="a run of other settings",
            where=path,
            fix="remove the file and the folder of its name, or choose another --out",
        )
    return row
