"""The optimiser's side of a recipe: formats for weight_grad, primal and state of any torch optimiser.

They act inside `optimizer.step()`, after accumulation, all-reduce, unscaling and clipping:

    g  <- quantise(g; weight_grad)
    w, state <- the optimiser's own step
    w  <- quantise(clip(w); primal)          state <- quantise(state; state)

so what is stored between steps is already on its grid. Whatever a moving scale learns is kept in
`optimizer.state` under "<role>.scale", hence in the optimiser's own state_dict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bitwright.quantize import MaxAbs, Quantizer, QuantizerSpec

STEP_BUFFER = "bitwright_step"
"""The int64 buffer on a quantised root module that counts training forwards."""


@dataclass(frozen=True)
class ParameterRule:
    """What the recipe says of one stored parameter.

    Args:
        name: qualified name; keys random bits.
        parameter: the parameter.
        weight_grad, primal, state: specs; None leaves the tensor in float.
        clip: bounds that the stored values are clipped to after each step.
    """

    name: str
    parameter: nn.Parameter
    weight_grad: QuantizerSpec | None = None
    primal: QuantizerSpec | None = None
    state: QuantizerSpec | None = None
    clip: tuple[float, float] | None = None


class _Formats:
    """The hooks' state: one quantiser per parameter and stored tensor."""

    def __init__(self, model: nn.Module, rules: Iterable[ParameterRule], seed: int) -> None:
        self.model = model
        self.rules = tuple(rules)
        self.seed = seed
        self.quantizers: dict[tuple[str, str], Quantizer] = {}

    def quantizer(
        self, rule: ParameterRule, tensor: str, spec: QuantizerSpec, state: dict[str, Any]
    ) -> Quantizer:
        key = (rule.name, tensor)
        if key not in self.quantizers:
            self.quantizers[key] = Quantizer(spec, f"{rule.name}.{tensor}", 0, self.seed)
        quantizer = self.quantizers[key]
        scale = state.get(f"{tensor}.scale")
        if scale is not None and isinstance(spec.controller, MaxAbs):
            quantizer.scale = scale
            quantizer.statistic = state[f"{tensor}.statistic"]
            quantizer.initialized = torch.ones((), dtype=torch.bool)
        quantizer.tick(int(getattr(self.model, STEP_BUFFER, 0)))
        return quantizer

    def before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for rule in self.rules:
            grad = rule.parameter.grad
            if rule.weight_grad is not None and grad is not None:
                state = optimizer.state.get(rule.parameter, {})
                quantizer = self.quantizer(rule, "weight_grad", rule.weight_grad, state)
                grad.copy_(quantizer.quantize(grad))

    @torch.no_grad()
    def after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for rule in self.rules:
            parameter = rule.parameter
            if parameter.grad is None:
                continue
            if rule.clip is not None:
                parameter.clamp_(*rule.clip)
            state = optimizer.state[parameter]
            if rule.primal is not None:
                quantizer = self.quantizer(rule, "primal", rule.primal, state)
                parameter.copy_(quantizer.quantize(parameter))
            if rule.state is not None:
                for name, value in list(state.items()):
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape and "." not in name:
                        quantizer = self.quantizer(rule, f"state.{name}", rule.state, state)
                        value.copy_(quantizer.quantize(value))
            self.remember(rule, state)

    def remember(self, rule: ParameterRule, state: dict[str, Any]) -> None:
        for (name, tensor), quantizer in self.quantizers.items():
            if name == rule.name and isinstance(quantizer.spec.controller, MaxAbs):
                state[f"{tensor}.scale"] = quantizer.scale
                state[f"{tensor}.statistic"] = quantizer.statistic


def wrap(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    rules: Iterable[ParameterRule],
    seed: int = 0,
) -> torch.optim.Optimizer:
    """Give `optimizer` the formats of `rules`, and put the stored weights on their grid at once.

    Args:
        optimizer: any torch optimiser; its class and interface stay as they are.
        model: the quantised root, whose step counter keys random bits.
        rules: one for each parameter that the recipe speaks of.
        seed: of the random bits.
    """
    formats = _Formats(model, rules, seed)
    with torch.no_grad():
        for rule in formats.rules:
            if rule.clip is not None:
                rule.parameter.clamp_(*rule.clip)
            if rule.primal is not None:
                quantizer = Quantizer(rule.primal, f"{rule.name}.primal", 0, seed)
                rule.parameter.copy_(quantizer.quantize(rule.parameter))
    optimizer.register_step_pre_hook(formats.before)
    optimizer.register_step_post_hook(formats.after)
    return optimizer
