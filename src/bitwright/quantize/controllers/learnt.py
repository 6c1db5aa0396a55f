"""Scales learnt by gradient descent: the step (LSQ) and the clip (PACT)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Format, Uniform
from bitwright.quantize.controllers.base import TINY, Controller, State
from bitwright.quantize.estimators import Gradients
from bitwright.quantize.statistics import Statistic


class Learnt(Controller):
    """A scale that is an nn.Parameter of the quantiser: the optimiser moves it, no tick does.

    The first training batch, or a calibration, initialises it in place, from statistics merged over the
    ranks. Data parallelism averages its gradient like any other. It is positive: its magnitude is used.
    """

    settles = True
    learns = True

    def check(self, form: Format) -> None:
        if not isinstance(form, Uniform) or form.code_max < 1:
            raise InvalidValueError("a learnt scale serves equally spaced formats", got=form)


@dataclass(frozen=True)
class LearntStep(Learnt):
    """LSQ (Esser et al., 2020): the step s is learnt.

        v^ = round(clip(x / s, -Qn, Qp)) s
        dv^/ds = round(x / s) - x / s inside, -Qn or Qp outside, times 1 / sqrt(N Qp)
        dv^/dx = 1 inside, 0 outside
        first  s = 2 mean|x| / sqrt(Qp)

    N is the number of weights of the layer, or of features of one example.
    """

    wants = frozenset({Statistic.MAGNITUDE, Statistic.COUNT})

    def initial(self, measured: State, form: Format) -> State:
        mean = measured["magnitude"] / measured["count"].double().clamp(min=1)
        step = (2 * mean / math.sqrt(form.max_number)).to(torch.float32).clamp(min=TINY)
        return {"scale": torch.where(mean > 0, step, torch.ones_like(step))}

    def scale_of(self, state: State, form: Format) -> torch.Tensor:
        return state["scale"].detach().abs().clamp(min=TINY)

    def gradients(self, features: int) -> Gradients:
        return _StepGradients(features)

    def __str__(self) -> str:
        return "lsq"


@dataclass(frozen=True)
class _StepGradients:
    features: int

    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, number: torch.Tensor, parameter: torch.Tensor, form: Format
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q = x / parameter.abs().clamp(min=TINY)
        low, high = form.min_number, form.max_number
        slope = torch.where(q <= low, low, torch.where(q >= high, high, number - q))
        factor = 1 / math.sqrt(max(self.features, 1) * high)
        of_step = (grad * slope).sum() * factor * _sign(parameter)
        return torch.where((q >= low) & (q <= high), grad, 0.0), of_step.to(parameter.dtype)


@dataclass(frozen=True)
class LearntClip(Learnt):
    """PACT (Choi et al., 2018): the clip alpha of an unsigned activation is learnt.

        y = clip(x, 0, alpha),   y_q = round(y (2^k - 1) / alpha) alpha / (2^k - 1)
        dy_q/dalpha = 1 where x >= alpha, else 0
        dy_q/dx = 1 where 0 <= x < alpha, else 0
        first  alpha = max |x|

    The paper's L2 penalty on alpha is the optimiser's weight decay: `clip_parameters(model)` gives the
    parameters for a group of their own (coupled, as in SGD and Adam; AdamW decouples it).
    """

    wants = frozenset({Statistic.MAX_ABS})

    def check(self, form: Format) -> None:
        super().check(form)
        if form.code_min < 0:
            raise InvalidValueError("pact clips at 0, for an unsigned format", got=form, fix="use uint4")

    def state(self, form: Format) -> State:
        return {"alpha": torch.ones(())}

    def initial(self, measured: State, form: Format) -> State:
        largest = measured["max_abs"]
        return {"alpha": torch.where(largest > 0, largest, torch.ones_like(largest))}

    def scale_of(self, state: State, form: Format) -> torch.Tensor:
        return (state["alpha"].detach().abs() / form.max_number).clamp(min=TINY)

    def gradients(self, features: int) -> Gradients:
        return _ClipGradients()

    def __str__(self) -> str:
        return "pact"


@dataclass(frozen=True)
class _ClipGradients:
    def backward(
        self, grad: torch.Tensor, x: torch.Tensor, number: torch.Tensor, parameter: torch.Tensor, form: Format
    ) -> tuple[torch.Tensor, torch.Tensor]:
        alpha = parameter.abs()
        above = x >= alpha
        of_alpha = torch.where(above, grad, 0.0).sum() * _sign(parameter)
        return torch.where((x >= 0) & ~above, grad, 0.0), of_alpha.to(parameter.dtype)


def _sign(parameter: torch.Tensor) -> torch.Tensor:
    """d|p| / dp, 1 at 0."""
    return torch.where(parameter < 0, -1.0, 1.0)
