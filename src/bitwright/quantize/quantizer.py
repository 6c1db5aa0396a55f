"""Quantizer: format x controller x rounding x estimator, as a module with its state in buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Format, Key, Rounding, tensor_id
from bitwright.quantize.controllers import Controller, MaxAbs, Static
from bitwright.quantize.estimators import Estimator, estimate


@dataclass(frozen=True)
class QuantizerSpec:
    """What a recipe says of one tensor."""

    format: Format
    controller: Controller = field(default_factory=Static)
    rounding: Rounding = Rounding.NEAREST_EVEN
    estimator: Estimator = Estimator.STRAIGHT_THROUGH

    def __post_init__(self) -> None:
        self.controller.check(self.format)

    def __str__(self) -> str:
        parts = [str(self.controller)] if self.controller != Static() else []
        if self.rounding is not Rounding.NEAREST_EVEN:
            parts.append(self.rounding.value)
        return str(self.format) + (f" ({', '.join(parts)})" if parts else "")


class Quantized(NamedTuple):
    """A tensor on its way to a product: value = levels * scale.

    `levels` are integer-valued floats (or plain values where nothing quantises them); `scale` broadcasts
    to them, and None stands for 1. Gradients are those of the value.
    """

    levels: torch.Tensor
    scale: torch.Tensor | None = None

    def value(self) -> torch.Tensor:
        """levels * scale."""
        return self.levels if self.scale is None else self.levels * self.scale


class Quantizer(nn.Module):
    """Quantises one tensor of training.

    Time: uses the scale in its buffer; what it measures in a step sets the scale of the next. The first
    training batch (or `calibrate`) initialises the scale with an extra pass. In eval nothing moves, and
    stochastic rounding becomes nearest.

    Args:
        spec: format, controller, rounding and estimator.
        name: qualified name and role of the tensor: it keys the random bits.
        channel_axis: the axis that "per channel" means.
        seed: of the random bits.
    """

    # buffers, where the controller moves the scale
    scale: torch.Tensor
    statistic: torch.Tensor
    initialized: torch.Tensor

    def __init__(self, spec: QuantizerSpec, name: str = "", channel_axis: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.channel_axis = channel_axis
        self.key = Key(seed, tensor_id(name))
        self.step = 0
        self.calls = 0
        self.calibrating = False
        fixed = isinstance(spec.controller, Static)
        step = spec.format.scale_or_default(spec.controller.scale) if fixed else None
        self._static = torch.tensor(step, dtype=torch.float32) if fixed and step != 1.0 else None
        if not fixed:
            self.register_buffer("scale", torch.ones(()))
            self.register_buffer("statistic", torch.zeros(()))
            self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    @property
    def format(self) -> Format:
        """The format of the codes."""
        return self.spec.format

    def current_scale(self) -> torch.Tensor | None:
        """The scale in force; None stands for 1."""
        if isinstance(self.spec.controller, Static):
            return self._static
        if not self.initialized:
            raise InvalidValueError(
                f"a {self.spec.controller} scale is set by the first training batch or by calibration",
                where=f"a {self.format} quantiser that has seen no data",
                fix="train a step, or call bitwright.calibrate(model, batches)",
            )
        return self.scale

    def forward(self, x: torch.Tensor) -> Quantized:
        """`x` of any shape -> its levels and scale; statistics are taken in training only."""
        if isinstance(self.spec.controller, MaxAbs) and (self.training or self.calibrating):
            self._observe(self.spec.controller, x)
        scale = self.current_scale()
        if scale is not None and scale.device != x.device:
            scale = scale.to(x.device)
        rounding = self.spec.rounding
        key = None
        if rounding is Rounding.STOCHASTIC:
            if self.training:
                key = Key(self.key.seed, self.key.tensor, self.step, self.calls)
                self.calls += 1
            else:
                rounding = Rounding.NEAREST_EVEN
        levels = estimate(x, self.format, scale, rounding, key, self.spec.estimator)
        return Quantized(levels, scale)

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """The values on the grid, without a gradient: for what the optimiser stores."""
        with torch.no_grad():
            quantized: Quantized = self(x)
            return quantized.value()

    @torch.no_grad()
    def _observe(self, controller: MaxAbs, x: torch.Tensor) -> None:
        statistic = controller.measure(x, self.channel_axis)
        if not self.initialized:
            self.scale = controller.scale(statistic, self.format)
            self.statistic = statistic
            self.initialized = torch.ones_like(self.initialized)
        else:
            self.statistic = torch.maximum(self.statistic, statistic)

    @torch.no_grad()
    def tick(self, step: int) -> None:
        """Begin training step `step`: what the last one measured becomes the scale."""
        self.step, self.calls = step, 0
        controller = self.spec.controller
        if isinstance(controller, Static) or not self.initialized:
            return
        moved = controller.scale(self.statistic, self.format)
        self.scale = torch.where(self.statistic > 0, moved, self.scale)
        self.statistic = torch.zeros_like(self.statistic)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # a float checkpoint has no quantiser state, and loads strictly all the same
        for name, buffer in list(self._buffers.items()):
            if buffer is None:
                continue
            stored = state_dict.setdefault(prefix + name, buffer)
            if stored.shape != buffer.shape:
                self._buffers[name] = torch.zeros_like(stored, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return str(self.spec)


def quantizers(model: nn.Module) -> Iterator[Quantizer]:
    """Every quantiser of the model, each once."""
    return (module for module in model.modules() if isinstance(module, Quantizer))


@contextmanager
def _calibrating(model: nn.Module) -> Iterator[None]:
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for quantizer in quantizers(model):
            quantizer.calibrating = True
            if isinstance(quantizer.spec.controller, MaxAbs):
                quantizer.statistic = torch.zeros_like(quantizer.statistic)
        yield
    finally:
        for quantizer in quantizers(model):
            quantizer.calibrating = False
        for module, training in was_training.items():
            module.training = training


def calibrate(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    forward: Callable[[nn.Module, torch.Tensor], Any] = lambda model, batch: model(batch),
) -> int:
    """Set every moving scale from `batches`, in eval mode and without training; returns their number.

    Raises:
        InvalidValueError: no batch came.
    """
    count = 0
    with _calibrating(model), torch.no_grad():
        for batch in batches:
            forward(model, batch)
            count += 1
    if not count:
        raise InvalidValueError("calibration needs at least one batch", got="none")
    for quantizer in quantizers(model):
        quantizer.tick(quantizer.step)
    return count
