"""The one seam for products: forward, dgrad and wgrad of a compute layer, on integer levels.

    forward   y  = (a . w) * (s_a s_w)          a: activation levels, w: weight levels
    dgrad     dx = (e . w) * (s_e s_w)          e: error levels
    wgrad     dw = (e . a) * (s_e s_a)

Levels go in as floats, the exact integer comes out, one multiplication by the scales follows; bias after
it. The forward product is exact by proof: float32 where a bound lies below 2^24, float64 where it lies
below 2^53, an error beyond. dgrad and wgrad run in float32, exact wherever their own bound holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from bitwright.errors import InvalidValueError
from bitwright.quantize import Quantized, Quantizer

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53


@dataclass(frozen=True)
class LinearGeometry:
    """y[n, o] = sum_i a[n, i] w[o, i]; leading axes of a are kept."""

    def forward(self, a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.linear(a, w)

    def dgrad(self, e: torch.Tensor, w: torch.Tensor, a_shape: torch.Size) -> torch.Tensor:
        return (e @ w).view(a_shape)

    def wgrad(self, e: torch.Tensor, a: torch.Tensor, w_shape: torch.Size) -> torch.Tensor:
        return (e.reshape(-1, e.shape[-1]).T @ a.reshape(-1, a.shape[-1])).view(w_shape)

    def reduction(self, w_shape: torch.Size) -> int:
        """How many products one output sums."""
        return w_shape[1]

    def per_channel(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """[C] -> a shape that broadcasts over an output of `dim` axes."""
        return values.flatten()


@dataclass(frozen=True)
class ConvGeometry:
    """Two-dimensional correlation of a [N, C, H, W] with w [O, C, kh, kw], zero padding."""

    stride: tuple[int, int]
    padding: tuple[int, int]

    def forward(self, a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return F.conv2d(a, w, stride=self.stride, padding=self.padding)

    def dgrad(self, e: torch.Tensor, w: torch.Tensor, a_shape: torch.Size) -> torch.Tensor:
        grads = _conv_backward(e, torch.empty(a_shape, device=e.device), w, self, (True, False, False))
        return grads[0]

    def wgrad(self, e: torch.Tensor, a: torch.Tensor, w_shape: torch.Size) -> torch.Tensor:
        grads = _conv_backward(e, a, torch.empty(w_shape, device=e.device), self, (False, True, False))
        return grads[1]

    def reduction(self, w_shape: torch.Size) -> int:
        """How many products one output sums."""
        return w_shape[1] * w_shape[2] * w_shape[3]

    def per_channel(self, values: torch.Tensor, dim: int) -> torch.Tensor:
        """[C] -> a shape that broadcasts over an output of `dim` axes."""
        return values.reshape((-1,) + (1,) * 2)


Geometry = LinearGeometry | ConvGeometry


def _conv_backward(
    e: torch.Tensor,
    a: torch.Tensor,
    w: torch.Tensor,
    geometry: ConvGeometry,
    wanted: tuple[bool, bool, bool],
) -> tuple[torch.Tensor, ...]:
    """Gradients of the correlation's (input, weight, bias); only shapes of the unwanted ones count."""
    stride, padding = list(geometry.stride), list(geometry.padding)
    grads: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
        e, a, w, None, stride, padding, [1, 1], False, [0, 0], 1, list(wanted)
    )
    return grads


def accumulator_bound(geometry: Geometry, weight: torch.Tensor, max_a: int, max_w: int) -> int:
    """An upper bound of |accumulator|, hence of every partial sum.

    The widths' bound K max|a| max|w|; where that exceeds 2^24, the norm of the actual weight levels,
    max over outputs of sum |w|, times max|a|, if smaller.
    """
    widths = geometry.reduction(weight.shape) * max_a * max_w
    if widths <= FLOAT32_EXACT:
        return widths
    norm = weight.detach().double().abs().flatten(1).sum(dim=1).max()
    return min(widths, int(norm.item()) * max_a)


def exact_type(bound: int, where: str) -> torch.dtype:
    """The float type that holds every integer up to `bound`."""
    if bound <= FLOAT32_EXACT:
        return torch.float32
    if bound <= FLOAT64_EXACT:
        return torch.float64
    raise InvalidValueError(
        "an accumulator stays below 2^53", got=f"a bound of 2^{bound.bit_length() - 1}", where=where
    )


def exact_arithmetic(x: torch.Tensor) -> torch.autocast:
    """A context in which products run in the types they are given: autocast is off."""
    return torch.autocast(x.device.type, enabled=False)


def _scaled(
    levels: torch.Tensor, *scales: torch.Tensor | None, shape: Callable[..., torch.Tensor]
) -> torch.Tensor:
    present = [s for s in scales if s is not None]
    if not present:
        return levels
    factor = present[0] if len(present) == 1 else present[0].flatten() * present[1].flatten()
    return levels * (factor if factor.numel() == 1 else shape(factor, levels.dim()))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: torch.Tensor,
        w: torch.Tensor,
        scales: tuple[torch.Tensor | None, torch.Tensor | None],
        saved_a: Quantized,
        saved_w: Quantized,
        geometry: Geometry,
        errors: tuple[Quantizer | None, Quantizer | None],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        ctx.save_for_backward(saved_a.levels, saved_w.levels)
        ctx.scales = (saved_a.scale, saved_w.scale)
        ctx.geometry, ctx.errors = geometry, errors
        ctx.shapes = (a.shape, w.shape)
        y = geometry.forward(a.to(dtype), w.to(dtype))
        return _scaled(y, *scales, shape=geometry.per_channel).to(torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        with exact_arithmetic(grads[0]):
            return _Product._backward(ctx, grads[0])

    @staticmethod
    def _backward(ctx: Any, grad: torch.Tensor) -> Any:
        geometry: Geometry = ctx.geometry
        a, w = ctx.saved_tensors
        a_scale, w_scale = ctx.scales
        dgrad_error, wgrad_error = ctx.errors
        da = dw = None
        error = None
        if ctx.needs_input_grad[0]:
            error = dgrad_error(grad) if dgrad_error else Quantized(grad)
            if w_scale is not None and w_scale.numel() > 1:
                # a scale per output channel varies along this product's reduction: take the values
                w, w_scale = w * w_scale, None
            da = geometry.dgrad(error.levels, w, ctx.shapes[0])
            da = _scaled(da, error.scale, w_scale, shape=geometry.per_channel)
        if ctx.needs_input_grad[1]:
            if error is None or wgrad_error is not dgrad_error:
                error = wgrad_error(grad) if wgrad_error else Quantized(grad)
            dw = geometry.wgrad(error.levels, a, ctx.shapes[1])
            dw = _scaled(dw, error.scale, a_scale, shape=geometry.per_channel)
        return da, dw, None, None, None, None, None, None


def product(
    forward: tuple[Quantized, Quantized],
    backward: tuple[Quantized, Quantized],
    geometry: Geometry,
    errors: tuple[Quantizer | None, Quantizer | None] = (None, None),
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The values of a compute layer before its bias, with its backward pass.

    Args:
        forward: activation and weight of the forward product.
        backward: activation saved for wgrad, and weight of dgrad; the same objects where they are shared.
        geometry: which sum of products this is.
        errors: quantisers of dgrad.error and wgrad.error; None keeps the float gradient.
        dtype: float type of the forward sum, see `exact_type`.
    """
    (a, w), (saved_a, saved_w) = forward, backward
    y: torch.Tensor = _Product.apply(  # type: ignore[no-untyped-call]
        a.levels,
        w.levels,
        (a.scale, w.scale),
        Quantized(saved_a.levels.detach(), saved_a.scale),
        Quantized(saved_w.levels.detach(), saved_w.scale),
        geometry,
        errors,
        dtype,
    )
    return y
