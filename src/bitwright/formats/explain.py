"""How one number becomes a code, told step by step."""

from __future__ import annotations

import numpy as np

from bitwright.formats.number import Format, describe_codes
from bitwright.formats.rounding import Rounding, round_scalar
from bitwright.formats.uniform import Binary


def explain(form: Format, x: float, scale: float | None = None) -> str:
    """The steps from `x` to its code and back, one line each, with the numbers."""
    real = form.float_type
    step = real(form.scale_or_default(scale))
    code: int = form.encode(x, scale=scale)
    value: float = form.decode(code, scale=scale)
    with np.errstate(over="ignore"):
        q = real(real(x) / step)
    lines = [
        ("scale", _power_of_two(float(step))),
        ("divide", f"{x:g} / {float(step):g} = {float(q):g}"),
    ]
    if np.isnan(q):
        lines.append(("NaN", "counts as 0"))
        q = real(0)
    if isinstance(form, Binary):
        lines.append(("sign", f"{float(q):g} {'>= 0: +1' if code > 0 else '< 0: -1'}"))
    elif abs(float(q)) < 2.0**53:
        rounded = round_scalar(q, Rounding.NEAREST_EVEN)
        lines.append(("round", f"nearest, ties to even: {rounded}"))
        unchanged = " (unchanged)" if code == rounded else ""
        lines.append(("clip", f"to {describe_codes(form)}: {code}{unchanged}"))
    else:
        lines.append(("clip", f"saturates to {code}"))
    stored = int(code > 0) if isinstance(form, Binary) else code & (1 << form.bits) - 1
    bits = format(stored, f"0{form.bits}b")
    lines += [
        ("code", f"{code}  ({bits} in {form.bits} bit{'s' if form.bits > 1 else ''})"),
        ("value", f"{code} x {float(step):g} = {value:g}"),
        ("error", f"{value - x:+g} ({abs(value - x) / float(step):.2g} steps)"),
    ]
    return "\n".join([f"{form}: {x:g}", *(f"  {label:<8}{text}" for label, text in lines)])


def _power_of_two(step: float) -> str:
    mantissa, exponent = step.hex().split("p")
    exact = mantissa in ("0x1.0000000000000", "0x1.0")
    return f"2^{int(exponent)} = {step:g}" if exact else f"{step!r}"
