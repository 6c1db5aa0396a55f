"""Formats as the C++ kernels take them, and the calls with the addresses of tensors."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from bitwright.formats.block import Block, ScaleRule
from bitwright.formats.floating import Float
from bitwright.formats.logarithmic import Log
from bitwright.formats.number import Format
from bitwright.formats.random import Key
from bitwright.formats.rounding import Overflow, Rounding
from bitwright.formats.uniform import Binary, Uniform
from bitwright.kernels import quantize as native
from bitwright.kernels.quantize import Grid, GridKind

_ROUNDINGS = {
    Rounding.NEAREST_EVEN: native.RoundingCode.NEAREST_EVEN,
    Rounding.NEAREST_AWAY: native.RoundingCode.NEAREST_AWAY,
    Rounding.FLOOR: native.RoundingCode.FLOOR,
    Rounding.CEIL: native.RoundingCode.CEIL,
    Rounding.TOWARD_ZERO: native.RoundingCode.TOWARD_ZERO,
    Rounding.STOCHASTIC: native.RoundingCode.STOCHASTIC,
}
_RULES = {rule: native.ScaleRule[rule.name] for rule in ScaleRule}


@lru_cache(maxsize=1024)
def grid_of(form: Format, overflow: Overflow) -> Grid | None:
    """The numbers of a format for the kernels; None where they do not take it."""
    if form.wide:
        return None
    if isinstance(form, Binary):
        return Grid(GridKind.SIGN)
    if isinstance(form, Log):
        return Grid(GridKind.LOGSQRT2 if form.root else GridKind.LOG2, fields=form.fields)
    if isinstance(form, Uniform):
        low, high = form.limits(overflow)
        if overflow is Overflow.WRAP and high - low >= 1 << 24:
            return None  # the rest of a division by 2^25 is no float32
        return Grid(GridKind.UNIFORM, float(low), float(high), wrap=overflow is Overflow.WRAP)
    # |q| / quantum must not underflow: with a quantum of 2 it would
    if isinstance(form, Float) and form.zero and form.emin >= -127 and form.mantissa >= form.emin:
        return Grid(
            GridKind.FLOATING,
            mantissa_bits=form.mantissa,
            emin=form.emin,
            max=form.max_number,
            beyond=form.beyond(overflow),
            at_infinity=form.at_infinity(overflow),
            at_nan=math.nan if form.specials.nan else 0.0,
            negative_zero=form.specials.negative_zero,
            subnormals=form.subnormals,
            unsigned=not form.signed,
        )
    return None


def run_rows(
    grid: Grid,
    source: torch.Tensor,
    target: torch.Tensor,
    shape: list[int],
    channel: int | None,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    rounding: Rounding,
    key: Key | None,
    scaled: bool,
    max_abs: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """Quantise `source`, dense with `shape` in storage order, one scale for each index of axis `channel`."""
    native.quantize(
        source.data_ptr(),
        target.data_ptr(),
        *_layout(shape, channel),
        scale.data_ptr(),
        grid,
        _ROUNDINGS[rounding],
        key=_words(key),
        random_bits=key.bits if key is not None else 16,
        scaled=scaled,
        zero_point_ptr=0 if zero_point is None else zero_point.data_ptr(),
        max_abs_ptr=max_abs.data_ptr(),
        counts_ptr=counts.data_ptr(),
        threads=torch.get_num_threads(),
    )


def run_gate(
    x: torch.Tensor,
    grad: torch.Tensor,
    out: torch.Tensor,
    shape: list[int],
    channel: int | None,
    scale: torch.Tensor,
    low: float,
    high: float,
) -> None:
    """out = grad where low <= x / scale <= high, else 0; layout as for `run_rows`."""
    native.gate(
        x.data_ptr(),
        grad.data_ptr(),
        out.data_ptr(),
        *_layout(shape, channel),
        scale.data_ptr(),
        low,
        high,
        threads=torch.get_num_threads(),
    )


def run_blocks(
    form: Block,
    grid: Grid,
    source: torch.Tensor,
    target: torch.Tensor,
    axis: int,
    scale: float,
    rounding: Rounding,
    key: Key | None,
    max_abs: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """Quantise the contiguous `source` in blocks along `axis`; the result is values."""
    shape = source.shape
    divide = form.rule is ScaleRule.DIVIDE
    native.quantize_blocks(
        source.data_ptr(),
        target.data_ptr(),
        math.prod(shape[:axis]),
        shape[axis],
        math.prod(shape[axis + 1 :]),
        form.size,
        grid,
        _ROUNDINGS[rounding],
        rule=_RULES[form.rule],
        elem_max=form.element_max,
        elem_bits=form.mantissa,
        smin=-127 if divide else form.scale.emin,
        smax=127 if divide else form.scale.max_exponent,
        scale_grid=grid_of(form.scale, Overflow.SATURATE) if divide else None,
        global_scale=scale,
        unit=form.step,
        key=_words(key),
        random_bits=key.bits if key is not None else 16,
        scaled=True,
        max_abs_ptr=max_abs.data_ptr(),
        counts_ptr=counts.data_ptr(),
        threads=torch.get_num_threads(),
    )


def _layout(shape: list[int], channel: int | None) -> tuple[int, int, int]:
    """(outer, channels, inner) around the axis that a scale varies along."""
    if channel is None:
        return 1, 1, math.prod(shape)
    return math.prod(shape[:channel]), shape[channel], math.prod(shape[channel + 1 :])


def _words(key: Key | None) -> tuple[int, int, int, int] | None:
    return None if key is None else (*key.words, *key.tail)
