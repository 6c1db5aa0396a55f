"""Estimators: the gradient through a quantiser, whose own derivative is zero almost everywhere."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from bitwright.errors import unknown_name
from bitwright.formats import Block, Format, Overflow, Rounding, operators
from bitwright.quantize.statistics import Measured, Statistic, measure


class Estimator(enum.Enum):
    """With q = x / scale and g the gradient of the quantised value, the gradient of x is

    | straight-through | g                                          |
    | clipped          | g where level_min <= q <= level_max, else 0 |
    | none             | 0                                          |

    For `binary`, clipped is the derivative of the hard tanh (QNN, section 1): g where |q| <= 1. The
    gradient of NaN is 0 under `clipped`.
    """

    STRAIGHT_THROUGH = "straight-through"
    CLIPPED = "clipped"
    NONE = "none"

    @staticmethod
    def of(value: Estimator | str) -> Estimator:
        """The estimator of that name; an unknown name lists the valid ones."""
        if isinstance(value, Estimator):
            return value
        try:
            return Estimator(value)
        except ValueError:
            raise unknown_name("estimator", value, [e.value for e in Estimator]) from None


class Gradients(Protocol):
    """The gradients of a learnt scale: see `controllers.learnt`."""

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, number: torch.Tensor, parameter: torch.Tensor, form: Format
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(gradient of x, gradient of the parameter) from that of the value."""
        ...


@dataclass(frozen=True)
class Pass:
    """What one pass over a tensor does: everything but the tensors themselves.

    Args:
        form, rounding, overflow: how numbers become.
        bits: random bits of each draw.
        estimator: the gradient of x.
        wants: statistics to take on the way.
        channel_axis: of statistics per channel.
        learnt: the gradients of a learnt scale, which is then handed to `estimate`.
        block_axis: along which a block format's blocks run.
        hard_tanh: where the clipped gradient of `binary` ends.
    """

    form: Format
    rounding: Rounding
    overflow: Overflow
    bits: int
    estimator: Estimator
    wants: tuple[Statistic, ...] = ()
    channel_axis: int | None = None
    learnt: Gradients | None = None
    block_axis: int = -1
    hard_tanh: float = 1.0


def quantize_and_measure(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: torch.Tensor | None,
    what: Pass,
    candidates: torch.Tensor | None,
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Measured]:
    """(numbers, statistics) of `x`: the one place where a pass over memory is made.

    Args:
        x: float tensor.
        scale, zero_point: broadcastable to x; None stands for the format's own, and for none.
        key: int64 (seed, tensor, step, call) of the random bits; None rounds without them.
        what: see `Pass`.
        candidates: the scales of `Statistic.ERRORS`.
        out: receives values in place of numbers; may be x.
    """
    blind = (Statistic.MAX_ABS, Statistic.OVER, Statistic.OVER_HALF, Statistic.COUNT)
    if out is not None and (what.channel_axis is not None or any(s not in blind for s in what.wants)):
        x = x.clone()  # for what is measured after the pass that overwrites it
    scaled = out is not None or isinstance(what.form, Block)
    number, max_abs, counts = operators.quantize(
        what.form,
        x,
        scale,
        what.rounding,
        what.overflow,
        key,
        what.bits,
        zero_point,
        scaled=scaled,
        axis=what.block_axis,
        out=out,
    )
    taken: Measured = {}
    if what.channel_axis is None and max_abs.dim() == 0:
        taken = {
            Statistic.MAX_ABS: max_abs,
            Statistic.OVER: counts[0],
            Statistic.OVER_HALF: counts[1],
        }
    elif what.channel_axis is not None and max_abs.dim() == x.dim():
        taken = {Statistic.MAX_ABS: max_abs}
    rest = [statistic for statistic in what.wants if statistic not in taken]
    measured = measure(x, what.form, scale, zero_point, rest, what.channel_axis, candidates)
    return number, {s: taken[s] if s in taken else measured[s] for s in what.wants}


class _Levels(torch.autograd.Function):
    """x -> levels. The gradient that arrives is that of the value level * scale, not of the level."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        parameter: torch.Tensor | None,
        scale: torch.Tensor | None,
        zero_point: torch.Tensor | None,
        key: torch.Tensor | None,
        candidates: torch.Tensor | None,
        what: Pass,
    ) -> tuple[torch.Tensor, ...]:
        ctx.what = what
        number, measured = quantize_and_measure(x, scale, zero_point, key, what, candidates)
        if what.learnt is not None:
            ctx.save_for_backward(x, number, parameter)
        elif what.estimator is Estimator.CLIPPED and ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, scale, zero_point)
        # those of one operator may share their memory
        statistics = tuple(measured[statistic].clone() for statistic in what.wants)
        ctx.mark_non_differentiable(*statistics)
        return number, *statistics

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        what: Pass = ctx.what
        grad, of_parameter = grads[0], None
        if what.learnt is not None:
            x, number, parameter = ctx.saved_tensors
            grad, of_parameter = what.learnt.backward(grad, x, number, parameter, what.form)
        elif what.estimator is Estimator.NONE:
            grad = torch.zeros_like(grad)
        elif what.estimator is Estimator.CLIPPED:
            x, scale, zero_point = ctx.saved_tensors
            grad = operators.gate(what.form, x, grad, scale, zero_point, what.overflow, what.hard_tanh)
        return grad, of_parameter, None, None, None, None, None


def estimate(
    x: torch.Tensor,
    what: Pass,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
    key: torch.Tensor | None = None,
    parameter: torch.Tensor | None = None,
    candidates: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Measured]:
    """(levels, statistics) of `x`.

    The backward pass of the levels takes the gradient of the *value* and applies the estimator; with a
    learnt scale it also gives the gradient of `parameter`.
    """
    levels, *statistics = _Levels.apply(x, parameter, scale, zero_point, key, candidates, what)  # type: ignore[no-untyped-call]
    return levels, dict(zip(what.wants, statistics, strict=True))
