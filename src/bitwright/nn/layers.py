"""Compute layers with quantiser slots: torch's own classes and parameter names, three quantised products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.nn.arithmetic import Exact, Operand
from bitwright.nn.fold import Accumulator, Fold
from bitwright.nn.geometry import ConvGeometry, Geometry, Kind, LinearGeometry, TransposedGeometry
from bitwright.nn.product import Pair, Products, exact_arithmetic, product, sums
from bitwright.nn.slots import CONV_AXES, DEPTHWISE_AXES, LINEAR_AXES, TRANSPOSED_AXES, Slots
from bitwright.quantize import Quantized, Quantizer


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


class Conv1d(nn.Conv1d):
    """`torch.nn.Conv1d` (zero padding) with quantised operands."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None
    exact: Exact = Exact.FORWARD

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups."""
        return _geometry(self)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, L] -> [N, O, L']."""
        return compute(self, input)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` (zero padding) with quantised operands."""

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None
    exact: Exact = Exact.FORWARD

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, dilation and groups."""
        return _geometry(self)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, H, W] -> [N, O, H', W']."""
        return compute(self, input)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with quantised operands.

    Its weight is [C, O / groups, kh, kw]: a scale per channel is one for each index of axis 1, which the
    groups share.
    """

    slots: Slots
    accumulator: Accumulator
    fold: Fold | None = None
    exact: Exact = Exact.FORWARD

    @property
    def geometry(self) -> Geometry:
        """Stride, padding, output padding, dilation and groups."""
        stride, padding, dilation, more = (
            _each(value, 2) for value in (self.stride, self.padding, self.dilation, self.output_padding)
        )
        return TransposedGeometry(ConvGeometry(stride, padding, dilation, self.groups), more)

    def forward(
        self,
        input: torch.Tensor,  # noqa: A002 - torch's name
        output_size: list[int] | None = None,
    ) -> torch.Tensor:
        """[N, C, H, W] -> [N, O, H', W']."""
        if output_size is not None:
            raise InvalidValueError(
                "a transposed convolution has one output padding",
                got=f"output_size={output_size}",
                where=self.slots.layer,
                fix="build the layer with output_padding=...",
            )
        return compute(self, input)


ComputeLayer = Linear | Conv1d | Conv2d | ConvTranspose2d
FloatLayer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d
"""The torch classes that they come from (and derive from: a compute layer is one too)."""


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
            numbers = sums(geometry, Kind.FORWARD, a.levels, w.levels, None, forward, slots.layer)
        acc: torch.Tensor = layer.accumulator(numbers if fold.unit == 1.0 else numbers / fold.unit)
        return acc if fold.norm is not None else fold.apply(acc, w.levels)
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
    first, second = (slots.of(operand) for operand in operands)
    one = _through(first, x)
    return one, one if second is first else _through(second, x.detach())


def _through(quantizer: Quantizer | None, x: torch.Tensor) -> Quantized:
    return Quantized(x) if quantizer is None else quantizer(x)


def block_axes(layer: ComputeLayer) -> Mapping[str, int]:
    """Operand -> the axis along which its blocks run: one that its product sums."""
    if isinstance(layer, Linear):
        return LINEAR_AXES
    if 1 < layer.groups == layer.in_channels:
        return DEPTHWISE_AXES
    return TRANSPOSED_AXES if isinstance(layer, ConvTranspose2d) else CONV_AXES


def weight_axis(layer: ComputeLayer) -> int:
    """The weight's axis of output channels."""
    return 1 if isinstance(layer, ConvTranspose2d) else 0


def _geometry(layer: Conv1d | Conv2d) -> ConvGeometry:
    rank = layer.weight.dim() - 2
    stride, dilation = _each(layer.stride, rank), _each(layer.dilation, rank)
    padding: tuple[int, ...]
    if layer.padding == "valid":
        padding = (0,) * rank
    elif layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, layer.kernel_size, strict=True)]
        padding = tuple(p for total in totals for p in (total // 2, total - total // 2))
        if padding[::2] == padding[1::2]:
            padding = padding[::2]
    else:
        padding = _each(layer.padding, rank)
    return ConvGeometry(stride, padding, dilation, layer.groups)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    """One number for each of `rank` axes."""
    return (value,) * rank if isinstance(value, int) else tuple(value)
