"""Quantisers as torch operators: one pass over memory that rounds and measures.

    bitwright::quantize       x -> (numbers or values, max |x|, counts)
    bitwright::quantize_out   the same into a tensor of the caller's, which may be x itself

`max |x|` is over the finite elements, one for each scale; `counts` are two int64: elements beyond the
limits of the format at this scale, and at half this scale. NaN does not count; infinities do. A key is an
int64 tensor (seed, tensor, step, call) on the CPU, so that one compiled graph serves every step.

On the CPU the C++ kernels do it; what they do not take (float64, formats of more than 24 bits, scales along
two axes), and every other device, goes to the torch twin: the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import block_twin, grids, twin
from bitwright.formats.block import Block
from bitwright.formats.names import parse
from bitwright.formats.number import Format
from bitwright.formats.random import Key
from bitwright.formats.rounding import RANDOM_BITS, Overflow, Rounding
from bitwright.formats.uniform import Binary, Uniform
from bitwright.kernels.registration import register

Measured = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

_ARGUMENTS = (
    "Tensor x, Tensor? scale, Tensor? zero_point, Tensor? key, str format, str rounding, str overflow, "
    "int bits, bool scaled, int axis"
)


def quantize(
    form: Format,
    x: torch.Tensor,
    scale: torch.Tensor | None = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    key: torch.Tensor | None = None,
    bits: int = RANDOM_BITS,
    zero_point: torch.Tensor | None = None,
    *,
    scaled: bool = True,
    axis: int = -1,
    out: torch.Tensor | None = None,
) -> Measured:
    """(numbers or, `scaled`, values; max |x|; counts), as the operator gives them.

    Args:
        form: any format; blocks run along `axis` and always give values.
        x: a float tensor.
        scale: float32, broadcastable to x; None takes the format's own.
        key: int64 (seed, tensor, step, call), for stochastic rounding.
        zero_point: integer, broadcastable to x.
        out: receives the result; of x's shape and the format's value type.
    """
    if x.device.type != "cpu" and torch.compiler.is_compiling():
        # plain operations, for the compiler to fuse
        return _twin(form, x, scale, zero_point, key, rounding, overflow, bits, scaled, axis, out)
    arguments = (
        x, scale, zero_point, key, str(form), rounding.value, overflow.value, bits, scaled, axis,
    )  # fmt: skip
    if out is None:
        measured: Measured = torch.ops.bitwright.quantize(*arguments)
        return measured
    max_abs, counts = torch.ops.bitwright.quantize_out(*arguments, out=out)
    return out, max_abs, counts


# --- implementations ---------------------------------------------------------------------------------------


def _implementation(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: torch.Tensor | None,
    format: str,  # noqa: A002 - the schema's name
    rounding: str,
    overflow: str,
    bits: int,
    scaled: bool,
    axis: int,
    *,
    out: torch.Tensor | None = None,
) -> Measured:
    form, mode, fate = parse(format), Rounding(rounding), Overflow(overflow)
    for value in (scale, zero_point):
        if value is not None:
            check_broadcast(x, value)
    if x.device.type == "cpu" and x.dtype != torch.float64:
        words = _key(key, bits)
        done = _kernel(form, x, scale, zero_point, words, mode, fate, scaled, axis, out)
        if done is not None:
            return done
    return _twin(form, x, scale, zero_point, key, mode, fate, bits, scaled, axis, out)


def _implementation_out(*arguments: Any, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _, max_abs, counts = _implementation(*arguments, out=out)
    return max_abs, counts


def _fake(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: torch.Tensor | None,
    format: str,  # noqa: A002 - the schema's name
    *_: Any,
) -> Measured:
    shape = () if scale is None or scale.numel() == 1 else scale.shape
    return (
        torch.empty_like(x, dtype=twin.value_type(parse(format))),
        x.new_empty(shape, dtype=torch.float32),
        x.new_empty(2, dtype=torch.int64),
    )


def _fake_out(*arguments: Any, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _fake(*arguments)[1:]


register(f"quantize({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)", _implementation, _fake)
register(f"quantize_out({_ARGUMENTS}, *, Tensor(a!) out) -> (Tensor, Tensor)", _implementation_out, _fake_out)


# --- the clipped gradient ----------------------------------------------------------------------------------


def gate(
    form: Format,
    x: torch.Tensor,
    grad: torch.Tensor,
    scale: torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
    overflow: Overflow = Overflow.SATURATE,
    hard_tanh: float = 1.0,
) -> torch.Tensor:
    """grad where x / scale lies within the limits of the format, else 0; 0 where it is NaN.

    For `binary` the limits are those of the hard tanh, +-hard_tanh.
    """
    low, high = limits(form, overflow, None)
    if isinstance(form, Binary):
        low, high = -hard_tanh, hard_tanh
    gated: torch.Tensor = torch.ops.bitwright.gate(x, grad, scale, zero_point, str(form), low, high)
    return gated


def _gate(
    x: torch.Tensor,
    grad: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    format: str,  # noqa: A002 - the schema's name
    low: float,
    high: float,
) -> torch.Tensor:
    form = parse(format)
    for value in (scale, zero_point):
        if value is not None:
            check_broadcast(x, value)
    plain = x.dtype == grad.dtype == torch.float32 and not form.wide and x.stride() == grad.stride()
    order = _storage_order(x)
    step = _along_one_axis(x, form.scale_or_default(scale), torch.float32)
    if x.device.type == "cpu" and plain and order is not None and step is not None and zero_point is None:
        out = torch.empty_like(grad)
        channel = None if step[1] is None else order.index(step[1])
        grids.run_gate(x, grad, out, [x.shape[i] for i in order], channel, step[0], low, high)
        return out
    q = twin.quotient(form, x, scale)
    if zero_point is not None:
        q = q + zero_point
    return torch.where((q >= low) & (q <= high), grad, 0.0)  # infinity * 0 would be NaN


register(
    "gate(Tensor x, Tensor grad, Tensor? scale, Tensor? zero_point, str format, float low, float high) "
    "-> Tensor",
    _gate,
    lambda x, grad, *_: torch.empty_like(grad),
)


# --- one pass ----------------------------------------------------------------------------------------------


def _key(key: torch.Tensor | None, bits: int) -> Key | None:
    if key is None:
        return None
    seed, tensor, step, call = key.tolist()
    return Key(seed, tensor, step, call, bits)


def _kernel(
    form: Format,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: Key | None,
    rounding: Rounding,
    overflow: Overflow,
    scaled: bool,
    axis: int,
    out: torch.Tensor | None,
) -> Measured | None:
    """The C++ kernels' answer; None where they have none."""
    blocks = isinstance(form, Block)
    grid = grids.grid_of(form.element if isinstance(form, Block) else form, overflow)
    if grid is None or (blocks and overflow is not Overflow.SATURATE):
        return None
    source = x.to(torch.float32)
    order = _storage_order(source)
    if order is None or (order and (blocks or rounding is Rounding.STOCHASTIC)):
        source, order = source.contiguous(), tuple(range(x.dim()))  # whose elements lie in logical order
    target = out if out is not None and _may_receive(out, source) else torch.empty_like(source)
    counts = torch.empty(2, dtype=torch.int64)
    if isinstance(form, Block):
        max_abs = torch.empty(())
        outer = form.scale_or_default(scale)
        grids.run_blocks(form, grid, source, target, axis % x.dim(), outer, rounding, key, max_abs, counts)
    else:
        step = _along_one_axis(x, form.scale_or_default(scale), torch.float32)
        shift = None if zero_point is None else _along_one_axis(x, zero_point, torch.int32)
        if step is None or (zero_point is not None and shift is None):
            return None
        scales, zero_points, channel = _together(x, step, shift)
        if channel is None:
            max_abs = torch.empty(())
        elif scale is not None and scale.numel() > 1:
            max_abs = torch.empty(scale.shape)
        else:
            return None  # zero points along an axis that the scale does not know
        grids.run_rows(
            grid,
            source,
            target,
            [x.shape[i] for i in order],
            None if channel is None else order.index(channel),
            scales,
            zero_points,
            rounding,
            key,
            scaled,
            max_abs,
            counts,
        )
    if out is not None and target is not out:
        return out.copy_(target), max_abs, counts
    if out is None and target.stride() != x.stride():
        target = torch.empty_like(x, dtype=torch.float32).copy_(target)
    return target, max_abs, counts


def check_broadcast(x: torch.Tensor, value: torch.Tensor) -> None:
    """Raise where a scale or zero point does not broadcast to x: a kernel would read beyond it."""
    lead = x.dim() - value.dim()
    long = [(lead + i, n) for i, n in enumerate(value.shape) if n != 1]
    if not all(axis >= 0 and x.shape[axis] == n for axis, n in long):
        raise InvalidValueError(
            "scales and zero points broadcast to the tensor",
            got=tuple(value.shape),
            where=f"a tensor of {tuple(x.shape)}",
        )


def _may_receive(out: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether a kernel may write there: in the same order, and over all of `source` or none of it."""
    shared = out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return out.stride() == source.stride() and (not shared or out.data_ptr() == source.data_ptr())


def _storage_order(x: torch.Tensor) -> tuple[int, ...] | None:
    """The axes of a dense tensor, slowest first; None where the tensor has gaps or overlaps."""
    order = sorted(range(x.dim()), key=lambda axis: (-x.stride()[axis], axis))
    if x.is_contiguous():
        return tuple(range(x.dim()))
    return tuple(order) if x.permute(order).is_contiguous() else None


def _along_one_axis(
    x: torch.Tensor, value: Any, dtype: torch.dtype
) -> tuple[torch.Tensor, int | None] | None:
    """(a vector, the one axis of x that it varies along, if any); None where there are two."""
    vector = torch.as_tensor(value).to(dtype)
    axes = [i for i, n in enumerate(vector.shape) if n > 1]
    if len(axes) > 1:
        return None
    axis = x.dim() - vector.dim() + axes[0] if axes else None
    return vector.reshape(-1).contiguous(), axis


def _together(
    x: torch.Tensor,
    step: tuple[torch.Tensor, int | None],
    shift: tuple[torch.Tensor, int | None] | None,
) -> tuple[torch.Tensor, torch.Tensor | None, int | None]:
    """Scale and zero point along the same axis."""
    if shift is None:
        return step[0], None, step[1]
    axis = step[1] if step[1] is not None else shift[1]
    count = 1 if axis is None else x.shape[axis]
    return step[0].expand(count).contiguous(), shift[0].expand(count).contiguous(), axis


def _twin(
    form: Format,
    x: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    key: Key | torch.Tensor | None,
    rounding: Rounding,
    overflow: Overflow,
    bits: int,
    scaled: bool,
    axis: int,
    out: torch.Tensor | None,
) -> Measured:
    if isinstance(form, Block):
        outer = form.scale_or_default(scale)
        number, scales = block_twin.numbers(form, x, axis, outer, rounding, overflow, key, bits)
        result = block_twin.values(form, number, scales, axis, outer)
        total = block_twin.total_scales(form, scales, outer).repeat_interleave(form.size, dim=axis)
        total = total.narrow(axis, 0, x.shape[axis])
        q = torch.where(total == 0, 0.0, x / total)
    else:
        step = form.scale_or_default(scale)
        result = twin.numbers(form, x, scale, rounding, overflow, key, zero_point, bits)
        if scaled:
            result = result * twin.as_tensor(step, result.dtype, x.device)
        q = twin.quotient(form, x, scale)
    low, high = limits(form, overflow, zero_point)
    counts = torch.stack([((k * q > high) | (k * q < low)).sum() for k in (1, 2)])
    magnitude = x.abs().to(torch.float32)
    magnitude = torch.where(magnitude.isfinite(), magnitude, 0.0)
    if scale is not None and scale.numel() > 1:
        max_abs = _reduce_max(magnitude, scale)
    else:
        max_abs = magnitude.amax() if x.numel() else magnitude.new_zeros(())
    return result if out is None else out.copy_(result), max_abs, counts


def limits(form: Format, overflow: Overflow, zero_point: torch.Tensor | None) -> tuple[Any, Any]:
    """Beyond which a quotient counts as overflowing."""
    if isinstance(form, Block):
        form = form.element
    if isinstance(form, Binary):
        return -math.inf, math.inf  # a sign overflows nowhere
    if not isinstance(form, Uniform):
        return -form.max_number, form.max_number
    low, high = form.limits(overflow)
    return (low, high) if zero_point is None else (low - zero_point, high - zero_point)


def _reduce_max(magnitude: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The largest magnitude under each scale, of the scale's shape."""
    lead = magnitude.dim() - scale.dim()
    axes = [*range(lead), *(lead + i for i, n in enumerate(scale.shape) if n == 1)]
    reduced = magnitude.amax(dim=axes, keepdim=True) if axes else magnitude
    return reduced.reshape(scale.shape)
