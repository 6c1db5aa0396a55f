"""Recipes by name, from TOML files, and with parts replaced."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from bitwright.errors import FileFormatError, InvalidTypeError, InvalidValueError, unknown_name
from bitwright.formats import Format, parse
from bitwright.nn import Exact
from bitwright.quantize import QuantizerSpec
from bitwright.recipes.recipe import (
    ROLES,
    LayerRule,
    NormRule,
    OptimizerRule,
    Recipe,
    Relaxation,
    is_number,
)
from bitwright.recipes.specs import check_keys, parse_spec

OPTIMIZERS = ("Adam", "AdamW", "Adamax", "SGD", "RMSprop", "ShiftAdaMax", "FxpAdam")
LOSSES = ("cross-entropy", "squared-hinge")
_TABLES = ("roles", "layers", "replace", "optimizer", "training")


def recipe(name: str | Path | Recipe, **roles: Any) -> Recipe:
    """A recipe by name or TOML file, with any role replaced: `recipe("qnn", error="fixed12.8")`.

    Operands are named with an underscore for the dot: `forward_weight="int8"`. A value is a format's
    name, "float", a table as in the TOML files, or a `QuantizerSpec`. `exact="all"` makes dgrad and wgrad
    exact too; `norm="shift"` and `optimizer="FxpAdam"` (or a table with the keys to change) replace those.
    """
    if isinstance(name, Recipe):
        found = name
    elif isinstance(name, Path) or str(name).endswith(".toml"):
        found = _read(Path(name).name, _file_text(Path(name)))
    elif str(name) in names():
        found = _read(str(name), _shipped(str(name)))
    else:
        raise unknown_name("recipe", str(name), names())
    where = f"recipe {found.name}"
    if "exact" in roles:
        found = replace(found, exact=_exact(roles.pop("exact"), where))
    if "norm" in roles:
        found = replace(found, norm=_norm(roles.pop("norm"), where))
    if "optimizer" in roles:
        found = replace(found, optimizer_rule=_optimizer(found.optimizer_rule, roles.pop("optimizer"), where))
    if not roles:
        return found
    by_keyword = {role.replace(".", "_"): role for role in ROLES}
    changed = dict(found.roles)
    for keyword, value in roles.items():
        role = by_keyword.get(keyword.replace(".", "_"))
        if role is None:
            raise unknown_name("role", keyword, ROLES)
        changed[role] = parse_spec(_with_point(value, found.roles.get(role)), role, where)
    return replace(found, roles=changed)


def _with_point(value: Any, present: QuantizerSpec | None) -> Any:
    """A format that has no point of its own (`fixed12`) takes over what moves the present spec's point."""
    if isinstance(value, str | Format) and value != "float" and present is not None:
        form = parse(value)
        if form.default_scale is None and present.controller.moves:
            return replace(present, format=form)
    return value


def names() -> tuple[str, ...]:
    """The recipes that come with the library."""
    files = resources.files(__package__).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError("a recipe is a readable TOML file", got=error, where=path) from error


def _read(where: str, text: str) -> Recipe:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileFormatError("a recipe is a TOML file", got=error, where=where) from error
    where = f"recipe {where}"
    table = _on_its_base(table, where)
    check_keys(
        table,
        {"name", "title", "paper", "exact", "norm", *_TABLES},
        where,
    )
    tables = {n: _table(table.get(n, {}), n, where) for n in _TABLES}
    training, optimizer = tables["training"], tables["optimizer"]
    check_keys(training, {"loss", "initial_weights", "relax"}, where)
    relax = _table(training.get("relax", {}), "relax", where)
    check_keys(relax, {"after", "bound"}, where)
    if relax.keys() not in ({"after", "bound"}, set()):
        raise InvalidValueError("relax has the keys after and bound", got=relax, where=where)
    for kind, chosen, valid in (
        ("loss", training.get("loss"), LOSSES),
        ("initial_weights", training.get("initial_weights"), ("uniform",)),
    ):
        if chosen not in (None, *valid):
            raise InvalidValueError(str(unknown_name(kind, str(chosen), valid)), where=where)
    return Recipe(
        name=str(table.get("name", where)),
        title=str(table.get("title", "")),
        paper=str(table.get("paper", "")),
        roles={r: parse_spec(v, r, where) for r, v in tables["roles"].items()},
        layers=tuple(_layer_rule(k, v, where) for k, v in tables["layers"].items()),
        replace=tables["replace"],
        optimizer_rule=_optimizer(OptimizerRule(), optimizer, where),
        loss=training.get("loss", "cross-entropy"),
        initial_weights=training.get("initial_weights"),
        relax=Relaxation(**relax) if relax else None,
        norm=_norm(table.get("norm", "batch"), where),
        exact=_exact(table.get("exact", Exact.FORWARD), where),
    )


def _on_its_base(table: dict[str, Any], where: str) -> dict[str, Any]:
    """The tables of the recipe that `base` names, with what this one says in their places, role by role."""
    if "base" not in table:
        return table
    base = table["base"]
    if base not in names():
        raise InvalidValueError(str(unknown_name("recipe", str(base), names())), where=f"base of {where}")
    merged = _on_its_base(tomllib.loads(_shipped(base)), f"recipe {base}") | {
        key: value for key, value in table.items() if key not in ("base", *_TABLES)
    }
    for name in _TABLES:
        below, here = merged.get(name, {}), _table(table.get(name, {}), name, where)
        if name == "layers":
            here = {k: {**below.get(k, {}), **_table(v, f"layers.{k}", where)} for k, v in here.items()}
        merged[name] = {**below, **here}
    return merged


def _shipped(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _optimizer(rule: OptimizerRule, value: Any, where: str) -> OptimizerRule:
    """`rule` with another name, or with the keys of a table changed."""
    table = _table({"name": value} if isinstance(value, str) else value, "optimizer", where)
    check_keys(table, {f.name for f in fields(OptimizerRule)}, where)
    for key in ("lr", "lr_final"):
        if not is_number(table.get(key, 1.0)):
            raise InvalidTypeError(f"{key} is a number", got=repr(table[key]), where=where)
    if "clip" in table:
        bounds = table["clip"]
        if not (isinstance(bounds, list) and len(bounds) == 2 and all(map(is_number, bounds))):
            raise InvalidTypeError("clip is a list of two numbers", got=repr(bounds), where=where)
        table["clip"] = (float(bounds[0]), float(bounds[1]))
    for kind, key, valid in (("optimizer", "name", OPTIMIZERS), ("step_scale", "step_scale", ("glorot",))):
        if table.get(key) not in (None, *valid):
            raise InvalidValueError(str(unknown_name(kind, str(table[key]), valid)), where=where)
    return replace(rule, **table)


def _norm(value: Any, where: str) -> NormRule:
    """A norm by its kind, or a table of kind and format."""
    if isinstance(value, NormRule):
        return value
    table = _table({"kind": value} if isinstance(value, str) else value, "norm", where)
    check_keys(table, {"kind", "format"}, where)
    if "format" in table:
        table["format"] = parse(table["format"])
    return NormRule(**table)


def _exact(value: Any, where: str) -> Exact:
    try:
        return Exact(value)
    except ValueError:
        valid = [exact.value for exact in Exact]
        raise InvalidValueError(str(unknown_name("exact", str(value), valid)), where=where) from None


def _layer_rule(key: str, value: Any, where: str) -> LayerRule:
    table = _table(value, f"layers.{key}", where)
    where = f"layers.{key} of {where}"
    roles = {r: parse_spec(v, r, where) for r, v in table.items() if r != "optional"}
    return LayerRule(key, roles, _flag(table, "optional", where))


def _table(value: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidTypeError(f"{name} is a table", got=repr(value), where=where)
    return dict(value)


def _flag(table: Mapping[str, Any], key: str, where: str | None = None) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{key} is true or false", got=repr(value), where=where)
    return value
