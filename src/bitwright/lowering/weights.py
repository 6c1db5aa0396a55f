"""What a compute layer stores: the codes of its weight, and how its kernel moves."""

from __future__ import annotations

import numpy as np

from bitwright.integer import Codes
from bitwright.nn import ComputeLayer, ConvGeometry, Embedding


def stored_weight(layer: ComputeLayer | Embedding) -> Codes:
    """The codes of a layer's weight, as its quantiser makes them in eval, with the output channel first.

    Of an embedding: its rows.
    """
    quantizer = layer.slots.of("forward.weight")
    assert quantizer is not None
    form, numbers = quantizer.format, quantizer(layer.weight.detach().cpu()).levels
    codes = numbers if form.integral else form.encode(numbers)
    rows = codes if isinstance(layer, Embedding) else layer.geometry.by_output(codes)
    return Codes.pack(form, rows.numpy().astype(np.int64))


def window_of(
    conv: ConvGeometry, zeros: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Stride, padding, dilation and groups of an integer convolution, with what a module in front pads."""
    padding = conv.padding
    if zeros is not None:
        left, right, top, bottom = zeros
        own = padding if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])
        padding = (own[0] + top, own[1] + bottom, own[2] + left, own[3] + right)
    return conv.stride, padding, conv.steps, conv.groups
