"""Scales that minimise the squared error: by search, and by the density's table."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Format, Uniform
from bitwright.quantize import densities
from bitwright.quantize.controllers.base import (
    Controller,
    MergeRanks,
    State,
    check_count,
    check_granularity,
    legal,
    scale_for,
)
from bitwright.quantize.controllers.maxabs import MinMax
from bitwright.quantize.densities import Density
from bitwright.quantize.statistics import Statistic, measure

_RANGE = MinMax()


@dataclass(frozen=True)
class MinMSE(Controller):
    """The scale with the least sum of (x - Q(x))^2 over all that was seen, found by search; then it stays.

    Candidates are base * 2^(1 - j / per_octave) for j = 0 to per_octave (octaves + 1), where base puts the
    first batch's max |x| on the largest number (rounded up to a power of two, and one candidate an octave,
    where `power_of_two`). So they reach from twice that scale, for batches that come later, to `octaves`
    below it. Of equal errors the larger scale wins. Rounding is to nearest.

    The first training batch, or a calibration with all of its batches, sets the scale; nothing moves it
    afterwards. Errors are sums, merged over batches and ranks.

    With a zero point base is `MinMax`'s scale, and the zero point its own, both of the first batch: a
    candidate shrinks or widens the range about 0. Where nothing is negative, all codes serve the positive.

    Args:
        per: "tensor" or "channel".
        power_of_two: search powers of two only.
        octaves: how far below max-abs the search goes.
        per_octave: candidates in each octave; 1 with `power_of_two`.
        zero_point: affine, for activations; per tensor, and no powers of two.
    """

    per: str = "tensor"
    power_of_two: bool = False
    octaves: int = 8
    per_octave: int = 16
    zero_point: bool = False

    wants = frozenset({Statistic.ERRORS})
    settles = True

    def __post_init__(self) -> None:
        check_granularity("min-mse", self.per)
        check_count("octaves", self.octaves)
        check_count("per_octave", self.per_octave)
        if self.zero_point and (self.power_of_two or self.per != "tensor"):
            raise InvalidValueError(
                "min-mse with a zero point has any scale, per tensor",
                got=f"per = {self.per!r}, power_of_two = {self.power_of_two}",
            )

    @property
    def affine(self) -> bool:  # type: ignore[override]
        """Whether it sets a zero point."""
        return self.zero_point

    def check(self, form: Format) -> None:
        if self.zero_point:
            _RANGE.check(form)

    def state(self, form: Format) -> State:
        start = _RANGE.state(form) if self.zero_point else {"scale": torch.ones(())}
        return {**start, "choices": torch.ones(1)}

    def candidates(self, state: State) -> torch.Tensor:
        return state["choices"]

    def first(
        self, x: torch.Tensor, state: State, form: Format, channel_axis: int | None, merge: MergeRanks
    ) -> State:
        kept: State = {}
        if self.zero_point:
            kept = _RANGE.first(x, state, form, channel_axis, merge)
            base = kept["scale"]
        else:
            largest = merge(measure(x, form, None, None, [Statistic.MAX_ABS], channel_axis))
            base = scale_for(largest[Statistic.MAX_ABS], form, self.power_of_two)
        each = 1 if self.power_of_two else self.per_octave
        down = torch.arange(each * (self.octaves + 1) + 1, device=base.device)
        factors = torch.exp2(1 - down.double() / each).view(-1, *[1] * base.dim())
        kept["choices"] = legal(base * factors, form, self.power_of_two)
        wants = [Statistic.ERRORS]
        taken = merge(measure(x, form, None, kept.get("zero_point"), wants, channel_axis, kept["choices"]))
        return kept | self.initial(kept | {"errors": taken[Statistic.ERRORS]}, form)

    def initial(self, measured: State, form: Format) -> State:
        choices, errors = measured["choices"], measured["errors"]
        least = (errors == errors.amin(0, keepdim=True)).cumsum(0) == 0
        index = least.sum(0, keepdim=True)
        scale = choices.gather(0, index).squeeze(0)
        # of zeros alone every scale is right, and 1 is said
        zeros = (errors == 0).all(0)
        return {"scale": torch.where(zeros, legal(torch.ones_like(scale), form, False), scale)}

    def settle(self, state: State, form: Format) -> State:
        kept: State = {name: state[name] for name in ("choices", "zero_point") if name in state}
        return {**kept, **self.initial(state, form)}

    def __str__(self) -> str:
        kind = f"min-mse per {self.per}" + (", power of two" if self.power_of_two else "")
        return kind + (", zero point" if self.zero_point else "")


@dataclass(frozen=True)
class SqnrOptimal(Controller):
    """scale = xi * Step, the step of the best uniform quantiser of a density (Lin et al., section 1).

    xi is the standard deviation, or the root mean square about 0 where the format is unsigned (one-sided
    data). Step is that of our own grid, which holds 0 (`densities.grid`); `mid_rise = true` takes the paper's
    table instead. As the paper rounds it, the scale is the power of two 2^-n, n = -ceil(log2(xi Step)),
    unless `power_of_two = false`. Delayed, as max-abs is; sums merged over calls and ranks; unmoved where
    xi is 0.

    Args:
        density: "gaussian", "laplacian", "gamma" or "uniform".
        per: "tensor" or "channel".
        power_of_two: as the paper.
        mid_rise: the paper's step in place of our grid's.
        hold: leave the scale alone once the first batch or a calibration has set it.
    """

    density: Density | str = Density.GAUSSIAN
    per: str = "tensor"
    power_of_two: bool = True
    mid_rise: bool = False
    hold: bool = False

    wants = frozenset({Statistic.COUNT, Statistic.TOTAL, Statistic.SQUARES})

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", Density.of(self.density))
        check_granularity("sqnr", self.per)

    @property
    def settles(self) -> bool:  # type: ignore[override]
        """Whether the scale is left alone once it is set."""
        return self.hold

    def check(self, form: Format) -> None:
        if not isinstance(form, Uniform | Binary) or form.bits > densities.MAX_BITS:
            raise InvalidValueError(
                f"sqnr serves equally spaced formats of at most {densities.MAX_BITS} bits",
                got=form,
                fix='use controller = "min-mse"',
            )

    def state(self, form: Format) -> State:
        # the table's step is worked out here, on the host, once for each density and format
        return {"scale": torch.ones(()), "density_step": torch.tensor(self.step(form), dtype=torch.float64)}

    def step(self, form: Format) -> float:
        """The best scale for unit variance."""
        density = Density.of(self.density)
        if isinstance(form, Binary):
            return densities.mid_rise(density, 1).step / 2  # levels +-1 are half a step from 0
        if self.mid_rise:
            return densities.mid_rise(density, form.bits).step
        return densities.grid(density, form.code_min, form.code_max).step

    def spread(self, state: State, form: Format) -> torch.Tensor:
        """xi, float64."""
        count = state["count"].double().clamp(min=1)
        power = state["squares"] / count
        if form.code_min < 0:
            power = power - (state["total"] / count).square()
        return power.clamp(min=0).sqrt()

    def initial(self, measured: State, form: Format) -> State:
        spread = self.spread(measured, form)
        scale = torch.where(spread > 0, spread * measured["density_step"], 1.0)
        return {"scale": legal(scale, form, self.power_of_two)}

    def move(self, state: State, form: Format) -> State:
        moved = self.initial(state, form)["scale"]
        return {"scale": torch.where(self.spread(state, form) > 0, moved, state["scale"])}

    def __str__(self) -> str:
        parts = [f"sqnr {Density.of(self.density).value} per {self.per}"]
        parts += ["power of two"] * self.power_of_two + ["mid-rise"] * self.mid_rise + ["held"] * self.hold
        return ", ".join(parts)
