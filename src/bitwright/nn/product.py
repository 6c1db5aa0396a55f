"""The one seam for products: forward, dgrad and wgrad of a compute layer, on integer levels.

    forward   y  = (a . w) * (s_a s_w)          a: activation levels, w: weight levels
    dgrad     dx = (e . w) * (s_e s_w)          e: error levels
    wgrad     dw = (e . a) * (s_e s_a)

Levels go in as floats, the exact integer comes out, one multiplication by the scales follows; bias after
it. The sum is exact by proof, see `arithmetic`: the forward product always, dgrad and wgrad under
`Exact.ALL`; under `Exact.FORWARD` they run in float32, exact wherever their own bound holds.

The choice of the arithmetic may read the data, so choice and product are one registered operator, which
`torch.compile` takes as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from bitwright.errors import InvalidValueError
from bitwright.kernels.registration import register
from bitwright.nn.arithmetic import (
    FLOAT32_EXACT,
    INT8_SIDE,
    Choice,
    Exact,
    Operand,
    Operands,
    Path,
    Speed,
    choose,
    fit_int8,
    largest_sum,
    preference,
    prove,
)
from bitwright.nn.geometry import Geometry, Kind, geometry_of
from bitwright.nn.multiply import in_float, in_halves, in_int8, int8_speed
from bitwright.quantize import Quantized, Quantizer

Pair = tuple[Operand | None, Operand | None]
"""What is known of (left, right); None: no quantiser made it."""

# --- the operator ----------------------------------------------------------------------------------------


def sums(
    geometry: Geometry,
    kind: Kind,
    left: torch.Tensor,
    right: torch.Tensor,
    shape: list[int] | None = None,
    known: Pair = (None, None),
    where: str = "",
    path: Path | None = None,
) -> torch.Tensor:
    """The exact sums of one product, before any scale.

    Args:
        geometry: of the layer.
        kind: which product.
        left: activation numbers of the forward product, error numbers of the others.
        right: weight numbers of forward and dgrad, activation numbers of wgrad.
        shape: of the result; may be left out for forward.
        known: of both operands; where one is None the product is float32 and claims nothing.
        where: the layer, for messages.
        path: forces the arithmetic, float32 also where it is wrong (for tests and benchmarks).

    Returns:
        float32, or float64 where widths alone do not bound the sums by 2^24.
    """
    a, b = known
    ranges, units = [], []
    if a is not None and b is not None:
        ranges, units = [a.lowest, a.highest, b.lowest, b.highest], [a.unit, b.unit]
    if shape is None:
        shape = geometry.output(left.shape, right.shape)
    result: torch.Tensor = torch.ops.bitwright.product.default(
        kind.value, left, right, shape, geometry.numbers(), ranges, units, where, path.value if path else ""
    )
    return result


def _product(
    kind_name: str,
    left: torch.Tensor,
    right: torch.Tensor,
    shape: list[int],
    window: list[int],
    ranges: list[int],
    units: list[float],
    where: str,
    path: str,
) -> torch.Tensor:
    kind, geometry = Kind(kind_name), geometry_of(window)
    reduction = geometry.reduction(kind, left.shape, right.shape)
    dtype = _result_type(ranges, reduction)
    small = dtype is torch.float32 and reduction < INT8_SIDE
    if not ranges or (small and not path):  # nothing to choose
        return in_float(geometry, kind, left, right, shape, dtype)
    operands = Operand(ranges[0], ranges[1], units[0]), Operand(ranges[2], ranges[3], units[1])

    def norm() -> tuple[int, int]:
        side, rows = geometry.terms(kind, left, right)
        return side, largest_sum(rows, operands[side].unit)

    if path:
        choice = _forced(Path(path), operands, reduction)
    else:
        int8 = int8_speed() if left.is_cpu and fit_int8(operands) else Speed.NONE
        order = preference(geometry, kind, reduction, shape, left.is_cpu, int8)
        choice = choose(operands, reduction, norm, order, where)
    if choice.path is Path.FLOAT32:
        result = in_float(geometry, kind, left, right, shape, torch.float32)
    elif choice.path is Path.INT8:
        result = in_int8(geometry, kind, left, right, shape, operands, dtype)
    elif choice.halves is not None:
        result = in_halves(geometry, kind, left, right, shape, operands, choice.halves)
    else:
        result = in_float(geometry, kind, left, right, shape, torch.float64)
    return result.to(dtype)


def _fake(
    kind_name: str,
    left: torch.Tensor,
    right: torch.Tensor,
    shape: list[int],
    window: list[int],
    ranges: list[int],
    *_: object,
) -> torch.Tensor:
    reduction = geometry_of(window).reduction(Kind(kind_name), left.shape, right.shape)
    return left.new_empty(shape, dtype=_result_type(ranges, reduction))


register(
    "product(str kind, Tensor left, Tensor right, SymInt[] shape, int[] window, int[] ranges, "
    "float[] units, str where, str path) -> Tensor",
    _product,
    _fake,
)


def _result_type(ranges: list[int], reduction: int) -> torch.dtype:
    """Known without the data: the widths' bound decides. No ranges: nothing is claimed, so float32."""
    if not ranges:
        return torch.float32
    widths = reduction * max(-ranges[0], ranges[1]) * max(-ranges[2], ranges[3])
    return torch.float32 if widths <= FLOAT32_EXACT else torch.float64


def _forced(path: Path, operands: Operands, reduction: int) -> Choice:
    if path in (Path.FLOAT32, Path.FLOAT64):
        return Choice(path)
    sums = reduction * operands[0].level_max, reduction * operands[1].level_max
    choice = prove(path, operands, sums)
    if choice is None:
        raise InvalidValueError(f"the path {path.value} is exact where it is forced", got=operands)
    return choice


# --- with scales and gradients -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Products:
    """What a layer's three products are.

    Args:
        geometry: which sums.
        layer: its name, for messages.
        exact: which of them are exact.
        forward: what is known of (activation, weight).
        dgrad: of (error, weight).
        wgrad: of (error, activation).
    """

    geometry: Geometry
    layer: str = ""
    exact: Exact = Exact.FORWARD
    forward: Pair = (None, None)
    dgrad: Pair = (None, None)
    wgrad: Pair = (None, None)


def exact_arithmetic(x: torch.Tensor) -> torch.autocast:
    """A context in which products run in the types they are given: autocast is off."""
    return torch.autocast(x.device.type, enabled=False)


def _scaled(
    levels: torch.Tensor, *scales: torch.Tensor | None, shape: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """levels * (product of the scales, in float32), rounded once to float32.

    Float64 levels are multiplied in float64. Below 2^24 that product is exact, since 24 and 24 bits make
    48, so its rounding gives the bits of the float32 multiplication.
    """
    present = [s for s in scales if s is not None]
    if present:
        factor = present[0] if len(present) == 1 else present[0].flatten() * present[1].flatten()
        levels = levels * (factor if factor.numel() == 1 else shape(factor, levels.dim()))
    return levels.to(torch.float32)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: torch.Tensor,
        w: torch.Tensor,
        a_scale: torch.Tensor | None,
        w_scale: torch.Tensor | None,
        saved_a: Quantized,
        saved_w: Quantized,
        products: Products,
        errors: tuple[Quantizer | None, Quantizer | None],
    ) -> torch.Tensor:
        ctx.save_for_backward(saved_a.levels, saved_w.levels)
        ctx.scales = (saved_a.scale, saved_w.scale)
        ctx.products, ctx.errors = products, errors
        ctx.shapes = (list(a.shape), list(w.shape))
        geometry = products.geometry
        y = sums(geometry, Kind.FORWARD, a, w, None, products.forward, products.layer)
        if w_scale is not None:
            w_scale = geometry.weight_scales(w_scale)
        return _scaled(y, a_scale, w_scale, shape=geometry.per_channel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        with exact_arithmetic(grads[0]):
            return _Product._backward(ctx, grads[0])

    @staticmethod
    def _backward(ctx: Any, grad: torch.Tensor) -> Any:
        products: Products = ctx.products
        geometry, layer, per_channel = products.geometry, products.layer, products.geometry.per_channel
        a, w = ctx.saved_tensors
        a_scale, w_scale = ctx.scales
        dgrad_error, wgrad_error = ctx.errors
        unknown: Pair = (None, None)
        dgrad, wgrad = (products.dgrad, products.wgrad) if products.exact is Exact.ALL else (unknown, unknown)
        da = dw = None
        error = None
        if ctx.needs_input_grad[0]:
            error = dgrad_error(grad) if dgrad_error else Quantized(grad)
            if w_scale is not None and w_scale.numel() > 1:
                # a scale per output channel varies along this product's reduction: take the values
                w, w_scale, dgrad = w * w_scale, None, unknown
            da = sums(geometry, Kind.DGRAD, error.levels, w, ctx.shapes[0], dgrad, layer)
            da = _scaled(da, error.scale, w_scale, shape=per_channel)
        if ctx.needs_input_grad[1]:
            if error is None or wgrad_error is not dgrad_error:
                error = wgrad_error(grad) if wgrad_error else Quantized(grad)
            dw = sums(geometry, Kind.WGRAD, error.levels, a, ctx.shapes[1], wgrad, layer)
            dw = _scaled(dw, error.scale, a_scale, shape=per_channel)
        return da, dw, None, None, None, None, None, None


def product(
    forward: tuple[Quantized, Quantized],
    backward: tuple[Quantized, Quantized],
    products: Products,
    errors: tuple[Quantizer | None, Quantizer | None] = (None, None),
) -> torch.Tensor:
    """The values of a compute layer before its bias, with its backward pass.

    Args:
        forward: activation and weight of the forward product.
        backward: activation saved for wgrad, and weight of dgrad; the same objects where they are shared.
        products: which sums of products, and what is known of their operands.
        errors: quantisers of dgrad.error and wgrad.error; None keeps the float gradient.
    """
    (a, w), (saved_a, saved_w) = forward, backward
    y: torch.Tensor = _Product.apply(  # type: ignore[no-untyped-call]
        a.levels,
        w.levels,
        a.scale,
        w.scale,
        Quantized(saved_a.levels.detach(), saved_a.scale),
        Quantized(saved_w.levels.detach(), saved_w.scale),
        products,
        errors,
    )
    return y
