"""Shift-based AdaMax (QNN, section 3, algorithm 4): every multiplication of a step is a shift."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats.ap2 import ap2, ap2_number
from bitwright.optim.pieces import Scratch, pieces


class ShiftAdaMax(torch.optim.Optimizer):
    """AdaMax whose constants, step and inverse norm are powers of two:

        m <- m + (g - m) 2^-a                       1 - beta1 = 2^-a
        v <- max(v - v 2^-b, |g|)                   1 - beta2 = 2^-b
        w <- w - AP2(lr) AP2(1 / (1 - beta1^t)) m AP2(1 / v)

    The learning rate of a group, in which `step_scale` is a factor, is rounded to a power of two as the
    authors' code does.

    Args:
        params: parameters or groups, float32.
        lr: alpha.
        shifts: (a, b).
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 2.0**-10, shifts: tuple[int, int] = (3, 10)
    ) -> None:
        super().__init__(params, {"lr": lr, "shifts": check_shifts(shifts)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scratch = Scratch()
        for group in self.param_groups:
            first, second = (2.0**-shift for shift in group["shifts"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.int64)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_inf"] = torch.zeros_like(parameter)
                state["step"] += 1
                correction = 1 / (1 - (1 - first) ** int(state["step"]))
                size = ap2_number(float(group["lr"])) * ap2_number(correction)
                for w, g, m, v in pieces(parameter, parameter.grad, state["exp_avg"], state["exp_inf"]):
                    t = scratch.like(w, 0)
                    torch.sub(g, m, out=t)
                    m.add_(t, alpha=first)
                    v.mul_(1 - second)
                    torch.abs(g, out=t)
                    torch.maximum(v, t, out=v)
                    torch.reciprocal(v, out=t)
                    ap2(t, out=t).mul_(m)
                    w.sub_(t, alpha=size)
        return loss


def check_shifts(shifts: tuple[int, int]) -> tuple[int, int]:
    """The shifts; 1 - 2^-shift must be a float32 below 1."""
    if len(shifts) != 2 or not all(isinstance(s, int) and 1 <= s <= 24 for s in shifts):
        raise InvalidValueError("shifts are two integers from 1 to 24", got=shifts)
    return shifts[0], shifts[1]
