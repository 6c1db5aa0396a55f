"""The torch twin of the scalar reference: same quotient, same rounding, same codes, on tensors.

Plain torch operations: what the C++ kernels are held to, and what runs where they do not (CUDA, float64).
Tested equal to the reference on every code. float16 and bfloat16 inputs are widened to float32 first;
float64 inputs keep float64 quotients, and their values are still of the format's own type.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from bitwright.formats.floating import Float
from bitwright.formats.logarithmic import ROOT, Log
from bitwright.formats.number import Format
from bitwright.formats.random import Key, draw
from bitwright.formats.rounding import RANDOM_BITS, Overflow, Rounding
from bitwright.formats.uniform import Binary, Uniform


def numbers(
    form: Format,
    x: torch.Tensor,
    scale: Any = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    key: Key | torch.Tensor | None = None,
    zero_point: torch.Tensor | None = None,
    bits: int | None = None,
) -> torch.Tensor:
    """The numbers that the elements of `x` become, before the scale; of the format's value type."""
    draws, bits = drawn(key, x, rounding, bits)
    return round_to(form, quotient(form, x, scale), rounding, overflow, draws, bits, zero_point)


def drawn(
    key: Key | torch.Tensor | None, x: torch.Tensor, rounding: Rounding, bits: int | None
) -> tuple[torch.Tensor | None, int]:
    """(draws for the elements of x, their bits), where the rounding is stochastic."""
    if bits is None:
        bits = key.bits if isinstance(key, Key) else RANDOM_BITS
    if key is None or rounding is not Rounding.STOCHASTIC:
        return None, bits
    return draw(key, x.shape, x.device, bits), bits


def round_to(
    form: Format,
    q: torch.Tensor,
    rounding: Rounding,
    overflow: Overflow,
    draws: torch.Tensor | None = None,
    bits: int = RANDOM_BITS,
    zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """The numbers that the quotients `q` become."""
    if isinstance(form, Binary):
        number = _sign(q, draws, bits)
    elif isinstance(form, Uniform):
        number = _uniform(form, q, rounding, overflow, draws, bits, zero_point)
    elif isinstance(form, Float):
        number = _float(form, q, rounding, overflow, draws, bits)
    elif isinstance(form, Log):
        number = _log(form, q, rounding, draws, bits)
    else:
        raise NotImplementedError(f"a twin for {form}")
    return number.to(value_type(form))


def quotient(form: Format, x: torch.Tensor, scale: Any = None) -> torch.Tensor:
    """q = x / scale, one IEEE division in the format's type (float64 where x is float64)."""
    real = torch.float64 if x.dtype == torch.float64 else value_type(form)
    step = form.scale_or_default(scale)
    if isinstance(step, float) and step == 1.0:
        return x.to(real)
    return x.to(real) / as_tensor(step, real, x.device)


def codes_of(form: Format, number: torch.Tensor) -> torch.Tensor:
    """The codes (int64) of numbers on the grid."""
    if isinstance(form, Float):
        return _float_codes(form, number)
    if isinstance(form, Log):
        exponent = exponent_of(number)
        k = 2 * exponent + (number.abs() > torch.exp2(exponent.to(number.dtype))) if form.root else exponent
        field = torch.where(number == 0, 0, k + 1)
        return field + torch.where(number < 0, form.fields + 1, 0)
    return number.to(torch.int64)


def numbers_of(form: Format, codes: torch.Tensor) -> torch.Tensor:
    """The numbers of valid codes (int64), in the format's value type."""
    if form.bits > 16 or isinstance(form, Uniform | Binary):
        return _float_numbers(form, codes) if isinstance(form, Float) else codes.to(value_type(form))
    # a table: one entry for each bit pattern
    table = [form.number(code) for code in range(form.code_min, form.code_max + 1)]
    return torch.tensor(table, dtype=value_type(form), device=codes.device)[codes - form.code_min]


def code_type(form: Format) -> torch.dtype:
    """The smallest signed or unsigned torch integer type that holds every code."""
    if form.code_min >= 0 and form.code_max <= 255:
        return torch.uint8
    for bits, dtype in ((8, torch.int8), (16, torch.int16), (32, torch.int32)):
        if form.code_min >= -(1 << bits - 1) and form.code_max < 1 << bits - 1:
            return dtype
    return torch.int64


def value_type(form: Format) -> torch.dtype:
    """float32, or float64 for wide formats."""
    return torch.float64 if form.wide else torch.float32


def as_tensor(step: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A scale as a tensor; float32 first, which is what scales are."""
    return torch.as_tensor(step, dtype=torch.float32, device=device).to(dtype)


# --- rounding --------------------------------------------------------------------------------------------


def _round(q: torch.Tensor, rounding: Rounding, draws: torch.Tensor | None, bits: int) -> torch.Tensor:
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
    assert draws is not None, "stochastic rounding needs draws"
    below = torch.floor(q)
    up: torch.Tensor = draws < (q - below) * 2**bits
    return below + up


def _round_magnitude(
    t: torch.Tensor, negative: torch.Tensor, rounding: Rounding, draws: torch.Tensor | None, bits: int
) -> torch.Tensor:
    """Round t = |q| >= 0 in steps; floor and ceil go by the sign of q."""
    if rounding in (Rounding.FLOOR, Rounding.CEIL):
        up = negative if rounding is Rounding.FLOOR else ~negative
        return torch.where(up, torch.ceil(t), torch.floor(t))
    return _round(t, rounding, draws, bits)


# --- the families ----------------------------------------------------------------------------------------


def _sign(q: torch.Tensor, draws: torch.Tensor | None, bits: int) -> torch.Tensor:
    one = torch.ones((), dtype=q.dtype, device=q.device)
    if draws is None:
        return torch.where(q < 0, -one, one)  # NaN < 0 is false: +1, as for 0
    return torch.where(draws < (q.nan_to_num(nan=0.0) + 1) * 2 ** (bits - 1), one, -one)


def _uniform(
    form: Uniform,
    q: torch.Tensor,
    rounding: Rounding,
    overflow: Overflow,
    draws: torch.Tensor | None,
    bits: int,
    zero_point: torch.Tensor | None,
) -> torch.Tensor:
    low, high = form.limits(overflow)
    level = _round(torch.where(q.isnan(), 0.0, q), rounding, draws, bits)
    if zero_point is not None:
        shift = zero_point.to(level.dtype)
        saturated = torch.minimum(torch.maximum(level, low - shift), high - shift)
    else:
        shift = torch.zeros((), dtype=level.dtype, device=level.device)
        saturated = level.clamp(low, high)
    if overflow is Overflow.WRAP:
        # level mod count, then into the range, which holds 0; exact in float64: count is a power of two
        count = high - low + 1
        whole = level.double()
        rest = whole - count * torch.floor(whole / count)
        wrapped = torch.where(rest > high - shift, rest - count, rest)
        saturated = torch.where(q.isinf(), saturated, wrapped.to(saturated.dtype))
    return saturated + 0.0  # no negative zero


def _float(
    form: Float,
    q: torch.Tensor,
    rounding: Rounding,
    overflow: Overflow,
    draws: torch.Tensor | None,
    bits: int,
) -> torch.Tensor:
    # the quantum 2^(max(E, emin) - m) in float64, where |q| / quantum is exact
    magnitude, negative = q.abs().double(), q.signbit()
    exponent = exponent_of(magnitude).clamp(form.emin, 127) - form.mantissa
    if not form.subnormals:
        exponent = torch.where(magnitude < 2.0**form.emin, form.emin, exponent)
    quantum = power_of_two(exponent)
    steps = magnitude / quantum
    number = _round_magnitude(steps, negative, rounding, draws, bits) * quantum
    if not form.zero:
        number = number.clamp(min=2.0**form.emin)
    limit = form.max_number
    beyond = torch.full_like(number, form.beyond(overflow))
    if rounding in (Rounding.TOWARD_ZERO, Rounding.FLOOR, Rounding.CEIL):
        inward = torch.ones_like(negative)
        if rounding is not Rounding.TOWARD_ZERO:
            inward = negative if rounding is Rounding.CEIL else ~negative
        beyond = torch.where(inward, limit, beyond)
    number = torch.where(number > limit, beyond, number)
    number = torch.where(q.isinf(), form.at_infinity(overflow), number)
    if not form.signed:
        number = torch.where(negative, -0.0 if form.zero else 2.0**form.emin, number) + 0.0
    else:
        number = torch.where(negative, -number, number)
        if not form.specials.negative_zero:
            number = number + 0.0
    return torch.where(number.isnan() | q.isnan(), math.nan if form.specials.nan else 0.0, number)


def _log(
    form: Log, q: torch.Tensor, rounding: Rounding, draws: torch.Tensor | None, bits: int
) -> torch.Tensor:
    real = q.dtype
    magnitude, negative = q.abs(), q < 0
    finite = magnitude.clamp(max=form.max_number).nan_to_num(nan=0.0)
    octave = power_of_two(exponent_of(finite).clamp(0, 127)).to(real)
    # neighbours: low <= |q| < high; below 1 they are 0 and 1
    tiny = finite < 1
    if form.root:
        odd = finite >= ROOT * octave
        low = torch.where(odd, ROOT * octave, octave)
        high = torch.where(odd, 2 * octave, ROOT * octave)
        turn = torch.where(odd, _root_above(3, real) * octave, _root_above(1, real) * octave)
    else:
        low, high, turn = octave, 2 * octave, _root_above(2, real) * octave
    zero = torch.zeros((), dtype=real, device=q.device)
    low, high = torch.where(tiny, zero, low), torch.where(tiny, zero + 1, high)
    turn = torch.where(tiny, _root_above(-1 if form.root else -2, real), turn)
    if rounding is Rounding.STOCHASTIC:
        assert draws is not None, "stochastic rounding needs draws"
        up = draws < (finite - low) / (high - low) * 2**bits
    elif rounding in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY):
        up = finite >= turn
    elif rounding is Rounding.TOWARD_ZERO:
        up = torch.zeros_like(negative)
    else:
        up = (finite > low) & (negative if rounding is Rounding.FLOOR else ~negative)
    number = torch.where(up & (finite < form.max_number), high, low)
    return torch.where(negative, -number, number) + 0.0


def _root_above(quarters: int, real: torch.dtype) -> float:
    """The smallest number of `real` above 2^(quarters / 4), which is irrational."""
    octave, rest = divmod(quarters, 4)
    places = 23 if real == torch.float32 else 52
    above = math.isqrt(math.isqrt(1 << 4 * places + rest)) + 1
    return math.ldexp(above, octave - places)


# --- bits of floats --------------------------------------------------------------------------------------


def exponent_of(magnitude: torch.Tensor) -> torch.Tensor:
    """floor(log2 |x|) as int64, from the bits of float64; -1023 for 0, 1024 for infinity and NaN."""
    return (magnitude.double().view(torch.int64) >> 52 & 0x7FF) - 1023


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent in float64, for exponents of normal numbers."""
    return ((exponent + 1023) << 52).view(torch.float64)


def _float_codes(form: Float, number: torch.Tensor) -> torch.Tensor:
    magnitude = number.abs().double()
    exponent = exponent_of(magnitude).clamp(form.emin, 127)
    significand = (magnitude / power_of_two(exponent - form.mantissa)).nan_to_num(0, 0, 0).to(torch.int64)
    # a normal significand carries its hidden bit into the field
    field = exponent - form.emin + int(form.zero) - 1
    pattern = (field << form.mantissa) + significand
    pattern = torch.where(magnitude == 0, 0, pattern)
    if form.infinity_code is not None:
        pattern = torch.where(magnitude.isinf(), form.infinity_code, pattern)
    negative = number.signbit() if form.specials.negative_zero else number < 0
    codes = pattern + (negative.to(torch.int64) << form.exponent + form.mantissa if form.signed else 0)
    return torch.where(number.isnan(), form.nan_code or 0, codes)


def _float_numbers(form: Float, codes: torch.Tensor) -> torch.Tensor:
    """Numbers of codes that are too many for a table."""
    sign_bit = 1 << form.exponent + form.mantissa
    pattern = codes & sign_bit - 1
    field, mantissa = pattern >> form.mantissa, pattern & (1 << form.mantissa) - 1
    normal = (field > 0).to(torch.int64)
    significand = mantissa + (normal << form.mantissa)
    if not form.subnormals:
        significand = significand * normal
    number = significand.double() * power_of_two(field - normal + form.emin - form.mantissa)
    number = torch.where(number > form.max_number, math.nan, number)
    if form.infinity_code is not None:
        number = torch.where(pattern == form.infinity_code, math.inf, number)
    if form.specials is not form.specials.IEEE and form.nan_code is not None:
        number = torch.where(codes == form.nan_code, math.nan, number)
    negative = (codes & sign_bit) != 0
    if not form.specials.negative_zero:  # without subnormals there are several codes of zero
        negative &= number != 0
    return torch.where(negative & ~number.isnan(), -number, number).to(torch.float32)
