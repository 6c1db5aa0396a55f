"""Experiments as TOML files: reading them, and every check."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from bitwright.errors import FileFormatError, InvalidTypeError, InvalidValueError, unknown_name
from bitwright.experiments.definition import Claim, Experiment, Run, Scale, is_list_of
from bitwright.experiments.kinds import KINDS
from bitwright.training import Settings

_SETTINGS = {f.name for f in fields(Settings)} - {"seed"}
_EXAMPLES = ("test_examples", "slow_examples")


def names() -> tuple[str, ...]:
    """The experiments that come with the library."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def experiment(name: str | Path) -> Experiment:
    """An experiment by name or TOML file, every run of every scale checked.

    Raises:
        InvalidValueError, InvalidTypeError: there is none of that name, or the file breaks a rule.
        FileFormatError: the file cannot be read.
    """
    if isinstance(name, Path) or name.endswith(".toml"):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError("an experiment is a readable TOML file", got=error, where=path) from error
        return _read(path.stem, text)
    if name not in names():
        raise unknown_name("experiment", name, names())
    return _read(name, resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def _read(name: str, text: str) -> Experiment:
    where = f"experiment {name}"
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileFormatError("an experiment is a TOML file", got=error, where=where) from error
    known = ("title", "paper", "kind", "settings", "scales", "runs", "grid", "claims", "published")
    _check_keys(table, known, where)
    for key in ("title", "paper", "kind"):
        if not isinstance(table.get(key), str):
            raise InvalidTypeError(f"{key} is a string", got=repr(table.get(key)), where=where)
    if table["kind"] not in KINDS:
        raise InvalidValueError(str(unknown_name("kind", table["kind"], KINDS)), where=where)
    common = _table(table.get("settings", {}), f"settings of {where}", _SETTINGS)
    runs = [_run(entry, common, where) for entry in _tables(table.get("runs", []), f"runs of {where}")]
    if "grid" in table:
        runs += _grid(table["grid"], common, where)
    if not runs or len({run.name for run in runs}) < len(runs):
        raise InvalidValueError(
            "an experiment has runs of different names", got=[r.name for r in runs], where=where
        )
    scales = _table(table.get("scales", {}), f"scales of {where}")
    found = Experiment(
        name=name,
        title=table["title"],
        paper=table["paper"],
        kind=table["kind"],
        runs=tuple(runs),
        scales={key: _scale(key, value, [r.name for r in runs], where) for key, value in scales.items()},
        claims=tuple(
            _claim(entry, runs, set(scales), where)
            for entry in _tables(table.get("claims", []), f"claims of {where}")
        ),
        published={
            label: _number(figure, f"published.{label} of {where}")
            for label, figure in _table(table.get("published", {}), f"published of {where}").items()
        },
    )
    if not scales:
        raise InvalidValueError("an experiment has scales", got="none", where=where)
    for scale in found.scales.values():
        found.jobs(scale)
    return found


def _run(entry: Mapping[str, Any], common: Mapping[str, Any], where: str) -> Run:
    name = _name(entry.get("name"), f"runs of {where}")
    where = f"run {name} of {where}"
    _check_keys(entry, {"name", "label", "paper", *_SETTINGS}, where)
    settings = {key: value for key, value in entry.items() if key in _SETTINGS}
    paper = _number(entry["paper"], where) if "paper" in entry else None
    return Run(name, str(entry.get("label", name)), {**common, **settings}, paper)


def _grid(value: Any, common: Mapping[str, Any], where: str) -> list[Run]:
    """One run for each combination of the axes' values, which stand for {axis} in every string."""
    where = f"grid of {where}"
    grid = _table(value, where, ("name", "label", "axes", "settings", "paper"))
    axes = _table(grid.get("axes", {}), f"axes of {where}")
    for axis, values in axes.items():
        if not axes or not is_list_of(values, str) or not values:
            raise InvalidTypeError(
                "an axis is a list of strings", got=repr(values), where=f"axis {axis} of {where}"
            )
    settings = _table(grid.get("settings", {}), f"settings of {where}", _SETTINGS)
    paper = _table(grid.get("paper", {}), f"paper of {where}")
    runs = []
    for combination in itertools.product(*axes.values()):
        chosen = dict(zip(axes, combination, strict=True))
        try:
            name = _name(_substitute(grid.get("name"), chosen), where)
            own = _substitute(settings, chosen)
            label = str(_substitute(grid.get("label", name), chosen))
        except (KeyError, IndexError, ValueError) as error:
            raise InvalidValueError(
                f"braces hold an axis: {', '.join(axes)}", got=error, where=where
            ) from error
        figure = _number(paper.pop(name), f"paper of {where}") if name in paper else None
        runs.append(Run(name, label, {**common, **own}, figure, chosen))
    if paper:
        raise unknown_name(f"run in paper of {where}", next(iter(paper)), [run.name for run in runs])
    return runs


def _substitute(value: Any, chosen: Mapping[str, str]) -> Any:
    """`value` with {axis} replaced; a spec whose format comes out as "float" is "float"."""
    if isinstance(value, str):
        return value.format_map(chosen)
    if isinstance(value, Mapping):
        made = {key: _substitute(entry, chosen) for key, entry in value.items()}
        return "float" if made.get("format") == "float" else made
    return value


def _scale(name: str, value: Any, runs: list[str], where: str) -> Scale:
    where = f"scale {name} of {where}"
    table = _table(value, where, {"seeds", "note", *_EXAMPLES, *_SETTINGS - {"roles"}})
    for key, entry in table.items():
        for pattern in entry if isinstance(entry, Mapping) else ():
            if not any(fnmatchcase(run, pattern) for run in runs):
                raise unknown_name(f"run in {key} of {where}", pattern, runs)
    for key in _EXAMPLES:
        if key in table and (type(table[key]) is not int or table[key] < 1):
            raise InvalidValueError(f"{key} is a number of images", got=repr(table[key]), where=where)
    own = {key: table[key] for key in ("seeds", "note", *_EXAMPLES) if key in table}
    return Scale(name, settings={k: v for k, v in table.items() if k in _SETTINGS}, **own)


def _claim(entry: Mapping[str, Any], runs: list[Run], scales: set[str], where: str) -> Claim:
    where = f"claims of {where}"
    _check_keys(entry, [f.name for f in fields(Claim)], where)
    found = [run.name for run in runs]
    claim = Claim(
        run=str(entry.get("run")),
        at_most=_number(entry.get("at_most"), where),
        minus=entry.get("minus"),
        scales=tuple(entry.get("scales", ())),
        source=str(entry.get("source", "")),
    )
    if not any(fnmatchcase(name, claim.run) for name in found):
        raise InvalidValueError(str(unknown_name("run", claim.run, found)), where=where)
    if claim.minus is not None and claim.minus not in found:
        raise InvalidValueError(str(unknown_name("run", claim.minus, found)), where=where)
    for scale in claim.scales:
        if scale not in scales:
            raise InvalidValueError(str(unknown_name("scale", scale, scales)), where=where)
    return claim


def _name(value: Any, where: str) -> str:
    """A run's name goes into file names."""
    letters = value.replace("-", "").replace(".", "").replace("_", "") if isinstance(value, str) else ""
    if not (letters.isascii() and letters.isalnum() and not value.startswith(".")):
        raise InvalidValueError("a run's name is letters, digits, - . and _", got=repr(value), where=where)
    return str(value)


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidTypeError("a figure is a number", got=repr(value), where=where)
    return float(value)


def _tables(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise InvalidTypeError("a list of tables", got=repr(value), where=where)
    return [_table(entry, where) for entry in value]


def _table(value: Any, where: str, keys: Iterable[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidTypeError("a table", got=repr(value), where=where)
    if keys is not None:
        _check_keys(value, keys, where)
    return dict(value)


def _check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    valid = set(known)
    for key in table:
        if key not in valid:
            raise InvalidValueError(str(unknown_name("key", key, valid)), where=where)
