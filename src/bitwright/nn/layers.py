"""Compute layers with quantiser slots: torch's own classes and parameter names, three quantised products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.nn.arithmetic import Exact, Operand
from bitwright.nn.fold import Accumulator, Accumulators, Fold
from bitwright.nn.geometry import ConvGeometry, Geometry, Kind, LinearGeometry
from bitwright.nn.product import Pair, Products, exact_arithmetic, product, sums
from bitwright.nn.slots import Slots
from bitwright.quantize import Quantized


class Linear(nn.Linear):
    """`torch.nn.Linear` whose products take quantised operands. Built by `quantize_`."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None
    exact: Exact = Exact.FORWARD
    geometry: Geometry = LinearGeometry()

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[..., in] -> [..., out]."""
        return compute(self, input)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` (zero padding, no groups, no dilation) with quantised operands."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None
    exact: Exact = Exact.FORWARD

    @property
    def geometry(self) -> Geometry:
        """Stride and padding."""
        return ConvGeometry(_pair(self.stride), conv_padding(self))

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, H, W] -> [N, O, H', W']."""
        return compute(self, input)


ComputeLayer = Linear | Conv2d


def compute(layer: ComputeLayer, x: torch.Tensor) -> torch.Tensor:
    """The layer's output values; in eval, what `Fold` says.

    A layer whose fold ends in a norm hands its raw accumulators to that norm.
    """
    with exact_arithmetic(x):
        return _compute(layer, x)


def _compute(layer: ComputeLayer, x: torch.Tensor) -> torch.Tensor:
    slots, geometry = layer.slots, layer.geometry
    a, saved_a = _operands(slots, x, "forward.activation", "wgrad.activation")
    w, saved_w = _operands(slots, layer.weight, "forward.weight", "dgrad.weight")
    forward = _pair_of(slots, "forward.activation", "forward.weight")
    fold = layer.fold
    if fold is not None and fold.active(x.dim()):
        with torch.no_grad():
            levels = sums(geometry, Kind.FORWARD, a.levels, w.levels, None, forward, slots.layer)
        acc: torch.Tensor = layer.accumulator(levels)
        if fold.by_norm:
            return acc
        assert isinstance(fold.source, Accumulators)
        return fold.apply((acc,), fold.source.line(w.levels), max(layer.weight.dim() - 2, 0))
    products = Products(geometry, slots.layer, layer.exact, forward)
    if layer.exact is Exact.ALL:
        dgrad = _pair_of(slots, "dgrad.error", "dgrad.weight")
        wgrad = _pair_of(slots, "wgrad.error", "wgrad.activation")
        products = replace(products, dgrad=dgrad, wgrad=wgrad)
    errors = (slots.of("dgrad.error"), slots.of("wgrad.error"))
    y = product((a, w), (saved_a, saved_w), products, errors)
    return y if layer.bias is None else y + geometry.per_channel(layer.bias, y.dim())


def _pair_of(slots: Slots, left: str, right: str) -> Pair:
    """What the quantisers of two operands say of their levels."""
    first, second = (
        None if q is None else Operand.of(q.format, q.current_zero_point() is not None)
        for q in (slots.of(left), slots.of(right))
    )
    return first, second


def _operands(slots: Slots, x: torch.Tensor, *operands: str) -> tuple[Quantized, Quantized]:
    """One tensor as both of its operands; quantised once where they share a quantiser."""
    first, second = operands
    one: Quantized = slots(first, x)
    if slots.of(second) is slots.of(first):
        return one, one
    return one, slots(second, x.detach())


def conv_padding(layer: nn.Conv2d) -> tuple[int, int]:
    """The zero padding as numbers; "same" is resolved where it is symmetric."""
    if layer.padding == "valid":
        return 0, 0
    if layer.padding == "same":
        if any(k % 2 == 0 for k in layer.kernel_size):
            raise InvalidValueError(
                'padding="same" needs odd kernels, so that both sides are alike',
                got=layer.kernel_size,
                fix="give the padding as numbers",
            )
        return layer.kernel_size[0] // 2, layer.kernel_size[1] // 2
    return _pair(layer.padding)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, second = value
    return int(first), int(second)
