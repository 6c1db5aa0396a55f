"""The optimiser's side of a recipe: formats for weight_grad, primal and state of any torch optimiser.

They act inside `optimizer.step()`, after a closure, accumulation, all-reduce, unscaling and clipping:

    g  <- quantise(g; weight_grad)
    w, state <- the optimiser's own step
    w  <- quantise(clip(w); primal)          state <- quantise(state; state)

so what is stored between steps is already on its grid; where a scale moves, the stored values are put on
the new grid in the same step. Whatever a controller learns is kept in `optimizer.state` under "<role>.scale"
and the like, hence in the optimiser's own state_dict. Under data parallelism gradients arrive reduced, so
that every rank measures the same and nothing is exchanged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Format
from bitwright.quantize import Quantizer, QuantizerSpec, tick

STEP_BUFFER = "bitwright_step"
"""The int64 buffer on a quantised root module that counts training forwards."""


@dataclass(frozen=True)
class ParameterRule:
    """What the recipe says of one stored parameter.

    Args:
        name: qualified name; keys random bits.
        parameter: the parameter.
        weight_grad, primal, state: specs; None leaves the tensor in float. `state` is every float tensor with
            an axis that the optimiser keeps; single numbers, such as counters, stay.
        clip: bounds that the stored values are clipped to after each step.
    """

    name: str
    parameter: nn.Parameter
    weight_grad: QuantizerSpec | None = None
    primal: QuantizerSpec | None = None
    state: QuantizerSpec | None = None
    clip: tuple[float, float] | None = None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies on a grid between two steps.

    Args:
        parameter: the parameter, or the one whose state the tensor is.
        state: its key in the optimiser's state; None: the parameter itself.
        format: of its numbers.
        scale: the worth of a number 1; None takes the format's own.
    """

    parameter: nn.Parameter
    state: str | None
    format: Format
    scale: torch.Tensor | None


def stored_tensors(optimizer: torch.optim.Optimizer) -> list[StoredTensor]:
    """Every parameter and state tensor that a recipe's `primal` or `state` put on a grid."""
    formats = optimizer.__dict__.get(_ATTRIBUTE)
    return [] if formats is None else list(formats.stored(optimizer))


_ATTRIBUTE = "bitwright_formats"


class _Formats:
    """The hooks' state: one quantiser per parameter and stored tensor.

    A quantiser's buffers are the very tensors in `optimizer.state`, under "<tensor>.<buffer>".
    """

    def __init__(self, model: nn.Module, rules: Iterable[ParameterRule], seed: int) -> None:
        self.model = model
        self.rules = tuple(rules)
        self.seed = seed
        self.quantizers: dict[tuple[str, str], Quantizer] = {}
        self.first: dict[tuple[str, str], Quantizer] = {}
        """What put the stored tensors on their grids before the first step."""
        self.loading: dict[nn.Parameter, dict[str, torch.Tensor]] = {}

    @torch.no_grad()
    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Put what is stored on its grid before the first step."""
        for rule in self.rules:
            if rule.clip is not None:
                rule.parameter.clamp_(*rule.clip)
            # Adagrad's state begins with a number of its own
            state = _tensors(optimizer.state.get(rule.parameter, {}))
            tensors: list[tuple[str, QuantizerSpec | None, torch.Tensor]]
            tensors = [("primal", rule.primal, rule.parameter)]
            tensors += [(f"state.{name}", rule.state, value) for name, value in state]
            for tensor, spec, value in tensors:
                if spec is not None:
                    quantizer = Quantizer(spec, f"{rule.name}.{tensor}", 0, self.seed)
                    quantizer.quantize_(value)
                    self.first[rule.name, tensor] = quantizer

    def tick(self, found: Iterable[Quantizer]) -> None:
        """Begin the present step: what was measured in the one before moves the scales."""
        tick(found, getattr(self.model, STEP_BUFFER, 0), replicated=True)

    def adopted(
        self, rule: ParameterRule, tensor: str, spec: QuantizerSpec, state: dict[str, Any]
    ) -> Quantizer:
        """The quantiser of a stored tensor, with the buffers that the optimiser keeps."""
        key = (rule.name, tensor)
        if key not in self.quantizers:
            self.quantizers[key] = Quantizer(spec, f"{rule.name}.{tensor}", 0, self.seed)
        quantizer = self.quantizers[key]
        stored = {name: state.get(f"{tensor}.{name}") for name in quantizer.state()}
        quantizer.adopt({name: value for name, value in stored.items() if value is not None})
        return quantizer

    def before(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self.quantize_gradients(optimizer)
            return None

        def evaluated() -> Any:
            loss = closure()
            self.quantize_gradients(optimizer)
            return loss

        return args[:1], {**kwargs, "closure": evaluated}

    def quantize_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        found: list[tuple[Quantizer, torch.Tensor]] = []
        for rule in self.rules:
            grad = rule.parameter.grad
            if rule.weight_grad is not None and grad is not None:
                state = optimizer.state.get(rule.parameter, {})
                found.append((self.adopted(rule, "weight_grad", rule.weight_grad, state), grad))
        self.tick(quantizer for quantizer, _ in found)
        for quantizer, grad in found:
            quantizer.quantize_(grad)

    @torch.no_grad()
    def after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        moved = [rule for rule in self.rules if rule.parameter.grad is not None]
        states = {rule.name: optimizer.state[rule.parameter] for rule in moved}
        primal: dict[str, Quantizer] = {}
        kept: list[tuple[Quantizer, torch.Tensor]] = []
        for rule in moved:
            state = states[rule.name]
            if rule.primal is not None:
                primal[rule.name] = self.adopted(rule, "primal", rule.primal, state)
            if rule.state is not None:
                for name, value in _tensors(state):
                    kept.append((self.adopted(rule, f"state.{name}", rule.state, state), value))
        self.tick([*primal.values(), *(quantizer for quantizer, _ in kept)])
        for rule in moved:
            _store(rule, primal.get(rule.name))
        for quantizer, value in kept:
            quantizer.quantize_(value)
        for (name, tensor), quantizer in self.quantizers.items():
            if name in states:
                states[name] |= {f"{tensor}.{key}": value for key, value in quantizer.state().items()}

    def stored(self, optimizer: torch.optim.Optimizer) -> Iterator[StoredTensor]:
        for rule in self.rules:
            state = optimizer.state.get(rule.parameter, {})
            tensors: list[tuple[str | None, str, QuantizerSpec | None]]
            tensors = [(None, "primal", rule.primal)]
            tensors += [(name, f"state.{name}", rule.state) for name, _ in _tensors(state)]
            for name, tensor, spec in tensors:
                quantizer = None if spec is None else self.holder(rule, tensor, spec, state)
                if quantizer is not None:
                    yield StoredTensor(rule.parameter, name, quantizer.format, quantizer.current_scale())

    def holder(
        self, rule: ParameterRule, tensor: str, spec: QuantizerSpec, state: dict[str, Any]
    ) -> Quantizer | None:
        """The quantiser on whose grid a stored tensor lies now; None where none has seen it."""
        known = (rule.name, tensor) in self.quantizers or any(key.startswith(f"{tensor}.") for key in state)
        if spec.controller.moves and not known:
            return self.first.get((rule.name, tensor))
        return self.adopted(rule, tensor, spec, state)

    # torch casts all state of a parameter to the parameter's type when it loads: counters would lose bits

    def before_loading(self, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        indices = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        place = dict(zip(indices, parameters, strict=False))
        kept: dict[Any, Any] = {}
        self.loading = {}
        for index, state in state_dict["state"].items():
            ours = {k: v for k, v in state.items() if "." in k} if index in place else {}
            kept[index] = {k: v for k, v in state.items() if k not in ours}
            if ours:
                self.loading[place[index]] = ours
        return {**state_dict, "state": kept}

    def after_loading(self, optimizer: torch.optim.Optimizer) -> None:
        for parameter, ours in self.loading.items():
            optimizer.state[parameter] |= {k: v.to(parameter.device).clone() for k, v in ours.items()}
        self.loading = {}


def wrap(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    rules: Iterable[ParameterRule],
    seed: int = 0,
) -> torch.optim.Optimizer:
    """Give `optimizer` the formats of `rules`, and put the stored weights on their grid at once.

    Schedulers, closures, clipping, accumulation and gradient scalers work as before; a scaler unscales before
    the formats act, also where a fused optimiser would have done it itself. torch leaves hooks out when an
    optimiser is copied or pickled: build the copy anew and load the state_dict.

    Args:
        optimizer: any torch optimiser that evaluates the loss at most once in a step; its class and interface
            stay as they are.
        model: the quantised root, whose step counter keys random bits.
        rules: one for each parameter that the recipe speaks of.
        seed: of the random bits.

    Raises:
        InvalidValueError: LBFGS; or an optimiser that has its formats already.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InvalidValueError(
            "an optimiser in formats evaluates the loss once in a step",
            got="LBFGS, which searches along a line and keeps its history as lists",
            fix="use a first-order optimiser, such as SGD or Adam",
        )
    if _ATTRIBUTE in optimizer.__dict__:
        raise InvalidValueError(
            "an optimiser gets its formats once",
            got=f"a {type(optimizer).__name__} that has them, as that of recipe.optimizer(model) does",
        )
    formats = _Formats(model, [_for_clipped(rule) for rule in rules], seed)
    formats.begin(optimizer)
    # fused optimisers offer a gradient scaler to unscale for it, but in the middle of the step
    optimizer.__dict__["_step_supports_amp_scaling"] = False
    optimizer.__dict__[_ATTRIBUTE] = formats
    optimizer.register_step_pre_hook(formats.before)
    optimizer.register_step_post_hook(formats.after)
    optimizer.register_load_state_dict_pre_hook(formats.before_loading)
    optimizer.register_load_state_dict_post_hook(formats.after_loading)
    return optimizer


def stored_quantizers(optimizer: torch.optim.Optimizer) -> Iterator[Quantizer]:
    """The quantisers of gradients, stored weights and state that have been used so far."""
    formats = optimizer.__dict__.get(_ATTRIBUTE)
    if isinstance(formats, _Formats):
        yield from formats.quantizers.values()


def _store(rule: ParameterRule, quantizer: Quantizer | None) -> None:
    """Clip and quantise a parameter; where its scale moved, that puts all of it on the new grid."""
    early = False
    if rule.clip is not None:
        if quantizer is not None and quantizer.spec.controller.counts_before_clipping:
            early = True
            quantizer.observe(rule.parameter)
        rule.parameter.clamp_(*rule.clip)
    if quantizer is not None:
        quantizer.quantize_(rule.parameter, measured=not early)


def _tensors(state: dict[str, Any]) -> list[tuple[str, torch.Tensor]]:
    """What an optimiser itself keeps of a parameter, but for single numbers; our own keys have a dot."""
    return [
        (name, value)
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() and "." not in name
    ]


def _for_clipped(rule: ParameterRule) -> ParameterRule:
    """The rule, with the controller that a clipped parameter needs."""
    if rule.clip is None or rule.primal is None:
        return rule
    controller = rule.primal.controller.for_clipped(rule.clip, rule.primal.format)
    return replace(rule, primal=replace(rule.primal, controller=controller))
