"""Dynamic fixed point: the share of overflows moves the point (Courbariaux, 2014; FxpNet, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Format, Int
from bitwright.quantize.controllers.base import (
    Controller,
    State,
    check_count,
    check_number,
    legal,
    scale_for,
)
from bitwright.quantize.controllers.static import Static
from bitwright.quantize.statistics import Statistic

CLIPPED = ("freeze", "before")


@dataclass(frozen=True)
class OverflowRate(Controller):
    """Every `window` ticks, with r0 and r1 the shares of elements beyond the limits of this and of half this
    range since the last decision:

        r0 > rate                            the scale doubles
        r1 <= rate, `patience` windows long  the scale halves
        otherwise                            it stays

    and the counters start anew. The scale is a power of two, at first the smallest at which the first batch
    (or the calibration) does not overflow; for zeros, that at which 1 does not. Counted are values before
    saturation, strictly beyond the limits; infinities count, NaN does not. A window of zeros or without data
    moves nothing. Calls and ranks merge by sums.

    A stored tensor that the optimiser clips ends up exactly at the limit, and would count as overflow for
    ever: `clipped = "freeze"` gives it a fixed scale, the power of two at which the bound is one step above
    the largest number (FxpNet: no integer bits for [-1, 1]); "before" counts before the optimiser clips.

    With `shrink` a range that is half used costs a bit in place of the step: the format becomes one bit
    narrower at the same scale, and takes the bit back before the scale ever doubles. What is stored of the
    tensor is then codes of that many bits.

    Args:
        rate: r_max, the accepted share, 0 to below 1.
        window: T, in ticks.
        patience: windows in a row that must allow half the range.
        clipped: "freeze" or "before".
        shrink: drop a bit where half the range is unused.
    """

    rate: float = 1e-4
    window: int = 100
    patience: int = 2
    clipped: str = "freeze"
    shrink: bool = False

    wants = frozenset({Statistic.MAX_ABS, Statistic.COUNT, Statistic.OVER, Statistic.OVER_HALF})
    elementwise = True

    def __post_init__(self) -> None:
        check_number("rate", self.rate, 0, 1, open_low=False)
        check_count("window", self.window)
        check_count("patience", self.patience)
        if self.clipped not in CLIPPED:
            raise InvalidValueError(f"clipped is {' or '.join(CLIPPED)}", got=repr(self.clipped))

    @property
    def counts_before_clipping(self) -> bool:  # type: ignore[override]
        """Whether a clipped tensor is measured before that."""
        return self.clipped == "before"

    def check(self, form: Format) -> None:
        if isinstance(form, Binary):
            raise InvalidValueError("two levels do not overflow", got=form, fix="use max-abs, or none")
        if self.shrink and not isinstance(form, Fixed | Int):
            raise InvalidValueError("fixed<bits> and int<bits> can lose a bit", got=form, fix="use fixed12")

    @property
    def narrows(self) -> bool:  # type: ignore[override]
        """Whether the format's width moves."""
        return self.shrink

    def state(self, form: Format) -> State:
        counters = ("ticks", "streak", "window_count", "window_over", "window_over_half")
        return {
            "scale": torch.ones(()),
            "window_max": torch.zeros(()),
            **{name: torch.zeros((), dtype=torch.int64) for name in (*counters, *self._bits())},
        }

    def _bits(self) -> tuple[str, ...]:
        return ("dropped",) if self.shrink else ()

    def initial(self, measured: State, form: Format) -> State:
        # zeros, such as a norm's beta, get the range of [-1, 1]
        largest = torch.where(measured["max_abs"] > 0, measured["max_abs"], 1.0)
        return {"scale": scale_for(largest, form, power_of_two=True)}

    def move(self, state: State, form: Format) -> State:
        ticks = state["ticks"] + 1
        count = state["window_count"] + state["count"]
        over = state["window_over"] + state["over"]
        over_half = state["window_over_half"] + state["over_half"]
        largest = torch.maximum(state["window_max"], state["max_abs"])
        decide = (ticks >= self.window) & ((largest > 0) | (over > 0))
        accepted = count.double() * self.rate
        up = decide & (over > accepted)
        allows = decide & ~up & (over_half <= accepted)
        streak = torch.where(decide, torch.where(allows, state["streak"] + 1, 0), state["streak"])
        down = decide & (streak >= self.patience)
        bits: State = {}
        factor = torch.where(up, 2.0, torch.where(down, 0.5, 1.0))
        if self.shrink:
            dropped = state["dropped"]
            back = up & (dropped > 0)
            # two bits are the least: a sign and a step
            bits["dropped"] = dropped + (down & (form.bits > 2)).to(torch.int64) - back.to(torch.int64)
            factor = torch.where(up & ~back, 2.0, 1.0)
        done = ticks >= self.window
        return {
            "scale": legal(state["scale"].double() * factor, form, power_of_two=True),
            "ticks": torch.where(done, 0, ticks),
            "streak": torch.where(down, 0, streak),
            "window_count": torch.where(done, 0, count),
            "window_over": torch.where(done, 0, over),
            "window_over_half": torch.where(done, 0, over_half),
            "window_max": torch.where(done, 0.0, largest),
            **bits,
        }

    def for_clipped(self, bounds: tuple[float, float], form: Format) -> Controller:
        if self.clipped == "before":
            return self
        reach = -form.min_number if form.min_number < 0 else form.max_number + 1
        bound = torch.tensor(max(abs(b) for b in bounds), dtype=torch.float64)
        return Static(float(legal(bound / reach, form, power_of_two=True)))

    def __str__(self) -> str:
        return f"overflow rate {self.rate:g} every {self.window}" + (", shrinks" if self.shrink else "")
