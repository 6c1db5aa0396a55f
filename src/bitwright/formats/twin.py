"""The torch twin of the scalar reference: same quotient, same rounding, same codes, on tensors.

Tested equal to the reference on every code. float16 and bfloat16 inputs are widened to float32 first;
float64 inputs keep float64 quotients, and their values are still of the format's own type.
"""

from __future__ import annotations

from typing import Any

import torch

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats.number import Binary, Format, describe_codes
from bitwright.formats.random import Key, draw
from bitwright.formats.rounding import RANDOM_BITS, Rounding

Scale = torch.Tensor | float | None


def quantize(
    form: Format, x: torch.Tensor, scale: Any, rounding: Rounding, key: Key | None, out: Any = None
) -> torch.Tensor:
    """Values of the grid, in the type of `decode`."""
    level = levels(form, x, scale, rounding, key)
    step = form.scale_or_default(scale)
    unit = isinstance(step, float) and step == 1.0
    values = level if unit else level * _as_tensor(step, level.dtype, level.device)
    if out is None:
        return values
    if out.shape != x.shape or out.dtype != values.dtype:
        raise InvalidValueError(
            f"out has the shape of x and the type {values.dtype}",
            got=f"{tuple(out.shape)} {out.dtype}",
            where=f"{form}.quantize of {tuple(x.shape)}",
        )
    out.copy_(values)
    return torch.as_tensor(out)


def encode(form: Format, x: torch.Tensor, scale: Any, rounding: Rounding, key: Key | None) -> torch.Tensor:
    """Codes, in the smallest integer type that holds every code of the format."""
    return levels(form, x, scale, rounding, key).to(code_type(form))


def decode(form: Format, codes: torch.Tensor, scale: Any) -> torch.Tensor:
    """Values of `codes`, in float32, or float64 for wide formats."""
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise InvalidTypeError("codes are integers", got=codes.dtype, where=f"{form}.decode")
    codes = codes.to(torch.int64)  # whose comparisons know every code
    bad = (codes < form.code_min) | (codes > form.code_max)
    if isinstance(form, Binary):
        bad |= codes == 0
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise InvalidValueError(
            f"codes of {form} are {describe_codes(form)}",
            got=codes[index].item(),
            where=f"index {index}",
        )
    step = form.scale_or_default(scale)
    return codes.to(_value_type(form)) * _as_tensor(step, _value_type(form), codes.device)


def levels(
    form: Format,
    x: torch.Tensor,
    scale: Scale = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    key: Key | None = None,
) -> torch.Tensor:
    """Levels of `x` as integer-valued floats: clip(round(x / scale)); see `Format`."""
    if not isinstance(x, torch.Tensor):
        raise InvalidTypeError("x is a number or a torch tensor", got=type(x).__name__)
    if not x.is_floating_point():
        raise InvalidTypeError("only float tensors are quantised", got=x.dtype, where=str(form))
    if rounding is Rounding.STOCHASTIC and key is None:
        raise InvalidValueError("stochastic rounding needs a key", fix="pass key=bw.Key(seed=0)")
    q = quotient(form, x, scale)
    if isinstance(form, Binary):
        return _sign(q, key if rounding is Rounding.STOCHASTIC else None).to(_value_type(form))
    level = _round(q, rounding, key)
    level = level.clamp_(form.code_min, form.code_max).nan_to_num_(nan=0.0)
    return level.to(_value_type(form))


def quotient(form: Format, x: torch.Tensor, scale: Scale = None) -> torch.Tensor:
    """q = x / scale, one IEEE division in the format's type (float64 where x is float64)."""
    real = torch.float64 if x.dtype == torch.float64 else _value_type(form)
    step = form.scale_or_default(scale)
    if isinstance(step, float) and step == 1.0:
        return x.to(real)
    return x.to(real) / _as_tensor(step, real, x.device)


def code_type(form: Format) -> torch.dtype:
    """The smallest signed or unsigned torch integer type that holds every code."""
    if form.code_min >= 0 and form.code_max <= 255:
        return torch.uint8
    for bits, dtype in ((8, torch.int8), (16, torch.int16), (32, torch.int32)):
        if form.code_min >= -(1 << bits - 1) and form.code_max < 1 << bits - 1:
            return dtype
    return torch.int64


def _value_type(form: Format) -> torch.dtype:
    return torch.float64 if form.wide else torch.float32


def _as_tensor(step: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(step, dtype=torch.float32, device=device).to(dtype)


def _sign(q: torch.Tensor, key: Key | None) -> torch.Tensor:
    one = torch.ones((), dtype=q.dtype, device=q.device)
    if key is None:
        return torch.where(q < 0, -one, one)  # NaN < 0 is false: +1, as for 0
    up = draw(key, q.shape, q.device) < (q.nan_to_num(nan=0.0) + 1) * 2 ** (RANDOM_BITS - 1)
    return torch.where(up, one, -one)


def _round(q: torch.Tensor, rounding: Rounding, key: Key | None) -> torch.Tensor:
    if rounding is Rounding.NEAREST_EVEN:
        return torch.round(q)
    if rounding is Rounding.NEAREST_AWAY:
        # not floor(|q| + 1/2): that addition rounds 0.49999997 up to 1
        whole = torch.trunc(q)
        rest = (q - whole).nan_to_num_(nan=0.0)  # infinity - infinity
        return whole + torch.trunc(rest * 2)
    if rounding is Rounding.FLOOR:
        return torch.floor(q)
    if rounding is Rounding.CEIL:
        return torch.ceil(q)
    if rounding is Rounding.TOWARD_ZERO:
        return torch.trunc(q)
    if key is None:
        raise InvalidValueError("stochastic rounding needs a key", fix="pass key=bw.Key(seed=0)")
    below = torch.floor(q)
    up: torch.Tensor = draw(key, q.shape, q.device) < (q - below) * 2**RANDOM_BITS
    return below + up
