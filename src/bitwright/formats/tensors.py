"""Formats on tensors: what `quantize`, `encode` and `decode` do with one, checked and dispatched."""

from __future__ import annotations

from typing import Any

import torch

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import block_twin, operators, twin
from bitwright.formats.block import Block
from bitwright.formats.number import Format, describe_codes
from bitwright.formats.random import Key, key_tensor
from bitwright.formats.rounding import RANDOM_BITS, Overflow, Rounding
from bitwright.formats.uniform import Uniform


def quantize(
    form: Format,
    x: torch.Tensor,
    scale: Any,
    rounding: Rounding,
    overflow: Overflow,
    key: Key | None,
    zero_point: Any,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Values of the grid, in the type of `decode`."""
    check_input(form, x)
    _check_out(form, x, out)
    values, _, _ = operators.quantize(
        form,
        x.detach(),
        _scale_tensor(form, scale, x),
        rounding,
        overflow,
        None if key is None else key_tensor(key),
        RANDOM_BITS if key is None else key.bits,
        _zero_points(form, zero_point, x, overflow),
        out=out,
    )
    return values


def encode(
    form: Format,
    x: torch.Tensor,
    scale: Any,
    rounding: Rounding,
    overflow: Overflow,
    key: Key | None,
    zero_point: Any,
) -> torch.Tensor:
    """Codes, in the smallest integer type that holds every code of the format."""
    check_input(form, x)
    shift = _zero_points(form, zero_point, x, overflow)
    scales = _scale_tensor(form, scale, x)
    codes = twin.codes_of(form, twin.numbers(form, x, scales, rounding, overflow, key, shift))
    return (codes if shift is None else codes + shift).to(twin.code_type(form))


def decode(form: Format, codes: torch.Tensor, scale: Any, zero_point: Any = None) -> torch.Tensor:
    """Values of `codes`, in float32, or float64 for wide formats."""
    number = twin.numbers_of(form, check_codes(form, codes))
    shift = _zero_points(form, zero_point, codes)
    if shift is not None:
        number = number - shift.to(number.dtype)
    scales = _scale_tensor(form, scale, codes)
    step = form.scale_or_default(scales)
    return number * twin.as_tensor(step, number.dtype, codes.device)


def quantize_blocks(
    form: Block,
    x: torch.Tensor,
    axis: int,
    scale: float,
    rounding: Rounding,
    overflow: Overflow,
    key: Key | None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Values of the grid, with blocks along `axis`."""
    check_input(form, x, axis)
    _check_out(form, x, out)
    values, _, _ = operators.quantize(
        form,
        x.detach(),
        torch.tensor(scale, device=x.device),
        rounding,
        overflow,
        None if key is None else key_tensor(key),
        RANDOM_BITS if key is None else key.bits,
        axis=axis,
        out=out,
    )
    return values


def encode_blocks(
    form: Block,
    x: torch.Tensor,
    axis: int,
    scale: float,
    rounding: Rounding,
    overflow: Overflow,
    key: Key | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(element codes, scale codes)."""
    check_input(form, x, axis)
    number, scales = block_twin.numbers(form, x, axis, scale, rounding, overflow, key)
    codes = twin.codes_of(form.element, number).to(twin.code_type(form.element))
    return codes, twin.codes_of(form.scale, scales).to(twin.code_type(form.scale))


def decode_blocks(
    form: Block, codes: torch.Tensor, scale_codes: torch.Tensor, axis: int, scale: float
) -> torch.Tensor:
    """Values of element codes under scale codes."""
    _check_axis(form, codes, axis)
    expected = block_twin.scales_shape(form, codes.shape, axis)
    if scale_codes.shape != expected:
        raise InvalidValueError(
            "there is one scale code for each block",
            got=tuple(scale_codes.shape),
            where=f"{form}.decode of {tuple(codes.shape)} along axis {axis}, which has {tuple(expected)}",
        )
    number = twin.numbers_of(form.element, check_codes(form.element, codes))
    scales = twin.numbers_of(form.scale, check_codes(form.scale, scale_codes))
    return block_twin.values(form, number, scales, axis, scale)


def check_input(form: Format, x: Any, axis: int | None = None) -> None:
    """Raise where `x` is no float tensor that `form` can quantise."""
    if not isinstance(x, torch.Tensor):
        raise InvalidTypeError("x is a number or a torch tensor", got=type(x).__name__)
    if not x.is_floating_point():
        raise InvalidTypeError("only float tensors are quantised", got=x.dtype, where=str(form))
    if axis is not None:
        _check_axis(form, x, axis)


def _check_axis(form: Format, x: torch.Tensor, axis: int) -> None:
    if not -x.dim() <= axis < x.dim():
        raise InvalidValueError(
            f"blocks of {form} run along an axis of the tensor", got=f"axis {axis} of {tuple(x.shape)}"
        )


def check_codes(form: Format, codes: torch.Tensor) -> torch.Tensor:
    """`codes` as int64; a code that does not exist is an error that names its place."""
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise InvalidTypeError("codes are integers", got=codes.dtype, where=f"{form}.decode")
    codes = codes.to(torch.int64)  # whose comparisons know every code
    bad = (codes < form.code_min) | (codes > form.code_max)
    if len(form.codes()) <= form.code_max - form.code_min:
        hole = (set(range(form.code_min, form.code_max + 1)) - set(form.codes())).pop()
        bad |= codes == hole
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise InvalidValueError(
            f"codes of {form} are {describe_codes(form)}",
            got=codes[index].item(),
            where=f"index {index}",
        )
    return codes


def _check_out(form: Format, x: torch.Tensor, out: torch.Tensor | None) -> None:
    if out is None:
        return
    dtype = twin.value_type(form)
    if out.shape != x.shape or out.dtype != dtype:
        raise InvalidValueError(
            f"out has the shape of x and the type {dtype}",
            got=f"{tuple(out.shape)} {out.dtype}",
            where=f"{form}.quantize of {tuple(x.shape)}",
        )


def _scale_tensor(form: Format, scale: Any, x: torch.Tensor) -> torch.Tensor | None:
    """A scale that the caller gave, checked; None stands for the format's own."""
    if scale is None:
        form.scale_or_default(None)  # which says so where the format has none
        return None
    scales = torch.as_tensor(form.scale_or_default(scale), dtype=torch.float32, device=x.device)
    operators.check_broadcast(x, scales)
    good = (scales > 0) & scales.isfinite()
    if not good.all():
        raise InvalidValueError("a scale is positive and finite in float32", got=scales[~good][0].item())
    return scales


def _zero_points(
    form: Format, zero_point: Any, x: torch.Tensor, overflow: Overflow = Overflow.SATURATE
) -> torch.Tensor | None:
    """Zero points as a tensor; each is a code that `overflow` leaves."""
    if zero_point is None:
        return None
    assert isinstance(form, Uniform)  # others have refused a zero point
    zero_points = torch.as_tensor(zero_point, device=x.device)
    operators.check_broadcast(x, zero_points)
    if zero_points.is_floating_point() or zero_points.dtype == torch.bool:
        raise InvalidTypeError("zero points are integers", got=zero_points.dtype, where=str(form))
    low, high = form.limits(overflow)
    bad = (zero_points < low) | (zero_points > high)
    if bad.any():
        raise InvalidValueError(
            f"a zero point of {form} lies between {low} and {high}", got=zero_points[bad][0].item()
        )
    return zero_points.to(torch.int32)
