"""From a recipe to its torch optimiser: parameter groups with step scales, and the optimiser-side formats."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.nn import BatchNorm1d, BatchNorm2d, ComputeLayer, Embedding
from bitwright.optim import FxpAdam, ParameterRule, ShiftAdaMax
from bitwright.optim import wrap as with_rules
from bitwright.recipes.convert import layer_specs
from bitwright.recipes.read import recipe as find_recipe
from bitwright.recipes.recipe import OPTIMIZER_ROLES, Recipe

_OURS = {"FxpAdam": FxpAdam, "ShiftAdaMax": ShiftAdaMax}


def build_optimizer(recipe: Recipe, model: nn.Module, lr: float | None) -> torch.optim.Optimizer:
    """`recipe.optimizer(model, lr)`: see there. One parameter group for each step scale."""
    rule = recipe.optimizer_rule
    base = rule.lr if lr is None else lr
    groups: dict[float, list[nn.Parameter]] = {}
    for _, module, name, parameter in _parameters(model):
        scaled = _is_weight(module, name) and rule.step_scale == "glorot"
        groups.setdefault(step_scale(module) if scaled else 1.0, []).append(parameter)
    options = [{"params": p, "lr": base * s, "step_scale": s} for s, p in groups.items()]
    kind = _OURS.get(rule.name) or getattr(torch.optim, rule.name)
    optimizer: torch.optim.Optimizer = kind(options)
    rules = parameter_rules(model, recipe)
    return with_rules(optimizer, model, rules) if rules else optimizer


def wrap(
    optimizer: torch.optim.Optimizer, model: nn.Module, recipe: str | Recipe, *, seed: int = 0
) -> torch.optim.Optimizer:
    """Give any torch optimiser the formats of a recipe: `weight_grad`, `primal`, `state`, and its `clip`.

    They act inside `optimizer.step()`; the stored weights are put on their grid at once. Schedulers,
    closures, gradient clipping, accumulation, gradient scalers and weight averaging work beside it as beside
    any optimiser. Learning rate and step scales are its own. `recipe.optimizer(model)` comes wrapped.

    Args:
        optimizer: of parameters of `model`; not LBFGS.
        model: as `quantize_` left it: its layers' names and types choose the formats.
        recipe: a recipe or its name.
        seed: of stochastic rounding.

    Returns:
        The same optimiser.

    Raises:
        InvalidValueError: LBFGS; an optimiser that is wrapped already; one that holds no parameter
            to which the recipe gives a format.
    """
    recipe = find_recipe(recipe)
    rules = parameter_rules(model, recipe)
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    chosen = [rule for rule in rules if rule.parameter in held]
    if not chosen:
        raise InvalidValueError(
            "wrap finds a parameter that the recipe gives a format",
            got=f"none of {len(held)} parameters",
            where=f"recipe {recipe.name}",
            fix="give it weight_grad, primal or state, and quantize_ the model first"
            if not rules
            else "pass the model whose parameters the optimiser holds",
        )
    return with_rules(optimizer, model, chosen, seed)


def parameter_rules(model: nn.Module, recipe: Recipe) -> list[ParameterRule]:
    """What a recipe says of the weights of compute layers, embeddings and norms."""
    specs = layer_specs(model, recipe)
    rules = []
    for owner, module, name, parameter in _parameters(model):
        weight = _is_weight(module, name) or isinstance(module, Embedding)
        if not weight and not isinstance(module, BatchNorm1d | BatchNorm2d):
            continue
        roles = {role: specs.get(owner, {}).get(role) for role in OPTIMIZER_ROLES}
        clip = recipe.optimizer_rule.clip if weight else None
        if clip is not None or any(roles.values()):
            rules.append(ParameterRule(f"{owner}.{name}" if owner else name, parameter, clip=clip, **roles))
    return rules


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """(owner's name, owner, name, parameter), each parameter once."""
    seen: set[nn.Parameter] = set()
    for owner, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield owner, module, name, parameter


def _is_weight(module: nn.Module, name: str) -> bool:
    return isinstance(module, ComputeLayer) and name == "weight"


def step_scale(layer: nn.Module) -> float:
    """c_l = 1 / sqrt(1.5 / (fan_in + fan_out)), fans with the k x k factor (QNN, section 1)."""
    weight = layer.get_parameter("weight")
    area = math.prod(weight.shape[2:])
    return math.sqrt((weight.shape[0] + weight.shape[1]) * area / 1.5)
