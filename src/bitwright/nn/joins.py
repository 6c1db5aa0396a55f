"""Where tensors meet, or positions of one: adds, concats, average pools, and a slice that pads channels.

In training they are torch's float operations on quantised inputs. In eval an add and a pool are sums of
levels, and `Fold` makes the next code of them with one rounding:

    add    y = round((x0 M0 + x1 M1 + B) 2^-s)        M0, M1: the two scales, in steps of what follows
    pool   y = round(((sum of x) M + B) 2^-s)         M: the scale over the window's size
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bitwright.nn.fold import Accumulator, Fold, Levels, grid_values
from bitwright.nn.slots import Slots
from bitwright.quantize import Quantized


class Add(nn.Module):
    """x + y, each with an activation slot of its own: "0.activation" and "1.activation"."""

    slots: Slots
    fold: Fold | None = None

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots({}, "")

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Two tensors of one shape [N, C, ...] -> their sum."""
        a, b = self.slots("0.activation", x), self.slots("1.activation", y)
        if self.fold is not None and self.fold.active(x.dim()):
            assert isinstance(self.fold.source, Levels)
            return self.fold.apply((a.levels, b.levels), self.fold.source.line(), x.dim() - 2)
        total: torch.Tensor = a.value() + b.value()
        return total


class Concat(nn.Module):
    """torch.cat(tensors, 1), with one activation slot for all inputs: codes of one quantiser result."""

    slots: Slots
    integers = False
    """Whether all readers take codes: the result is then, in eval, exact values on the quantiser's grid."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots({}, "")

    def forward(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """[N, C_i, ...] each -> [N, sum of C_i, ...]."""
        parts = [self.slots(f"{index}.activation", x) for index, x in enumerate(tensors)]
        quantizer = self.slots.of("activation")
        if quantizer is None or self.training or not self.integers or quantizer.calibrating:
            return torch.cat([part.value() for part in parts], 1)
        return torch.cat([grid_values(part.levels, quantizer) for part in parts], 1)


class Shortcut(nn.Module):
    """x[:, :, ::stride, ::stride] between zero channels: ResNet's shortcut without parameters (option A).

    It moves levels and adds level 0, so it needs no slot.

    Args:
        stride: of both axes.
        before, after: channels of zeros in front and behind.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, before + C + after, ceil(H / stride), ceil(W / stride)]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class Transpose(nn.Module):
    """x.transpose(1, 2): positions and channels of [N, L, C] or [N, C, L] change places."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, A, B, ...] -> [N, B, A, ...]."""
        return x.transpose(1, 2)


class GlobalAvgPool(nn.Module):
    """x.mean(dims, keepdim): the mean over all positions.

    Integers where `dims` are all axes behind the channels, or all between the batch and channels that come
    last (then without `keepdim`).
    """

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None

    def __init__(self, dims: Sequence[int] = (2, 3), keepdim: bool = False) -> None:
        super().__init__()
        self.dims, self.keepdim = tuple(dims), keepdim
        self.slots, self.accumulator = Slots({}, ""), Accumulator()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, ...] -> [N, C], or [N, C, 1, ...]; [N, ..., C] -> [N, C]."""
        y = _pooled(self, x, lambda values: values.mean(self.dims, self.keepdim))
        return y if self.keepdim else y.flatten(1)

    def covers(self, axes: int) -> bool:
        """Whether it leaves one position of a tensor with so many axes."""
        first = {d % axes for d in self.dims} == set(range(2, axes))
        return first or (self.channels_last(axes) and not self.keepdim)

    def channels_last(self, axes: int) -> bool:
        """Whether what it leaves of so many axes is the last one."""
        return axes > 2 and {d % axes for d in self.dims} == set(range(1, axes - 1))

    def extra_repr(self) -> str:
        return f"dims={self.dims}, keepdim={self.keepdim}"


class AvgPool1d(nn.AvgPool1d):
    """`torch.nn.AvgPool1d` with an activation slot. Built by `quantize_`."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, L] -> [N, C, L']."""
        return _pooled(self, input, super().forward)


class AvgPool2d(nn.AvgPool2d):
    """`torch.nn.AvgPool2d` with an activation slot. Built by `quantize_`."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, H, W] -> [N, C, H', W']."""
        return _pooled(self, input, super().forward)


class AdaptiveAvgPool1d(nn.AdaptiveAvgPool1d):
    """`torch.nn.AdaptiveAvgPool1d(1)` with an activation slot. Built by `quantize_`."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, L] -> [N, C, 1]."""
        return _pooled(self, input, super().forward)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """`torch.nn.AdaptiveAvgPool2d(1)` with an activation slot. Built by `quantize_`."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, H, W] -> [N, C, 1, 1]."""
        return _pooled(self, input, super().forward)


Pool = AvgPool1d | AvgPool2d | AdaptiveAvgPool1d | AdaptiveAvgPool2d | GlobalAvgPool
Join = Add | Concat | Pool
"""Modules whose inputs have activation slots: "0.activation", "1.activation"..."""


@dataclass(frozen=True)
class Window:
    """An average pool over some positions: sums of `kernel` positions, over `divisor`."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    divisor: int


def window(pool: Pool, size: Sequence[int]) -> Window:
    """The window of a pool over positions of `size`; a global one has its input's size."""
    rank = len(size)
    if isinstance(pool, AvgPool1d | AvgPool2d):
        kernel = _each(pool.kernel_size, rank)
        divisor = getattr(pool, "divisor_override", None) or math.prod(kernel)
        return Window(kernel, _each(pool.stride, rank), _each(pool.padding, rank), divisor)
    kernel = tuple(size)
    return Window(kernel, kernel, (0,) * rank, math.prod(kernel))


def pool_problem(pool: nn.Module) -> str | None:
    """Why a pool of torch's is no sum over one divisor; None where it is."""
    if isinstance(pool, nn.AvgPool1d | nn.AvgPool2d):
        if pool.ceil_mode:
            return "ceil_mode = True; windows that stick out have other divisors"
        padding = pool.padding if isinstance(pool.padding, tuple) else (pool.padding,)
        if any(padding) and not pool.count_include_pad and not getattr(pool, "divisor_override", None):
            return "count_include_pad = False; windows at the border have other divisors"
    if isinstance(pool, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
        size = pool.output_size
        if any(n != 1 for n in (size if isinstance(size, tuple | list) else (size,))):
            return f"output_size = {size}; only 1 is quantised"
    return None


def _pooled(pool: Pool, x: torch.Tensor, plain: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    quantized: Quantized = pool.slots("0.activation", x)
    fold = pool.fold
    covered = not isinstance(pool, GlobalAvgPool) or pool.covers(x.dim())
    if fold is None or not covered or not fold.active(x.dim()):
        return plain(quantized.value())
    assert isinstance(fold.source, Levels)
    levels = quantized.levels.detach()
    if isinstance(pool, GlobalAvgPool) and pool.channels_last(x.dim()):
        levels = levels.movedim(-1, 1)
    what = window(pool, levels.shape[2:])
    sums = pool.accumulator(_window_sums(levels, what))
    return fold.apply((sums,), fold.source.line(math.prod(what.kernel), what.divisor), sums.dim() - 2)


def _window_sums(levels: torch.Tensor, what: Window) -> torch.Tensor:
    """Exact: integers in float64."""
    x = levels.double()
    if len(what.kernel) == 1:
        flat = replace(what, kernel=(1, *what.kernel), stride=(1, *what.stride), padding=(0, *what.padding))
        return _window_sums(x.unsqueeze(-2), flat).squeeze(-2)
    return F.avg_pool2d(x, what.kernel, what.stride, what.padding, divisor_override=1)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    """One number an axis."""
    numbers = value if isinstance(value, tuple | list) else (value,) * rank
    return tuple(int(n) for n in numbers)
