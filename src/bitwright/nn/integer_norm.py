"""The modules of integer batch norm (FxpNet, section 4); its arithmetic is in `integer_norm_pass`."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed, Format
from bitwright.formats.ap2 import ap2_number
from bitwright.nn.fold import Accumulators
from bitwright.nn.integer_norm_pass import (
    FRACTION,
    differentiate,
    divide,
    epsilon,
    normalise,
    reciprocal,
    to_mantissa,
)
from bitwright.nn.norm import BatchNorm1d, BatchNorm2d
from bitwright.nn.slots import Slots
from bitwright.quantize import Quantizer

MOMENTUM = 0.125


class _IntegerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gamma: torch.Tensor,
        beta: torch.Tensor,
        unit: torch.Tensor,
        eps: float,
        form: Fixed,
        quantizer: Quantizer | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(y, mu [C], V [C])."""
        fraction = fraction_of(form)
        y, codes, mu, variance, inverse = normalise(x, unit, gamma, beta, eps, form.width, fraction)
        ctx.save_for_backward(codes, to_mantissa(gamma.double() * inverse / unit))
        ctx.fraction, ctx.quantizer = fraction, quantizer
        ctx.mark_non_differentiable(mu, variance)
        return y, mu, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        codes, gain = ctx.saved_tensors
        g, step, exact = grads[0], None, False
        if ctx.quantizer is not None:
            exact = ctx.quantizer.format.integral
            quantized = ctx.quantizer(g)
            g, step = (quantized.levels, quantized.scale) if exact else (quantized.value(), None)
        worth = 1.0 if step is None else step.double()
        dx, dgamma, dbeta = differentiate(g, codes, gain * worth, ctx.fraction, exact)
        return dx, (dgamma * worth).float(), (dbeta * worth).float(), None, None, None, None


def fraction_of(form: Fixed) -> int:
    """The bits behind the point of a format that has a point."""
    assert form.fraction is not None
    return form.fraction


def check_normalised(form: Format) -> Fixed:
    """`form`, if normalised values can have it."""
    if not (isinstance(form, Fixed) and form.fraction is not None):
        raise InvalidValueError("normalised values have a point", got=form, fix='such as "fixed12.8"')
    if form.width > 16 or not 0 <= form.fraction <= FRACTION:
        raise InvalidValueError("normalised values have at most 16 bits, 0 to 16 behind the point", got=form)
    return form


# --- what both classes do: running statistics as integers ---------------------------------------------------


def _begin(norm: IntegerNorm, form: Fixed, slots: Slots) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise InvalidValueError(
            "an integer norm keeps running statistics",
            got="track_running_stats=False",
            where=slots.layer,
            fix="build the model with track_running_stats=True",
        )
    norm.normalised, norm.slots = form, slots
    norm.register_buffer("unit", torch.ones(1, dtype=torch.float64, device=norm.running_mean.device))
    for name in ("running_mean", "running_var"):
        norm._buffers[name] = _to_integers(norm.get_buffer(name))


def _compute(norm: IntegerNorm, x: torch.Tensor) -> torch.Tensor:
    if norm.training:
        source = None if norm.fold is None else norm.fold.source
        if not isinstance(source, Accumulators):
            raise InvalidValueError(
                "an integer norm stands behind a quantised layer, whose integers it takes",
                got="none that the model's graph shows",
                where=norm.slots.layer,
                fix='use norm = "shift" or "batch"',
            )
        unit = source.worth().to(x.device).view(-1)
        ones = torch.ones(norm.num_features, device=x.device)
        gamma, beta = (norm.weight, norm.bias) if norm.affine else (ones, torch.zeros_like(ones))
        y, mu, variance = _IntegerNorm.apply(  # type: ignore[no-untyped-call]
            x, gamma, beta, unit, norm.eps, norm.normalised, norm.slots.of("dgrad.error")
        )
        _remember(norm, mu, variance, unit)
        result: torch.Tensor = y
        return result
    shape = [1, -1, *([1] * (x.dim() - 2))]
    mean, gain, beta = (t.to(x.device, torch.float32).view(shape) for t in _statistics(norm))
    return (x - mean) * gain + beta


@torch.no_grad()
def _remember(norm: IntegerNorm, mu: torch.Tensor, variance: torch.Tensor, unit: torch.Tensor) -> None:
    """M <- M + (2^16 mu - M) 2^-shift and V alike, on integers; where the scales of the layer moved, what
    was stored moves to the new unit first."""
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    ratio = norm.unit / unit
    if norm.unit.shape != unit.shape:
        norm.unit = torch.empty_like(unit)
    norm.unit.copy_(unit)
    mean.copy_((mean.double() * ratio).round())
    var.copy_((var.double() * ratio.square()).round())
    momentum = MOMENTUM if norm.momentum is None else ap2_number(norm.momentum)
    mean += divide((mu << FRACTION) - mean, round(1 / momentum))
    var += divide(variance - var, round(1 / momentum))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1


def _statistics(norm: IntegerNorm) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    unit = norm.unit.cpu()
    mean = norm.get_buffer("running_mean").cpu().double() * 2.0**-FRACTION * unit
    inverse = reciprocal(norm.get_buffer("running_var").cpu(), epsilon(norm.eps, unit)) / unit
    gamma = norm.weight.detach().cpu().double() if norm.affine else torch.ones_like(inverse)
    beta = norm.bias.detach().cpu().double() if norm.affine else torch.zeros_like(inverse)
    return mean, gamma * inverse, beta


def _plain_buffers(norm: IntegerNorm) -> dict[str, torch.Tensor | None]:
    mean, var = (norm.get_buffer(n).double() * 2.0**-FRACTION for n in ("running_mean", "running_var"))
    kept = {name: t for name, t in norm._buffers.items() if name != "unit"}
    return kept | {
        "running_mean": (mean * norm.unit).float(),
        "running_var": (var * norm.unit.square()).float(),
    }


def _before_loading(norm: IntegerNorm, state_dict: dict[str, torch.Tensor], prefix: str) -> None:
    mean = state_dict.get(prefix + "running_mean")
    if mean is not None and mean.is_floating_point():
        for name in ("running_mean", "running_var"):
            state_dict[prefix + name] = _to_integers(state_dict[prefix + name])
        state_dict[prefix + "unit"] = torch.ones(1, dtype=torch.float64)
    stored = state_dict.get(prefix + "unit")
    if stored is not None and stored.shape != norm.unit.shape:
        norm.unit = norm.unit.new_ones(stored.shape)


def _to_integers(statistic: torch.Tensor) -> torch.Tensor:
    return (statistic.double() * 2.0**FRACTION).round().to(torch.int64)


# --- the classes -------------------------------------------------------------------------------------------


class IntegerBatchNorm1d(BatchNorm1d):
    """Integer batch norm over [N, C] or [N, C, L].

    `running_mean` (in 2^-16 integers of the layer in front) and `running_var` (in 2^-16 of its squares) are
    int64; what an integer is worth is the buffer `unit`, float64 [1] or [C]. A float checkpoint loads: its
    statistics are rounded to these grids.
    """

    normalised: Fixed
    slots: Slots
    unit: torch.Tensor

    def begin(self, form: Fixed, slots: Slots) -> None:
        """Make an adopted batch norm's statistics integers; `slots` may hold a quantiser of the error."""
        _begin(self, form, slots)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """Training, and eval on values."""
        return _compute(self, x)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, gamma / sigma and beta of the values: float64 [C] on the CPU."""
        return _statistics(self)

    def plain_buffers(self) -> dict[str, torch.Tensor | None]:
        """The buffers of torch's batch norm with these statistics."""
        return _plain_buffers(self)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        _before_loading(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class IntegerBatchNorm2d(BatchNorm2d):
    """Integer batch norm over [N, C, H, W].

    `running_mean` (in 2^-16 integers of the layer in front) and `running_var` (in 2^-16 of its squares) are
    int64; what an integer is worth is the buffer `unit`, float64 [1] or [C]. A float checkpoint loads: its
    statistics are rounded to these grids.
    """

    normalised: Fixed
    slots: Slots
    unit: torch.Tensor

    def begin(self, form: Fixed, slots: Slots) -> None:
        """Make an adopted batch norm's statistics integers; `slots` may hold a quantiser of the error."""
        _begin(self, form, slots)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """Training, and eval on values."""
        return _compute(self, x)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, gamma / sigma and beta of the values: float64 [C] on the CPU."""
        return _statistics(self)

    def plain_buffers(self) -> dict[str, torch.Tensor | None]:
        """The buffers of torch's batch norm with these statistics."""
        return _plain_buffers(self)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        _before_loading(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


IntegerNorm = IntegerBatchNorm1d | IntegerBatchNorm2d
