"""How numbers become codes, told step by step, for every family of formats.

The steps are worked out here once more, in the order in which one does them by hand; the code at the end is
what `encode` gives, and tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats.block import Block, ScaleRule
from bitwright.formats.facts import check_zero_point, kind_of, pattern
from bitwright.formats.floating import Float
from bitwright.formats.logarithmic import Log
from bitwright.formats.number import Format, describe_codes
from bitwright.formats.random import Key, draw_scalar
from bitwright.formats.rounding import Draw, Overflow, Rounding, of_magnitude, round_scalar
from bitwright.formats.uniform import Binary, Uniform

ROUNDING_WORDS = {
    Rounding.NEAREST_EVEN: "nearest, ties to even",
    Rounding.NEAREST_AWAY: "nearest, ties away from 0",
    Rounding.FLOOR: "down",
    Rounding.CEIL: "up",
    Rounding.TOWARD_ZERO: "toward 0",
    Rounding.STOCHASTIC: "stochastic",
}
Step = tuple[str, str]


@dataclass(frozen=True)
class How:
    """How to round: what `encode` is told."""

    rounding: Rounding = Rounding.NEAREST_EVEN
    overflow: Overflow = Overflow.SATURATE
    key: Key | None = None

    def draw(self, element: int = 0) -> Draw | None:
        """The random number of an element, where the rounding takes one."""
        if self.rounding is not Rounding.STOCHASTIC:
            return None
        if self.key is None:
            raise InvalidValueError("stochastic rounding needs a key", fix="pass key=bw.Key(seed=0)")
        return draw_scalar(self.key, element)

    @property
    def words(self) -> str:
        return ROUNDING_WORDS[self.rounding]


def explain(
    form: Format,
    x: float | Sequence[float],
    scale: float | None = None,
    zero_point: int | None = None,
    rounding: Rounding | str = Rounding.NEAREST_EVEN,
    overflow: Overflow | str = Overflow.SATURATE,
    key: Key | None = None,
) -> str:
    """The steps from `x` to its code and back, one line each, with the numbers.

    `x` is a number, or for block formats the numbers of one block. The other arguments are those of `encode`.
    """
    how = How(Rounding.of(rounding), Overflow.of(overflow), key)
    form.check_overflow(how.overflow)
    if isinstance(form, Block):
        return _explain_block(form, [x] if isinstance(x, int | float) else list(x), scale, how)
    if not isinstance(x, int | float | np.number):
        raise InvalidValueError(f"{form} takes one number at a time", got=list(x))
    x = float(x)
    check_zero_point(form, zero_point)
    real = form.float_type
    step = real(form.scale_or_default(scale))
    with np.errstate(over="ignore", under="ignore"):
        q = real(real(x) / step)
    options = {} if zero_point is None else {"zero_point": zero_point}
    code: int = form.encode(x, scale=scale, rounding=how.rounding, overflow=how.overflow, key=key, **options)
    value: float = form.decode(code, scale=scale, **options)
    lines = [
        ("scale", _scale(float(step))),
        ("divide", f"{say(x)} / {say(float(step))} = {say(q)}"),
        *_steps(form, q, how, zero_point),
        ("code", _code(form, code)),
        ("value", _value(form, code, float(step), value, zero_point)),
        ("error", _error(form, x, value, float(step))),
    ]
    return _layout(f"{form}: {say(x)}", lines)


def say(value: float | np.floating) -> str:
    """A number in the fewest digits that give it back, where it is a float32; else in six or more."""
    value = float(value)
    if math.isinf(value) or math.isnan(value):
        return f"{value:g}".replace("nan", "NaN")
    if value == round(value) and abs(value) < 1e10:
        return f"{value:.0f}"
    with np.errstate(over="ignore", under="ignore"):
        single = np.float32(value)
    text = str(single if float(single) == value or abs(float(single) - value) < 1e-9 * abs(value) else value)
    text = text.removesuffix(".0")
    return f"{value:g}" if len(text) > 12 and "e" not in text and value != round(value) else text


# --- the steps of each family ----------------------------------------------------------------------------


def _steps(form: Format, q: np.floating, how: How, zero_point: int | None) -> list[Step]:
    """From the quotient to the number."""
    lines: list[Step] = []
    if np.isnan(q):
        if isinstance(form, Float) and form.nan_code is not None:
            return [("NaN", "stays NaN")]
        lines, q = [("NaN", "counts as 0")], type(q)(0)
    if isinstance(form, Binary):
        return [*lines, ("sign", _sign(q, how))]
    if isinstance(form, Float):
        return lines + _float_steps(form, q, how)
    if isinstance(form, Log):
        return lines + _log_steps(form, q, how)
    assert isinstance(form, Uniform)
    return lines + _uniform_steps(form, q, how, zero_point)


def _sign(q: np.floating, how: How) -> str:
    draw = how.draw()
    if draw is None:
        return f"{say(q)} >= 0: +1" if q >= 0 else f"{say(q)} < 0: -1"
    up = Binary().code_of(q, how.rounding, how.overflow, draw) > 0
    chance = min(max((float(q) + 1) / 2, 0.0), 1.0)
    return (
        f"+1 with probability clip((q + 1) / 2, 0, 1) = {say(chance)}; {_drawn(draw)}: {'+1' if up else '-1'}"
    )


def _uniform_steps(form: Uniform, q: np.floating, how: How, zero_point: int | None) -> list[Step]:
    low, high = form.limits(how.overflow)
    limits = describe_codes(form) if how.overflow is not Overflow.SYMMETRIC else f"{low} to {high}"
    if np.isinf(q):
        return [("clip", f"to {limits}: saturates at {high if q > 0 else low}")]
    draw = how.draw()
    code = round_scalar(q, how.rounding, draw)
    lines = [("round", f"{how.words}{_chance(float(q) - math.floor(q), draw)}: {_whole(code)}")]
    if zero_point is not None:
        lines.append(("shift", f"{_whole(code)} + {zero_point} = {_whole(code + zero_point)}"))
        code += zero_point
    if how.overflow is Overflow.WRAP:
        kept = (code - low) % (high - low + 1) + low
        lines.append(("wrap", f"the low {form.bits} bits: {kept}{' (unchanged)' if kept == code else ''}"))
    else:
        kept = min(max(code, low), high)
        lines.append(("clip", f"to {limits}: {kept}{' (unchanged)' if kept == code else ''}"))
    return lines


def _float_steps(form: Float, q: np.floating, how: How) -> list[Step]:
    negative, magnitude = bool(np.signbit(q)), abs(float(q))
    if negative and not form.signed and magnitude > 0:
        return [("sign", f"there are no negative numbers: {say(form.min_number)}")]
    if math.isinf(magnitude):
        fate = form.at_infinity(how.overflow)
        return [("infinity", "stays" if math.isinf(fate) else f"becomes {say(math.copysign(fate, q))}")]
    exponent = math.frexp(magnitude)[1] - 1 if magnitude else form.emin
    mode = of_magnitude(how.rounding, bool(q < 0))
    quantum = max(exponent, form.emin) - form.mantissa
    if magnitude and exponent >= form.emin:
        lines = [
            ("exponent", f"E = floor(log2 {say(magnitude)}) = {exponent}"),
            ("quantum", f"2^(E - {form.mantissa}) = {_power(quantum)}"),
        ]
    elif not form.zero:
        return [("exponent", f"below {_power(form.emin)}, the smallest number: that one")]
    elif form.subnormals:
        lines = [("exponent", f"below {_power(form.emin)}, the smallest normal number: E = {form.emin}")]
        lines += [("quantum", f"2^(E - {form.mantissa}) = {_power(quantum)}")]
    else:
        lines = [("exponent", f"below {_power(form.emin)}, and no subnormals: that number or 0")]
        quantum = form.emin
        lines += [("quantum", _power(quantum))]
    q_steps = type(q)(math.ldexp(magnitude, -quantum))
    draw = how.draw()
    steps = round_scalar(q_steps, mode, draw)
    number = math.ldexp(steps, quantum)
    words = ROUNDING_WORDS[mode] if mode is not how.rounding else how.words
    of = f"{say(magnitude)} / 2^{quantum} = {say(q_steps)} steps"
    lines += [
        ("round", f"{of}, {words}{_chance(float(q_steps) % 1, draw)}: {_whole(steps)}"),
        ("number", f"{_whole(steps)} x 2^{quantum} = {say(number)}"),
    ]
    limit = say(form.max_number)
    if number <= form.max_number:
        return [*lines, ("overflow", f"none, at most {limit}")]
    inward = mode in (Rounding.FLOOR, Rounding.TOWARD_ZERO)
    fate = form.max_number if inward else form.beyond(how.overflow)
    why = f"{words} stops at the largest" if inward else how.overflow.value
    sign = "-" if negative and not math.isnan(fate) else ""
    return [*lines, ("overflow", f"{say(number)} > {limit}; {why}: {sign}{say(fate)}")]


def _log_steps(form: Log, q: np.floating, how: How) -> list[Step]:
    magnitude = abs(float(q))
    if magnitude >= form.max_number:
        return [("clip", f"|q| at or above the largest: {say(form.max_number)}")]
    below = sum(1 for k in range(form.fields) if form.power(k) <= magnitude)
    low, high = form.power(below - 1) if below else 0.0, form.power(below)
    base = "sqrt2" if form.root else "2"
    lower = f"{base}^{below - 1} = {say(low)}" if below else "0"
    lines = [("between", f"{lower} and {base}^{below} = {say(high)}")]
    if magnitude == low:
        return [*lines, ("round", f"nothing to round: {say(low)}")]
    code = form.code_of(q, how.rounding, how.overflow, how.draw())
    number = say(abs(form.number(code)))
    mode = of_magnitude(how.rounding, bool(q < 0))
    if how.rounding is Rounding.STOCHASTIC:
        chance = (magnitude - low) / (high - low)
        return [*lines, ("round", f"linear{_chance(chance, how.draw())}: {number}")]
    if mode in (Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY):
        turn = 2.0 ** ((below - 0.5) * (0.5 if form.root else 1.0))
        name = f"{base}^{below - 1}.5" if below else f"{base}^-0.5"
        relation = ">=" if magnitude >= turn else "<"
        return [
            *lines,
            ("round", f"nearest in the logarithm: {say(magnitude)} {relation} {name} = {turn:.7g}: {number}"),
        ]
    return [*lines, ("round", f"|q| {ROUNDING_WORDS[mode]}: {number}")]


# --- blocks ----------------------------------------------------------------------------------------------


def _explain_block(form: Block, row: list[float], scale: float | None, how: How) -> str:
    if not 1 <= len(row) <= form.size:
        raise InvalidValueError(f"a block of {form} has 1 to {form.size} numbers", got=f"{len(row)}")
    real = np.float32
    outer = form.scale_or_default(scale)
    codes, (scale_code,) = form.encode_row(row, outer, how.rounding, how.overflow, how.key)
    values = form.decode_row(codes, [scale_code], outer)
    with np.errstate(over="ignore", under="ignore"):
        singles = [real(x) for x in row]
        largest = max((abs(x) for x in singles if np.isfinite(x)), default=real(0))
        ratio = real(largest / real(outer))
    lines = [("largest", f"max |x| = {say(largest)}")]
    if outer != 1:
        lines += [("outer", f"{say(largest)} / {say(outer)} = {say(ratio)}")]
    lines += _rule_steps(form, float(ratio))
    s = form.scale.number(scale_code)
    total = real(form.total_scale(scale_code, outer))
    lines.append(("scale", f"{_scale(s)}, code {scale_code}  ({pattern(form.scale, scale_code)})"))
    if float(total) != s:
        parts = [say(s)] + [say(form.step)] * (form.step != 1) + [say(outer)] * (outer != 1)
        lines.append(("step", f"{' x '.join(parts)} = {say(total)}"))
    lines.append(("elements", f"{form.element}, {how.words}, {how.overflow.value}"))
    rows = [
        ("x", "x / step" if form.step != 1 or outer != 1 else "x / scale", "number", "bits", "value", "error")
    ]
    for x, single, code, value in zip(row, singles, codes, values, strict=True):
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            q = single / total if total else real(0)
        number = form.element.number(code)
        at_limit = abs(float(q)) > abs(form.element.max_number if q > 0 else form.element.min_number)
        saturated = " (limit)" if at_limit else ""
        cells = (say(x), f"{float(q):.6g}", say(number) + saturated, pattern(form, code))
        rows.append((*cells, say(value), "-" if math.isnan(value - x) else f"{value - x:+.3g}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["    " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    count = f"{len(row)} number{'s' if len(row) > 1 else ''}"
    blank = "" if len(row) == form.size else f", {form.size - len(row)} more count as 0"
    return "\n".join([_layout(f"{form}: a block of {count}{blank}", lines), *table])


def _rule_steps(form: Block, a: float) -> list[Step]:
    """From the largest magnitude to the scale before it is encoded."""
    rule, top = form.rule, form.element_max
    if rule is ScaleRule.DIVIDE:
        exact = say(np.float32(a) / np.float32(top))
        return [("rule", f"divide: s = {say(a)} / {say(top)} = {exact}, rounded to {form.scale}")]
    low, high = form.scale.emin, form.scale.max_exponent
    if a == 0:
        return [("rule", f"{rule.value}: only zeros, so the smallest scale, 2^{low}")]
    emax = math.frexp(top)[1] - 1
    floor = math.frexp(a)[1] - 1
    lines = [("emax", f"floor(log2 {say(top)}) = {emax}")] if rule is not ScaleRule.RCEIL else []
    if rule is ScaleRule.RCEIL:
        with np.errstate(under="ignore"):
            ratio = float(np.float32(a) / np.float32(top))
        exponent = _ceil_log2(ratio)
        text = f"rceil: ceil(log2({say(a)} / {say(top)})) = ceil(log2 {say(ratio)}) = {exponent}"
    elif rule is ScaleRule.CEIL:
        exponent = _ceil_log2(a) - emax
        text = f"ceil: ceil(log2 {say(a)}) - {emax} = {exponent}"
    elif rule is ScaleRule.EVEN:
        place = math.ldexp(1.0, floor - form.mantissa)
        rounded = math.floor(a / place + 0.5) * place
        exponent = math.frexp(rounded)[1] - 1 - emax
        text = f"even: floor(log2 a') - {emax} = {exponent}"
        lines.append(("rounded", f"a' = {say(a)} in {form.mantissa} mantissa bits, half up: {say(rounded)}"))
    else:
        exponent = floor - emax
        text = f"floor: floor(log2 {say(a)}) - {emax} = {floor} - {emax} = {exponent}"
    kept = min(max(exponent, low), high)
    lines.append(("rule", text))
    return lines if kept == exponent else [*lines, ("clip", f"to {low} to {high}: {kept}")]


def _ceil_log2(x: float) -> int:
    if x == 0:
        return -150  # below every float32
    mantissa, exponent = math.frexp(x)
    return exponent - (mantissa == 0.5)


# --- words -----------------------------------------------------------------------------------------------


def _layout(title: str, lines: Sequence[Step]) -> str:
    return "\n".join([title, *(f"  {label:<9} {text}" for label, text in lines)])


def _scale(step: float) -> str:
    mantissa, exponent = math.frexp(step)
    return f"2^{exponent - 1} = {say(step)}" if mantissa == 0.5 else say(step)


def _power(exponent: int) -> str:
    return f"2^{exponent} = {say(math.ldexp(1.0, exponent))}"


def _whole(n: int) -> str:
    return str(n) if abs(n) < 10**12 else f"{float(n):g}"


def _drawn(draw: Draw) -> str:
    return f"R = {draw.value} of {1 << draw.bits}"


def _chance(fraction: float, draw: Draw | None) -> str:
    return "" if draw is None else f", up where R < {fraction * 2**draw.bits:.6g}; {_drawn(draw)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _code(form: Format, code: int) -> str:
    bits = f"in {form.bits} bit{'s' if form.bits > 1 else ''}"
    kind = kind_of(form, code)
    return f"{code}  ({pattern(form, code)} {bits}{', ' + kind if kind else ''})"


def _value(form: Format, code: int, step: float, value: float, zero_point: int | None) -> str:
    number = say(form.number(code))
    if zero_point is not None:
        number = f"({number} - {zero_point})"
    return f"{number} x {say(step)} = {say(value)}"


def _error(form: Format, x: float, value: float, step: float) -> str:
    error = value - x
    if math.isnan(error) or math.isinf(error):
        return "none: the same" if repr(value) == repr(x) or value == x else "beyond measure"
    relative = _percent(abs(error / x)) if x else "x is 0"
    if isinstance(form, Float | Log):
        return f"{error:+g} ({relative})" if error else "0"
    return f"{error:+g} ({abs(error) / step:.2g} steps)"
