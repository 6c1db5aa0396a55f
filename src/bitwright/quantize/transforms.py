"""Transforms: what a tensor becomes in front of its quantiser."""

from __future__ import annotations

import enum
import math

import torch

from bitwright.errors import InvalidValueError, unknown_name
from bitwright.formats import Format, Int, twin


class Transform(enum.Enum):
    """With M the format's largest value, x becomes

    | none  | x                                                                          |
    | tanh  | 2 quantise_k(tanh(x) / (2 max |tanh x|) + 1/2) - 1   weights (DoReFa)      |
    | shift | clip(x / 2^round(log2 max |x|), -M, M)               errors, weight_grad (WAGE) |

    The maxima are those of the present tensor. quantise_k(u) = round((2^k - 1) u) / (2^k - 1) passes
    gradients as they are, all around it has its own. `tanh` leaves the odd multiples of 1 / (2^k - 1) up to
    1: the 2^k odd numbers of int(k + 1) at that scale.
    """

    NONE = "none"
    TANH = "tanh"
    SHIFT = "shift"

    @staticmethod
    def of(value: Transform | str) -> Transform:
        """The transform of that name; an unknown name lists the valid ones."""
        if isinstance(value, Transform):
            return value
        try:
            return Transform(value)
        except ValueError:
            raise unknown_name("transform", value, [t.value for t in Transform]) from None

    def check(self, form: Format, scale: float | None) -> None:
        """Raise where what is left would not lie on the quantiser's grid.

        Args:
            form: the quantiser's format.
            scale: its scale; None stands for the format's own.
        """
        if self is not Transform.TANH:
            return
        if not isinstance(form, Int) or form.bits < 2:
            raise InvalidValueError(
                "a tanh transform to k bits leaves odd numbers of k + 1", got=form, fix='for k = 2, "int3"'
            )
        if scale is None or not math.isclose(scale * _steps(form), 1.0, rel_tol=1e-7):
            raise InvalidValueError(
                f"the largest number of a tanh transform is 1, {_steps(form)} steps",
                got=f"scale {scale}",
                where=str(form),
                fix=f"scale = {1 / _steps(form)!r}",
            )

    def __call__(self, x: torch.Tensor, form: Format, scale: float) -> torch.Tensor:
        """What the quantiser of `form` at that scale gets in place of `x`; of the same shape."""
        if self is Transform.TANH:
            return _normalised(x, _steps(form))
        if self is Transform.SHIFT:
            largest = x.detach().abs().amax() if x.numel() else x.new_ones(())
            bound = form.max_number * scale
            return (x / _shift(largest)).clamp_(-bound, bound)
        return x


def _steps(form: Format) -> int:
    """2^k - 1, the largest of the odd numbers."""
    return (1 << (form.bits - 1)) - 1


def _shift(x: torch.Tensor) -> torch.Tensor:
    """2^round(log2 x) of one number; 1 for 0."""
    mantissa, exponent = torch.frexp(x.double())
    # in [1/2, 1), and 2^-1/2 is irrational: there are no ties
    power = twin.power_of_two(exponent.to(torch.int64) - (mantissa * mantissa < 0.5).to(torch.int64))
    return torch.where(x > 0, power, 1.0).to(x.dtype)


def _normalised(x: torch.Tensor, steps: int) -> torch.Tensor:
    """DoReFa's weights for 2^k - 1 steps."""
    t = torch.tanh(x)
    largest = t.abs().amax()
    y = t / (2 * torch.where(largest > 0, largest, 1.0)) + 0.5
    with torch.no_grad():
        value = (2 * torch.round(y * steps) - steps) / steps
    # the values exactly, with the gradient of 2 y - 1
    return value + (2 * y - (2 * y).detach())
