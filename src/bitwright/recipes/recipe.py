"""Recipes: which format each tensor of training has. Data; this file reads and checks it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, cast

from bitwright.errors import FileFormatError, InvalidTypeError, InvalidValueError, unknown_name
from bitwright.formats import RANDOM_BITS, Fixed, Format, Overflow, Rounding, parse
from bitwright.nn import (
    OPERANDS,
    SHORT_NAMES,
    Exact,
    check_normalised,
    check_reduction,
    operands_of,
    tensor_of,
)
from bitwright.quantize import CONTROLLERS, Controller, Density, Estimator, QuantizerSpec, Transform

OPTIMIZER_ROLES = ("weight_grad", "primal", "state")
ROLES = (*SHORT_NAMES, *OPERANDS, *OPTIMIZER_ROLES)
"""Every tensor of training that a recipe can name."""

OPTIMIZERS = ("Adam", "AdamW", "Adamax", "SGD", "RMSprop", "ShiftAdaMax", "FxpAdam")
LOSSES = ("cross-entropy", "squared-hinge")
POSITIONS = ("first", "last")
_TABLES = ("roles", "layers", "replace", "optimizer", "training")
NORMS = ("batch", "shift", "integer")
NORMALISED = Fixed(12, 8)

Roles = Mapping[str, QuantizerSpec | None]


@dataclass(frozen=True)
class LayerRule:
    """An exception for some layers.

    Args:
        key: exact qualified name, glob, module type, or first / last compute layer in execution order.
        roles: role -> spec; None keeps that tensor in float.
        optional: a key that matches nothing is then no error.
    """

    key: str
    roles: Roles
    optional: bool = False

    def precision(self, name: str, kind: str, position: frozenset[str]) -> int:
        """How specific the match is: 0 none, 1 position, 2 type, 3 glob, 4 exact name."""
        if self.key == name:
            return 4
        if self.key == kind:
            return 2
        if self.key in POSITIONS:
            return int(self.key in position)
        return 3 * fnmatchcase(name, self.key)


@dataclass(frozen=True)
class OptimizerRule:
    """How the weights move.

    Args:
        name: class in torch.optim or bitwright.optim.
        lr: learning rate; lr_final: at the end of an exponential decay.
        step_scale: "glorot" multiplies a compute layer's step by sqrt((fan_in + fan_out) / 1.5)
            (QNN: c_l, section 1), or None.
        clip: bounds of the stored weights of quantised compute layers, or None.
    """

    name: str = "Adam"
    lr: float = 1e-3
    lr_final: float = 1e-6
    step_scale: str | None = None
    clip: tuple[float, float] | None = None


@dataclass(frozen=True)
class NormRule:
    """What takes a batch norm's place.

    Args:
        kind: "batch" (torch's), "shift" (QNN, section 2) or "integer" (FxpNet, section 4).
        format: of an integer norm's normalised values.
    """

    kind: str = "batch"
    format: Format = NORMALISED

    def __post_init__(self) -> None:
        if self.kind not in NORMS:
            raise unknown_name("norm", self.kind, NORMS)
        if self.kind == "integer":
            check_normalised(self.format)

    def __str__(self) -> str:
        return f"integer, {self.format}" if self.kind == "integer" else self.kind


@dataclass(frozen=True)
class Relaxation:
    """Wider bounds of the hard tanh for the last part of a run (QNN, section 6).

    Args:
        after: share of the run before it, 0 to 1.
        bound: in place of 1.
    """

    after: float
    bound: float

    def __post_init__(self) -> None:
        for name in ("after", "bound"):
            if not _is_number(getattr(self, name)):
                raise InvalidTypeError(f"{name} is a number", got=repr(getattr(self, name)))
        if not 0 <= self.after <= 1 or not self.bound > 0:
            raise InvalidValueError("relax begins after a share of the run, to a bound above 0", got=self)


@dataclass(frozen=True)
class Recipe:
    """Role -> quantiser, exceptions by layer, and the optimiser and loss that go with them."""

    name: str
    title: str = ""
    paper: str = ""
    roles: Roles = field(default_factory=dict)
    layers: tuple[LayerRule, ...] = ()
    replace: Mapping[str, str] = field(default_factory=dict)
    """Module type -> type that takes its place in front of a binary or ternary slot."""
    optimizer_rule: OptimizerRule = field(default_factory=OptimizerRule)
    loss: str = "cross-entropy"
    initial_weights: str | None = None
    norm: NormRule = NormRule()
    relax: Relaxation | None = None
    exact: Exact = Exact.FORWARD
    """Which of a layer's three products are exact: the forward one, or all."""

    @property
    def quantises(self) -> bool:
        """Whether any tensor has a format."""
        tables = (self.roles, *(rule.roles for rule in self.layers))
        return any(spec is not None for table in tables for spec in table.values())

    def specs(self, name: str, kind: str, position: frozenset[str]) -> dict[str, QuantizerSpec]:
        """role -> spec for one layer.

        The most specific rule wins. Within a rule an operand's own name wins over the short one; a more
        specific rule's short name wins over both.
        """
        matches = [(rule.precision(name, kind, position), rule.roles) for rule in self.layers]
        matches = sorted((m for m in matches if m[0]), key=lambda match: match[0])
        chosen: dict[str, QuantizerSpec | None] = {}
        for _, roles in [(0, self.roles), *matches]:
            for short in [role for role in SHORT_NAMES if role in roles]:
                for operand in operands_of(short):
                    chosen.pop(operand, None)
            chosen |= roles
        # an operand that stays in float beside a short name: the other operand then stands for itself
        for short in SHORT_NAMES:
            if any(operand in chosen and chosen[operand] is None for operand in operands_of(short)):
                spec = chosen.pop(short, None)
                for operand in operands_of(short):
                    chosen.setdefault(operand, spec)
        return {role: spec for role, spec in chosen.items() if spec is not None}

    def optimizer(self, model: Any, lr: float | None = None) -> Any:
        """This recipe's optimiser for a quantised (or, for `float`, plain) model.

        Args:
            model: as `quantize_` left it.
            lr: overrides the recipe's learning rate.
        """
        from bitwright.recipes.optimizer import build_optimizer

        return build_optimizer(self, model, lr)


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


def parse_spec(value: Any, role: str, where: str) -> QuantizerSpec | None:
    """A spec from a format's name, "float" or None, a table, or a spec."""
    if role not in ROLES:
        raise InvalidValueError(str(unknown_name("role", role, ROLES)), where=where)
    try:
        spec = _spec(value)
        if spec is not None:
            _check_role(role, spec)
    except (InvalidTypeError, InvalidValueError) as error:
        raise type(error)(str(error), where=f"role {role} of {where}") from error
    if spec is not None and (problem := check_reduction(role, spec)):
        raise InvalidValueError(problem, where=where, fix='use per = "tensor"')
    return spec


def _spec(value: Any) -> QuantizerSpec | None:
    if value is None or value == "float":
        return None
    if isinstance(value, QuantizerSpec):
        return value
    if isinstance(value, str | Format):
        return QuantizerSpec(parse(value))
    if not isinstance(value, Mapping):
        raise InvalidTypeError("a spec is a format's name or a table", got=repr(value))
    if "format" not in value:
        raise InvalidValueError("a spec names its format", got=dict(value))
    bits = value.get("random_bits", RANDOM_BITS)
    if not isinstance(bits, int) or isinstance(bits, bool):
        raise InvalidTypeError("random_bits is an int", got=repr(bits))
    return QuantizerSpec(
        parse(value["format"]),
        _controller(value),
        Rounding.of(value.get("rounding", Rounding.NEAREST_EVEN)),
        Estimator.of(value.get("estimator", Estimator.STRAIGHT_THROUGH)),
        Overflow.of(value.get("overflow", Overflow.SATURATE)),
        bits,
        Transform.of(value.get("transform", Transform.NONE)),
    )


_SPEC_KEYS = {"format", "controller", "rounding", "estimator", "overflow", "random_bits", "transform"}
_TRANSFORMED = {Transform.TANH: ("weight",), Transform.SHIFT: ("error", "weight_grad")}
_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "bool": ("{} is true or false", bool),
    "int": ("{} is an int", int),
    "float": ("{} is a number", (int, float)),
    "float | None": ("a {} is a number", (int, float)),
    "str": ("{} is a string", str),
    "Density | str": ("{} is a string", (str, Density)),
}
"""A controller's parameter, by its annotation -> what a recipe must give, in words and types."""


def _controller(value: Mapping[str, Any]) -> Controller:
    name = str(value.get("controller", "static"))
    if name not in CONTROLLERS:
        raise unknown_name("controller", name, CONTROLLERS)
    kind = CONTROLLERS[name]
    parameters = {f.name: str(f.type) for f in fields(cast(Any, kind))}
    if "scale" in value and "scale" not in parameters:
        raise InvalidValueError(f"a {name} controller sets its scale itself")
    _check_keys(value, _SPEC_KEYS | set(parameters))
    given = {key: value[key] for key in parameters if key in value}
    for key, parameter in given.items():
        words, types = _KINDS[parameters[key]]
        if not isinstance(parameter, types) or (isinstance(parameter, bool) and types is not bool):
            raise InvalidTypeError(words.format(key), got=repr(parameter))
    return kind(**given)


def _check_role(role: str, spec: QuantizerSpec) -> None:
    """Raise where a controller cannot serve a role."""
    trained = ("weight", "activation", "forward.weight", "forward.activation")
    if spec.controller.learns and role not in trained:
        raise InvalidValueError(
            f"a {spec.controller} scale needs a gradient, which only {', '.join(trained)} have"
        )
    if spec.controller.narrows and tensor_of(role) in ("weight", "activation"):
        raise InvalidValueError("the width of what is lowered stays", fix="shrink errors and what is stored")
    if spec.controller.present and tensor_of(role) != "error":
        raise InvalidValueError(f"a {spec.controller} scale is for errors, which pass a gradient on as it is")
    if tensor_of(role) not in _TRANSFORMED.get(spec.transform, (tensor_of(role),)):
        raise InvalidValueError(
            f"a {spec.transform.value} transform is for {' and '.join(_TRANSFORMED[spec.transform])}"
        )
    if spec.controller.affine and tensor_of(role) != "activation":
        raise InvalidValueError("a zero point is for activations only", fix='use controller = "max-abs"')


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
    _check_keys(
        table,
        {"name", "title", "paper", "exact", "norm", *_TABLES},
        where,
    )
    tables = {n: _table(table.get(n, {}), n, where) for n in _TABLES}
    training, optimizer = tables["training"], tables["optimizer"]
    _check_keys(training, {"loss", "initial_weights", "relax"}, where)
    relax = _table(training.get("relax", {}), "relax", where)
    _check_keys(relax, {"after", "bound"}, where)
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
    _check_keys(table, {f.name for f in fields(OptimizerRule)}, where)
    for key in ("lr", "lr_final"):
        if not _is_number(table.get(key, 1.0)):
            raise InvalidTypeError(f"{key} is a number", got=repr(table[key]), where=where)
    if "clip" in table:
        bounds = table["clip"]
        if not (isinstance(bounds, list) and len(bounds) == 2 and all(map(_is_number, bounds))):
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
    _check_keys(table, {"kind", "format"}, where)
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_keys(table: Mapping[str, Any], known: set[str], where: str | None = None) -> None:
    for key in table:
        if key not in known:
            raise InvalidValueError(str(unknown_name("key", key, known)), where=where)
