"""Controllers: the rules that set a scale. Frozen values; their state lives in the quantiser's buffers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Format

GRANULARITIES = ("tensor", "channel")


@dataclass(frozen=True)
class Static:
    """A scale that never moves.

    Args:
        scale: worth of one level; None takes the format's own.
    """

    scale: float | None = None

    def check(self, form: Format) -> None:
        """Raise where this controller cannot serve `form`."""
        form.scale_or_default(self.scale)

    def __str__(self) -> str:
        return "static" if self.scale is None else f"static {self.scale:g}"


@dataclass(frozen=True)
class MaxAbs:
    """scale = max |x| / level_max of the step before (delayed); unmoved where that was all zero, at first 1.

    The maximum is taken over the tensor, or over each index of the channel axis. When the quantiser runs
    several times in a step its maxima are merged. Non-finite elements are left out of the maximum.

    Args:
        per: "tensor" or "channel".
        power_of_two: round the scale up to a power of two, so that nothing overflows.
    """

    per: str = "tensor"
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if self.per not in GRANULARITIES:
            raise InvalidValueError(f"max-abs runs per {' or '.join(GRANULARITIES)}", got=repr(self.per))

    def check(self, form: Format) -> None:
        """Every format can be scaled."""

    def measure(self, x: torch.Tensor, channel_axis: int) -> torch.Tensor:
        """max |x|, of shape () or broadcastable to x with the channel axis kept."""
        magnitude = x.detach().abs().to(torch.float32)
        magnitude = torch.where(magnitude.isfinite(), magnitude, magnitude.new_zeros(()))
        if self.per == "tensor":
            return magnitude.amax() if x.numel() else magnitude.new_zeros(())
        axes = [axis for axis in range(x.dim()) if axis != channel_axis % x.dim()]
        return magnitude.amax(dim=axes, keepdim=True) if axes else magnitude

    def scale(self, statistic: torch.Tensor, form: Format) -> torch.Tensor:
        """The scale that puts the measured maximum on the largest level."""
        # below the smallest normal float32 a quotient would overflow
        tiny = torch.finfo(torch.float32).tiny
        scale = (statistic / form.max_number).clamp(min=tiny)
        if self.power_of_two:
            mantissa, exponent = torch.frexp(scale)
            scale = torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).to(exponent))
        return torch.where(statistic > 0, scale, torch.ones_like(scale))

    def __str__(self) -> str:
        return f"max-abs per {self.per}" + (", power of two" if self.power_of_two else "")


Controller = Static | MaxAbs
