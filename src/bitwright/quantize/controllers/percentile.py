"""A scale that lets the largest few overflow: the percentile of the step before."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.formats import Format
from bitwright.quantize.controllers.base import (
    Controller,
    State,
    check_granularity,
    check_number,
    scale_for,
)
from bitwright.quantize.statistics import Statistic, upper_edge


@dataclass(frozen=True)
class Percentile(Controller):
    """scale = the percentile of |x| / max_number, of the step before (delayed), or of the calibration.

    No quantile is taken: a histogram of log2 |x| with 32 bins an octave, from 2^-64 to 2^32, is filled in
    the pass and merged over calls, batches and ranks by sums. The threshold is the upper edge of the bin in
    which the percentile falls, at most 1/32 above it and never above max |x|; so at least `percent` of
    the elements do not overflow, and 100 is max-abs. Zeros count; what is not finite does not. Unmoved where
    all was zero.

    Args:
        percent: in (0, 100].
        per: "tensor" or "channel" (a histogram of 24 KiB each).
        power_of_two: round the scale up to a power of two.
        hold: leave the scale alone once the first batch or a calibration has set it.
    """

    percent: float = 99.9
    per: str = "tensor"
    power_of_two: bool = False
    hold: bool = False

    wants = frozenset({Statistic.HISTOGRAM, Statistic.MAX_ABS})

    def __post_init__(self) -> None:
        check_number("percent", self.percent, 0, 100)
        check_granularity("a percentile", self.per)

    @property
    def settles(self) -> bool:  # type: ignore[override]
        """Whether the scale is left alone once it is set."""
        return self.hold

    def threshold(self, state: State) -> torch.Tensor:
        """The magnitude that becomes the largest number."""
        histogram = state["histogram"]
        below = histogram.cumsum(0).double() * 100 < histogram.sum(0).double() * self.percent
        return torch.minimum(upper_edge(below.sum(0)), state["max_abs"])

    def initial(self, measured: State, form: Format) -> State:
        return {"scale": scale_for(self.threshold(measured), form, self.power_of_two)}

    def move(self, state: State, form: Format) -> State:
        moved = self.initial(state, form)["scale"]
        return {"scale": torch.where(state["max_abs"] > 0, moved, state["scale"])}

    def __str__(self) -> str:
        parts = [f"percentile {self.percent:g} per {self.per}"]
        parts += ["power of two"] * self.power_of_two + ["held"] * self.hold
        return ", ".join(parts)
