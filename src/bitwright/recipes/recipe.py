"""Recipes: which format each tensor of training has. Data; `read` and `specs` make it of names and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from bitwright.errors import InvalidTypeError, InvalidValueError, unknown_name
from bitwright.formats import Fixed, Format
from bitwright.nn import OPERANDS, SHORT_NAMES, Exact, check_normalised, operands_of
from bitwright.quantize import QuantizerSpec

OPTIMIZER_ROLES = ("weight_grad", "primal", "state")
ROLES = (*SHORT_NAMES, *OPERANDS, *OPTIMIZER_ROLES)
"""Every tensor of training that a recipe can name."""

POSITIONS = ("first", "last")
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
            if not is_number(getattr(self, name)):
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


def is_number(value: Any) -> bool:
    """Whether a value of a recipe is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
