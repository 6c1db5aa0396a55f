"""What an experiment is: a published table, the runs that make it again, and what they are to show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from bitwright.errors import InvalidTypeError, InvalidValueError, unknown_name
from bitwright.training import Settings


@dataclass(frozen=True)
class Scale:
    """How large every run is.

    Args:
        name: `small` ends within two hours on two cores, `paper` is as published.
        seeds: of the trainings: a list, or a table from run names to lists, of which an empty one says that
            the run is not part of this scale.
        settings: fields of `Settings` that take the place of the runs' own; each a value, or a table from
            run names to values. Run names may be globs, of which the exact name, then the first, wins.
        note: what the scale leaves out, in words.
        test_examples: measure on the first so many test examples; None takes all.
        slow_examples: so many of them for the backends that are not the fastest (kind `exactness`).
        is_smoke: one seed, one epoch, a tenth of the images: the figures say nothing.
    """

    name: str
    seeds: Any = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    test_examples: int | None = None
    slow_examples: int = 1000
    is_smoke: bool = False

    @property
    def title(self) -> str:
        """As in file names: `small`, `small-smoke`."""
        return self.name + "-smoke" * self.is_smoke

    @property
    def options(self) -> str:
        """On the command line."""
        return f"--scale {self.name}" + " --smoke" * self.is_smoke


@dataclass(frozen=True)
class Run:
    """One row of the table.

    Args:
        name: of the run, and of its files.
        label: in the table.
        settings: fields of `Settings`, without the seed.
        paper: the paper's figure, where it gives one.
        axes: axis -> value, for a run of a grid.
    """

    name: str
    label: str
    settings: Mapping[str, Any]
    paper: float | None = None
    axes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run with one seed."""

    run: Run
    settings: Settings

    @property
    def name(self) -> str:
        """As in file names: `qnn-seed0`."""
        return f"{self.run.name}-seed{self.settings.seed}"


@dataclass(frozen=True)
class Claim:
    """mean(run) - mean(minus) <= at_most, for every run that the glob `run` names.

    Args:
        run: name or glob of runs.
        at_most: the bound.
        minus: the run to compare with; None compares with 0.
        scales: where it is claimed; () is everywhere.
        source: who claims it.
    """

    run: str
    at_most: float
    minus: str | None = None
    scales: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Experiment:
    """A published table, the runs that make it again, and what they are to show."""

    name: str
    title: str
    paper: str
    kind: str
    runs: tuple[Run, ...]
    scales: Mapping[str, Scale]
    claims: tuple[Claim, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    """Rows of the paper's table that are not run again: label -> figure."""

    def scale(self, name: str, *, smoke: bool = False) -> Scale:
        """A scale by name, or the smoke of it."""
        if name not in self.scales:
            raise unknown_name(f"scale of experiment {self.name}", name, self.scales)
        return replace(self.scales[name], is_smoke=smoke)

    def jobs(self, scale: Scale, only: str | None = None) -> tuple[Job, ...]:
        """Every run with every seed, in the order of the file; with `only`, of the runs this glob names.

        Raises:
            InvalidValueError: a setting is wrong (the message names the run), or `only` names no run, or none
                that is part of this scale.
        """
        runs = [run for run in self.runs if only is None or fnmatchcase(run.name, only)]
        if not runs:
            raise unknown_name(f"run of experiment {self.name}", str(only), [run.name for run in self.runs])
        jobs = tuple(Job(run, settings) for run in runs for settings in self._settings(run, scale))
        if not jobs:
            raise InvalidValueError(
                "some run is part of a scale",
                got=f"{only or 'runs'} without a seed",
                where=f"scale {scale.name} of experiment {self.name}",
                fix="choose another run, or another scale",
            )
        return jobs

    def _settings(self, run: Run, scale: Scale) -> Iterable[Settings]:
        where = f"run {run.name} of experiment {self.name}, scale {scale.name}"
        chosen = {key: choose(value, run.name) for key, value in scale.settings.items()}
        values = dict(run.settings) | {key: value for key, value in chosen.items() if value is not None}
        seeds = choose(scale.seeds, run.name)
        if seeds == [] and isinstance(scale.seeds, Mapping):
            return []
        if not is_list_of(seeds, int) or not 1 <= len(set(seeds)) == len(seeds):
            raise InvalidValueError("seeds are a list of different integers", got=seeds, where=where)
        try:
            each = [Settings(**values, seed=seed) for seed in seeds]
            each[0].find_recipe()
        except (InvalidTypeError, InvalidValueError, TypeError) as error:
            raise InvalidValueError(str(error), where=where) from error
        return [replace(each[0], epochs=1)] if scale.is_smoke else each


def choose(value: Any, name: str) -> Any:
    """A value, or what a table says of a name: the exact key, else the first glob, else None."""
    if not isinstance(value, Mapping):
        return value
    if name in value:
        return value[name]
    return next((entry for pattern, entry in value.items() if fnmatchcase(name, pattern)), None)


def is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and all(type(entry) is kind for entry in value)
