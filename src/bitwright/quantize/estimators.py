"""Estimators: the gradient through a quantiser, whose own derivative is zero almost everywhere."""

from __future__ import annotations

import enum
from typing import Any

import torch

from bitwright.errors import unknown_name
from bitwright.formats import Format, Key, Overflow, Rounding, twin


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


class _Levels(torch.autograd.Function):
    """x -> levels. The gradient that arrives is that of the value level * scale, not of the level."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        form: Format,
        scale: torch.Tensor | None,
        rounding: Rounding,
        key: Key | None,
        estimator: Estimator,
    ) -> torch.Tensor:
        ctx.estimator = estimator
        if estimator is Estimator.CLIPPED and ctx.needs_input_grad[0]:
            q = twin.quotient(form, x, scale)
            ctx.save_for_backward((q >= form.min_number) & (q <= form.max_number))
        return twin.numbers(form, x, scale, rounding, Overflow.SATURATE, key)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        if ctx.estimator is Estimator.NONE:
            grad = torch.zeros_like(grad)
        elif ctx.estimator is Estimator.CLIPPED:
            grad = torch.where(ctx.saved_tensors[0], grad, 0.0)  # infinity * 0 would be NaN
        return grad, None, None, None, None, None


def estimate(
    x: torch.Tensor,
    form: Format,
    scale: torch.Tensor | None,
    rounding: Rounding,
    key: Key | None,
    estimator: Estimator,
) -> torch.Tensor:
    """Levels of `x` whose backward pass takes the gradient of the *value* and applies `estimator`."""
    levels: torch.Tensor = _Levels.apply(x, form, scale, rounding, key, estimator)  # type: ignore[no-untyped-call]
    return levels
