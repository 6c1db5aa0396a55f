"""What a pass over a tensor measures, and how two measurements become one.

Every statistic merges by a maximum, a minimum or a sum, with 0 as the neutral element, so that the calls of
a step, the batches of a calibration and the ranks of a training run all merge alike, in any order.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection

import torch

from bitwright.formats import Format, Overflow, operators, twin

SUB_BITS = 5
"""Bins per octave of the histogram are 2^SUB_BITS: a bin's edges differ by at most 1/32."""
OCTAVES = range(-64, 32)
BINS = len(OCTAVES) << SUB_BITS
_SHIFT = 23 - SUB_BITS
_FIRST_BIN = OCTAVES[0] + 127 << SUB_BITS
_PART = 1 << 15
_NOT_FINITE = (255 << SUB_BITS) - _FIRST_BIN


class Merge(enum.Enum):
    """How two measurements of one statistic become one."""

    MAX = "max"
    MIN = "min"
    SUM = "sum"

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if self is Merge.SUM:
            return a + b
        return torch.maximum(a, b) if self is Merge.MAX else torch.minimum(a, b)

    def into(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """The same, in the place of `a`."""
        if self is Merge.SUM:
            a.add_(b)
        else:
            a.copy_(self(a, b))


class Statistic(enum.Enum):
    """A by-product of quantising x, over its finite elements; the value is the name of its buffer.

    | statistic | what                                                         | merged by | type    |
    |-----------|--------------------------------------------------------------|-----------|---------|
    | max_abs   | max |x|                                                      | max       | float32 |
    | largest   | max(x, 0)                                                    | max       | float32 |
    | smallest  | min(x, 0)                                                    | min       | float32 |
    | count     | number of elements, also of those that are not finite        | sum       | int64   |
    | over      | elements beyond the format's limits, infinities too, not NaN | sum       | int64   |
    | over_half | the same with every number doubled (half the range)          | sum       | int64   |
    | total     | sum of x                                                     | sum       | float64 |
    | magnitude | sum of |x|                                                   | sum       | float64 |
    | squares   | sum of x^2                                                   | sum       | float64 |
    | histogram | of log2 |x|: 32 bins an octave from 2^-64 to 2^32            | sum       | int64   |
    | errors    | sum of squared errors at each candidate scale                | sum       | float64 |

    `over` and `over_half` are those of values before saturation, at the scale that quantises them.
    """

    MAX_ABS = "max_abs"
    LARGEST = "largest"
    SMALLEST = "smallest"
    COUNT = "count"
    OVER = "over"
    OVER_HALF = "over_half"
    TOTAL = "total"
    MAGNITUDE = "magnitude"
    SQUARES = "squares"
    HISTOGRAM = "histogram"
    ERRORS = "errors"

    @property
    def merge(self) -> Merge:
        """How two measurements become one."""
        if self in (Statistic.MAX_ABS, Statistic.LARGEST):
            return Merge.MAX
        return Merge.MIN if self is Statistic.SMALLEST else Merge.SUM

    @property
    def dtype(self) -> torch.dtype:
        """The type of its buffer: integers count exactly, float64 sums."""
        if self in (Statistic.MAX_ABS, Statistic.LARGEST, Statistic.SMALLEST):
            return torch.float32
        if self in (Statistic.TOTAL, Statistic.MAGNITUDE, Statistic.SQUARES, Statistic.ERRORS):
            return torch.float64
        return torch.int64

    @property
    def needs_scale(self) -> bool:
        """Whether it can be taken only once a scale is known."""
        return self in (Statistic.OVER, Statistic.OVER_HALF, Statistic.ERRORS)


Measured = dict[Statistic, torch.Tensor]


def measure(
    x: torch.Tensor,
    form: Format,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    wants: Collection[Statistic],
    channel_axis: int | None = None,
    candidates: torch.Tensor | None = None,
) -> Measured:
    """The statistics of `x`, on its device and without reading any of them on the host.

    Args:
        x: float tensor.
        form: whose limits count.
        scale, zero_point: those in force; None stands for 1 and for no zero point. `errors` use the latter.
        wants: the statistics.
        channel_axis: one value for each index of this axis, of a shape that broadcasts to x; None: one
            value for the tensor. A histogram and errors have their own axis in front.
        candidates: the scales of `errors`, [K, ...].
    """
    if not wants:
        return {}
    pass_ = _Pass(x.detach(), channel_axis)
    taken: Measured = {}
    for statistic in wants:
        if statistic in (Statistic.OVER, Statistic.OVER_HALF):
            taken[statistic] = pass_.beyond(form, scale, zero_point, statistic is Statistic.OVER_HALF)
        elif statistic is Statistic.ERRORS:
            assert candidates is not None, "errors need candidate scales"
            taken[statistic] = pass_.errors(form, candidates, zero_point)
        else:
            taken[statistic] = _SIMPLE[statistic](pass_)
    return {statistic: value.to(statistic.dtype) for statistic, value in taken.items()}


class _Pass:
    """One look at a tensor: what is reduced, and along which axes."""

    def __init__(self, x: torch.Tensor, channel_axis: int | None) -> None:
        self.x = x
        self.axes: list[int] | None = None
        if channel_axis is not None:
            self.axes = [axis for axis in range(x.dim()) if axis != channel_axis % x.dim()]
        self._finite: torch.Tensor | None = None
        self._quotient: torch.Tensor | None = None

    @property
    def finite(self) -> torch.Tensor:
        """x in float32, with 0 for what is not finite."""
        if self._finite is None:
            self._finite = self.x.to(torch.float32).nan_to_num(0.0, 0.0, 0.0)
        return self._finite

    def reduce(self, operation: Callable[..., torch.Tensor], t: torch.Tensor) -> torch.Tensor:
        if self.axes is None:
            return operation(t) if t.numel() else t.new_zeros(())
        if not t.numel():
            return t.new_zeros([1 if i in self.axes else n for i, n in enumerate(t.shape)])
        # an empty list of axes would mean all of them
        return operation(t, dim=self.axes, keepdim=True) if self.axes else t

    def sum(self, t: torch.Tensor) -> torch.Tensor:
        dtype = torch.float64 if t.is_floating_point() else torch.int64
        return self.reduce(lambda t, **axes: t.sum(dtype=dtype, **axes), t)

    def count(self) -> torch.Tensor:
        shape = [] if self.axes is None else [1 if i in self.axes else n for i, n in enumerate(self.x.shape)]
        result = self.x.new_empty(shape, dtype=torch.int64)
        return result.fill_(self.x.numel() // max(result.numel(), 1))

    def beyond(
        self, form: Format, scale: torch.Tensor | None, zero_point: torch.Tensor | None, half: bool
    ) -> torch.Tensor:
        if self._quotient is None:
            self._quotient = twin.quotient(form, self.x, scale)
        q = self._quotient * (2 if half else 1)
        low, high = operators.limits(form, Overflow.SATURATE, zero_point)
        return self.sum((q < low) | (q > high))

    def histogram(self) -> torch.Tensor:
        place = (self.x.to(torch.float32).abs().view(torch.int32) >> _SHIFT) - _FIRST_BIN
        # one more bin takes what is not finite, and is dropped
        index = place.clamp(0, BINS - 1) + (place >= _NOT_FINITE)
        ones = torch.ones((), dtype=torch.int64, device=index.device)
        if self.axes is None:
            bins = ones.new_zeros(BINS + 1)
            bins.scatter_add_(0, index.flatten().to(torch.int64), ones.expand(index.numel()))
            return bins[:BINS]
        kept = [1 if i in self.axes else n for i, n in enumerate(self.x.shape)]
        channels = max(kept)
        channel = torch.arange(channels, device=index.device).view(kept)
        bins = ones.new_zeros((BINS + 1) * channels)
        bins.scatter_add_(0, (index * channels + channel).flatten(), ones.expand(index.numel()))
        return bins.view(BINS + 1, *kept)[:BINS]

    def errors(self, form: Format, candidates: torch.Tensor, zero_point: torch.Tensor | None) -> torch.Tensor:
        # a cache's share at a time: the candidates then read the tensor from memory once
        whole = self.axes is not None or self.finite.dim() == 0
        parts = [self.finite] if whole else torch.split(self.finite.flatten(), _PART)
        totals = [self._errors(form, x, candidates, zero_point) for x in parts]
        return torch.stack(totals).sum(0)

    def _errors(
        self, form: Format, x: torch.Tensor, candidates: torch.Tensor, zero_point: torch.Tensor | None
    ) -> torch.Tensor:
        exact = x.double()
        sums = []
        for scale in candidates.unbind():
            number, *_ = operators.quantize(form, x, scale, zero_point=zero_point, scaled=False)
            sums.append(self.sum((number.double() * scale - exact).square_()))
        return torch.stack(sums)


_SIMPLE: dict[Statistic, Callable[[_Pass], torch.Tensor]] = {
    Statistic.MAX_ABS: lambda p: p.reduce(torch.amax, p.finite.abs()),
    Statistic.LARGEST: lambda p: p.reduce(torch.amax, p.finite.clamp(min=0)),
    Statistic.SMALLEST: lambda p: p.reduce(torch.amin, p.finite.clamp(max=0)),
    Statistic.COUNT: _Pass.count,
    Statistic.TOTAL: lambda p: p.sum(p.finite),
    Statistic.MAGNITUDE: lambda p: p.sum(p.finite.abs()),
    Statistic.SQUARES: lambda p: p.sum(p.finite.square()),
    Statistic.HISTOGRAM: _Pass.histogram,
}


def upper_edge(index: torch.Tensor) -> torch.Tensor:
    """The exclusive upper edge of a histogram's bin, float32."""
    return (index.to(torch.int32) + (_FIRST_BIN + 1) << _SHIFT).view(torch.float32)
