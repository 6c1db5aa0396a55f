"""Eval is integers, by definition: from an accumulator to the next code.

    y = (acc * M + B) * 2^-s        M, B: integers per channel; s: one shift per layer

Bias, batch norm and scales are folded once, in float64, into (M, B, s). The emulator evaluates y in
float64, where every intermediate is an integer below 2^53 (so no fused multiply-add can change it), and
rounds it to the code of the quantiser that consumes it; the integer network does the same in int64.
Rounding happens here, before ReLU, clip, pooling and flattening, which all commute with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Log, Rounding, twin
from bitwright.kernels.registration import register
from bitwright.nn.arithmetic import Operand, accumulator_bound
from bitwright.quantize import Quantizer

if TYPE_CHECKING:
    from bitwright.nn.layers import ComputeLayer
    from bitwright.nn.norm import BatchNorm1d, BatchNorm2d

MULTIPLIER_BITS = 31
SUM_BITS = 52
MAX_SHIFT = 62


@dataclass(frozen=True)
class Affine:
    """y = (acc * multiplier + offset) * 2^-shift, per output channel.

    |acc * multiplier + offset| < 2^53 for every accumulator within its bound.
    """

    multiplier: torch.Tensor  # int64 [C]
    offset: torch.Tensor  # int64 [C]
    shift: int


def fold_constants(slope: torch.Tensor, intercept: torch.Tensor, bound: int, where: str) -> Affine:
    """y = acc * slope + intercept in integers, with the largest shift that leaves every sum exact.

    Args:
        slope: float64 [C].
        intercept: float64 [C].
        bound: of |acc|.
        where: the layer, for messages.
    """
    for name, values in (("slope", slope), ("offset", intercept)):
        if not bool(values.isfinite().all()):
            channel = int((~values.isfinite()).nonzero()[0])
            raise InvalidValueError(
                f"the folded {name} is finite",
                got=values[channel].item(),
                where=f"channel {channel} of {where}",
                fix="look for NaN or infinity in the weights, bias and norm statistics",
            )
    largest = float(slope.abs().max()) if slope.numel() else 0.0
    total = largest * bound + (float(intercept.abs().max()) if slope.numel() else 0.0)
    # x < 2^e for (m, e) = frexp(x)
    _, slope_exponent = _frexp(largest)
    _, total_exponent = _frexp(total)
    # rounding M and B can at most double a sum; a slope beyond 2^31 needs no fraction
    shift = min(max(MULTIPLIER_BITS - slope_exponent, 0), SUM_BITS - 1 - total_exponent, MAX_SHIFT)
    if shift < 0:
        raise InvalidValueError(
            f"a folded affine map stays below 2^{SUM_BITS - 1}",
            got=f"values up to {total:.3g}",
            where=where,
            fix="a channel's variance is nearly zero, or a scale is far from its tensor",
        )
    factor = 2.0**shift
    return Affine(
        torch.round(slope * factor).to(torch.int64),
        torch.round(intercept * factor).to(torch.int64),
        shift,
    )


def _frexp(value: float) -> tuple[float, int]:
    mantissa, exponent = torch.frexp(torch.tensor(value, dtype=torch.float64))
    return float(mantissa), int(exponent)


class Fold:
    """What lies between one layer's accumulator and the quantiser that consumes it.

    Args:
        layer: the compute layer.
        norm: the batch norm behind it, if any (a max-pool may lie between).
        consumer: the activation quantiser at the end; None where the network's output is reached.
    """

    def __init__(
        self,
        layer: ComputeLayer,
        norm: BatchNorm1d | BatchNorm2d | None,
        consumer: Quantizer | None,
    ) -> None:
        self.layer = layer
        self.norm = norm
        self.consumer = consumer

    def active(self, dim: int) -> bool:
        """Whether the modules evaluate integers now, for a tensor of `dim` axes.

        All of them are in eval mode, both operands and the consumer have integer formats, no scale is being
        calibrated, and the norm's channels are the layer's: behind a linear layer over [N, L, C] a norm would
        take L.
        """
        operands = [self.layer.slots.of(o) for o in ("forward.activation", "forward.weight")]
        if self.problem is not None or self.layer.training or (self.norm is not None and self.norm.training):
            return False
        if self.norm is not None and dim > 2 and isinstance(self.layer, nn.Linear):
            return False
        return not any(q is not None and q.calibrating for q in (*operands, self.consumer))

    @property
    def problem(self) -> str | None:
        """Why this chain is not one of integers; None where it is."""
        slots = self.layer.slots
        for operand in ("forward.activation", "forward.weight"):
            quantizer = slots.of(operand)
            if quantizer is None:
                return f"its {operand} has no format"
            form = quantizer.format
            if operand == "forward.weight" and isinstance(form, Log):  # integers of a unit
                if Operand.of(form) is None:
                    return f"its {operand} is {form}, whose powers span more than 2^26"
            elif not form.integral:
                return f"its {operand} is {form}, whose numbers are no integers"
        if self.consumer is not None and not self.consumer.format.integral:
            return f"what follows it is {self.consumer.format}, whose numbers are no integers"
        return None

    @property
    def unit(self) -> float:
        """The number that one level of the weight stands for, a power of two; accumulators count levels."""
        return self._operands()[1].format.unit

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight's numbers -> its levels, with the output channel first."""
        rows = self.layer.geometry.by_output(weight)
        return rows if self.unit == 1.0 else rows / self.unit

    def bound(self, weight: torch.Tensor) -> int:
        """An upper bound of |accumulator|."""
        activation, quantizer = self._operands()
        return accumulator_bound(self.rows(weight), _max_level(activation), _max_level(quantizer))

    @torch.no_grad()
    def affine(self, weight: torch.Tensor) -> Affine:
        """(M, B, s) from the present weights, statistics and scales. On the CPU, in float64."""
        slope, intercept = self._line(self.rows(weight).shape[0])
        return fold_constants(slope, intercept, self.bound(weight), self.layer.slots.layer)

    def _line(self, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Slope and intercept of the map from accumulators to the consumer's levels: float64 [C]."""
        layer, norm = self.layer, self.norm
        slope = torch.full((channels,), self.unit, dtype=torch.float64)
        activation, weight = (quantizer.current_scale() for quantizer in self._operands())
        if activation is not None:
            slope = slope * activation.detach().cpu().double().flatten()
        if weight is not None:
            slope = slope * layer.geometry.weight_scales(weight.detach().cpu().double())
        intercept = torch.zeros(channels, dtype=torch.float64)
        if layer.bias is not None:
            intercept = layer.bias.detach().cpu().double()
        if norm is not None:
            mean, gain, beta = norm.statistics()
            slope, intercept = slope * gain, (intercept - mean) * gain + beta
        if self.consumer is not None:
            scale = self.consumer.current_scale()
            if scale is not None:
                step = scale.detach().cpu().double()
                slope, intercept = slope / step, intercept / step
        return slope, intercept

    @torch.no_grad()
    def apply(self, acc: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Accumulators -> values on the consumer's grid, or the float32 output.

        Values with a scale are float64, in which the product with it is exact: the consumer's division then
        gives the same levels back under every rounding. Integers carry no gradient: eval mode is for
        answers, train mode for learning.
        """
        rows = self.rows(weight)
        slope, intercept = self._line(rows.shape[0])
        largest = [_max_level(q) for q in self._operands()]
        y: torch.Tensor = torch.ops.bitwright.fold.default(
            acc, slope, intercept, rows, largest, self.layer.slots.layer
        )
        if self.consumer is None:
            return y.float()
        # a tensor: torch.compile cannot follow the check of a number
        unit = torch.ones((), device=y.device)
        spec, zero_point = self.consumer.spec, self.consumer.current_zero_point()
        rounding = eval_rounding(self.consumer)
        levels = twin.numbers(spec.format, y, unit, rounding, spec.overflow, zero_point=zero_point)
        scale = self.consumer.current_scale()
        return levels if scale is None else levels.double() * scale.to(acc.device, torch.float64)

    def _operands(self) -> tuple[Quantizer, Quantizer]:
        activation = self.layer.slots.of("forward.activation")
        weight = self.layer.slots.of("forward.weight")
        assert activation is not None
        assert weight is not None
        return activation, weight


def _fold(
    acc: torch.Tensor,
    slope: torch.Tensor,
    intercept: torch.Tensor,
    weight: torch.Tensor,
    largest: list[int],
    where: str,
) -> torch.Tensor:
    """(acc M + B) 2^-s in float64, with the constants of `fold_constants`; channels as in the layer."""
    affine = fold_constants(slope, intercept, accumulator_bound(weight, largest[0], largest[1]), where)
    shape = (-1,) + (1,) * (weight.dim() - 2)
    multiplier, offset = (
        t.to(acc.device, torch.float64).view(shape) for t in (affine.multiplier, affine.offset)
    )
    # an integer times a power of two is exact; adding 0 turns -0 into the integers' only zero
    y: torch.Tensor = (acc.double() * multiplier + offset) * 2.0**-affine.shift + 0.0
    return y


def _fake_fold(acc: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(acc, dtype=torch.float64)


# (M, B, s) depend on data in ways that a graph cannot hold, so their use is one operator
register(
    "fold(Tensor acc, Tensor slope, Tensor intercept, Tensor weight, int[] largest, str where) -> Tensor",
    _fold,
    _fake_fold,
)


def eval_rounding(quantizer: Quantizer) -> Rounding:
    """The rounding in eval mode, where nothing is stochastic."""
    rounding = quantizer.spec.rounding
    return Rounding.NEAREST_EVEN if rounding is Rounding.STOCHASTIC else rounding


def _max_level(quantizer: Quantizer) -> int:
    return quantizer.level_max


class Accumulator(nn.Module):
    """Where a compute layer's eval-mode accumulators pass: an identity to hang a forward hook on."""

    def forward(self, acc: torch.Tensor) -> torch.Tensor:
        """`acc`, unchanged."""
        return acc
