"""Scales from the range of the step before: max-abs, and min-max with a zero point."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.formats import Format
from bitwright.quantize.controllers.base import Controller, State, check_granularity, legal, scale_for
from bitwright.quantize.statistics import Statistic


@dataclass(frozen=True)
class MaxAbs(Controller):
    """scale = max |x| / max_number of the step before (delayed); unmoved where that was all zero, at first 1.

    The maximum is taken over the tensor, or over each index of the channel axis, of the finite elements.
    The maxima of several calls in a step, and of the ranks, are merged by their maximum.

    Args:
        per: "tensor" or "channel".
        power_of_two: round the scale up to a power of two, so that nothing overflows.
    """

    per: str = "tensor"
    power_of_two: bool = False

    wants = frozenset({Statistic.MAX_ABS})
    elementwise = True

    def __post_init__(self) -> None:
        check_granularity("max-abs", self.per)

    def initial(self, measured: State, form: Format) -> State:
        return {"scale": scale_for(measured["max_abs"], form, self.power_of_two)}

    def move(self, state: State, form: Format) -> State:
        moved = scale_for(state["max_abs"], form, self.power_of_two)
        return {"scale": torch.where(state["max_abs"] > 0, moved, state["scale"])}

    def __str__(self) -> str:
        return f"max-abs per {self.per}" + (", power of two" if self.power_of_two else "")


@dataclass(frozen=True)
class MinMax(Controller):
    """Affine: the range [low, high] of the step before, with 0 in it, on all codes; for activations.

        low = min(x, 0), high = max(x, 0)                        over the finite elements
        scale = (high - low) / (code_max - code_min)
        zero_point = clip(round(code_min - low / scale), code_min, code_max)

    The zero point is an int32 code, so that 0 is a number of the grid exactly. Delayed; both limits
    are merged over calls and ranks; unmoved where all was zero.
    """

    wants = frozenset({Statistic.LARGEST, Statistic.SMALLEST})
    elementwise = True
    affine = True

    def check(self, form: Format) -> None:
        # the format says itself where it has no zero point
        form.encode(0.0, scale=1.0, zero_point=0)

    def state(self, form: Format) -> State:
        zero_point = max(form.code_min, min(0, form.code_max))
        return {"scale": torch.ones(()), "zero_point": torch.tensor(zero_point, dtype=torch.int32)}

    def initial(self, measured: State, form: Format) -> State:
        # in float64, where the difference of two float32 neither overflows nor rounds to 0
        low, high = measured["smallest"].double(), measured["largest"].double()
        scale = legal((high - low) / (form.code_max - form.code_min), form, False)
        zero_point = (form.code_min - low / scale.double()).round().clamp(form.code_min, form.code_max)
        moved = {"scale": scale, "zero_point": zero_point.to(torch.int32)}
        start = self.state(form)
        return {n: torch.where(high > low, t, start[n].to(t.device)) for n, t in moved.items()}

    def move(self, state: State, form: Format) -> State:
        seen = state["largest"] > state["smallest"]
        moved = self.initial(state, form)
        return {name: torch.where(seen, value, state[name]) for name, value in moved.items()}

    def __str__(self) -> str:
        return "min-max"
