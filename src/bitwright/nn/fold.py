"""Eval is integers, by definition: from raw numbers to the next code.

    y[c] = (sum over i of x_i M[i, c] + B[c]) * 2^-s        M, B: integers; s: one shift

Raw numbers are a layer's accumulator, the levels that an add takes, an average pool's sum of levels, or
codes themselves. Their map to values (scales, bias, batch norm, the next quantiser's step) is folded once,
in float64, into (M, B, s). The emulator evaluates y in float64, where every intermediate is an integer below
2^53 (so no fused multiply-add can change it), and rounds it to the code of the quantiser that consumes it;
the integer network does the same in int64. Rounding happens here, before ReLU, clip, pooling and flattening,
which all commute with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Log, Rounding, twin
from bitwright.kernels.registration import register
from bitwright.nn.arithmetic import Operand, accumulator_bound
from bitwright.quantize import Quantized, Quantizer

if TYPE_CHECKING:
    from bitwright.nn.layers import ComputeLayer
    from bitwright.nn.norm import BatchNorm1d, BatchNorm2d

MULTIPLIER_BITS = 31
SUM_BITS = 52
OUTPUT_SUM_BITS = 31
"""Of sums of several numbers that leave the network: its add makes them as 32-bit integers."""
MAX_SHIFT = 62


@dataclass(frozen=True)
class Affine:
    """y = (sum over i of x_i * multiplier[i] + offset) * 2^-shift, per channel.

    |sum| < 2^53 for all raw numbers within their bounds.
    """

    multiplier: torch.Tensor  # int64 [C], or [n, C] for n raw numbers
    offset: torch.Tensor  # int64 [C]
    shift: int


def fold_constants(
    slope: torch.Tensor,
    intercept: torch.Tensor,
    bounds: int | Sequence[int],
    where: str,
    sum_bits: int = SUM_BITS,
) -> Affine:
    """y = sum over i of x_i * slope[i] + intercept in integers, with the largest shift that keeps sums exact.

    Args:
        slope: float64 [C], or [n, C] for n raw numbers.
        intercept: float64 [C].
        bounds: of |x|, or of each |x_i|.
        where: the layer, for messages.
        sum_bits: every sum stays below 2^sum_bits.
    """
    for name, values in (("slope", slope), ("offset", intercept)):
        if not bool(values.isfinite().all()):
            channel = int((~values.isfinite()).nonzero()[0, -1])
            raise InvalidValueError(
                f"the folded {name} is finite",
                got=values.flatten()[~values.isfinite().flatten()][0].item(),
                where=f"channel {channel} of {where}",
                fix="look for NaN or infinity in the weights, bias and norm statistics",
            )
    rows = slope.reshape(-1, slope.shape[-1])
    each = [float(row.abs().max()) if row.numel() else 0.0 for row in rows]
    largest, limits = max(each), [bounds] if isinstance(bounds, int) else bounds
    total = sum(a * bound for a, bound in zip(each, limits, strict=True))
    total += float(intercept.abs().max()) if intercept.numel() else 0.0
    # x < 2^e for (m, e) = frexp(x)
    _, slope_exponent = _frexp(largest)
    _, total_exponent = _frexp(total)
    # rounding M and B can at most double a sum; a slope beyond 2^31 needs no fraction
    shift = min(max(MULTIPLIER_BITS - slope_exponent, 0), sum_bits - 1 - total_exponent, MAX_SHIFT)
    if shift < 0:
        raise InvalidValueError(
            f"a folded affine map stays below 2^{sum_bits - 1}",
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


@dataclass(frozen=True)
class Line:
    """value[c] = sum over i of x_i slope[i, c] + intercept[c], and how large the raw numbers x_i can be.

    Args:
        slope: float64 [n, C], or [n, 1] where all channels are alike.
        intercept: float64 [C] or [1].
        largest: the bound of each |x_i|; of an accumulator, the largest |level| of activation and weight.
        weight: an accumulator's weight levels, whose norm bounds it; else None.
    """

    slope: torch.Tensor
    intercept: torch.Tensor
    largest: tuple[int, ...]
    weight: torch.Tensor | None = None

    def bounds(self) -> list[int]:
        """Of each |x_i|."""
        if self.weight is None:
            return list(self.largest)
        return [accumulator_bound(self.weight, *self.largest)]


class Accumulators:
    """Raw numbers of a compute layer: value = acc scale_a scale_w + bias."""

    def __init__(self, layer: ComputeLayer) -> None:
        self.layer = layer

    @property
    def name(self) -> str:
        """The layer's."""
        return self.layer.slots.layer

    @property
    def training(self) -> bool:
        """Whether they are floats now."""
        return self.layer.training

    @property
    def operands(self) -> Mapping[str, Quantizer | None]:
        """Of the forward product, by role."""
        return {role: self.layer.slots.of(role) for role in ("forward.activation", "forward.weight")}

    def numbers(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What reached the norm is the accumulator."""
        return (x,)

    @property
    def unit(self) -> float:
        """The number that one level of the weight stands for, a power of two; accumulators count levels."""
        weight = self.layer.slots.of("forward.weight")
        return 1.0 if weight is None else weight.format.unit

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight's numbers -> its levels, with the output channel first."""
        rows = self.layer.geometry.by_output(weight)
        return rows if self.unit == 1.0 else rows / self.unit

    def worth(self) -> torch.Tensor:
        """Of one accumulator: float64, one number or one a channel."""
        activation, weight = self.operands.values()
        for role, quantizer in self.operands.items():
            if quantizer is None or not quantizer.format.integral:
                raise InvalidValueError(
                    "the layer's accumulators are integers",
                    got=f"{role} {'in float' if quantizer is None else quantizer.format}",
                    where=self.name,
                    fix='give it an integer format, or use norm = "shift" or "batch"',
                )
        assert activation is not None
        assert weight is not None
        worth = torch.ones(1, dtype=torch.float64)
        by_activation, by_weight = activation.current_scale(), weight.current_scale()
        if by_activation is not None:
            worth = worth.to(by_activation.device) * by_activation.detach().double().flatten()
        if by_weight is not None:
            steps = self.layer.geometry.weight_scales(by_weight.detach().double())
            worth = worth.to(by_weight.device) * steps
        return worth

    def line(self, numbers: torch.Tensor | None = None) -> Line:
        """From the present weights and scales; the weight's `numbers` save quantising it again."""
        activation, weight = self.operands.values()
        assert activation is not None
        assert weight is not None
        with torch.no_grad():
            found = weight(self.layer.weight).levels if numbers is None else numbers.detach()
        levels, geometry = self.rows(found), self.layer.geometry
        slope = torch.full((levels.shape[0],), self.unit, dtype=torch.float64)
        by_activation, by_weight = activation.current_scale(), weight.current_scale()
        if by_activation is not None:
            slope = slope * by_activation.detach().cpu().double().flatten()
        if by_weight is not None:
            slope = slope * geometry.weight_scales(by_weight.detach().cpu().double())
        intercept = torch.zeros(levels.shape[0], dtype=torch.float64)
        if self.layer.bias is not None:
            intercept = self.layer.bias.detach().cpu().double()
        return Line(slope[None], intercept, (activation.level_max, weight.level_max), levels)


class Levels:
    """Raw numbers that are levels of quantisers, or exact sums of them: of adds, pools, and codes alone.

    Args:
        name: of the module that makes them, or of what reads them.
        quantizers: of each number.
    """

    def __init__(self, name: str, quantizers: Sequence[Quantizer | None]) -> None:
        self.name = name
        self.quantizers = tuple(quantizers)

    @property
    def training(self) -> bool:
        """Whether they are floats now."""
        return any(q.training for q in self.quantizers if q is not None)

    @property
    def operands(self) -> Mapping[str, Quantizer | None]:
        """By place."""
        return {f"activation {index}": quantizer for index, quantizer in enumerate(self.quantizers)}

    def numbers(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The levels of values that lie on the one quantiser's grid, or are bounds of a clip beside it."""
        (quantizer,) = self.quantizers
        assert quantizer is not None
        with torch.no_grad():
            return (quantizer(x.detach(), measured=False).levels,)

    def line(self, terms: int = 1, divisor: float = 1.0) -> Line:
        """value = (sum of `terms` levels) scale / divisor."""
        found = [quantizer for quantizer in self.quantizers if quantizer is not None]
        steps = [_step(quantizer) / divisor for quantizer in found]
        largest = tuple(quantizer.level_max * terms for quantizer in found)
        return Line(torch.stack(steps).view(-1, 1), torch.zeros(1, dtype=torch.float64), largest)


class Fold:
    """What lies between raw numbers and the quantiser that consumes them.

    Args:
        source: what makes the raw numbers.
        norm: the batch norm behind it, if any.
        consumer: the activation quantiser at the end; None where the network's output is reached.
        by_norm: the norm evaluates the integers, since max-pools may lie in front of it, or since there is
            nothing but codes in front of it. Otherwise the source does, and the norm hands on what it gets.
    """

    def __init__(
        self,
        source: Accumulators | Levels,
        norm: BatchNorm1d | BatchNorm2d | None,
        consumer: Quantizer | None,
        by_norm: bool = True,
    ) -> None:
        self.source = source
        self.norm = norm
        self.consumer = consumer
        self.by_norm = by_norm and norm is not None

    def active(self, dim: int) -> bool:
        """Whether the modules evaluate integers now, for a tensor of `dim` axes.

        All of them are in eval mode, operands and consumer have integer formats, no scale is being
        calibrated, and the norm's channels are the source's: behind a linear layer over [N, L, C] a norm
        would take L.
        """
        source, norm = self.source, self.norm
        if self.problem is not None or source.training or (norm is not None and norm.training):
            return False
        linear = isinstance(source, Accumulators) and isinstance(source.layer, nn.Linear)
        if norm is not None and dim > 2 and linear:
            return False
        return not any(q is not None and q.calibrating for q in (*source.operands.values(), self.consumer))

    @property
    def problem(self) -> str | None:
        """Why these are not integers; None where they are."""
        for role, quantizer in self.source.operands.items():
            if quantizer is None:
                return f"its {role} has no format"
            form = quantizer.format
            if role == "forward.weight" and isinstance(form, Log):  # integers of a unit
                if Operand.of(form) is None:
                    return f"its {role} is {form}, whose powers span more than 2^26"
            elif not form.integral:
                return f"its {role} is {form}, whose numbers are no integers"
        if self.consumer is not None and not self.consumer.format.integral:
            return f"what follows it is {self.consumer.format}, whose numbers are no integers"
        return None

    def affine(self, line: Line) -> Affine:
        """(M, B, s) of raw numbers on `line`, on the CPU."""
        line = self._to_consumer(line)
        return fold_constants(
            line.slope, line.intercept, line.bounds(), self.source.name, self._sum_bits(line)
        )

    @torch.no_grad()
    def apply(self, numbers: Sequence[torch.Tensor], line: Line, trailing: int) -> torch.Tensor:
        """Raw numbers on `line` -> values on the consumer's grid, or the float32 output.

        Args:
            numbers: integer-valued, of one shape.
            line: see there.
            trailing: how many axes lie behind the channels.
        """
        line = self._to_consumer(line)
        y = _evaluate(numbers, line, trailing, self.source.name, self._sum_bits(line))
        return y.float() if self.consumer is None else grid_values(round_to(self.consumer, y), self.consumer)

    def _to_consumer(self, line: Line) -> Line:
        """The line through the norm, in steps of the consumer: it ends in levels."""
        slope, intercept = line.slope, line.intercept
        if self.norm is not None:
            mean, gain, beta = self.norm.statistics()
            slope, intercept = slope * gain, (intercept - mean) * gain + beta
        if self.consumer is not None and self.consumer.current_scale() is not None:
            step = _step(self.consumer)
            slope, intercept = slope / step, intercept / step
        return Line(slope, intercept, line.largest, line.weight)

    def _sum_bits(self, line: Line) -> int:
        return OUTPUT_SUM_BITS if self.consumer is None and len(line.slope) > 1 else SUM_BITS


def requantizing(primary: Quantizer, target: Quantizer, where: str) -> Fold:
    """From the codes of one quantiser to those of another."""
    return Fold(Levels(where, [primary]), None, target)


def requantize(primary: Quantizer, target: Quantizer, x: torch.Tensor, where: str) -> Quantized:
    """Values on the grid of `primary` -> levels of `target`, in integers."""
    source = Levels(where, [primary])
    line = Fold(source, None, target)._to_consumer(source.line())
    with torch.no_grad():
        y = _evaluate(source.numbers(x), line, 0, where, SUM_BITS)
        levels = round_to(target, y)
    levels = levels if target.format.wide else levels.float()
    return Quantized(levels, target.current_scale(), target.current_zero_point())


def round_to(quantizer: Quantizer, y: torch.Tensor) -> torch.Tensor:
    """Levels of y, which is in steps of the quantiser: float64, rounded as in eval mode."""
    # a tensor: torch.compile cannot follow the check of a number
    unit = torch.ones((), device=y.device)
    spec, zero_point = quantizer.spec, quantizer.current_zero_point()
    return twin.numbers(spec.format, y, unit, eval_rounding(quantizer), spec.overflow, zero_point=zero_point)


def grid_values(levels: torch.Tensor, quantizer: Quantizer) -> torch.Tensor:
    """Levels -> values of which the quantiser makes the same levels again, whatever its rounding.

    Values with a scale are float64, in which the product with it is exact. Integers carry no gradient: eval
    mode is for answers, train mode for learning.
    """
    scale = quantizer.current_scale()
    return levels if scale is None else levels.double() * scale.to(levels.device, torch.float64)


def _step(quantizer: Quantizer) -> torch.Tensor:
    scale = quantizer.current_scale()
    one = torch.ones((), dtype=torch.float64)
    return one if scale is None else scale.detach().cpu().double().reshape(())


def _evaluate(
    numbers: Sequence[torch.Tensor], line: Line, trailing: int, where: str, sum_bits: int
) -> torch.Tensor:
    y: torch.Tensor = torch.ops.bitwright.fold.default(
        list(numbers), line.slope, line.intercept, line.weight, list(line.largest), trailing, sum_bits, where
    )
    return y


def _fold(
    numbers: list[torch.Tensor],
    slope: torch.Tensor,
    intercept: torch.Tensor,
    weight: torch.Tensor | None,
    largest: list[int],
    trailing: int,
    sum_bits: int,
    where: str,
) -> torch.Tensor:
    """(sum over i of x_i M[i] + B) 2^-s in float64, with the constants of `fold_constants`."""
    bounds = Line(slope, intercept, tuple(largest), weight).bounds()
    affine = fold_constants(slope, intercept, bounds, where, sum_bits)
    shape = (-1, *[1] * trailing)

    def per_channel(constants: torch.Tensor) -> torch.Tensor:
        return constants.to(numbers[0].device, torch.float64).view(shape)

    y = per_channel(affine.offset)
    for x, multiplier in zip(numbers, affine.multiplier, strict=True):
        y = x.double() * per_channel(multiplier) + y
    # an integer times a power of two is exact; adding 0 turns -0 into the integers' only zero
    return y * 2.0**-affine.shift + 0.0


def _fake_fold(numbers: list[torch.Tensor], *_: object) -> torch.Tensor:
    return torch.empty_like(numbers[0], dtype=torch.float64)


# (M, B, s) depend on data in ways that a graph cannot hold, so their use is one operator
register(
    "fold(Tensor[] numbers, Tensor slope, Tensor intercept, Tensor? weight, SymInt[] largest, int trailing, "
    "int sum_bits, str where) -> Tensor",
    _fold,
    _fake_fold,
)


def eval_rounding(quantizer: Quantizer) -> Rounding:
    """The rounding in eval mode, where nothing is stochastic."""
    rounding = quantizer.spec.rounding
    return Rounding.NEAREST_EVEN if rounding is Rounding.STOCHASTIC else rounding


class Accumulator(nn.Module):
    """Where a compute layer's eval-mode accumulators pass: an identity to hang a forward hook on."""

    def forward(self, acc: torch.Tensor) -> torch.Tensor:
        """`acc`, unchanged."""
        return acc
