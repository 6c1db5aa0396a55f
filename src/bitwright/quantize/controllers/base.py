"""What every controller is: a frozen rule, whose state the quantiser keeps in buffers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Flex, Format, Rounding, twin
from bitwright.quantize.estimators import Gradients
from bitwright.quantize.statistics import Measured, Statistic, measure

State = dict[str, torch.Tensor]
"""Name of a buffer -> tensor: the scale, what the controller remembers, and statistics by their names."""

MergeRanks = Callable[[Measured], Measured]

GRANULARITIES = ("tensor", "channel")
TINY = torch.finfo(torch.float32).tiny  # below it a quotient would overflow


class Controller(ABC):
    """A rule that sets a scale.

    Time: what is measured from one tick to the next (`wants`, merged over calls and ranks) goes through
    `move` at the tick, then starts anew. `initial` gives the first scale, from the first training batch or
    from all batches of a calibration. Nothing here reads a tensor's value on the host.
    """

    wants: frozenset[Statistic] = frozenset()
    """What must be measured."""
    per: str = "tensor"
    """"tensor", or "channel" for a scale at each index of the channel axis."""
    moves: bool = True
    """Whether the scale ever changes."""
    settles: bool = False
    """Whether it is left alone once the first batch or a calibration has set it."""
    learns: bool = False
    """Whether the scale is a Parameter: see `Learnt`."""
    affine: bool = False
    """Whether it sets a zero point: for activations only."""
    narrows: bool = False
    """Whether it keeps, in the buffer `dropped`, how many bits the format has lost."""
    present: bool = False
    """Whether it scales each tensor by that tensor alone, through `values`."""
    elementwise: bool = False
    """Whether `move` is exact elementwise operations: states of many quantisers may go through it as one."""
    counts_before_clipping: bool = False
    """Whether a stored tensor that the optimiser clips is measured before that."""

    def check(self, form: Format) -> None:  # noqa: B027 - most serve every format
        """Raise where this controller cannot serve `form`."""

    def state(self, form: Format) -> State:
        """What it remembers, before any data came."""
        return {"scale": torch.ones(())}

    def scale_of(self, state: State, form: Format) -> torch.Tensor:
        """The scale in force."""
        return state["scale"]

    @abstractmethod
    def initial(self, measured: State, form: Format) -> State:
        """What the first statistics set; `measured` holds them, and the memory that `state` gave."""

    def first(
        self, x: torch.Tensor, state: State, form: Format, channel_axis: int | None, merge: MergeRanks
    ) -> State:
        """The state that the first batch gives: `initial` of its statistics, merged over the ranks."""
        wants = [s for s in Statistic if s in self.wants and not s.needs_scale]
        measured = merge(measure(x, form, None, None, wants, channel_axis))
        return self.initial(state | {s.value: t for s, t in measured.items()}, form)

    def move(self, state: State, form: Format) -> State:
        """What changes at the tick. Buffers that are not named keep their values."""
        return {}

    def settle(self, state: State, form: Format) -> State:
        """What a calibration gives, from the statistics of all its batches."""
        return self.initial(state, form)

    def values(
        self, x: torch.Tensor, form: Format, rounding: Rounding, key: torch.Tensor | None, bits: int
    ) -> torch.Tensor:
        """The quantised values of `x`, where the scale is that of the present tensor."""
        raise NotImplementedError  # only where `present`

    def candidates(self, state: State) -> torch.Tensor | None:
        """The scales of the statistic `errors`."""
        return None

    def gradients(self, features: int) -> Gradients | None:
        """The backward pass of a learnt scale, for a tensor of that many elements (in one example)."""
        return None

    def for_clipped(self, bounds: tuple[float, float], form: Format) -> Controller:
        """The controller of a stored tensor that the optimiser clips to `bounds`."""
        return self


def check_granularity(name: str, per: str) -> None:
    """Raise where `per` is no granularity."""
    if per not in GRANULARITIES:
        raise InvalidValueError(f"{name} runs per {' or '.join(GRANULARITIES)}", got=repr(per))


def check_number(
    name: str, value: Any, low: float, high: float = float("inf"), open_low: bool = True
) -> None:
    """Raise where a parameter is no number in (low, high], or [low, high]."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} is a number", got=repr(value))
    if not (low < value if open_low else low <= value) or not value <= high:
        above = "above" if open_low else "at least"
        limit = "" if high == float("inf") else f" and at most {high:g}"
        raise InvalidValueError(f"{name} is {above} {low:g}{limit}", got=value)


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raise where a parameter is no int of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTypeError(f"{name} is an int", got=repr(value))
    if value < low:
        raise InvalidValueError(f"{name} is at least {low}", got=value)


def ceil_log2(x: torch.Tensor) -> torch.Tensor:
    """ceil(log2 x) as int64, exactly, for positive finite x."""
    mantissa, exponent = torch.frexp(x)
    return (exponent - (mantissa == 0.5).to(exponent.dtype)).to(torch.int64)


def legal(scale: torch.Tensor, form: Format, power_of_two: bool) -> torch.Tensor:
    """The nearest lawful scale at or above: normal float32; a power of two in the window for `Flex`."""
    low, high = -126, 127
    if isinstance(form, Flex):
        power_of_two = True
        low, high = -form.exponents[-1], -form.exponents[0]
    if not power_of_two:
        return scale.to(torch.float32).clamp(min=TINY, max=torch.finfo(torch.float32).max)
    exponent = ceil_log2(scale.double().clamp(min=TINY))
    return twin.power_of_two(exponent.clamp(low, high)).to(torch.float32)


def scale_for(largest: torch.Tensor, form: Format, power_of_two: bool = False) -> torch.Tensor:
    """The scale that puts `largest` on the format's largest number; 1 where it is 0."""
    scale = (largest / form.max_number).clamp(min=TINY)
    return legal(torch.where(largest > 0, scale, torch.ones_like(scale)), form, power_of_two)
