"""Specs from what a recipe says of a role: a format's name, a table, or a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from bitwright.errors import InvalidTypeError, InvalidValueError, unknown_name
from bitwright.formats import RANDOM_BITS, Format, Overflow, Rounding, parse
from bitwright.nn import check_reduction, tensor_of
from bitwright.quantize import CONTROLLERS, Controller, Density, Estimator, QuantizerSpec, Transform
from bitwright.recipes.recipe import ROLES


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
    check_keys(value, _SPEC_KEYS | set(parameters))
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


def check_keys(table: Mapping[str, Any], known: set[str], where: str | None = None) -> None:
    """Raise where a table has a key that means nothing."""
    for key in table:
        if key not in known:
            raise InvalidValueError(str(unknown_name("key", key, known)), where=where)
