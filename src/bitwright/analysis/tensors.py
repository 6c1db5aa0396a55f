"""What a format does to a tensor: error, overflow, underflow, unused codes; and the scale that suits it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Block, Flex, Format, Key, Overflow, Rounding
from bitwright.formats.facts import check_zero_point, facts

COUNTED_BITS = 16
"""Codes of wider formats are not counted: there are more of them than of elements."""
SEARCHED = 1 << 18
"""Elements that a search for a scale looks at."""


@dataclass(frozen=True)
class Effect:
    """A tensor before and after a format, x and y, over the finite elements of x.

    Attributes:
        elements, nans, infinities: counts over the whole tensor.
        largest: max |x|.
        rms: sqrt(mean x^2).
        sqnr: 10 log10(sum x^2 / sum (y - x)^2), in dB; infinite where nothing changed, None where x is all
            zeros or has no finite element.
        mean_error, rms_error, largest_error: of y - x.
        overflowing: share of elements beyond the smallest or the largest value (of their block).
        flushed: share of the elements other than 0 that become 0.
        used, values: how many different numbers occur, of how many; None for formats above 16 bits. In a
            block format these are the elements' numbers, whatever the block's scale.
        scales_used: how many different block scales occur; None where there are none.
    """

    elements: int
    nans: int
    infinities: int
    largest: float
    rms: float
    sqnr: float | None
    mean_error: float
    rms_error: float
    largest_error: float
    overflowing: float
    flushed: float
    used: int | None
    values: int | None
    scales_used: int | None

    @property
    def dead(self) -> int | None:
        """How many values of the format never occur."""
        return None if self.used is None or self.values is None else self.values - self.used


def effect(
    form: Format,
    x: torch.Tensor,
    *,
    scale: float | None = None,
    zero_point: int | None = None,
    axis: int = -1,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    overflow: Overflow | str = Overflow.SATURATE,
    key: Key | None = None,
) -> Effect:
    """Quantise the float tensor `x`, of any shape, and measure. The arguments are those of `encode`.

    Raises:
        InvalidValueError: x has no elements.
    """
    check_tensor(x)
    check_zero_point(form, zero_point)
    options: dict[str, Any] = {"scale": scale, "rounding": rounding, "overflow": overflow, "key": key}
    shown: dict[str, Any] = {"scale": scale}
    if isinstance(form, Block):
        options["axis"] = shown["axis"] = axis
    elif zero_point is not None:
        options["zero_point"] = shown["zero_point"] = zero_point
    encoded = form.encode(x, **options)
    scales_used = None
    if isinstance(form, Block):
        codes, scale_codes = encoded
        y, scales_used = form.decode(codes, scale_codes, **shown), int(scale_codes.unique().numel())
    else:
        codes = encoded
        y = form.decode(codes, **shown)
    finite = x.isfinite()
    kept = x[finite].double()
    error = y[finite].double() - kept
    low, high = limits(form, x, scale=scale, zero_point=zero_point, axis=axis)
    beyond = ((x < low) | (x > high))[finite]
    nonzero = kept != 0
    counted = form.bits <= COUNTED_BITS
    return Effect(
        elements=x.numel(),
        nans=int(x.isnan().sum()),
        infinities=int(x.isinf().sum()),
        largest=float(kept.abs().max()) if kept.numel() else 0.0,
        rms=_rms(kept),
        sqnr=_sqnr(kept, error),
        mean_error=float(error.mean()) if kept.numel() else 0.0,
        rms_error=_rms(error),
        largest_error=float(error.abs().max()) if kept.numel() else 0.0,
        overflowing=_share(beyond),
        flushed=_share((y[finite] == 0)[nonzero]),
        used=_values_used(form, codes[finite]) if counted else None,
        values=facts(form, scale).values if counted else None,
        scales_used=scales_used,
    )


def check_tensor(x: torch.Tensor) -> None:
    """Raise where there is nothing to quantise."""
    if not x.is_floating_point():
        raise InvalidTypeError("only float tensors are quantised", got=x.dtype)
    if not x.numel():
        raise InvalidValueError("a tensor with elements", got=f"shape {tuple(x.shape)}")


def limits(
    form: Format, x: torch.Tensor, *, scale: float | None, zero_point: int | None = None, axis: int = -1
) -> tuple[Any, Any]:
    """The smallest and the largest value that each element can become: numbers, or for blocks tensors."""
    if not isinstance(form, Block):
        fact = facts(form, scale, zero_point)
        return fact.low, fact.high
    worth = block_steps(form, x, scale=scale, axis=axis)
    return form.element.min_number * worth, form.element.max_number * worth


def block_steps(form: Block, x: torch.Tensor, *, scale: float | None, axis: int) -> torch.Tensor:
    """What an element's number 1 is worth, for each element of x."""
    _, scale_codes = form.encode(x, axis=axis, scale=scale)
    worth: torch.Tensor = form.scale.decode(scale_codes) * form.step * form.scale_or_default(scale)
    return worth.repeat_interleave(form.size, dim=axis).narrow(axis, 0, x.shape[axis])


# --- scales that suit a tensor -----------------------------------------------------------------------------


def max_abs_scale(form: Format, x: torch.Tensor) -> float:
    """max |x| / max number: the largest element on the largest value. Flex takes the power of two above."""
    finite = x[x.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    if largest == 0:
        raise InvalidValueError("a scale from the data needs an element that is finite and not 0")
    if form.max_number <= 0:
        raise InvalidValueError("a scale from the data needs a number above 0", got=form)
    ratio = max(largest / form.max_number, torch.finfo(torch.float32).tiny)
    return _in_window(form, math.ceil(math.log2(ratio))) if isinstance(form, Flex) else ratio


def mse_scale(form: Format, x: torch.Tensor, *, axis: int = -1) -> float:
    """The scale of the least sum (y - x)^2, by search: 2^(k/8) around max-abs, then finer, twice.

    Tensors above 2^18 elements are searched on every n-th (blocks: on the whole tensor).
    """
    start = max_abs_scale(form, x)
    x = torch.where(x.isfinite(), x, 0.0)
    if not isinstance(form, Block):
        x = x.flatten()[:: -(-x.numel() // SEARCHED)]

    def loss(scale: float) -> float:
        options: dict[str, Any] = {"axis": axis} if isinstance(form, Block) else {}
        return float((form.quantize(x, scale=scale, **options).double() - x).square().sum())

    if isinstance(form, Flex):
        return min((2.0**-e for e in form.exponents), key=loss)
    # a float format is nearly as good at every scale within its range: the first look is a wide one
    best = min(_around(start, -80, 8, 8), key=loss)
    best = min(_around(best, -8, 8, 64), key=loss)
    return min(_around(best, -8, 8, 512), key=loss)


def _around(scale: float, first: int, last: int, parts: int) -> list[float]:
    """scale * 2^(k / parts) for k from first to last, as float32 scales; the nearest to k = 0 first."""
    tiny = torch.finfo(torch.float32).tiny
    steps = sorted(range(first, last + 1), key=abs)
    return [max(scale * 2 ** (k / parts), tiny) for k in steps]


def _in_window(form: Flex, exponent: int) -> float:
    """2^exponent, moved into what the shared exponent can say."""
    return 2.0 ** -min(max(-exponent, form.exponents[0]), form.exponents[-1])


# --- sums --------------------------------------------------------------------------------------------------


def _rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt()) if x.numel() else 0.0


def _sqnr(x: torch.Tensor, error: torch.Tensor) -> float | None:
    signal, noise = float(x.square().sum()), float(error.square().sum())
    if signal == 0 or math.isnan(noise):
        return None
    return 10 * math.log10(signal / noise) if noise else math.inf


def _share(which: torch.Tensor) -> float:
    return float(which.double().mean()) if which.numel() else 0.0


def _values_used(form: Format, codes: torch.Tensor) -> int:
    """How many different finite numbers the codes stand for (-0 is 0)."""
    inner = form.element if isinstance(form, Block) else form
    numbers = {inner.number(code) for code in torch.unique(codes).tolist()}
    return sum(math.isfinite(number) for number in numbers)
