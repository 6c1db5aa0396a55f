"""From a recipe to its torch optimiser: parameter groups with step scales, and the optimiser-side formats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from bitwright.nn import BatchNorm1d, BatchNorm2d, ComputeLayer
from bitwright.optim import FxpAdam, ParameterRule, ShiftAdaMax, wrap
from bitwright.recipes.convert import layer_specs

if TYPE_CHECKING:
    from bitwright.recipes.recipe import Recipe

_OURS = {"FxpAdam": FxpAdam, "ShiftAdaMax": ShiftAdaMax}


def build_optimizer(recipe: Recipe, model: nn.Module, lr: float | None) -> torch.optim.Optimizer:
    """`recipe.optimizer(model, lr)`: see there. One parameter group for each step scale."""
    rule = recipe.optimizer_rule
    base = rule.lr if lr is None else lr
    specs = layer_specs(model, recipe)
    groups: dict[float, list[nn.Parameter]] = {}
    rules: list[ParameterRule] = []
    seen: set[nn.Parameter] = set()
    for owner, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            full = f"{owner}.{name}" if owner else name
            compute = isinstance(module, ComputeLayer) and name == "weight"
            scale = step_scale(module) if compute and rule.step_scale == "glorot" else 1.0
            groups.setdefault(scale, []).append(parameter)
            roles = specs.get(owner, {})
            if compute or isinstance(module, BatchNorm1d | BatchNorm2d):
                rules.append(
                    ParameterRule(
                        full,
                        parameter,
                        weight_grad=roles.get("weight_grad"),
                        primal=roles.get("primal"),
                        state=roles.get("state"),
                        clip=rule.clip if compute else None,
                    )
                )
    options = [{"params": p, "lr": base * s, "step_scale": s} for s, p in groups.items()]
    kind = _OURS.get(rule.name) or getattr(torch.optim, rule.name)
    optimizer: torch.optim.Optimizer = kind(options)
    return wrap(optimizer, model, rules) if rules else optimizer


def step_scale(layer: nn.Module) -> float:
    """c_l = 1 / sqrt(1.5 / (fan_in + fan_out)), fans with the k x k factor (QNN, section 1)."""
    weight = layer.get_parameter("weight")
    area = math.prod(weight.shape[2:])
    return math.sqrt((weight.shape[0] + weight.shape[1]) * area / 1.5)
