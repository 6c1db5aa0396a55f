"""The torch twin of block formats: scales from the tensor, then elements under them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from bitwright.formats import twin
from bitwright.formats.block import Block, ScaleRule
from bitwright.formats.random import Key
from bitwright.formats.rounding import Overflow, Rounding


def numbers(
    form: Block,
    x: torch.Tensor,
    axis: int,
    scale: float,
    rounding: Rounding,
    overflow: Overflow,
    key: Key | torch.Tensor | None = None,
    bits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(element numbers of x's shape, block scales of `scales_shape`), both float32."""
    blocks = _split(x.to(torch.float32), axis, form.size)
    magnitude = blocks.abs()
    largest = torch.where(magnitude.isfinite(), magnitude, 0.0).amax(dim=-1)
    scales = block_scales(form, (largest / scale).clamp(max=torch.finfo(torch.float32).max))
    total = total_scales(form, scales, scale).unsqueeze(-1)
    q = torch.where(total == 0, 0.0, blocks / total)
    draws, bits = twin.drawn(key, x, rounding, bits)
    if draws is not None:
        draws = _split(draws, axis, form.size)
    number = twin.round_to(form.element, q, rounding, overflow, draws, bits)
    return _join(number, axis, x.shape), scales.movedim(-1, axis)


def block_scales(form: Block, largest: torch.Tensor) -> torch.Tensor:
    """The scale of each block from its largest magnitude (over the outer scale); float32."""
    ratio = largest / form.element_max
    if form.rule is ScaleRule.DIVIDE:
        ratio = ratio.clamp(max=form.scale.max_number)  # infinity is no scale
        return twin.round_to(form.scale, ratio, Rounding.NEAREST_EVEN, Overflow.SATURATE)
    emax = math.frexp(form.element_max)[1] - 1
    if form.rule is ScaleRule.RCEIL:
        exponent = _ceil_log2(ratio)
    elif form.rule is ScaleRule.CEIL:
        exponent = _ceil_log2(largest) - emax
    elif form.rule is ScaleRule.EVEN:
        # half a place of the element's mantissa may carry a into the next power of two
        below = twin.exponent_of(largest)
        carries = largest.double() / twin.power_of_two(below.clamp(-1022, 1023)) >= 2 - 0.5 ** (
            form.mantissa + 1
        )
        exponent = below + carries.to(torch.int64) - emax
    else:
        exponent = twin.exponent_of(largest) - emax
    exponent = exponent.clamp(form.scale.emin, form.scale.max_exponent)
    exponent = torch.where(largest == 0, form.scale.emin, exponent)
    exponent = torch.where(largest.isinf(), form.scale.max_exponent, exponent)
    return twin.power_of_two(exponent).to(torch.float32)


def total_scales(form: Block, scales: torch.Tensor, scale: float) -> torch.Tensor:
    """What an element's number 1 is worth in each block."""
    return scales * form.step * scale


def values(form: Block, number: torch.Tensor, scales: torch.Tensor, axis: int, scale: float) -> torch.Tensor:
    """Values from element numbers and block scales."""
    total = total_scales(form, scales, scale).repeat_interleave(form.size, dim=axis)
    return number * total.narrow(axis, 0, number.shape[axis])


def scales_shape(form: Block, shape: torch.Size, axis: int) -> torch.Size:
    """`shape` with one entry for each block along the axis."""
    counts = list(shape)
    counts[axis] = -(-counts[axis] // form.size)
    return torch.Size(counts)


def _split(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """[.., L, ..] -> [.., .., blocks, size], the axis last and padded with zeros."""
    moved = x.movedim(axis, -1)
    length = moved.shape[-1]
    count = -(-length // size)
    padded: torch.Tensor = F.pad(moved, (0, count * size - length))
    return padded.reshape(*moved.shape[:-1], count, size)


def _join(blocks: torch.Tensor, axis: int, shape: torch.Size) -> torch.Tensor:
    return blocks.flatten(-2).narrow(-1, 0, shape[axis]).movedim(-1, axis)


def _ceil_log2(x: torch.Tensor) -> torch.Tensor:
    exponent = twin.exponent_of(x)
    return exponent + (twin.power_of_two(exponent.clamp(-1022, 1023)) < x).to(torch.int64)
