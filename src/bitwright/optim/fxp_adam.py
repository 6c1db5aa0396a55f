"""FxpAdam: Adam in fixed point (FxpNet, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from bitwright.optim.pieces import Scratch, pieces
from bitwright.optim.shift_adamax import check_shifts


class FxpAdam(torch.optim.Optimizer):
    """Adam for numbers of few bits, between the formats that a recipe gives gradient, state and weights:

        m <- m + (g - m) 2^-a(t)                    a(t) = min(a, ceil(log2 t)),  1 - beta1 = 2^-a
        r <- sqrt(r^2 + (g^2 - r^2) 2^-b(t))        b(t) = min(b, ceil(log2 t)),  1 - beta2 = 2^-b
        w <- w - lr m / r                           nothing where r = 0

    r is the root of Adam's second moment. In few bits the moment itself would underflow for most weights
    (its range is the square of the gradient's), and m / eps would follow; its root has the gradient's own
    range, and where it does underflow the weight rests. The first steps average with greater weight, 1, 1/2,
    1/4, 1/4, 1/8..., which does what Adam's bias correction does and keeps the range of m and r from the
    first step on, so that their formats need not chase it.

    The step computes in registers of 24 significant bits, rounded to nearest even (float32): on grids of up
    to 12 bits g^2 and r^2 are exact, and multiplications by 2^-a are shifts. What is stored is rounded to
    the formats by the hooks of `optim.wrap`.

    Args:
        params: parameters or groups, float32.
        lr: alpha; a group's `step_scale` is a factor in it.
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
            lr = float(group["lr"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.int64)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_root"] = torch.zeros_like(parameter)
                state["step"] += 1
                # ceil(log2 t) is the bit length of t - 1
                ramp = (int(state["step"]) - 1).bit_length()
                first, second = (2.0 ** -min(shift, ramp) for shift in group["shifts"])
                for w, g, m, r in pieces(parameter, parameter.grad, state["exp_avg"], state["exp_avg_root"]):
                    s, t = scratch.like(w, 0), scratch.like(w, 1)
                    torch.sub(g, m, out=t)
                    m.add_(t, alpha=first)
                    torch.mul(g, g, out=t)
                    torch.mul(r, r, out=s)
                    t.sub_(s)
                    s.add_(t, alpha=second)
                    torch.sqrt(s, out=r)
                    # 0 / 0 and m / 0 are 0: the weight rests
                    torch.div(m, r, out=t).nan_to_num_(0.0, 0.0, 0.0)
                    w.sub_(t.mul_(lr))
        return loss
