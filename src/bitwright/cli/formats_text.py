"""What `bitwright formats` says in words and tables, and the same as data for --json."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from bitwright.formats import Binary, Block, Fixed, Flex, Float, Format, Integers, Log, describe_codes, parse
from bitwright.formats.explain import say
from bitwright.formats.facts import Facts, block_range, facts, fates, field_names, kind_of, pattern

FAMILIES = (
    (
        "integers and fixed point",
        ("int8", "uint4", "fixed8.4", "fixed8.-2", "ufixed8.8", "fixed12", "flex16+5"),
    ),
    ("one and two bits", ("binary", "ternary")),
    ("floating point", ("e4m3fn", "e5m2", "e2m1f", "binary8p4", "e8m0fnu", "fp16", "bf16", "tf32", "fp32")),
    ("logarithmic", ("log4", "log4-sqrt2")),
    ("blocks with a scale of their own", ("mxfp8e4m3", "mxfp4", "nvfp4", "mxint8", "bfp8x32")),
)
"""Examples of every family."""

ALIASES = (
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu", "e8m0"),
    *("fp4", "fp6", "float4_e2m1fn", "float6_e3m2fn", "half", "float16", "bfloat16", "float32"),
    *("binary8p4se", "mxfp8", "mxfp6", "mxfp4e2m1"),
)
"""Names of other tools, each of which means a format here."""

SHOWN_CODES = 16
MOST_CODES = 1 << 16
GAP = "  "


def list_lines() -> list[str]:
    """One line for each format of `FAMILIES`."""
    head = ("name", "bits", "values", "smallest", "from", "to", "dB")
    rows: list[tuple[str, ...]] = []
    titles: dict[int, str] = {}
    for title, names in FAMILIES:
        titles[len(rows)] = title
        rows += [_row(parse(name), name) for name in names]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [_columns(head, widths)]
    for index, row in enumerate(rows):
        if index in titles:
            lines += ["", f"[{titles[index]}]"]
        lines.append(_columns(row, widths))
    aliases = ", ".join(f"{alias} = {parse(alias)}" for alias in ALIASES)
    notes = (
        "widths 1 to 32, any fraction, any float up to fp32, any block: bitwright formats NAME shows one",
        "smallest: the smallest value above 0; dB: 20 log10(to / smallest)",
        "s: the scale, of a block or given; bits of a block format count its scale",
    )
    return [*lines, "", *(GAP + note for note in notes), "", "[other names]", *_wrap(aliases, 96)]


def any_scale(form: Format) -> float | None:
    """A scale for a format that has none of its own: 1, or the largest that a shared exponent says."""
    if form.default_scale is not None:
        return None
    return 2.0 ** -form.exponents[0] if isinstance(form, Flex) else 1.0


def _row(form: Format, name: str) -> tuple[str, ...]:
    fact = facts(form, any_scale(form))
    bits = form.bits_per_element if isinstance(form, Block) else form.bits
    decibels = "-" if fact.dynamic_range is None else f"{fact.dynamic_range:.1f}"
    if isinstance(form, Block) or form.default_scale is None:
        step = form.step if isinstance(form, Block) else 1.0
        inner = form.element if isinstance(form, Block) else form
        low, high = inner.min_number * step, inner.max_number * step
        smallest = (fact.smallest or 0) / (1.0 if isinstance(form, Block) else any_scale(form) or 1.0)
        worths = [f"{v:.5g} s" for v in (smallest, low, high)]
    else:
        worths = ["-" if v is None else f"{v:.5g}" for v in (fact.smallest, fact.low, fact.high)]
    return (name, f"{bits:g}", f"{fact.values:,}", *worths, decibels)


def _columns(row: tuple[str, ...], widths: list[int]) -> str:
    first, *rest = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  " + "   ".join([first, *rest]).rstrip()


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width, initial_indent=GAP, subsequent_indent=GAP, break_long_words=False)


# --- one format --------------------------------------------------------------------------------------------


def title(form: Format) -> str:
    """What the format is, in one line."""
    if isinstance(form, Block):
        kind = f"{form.size} {form.element} under one scale in {form.scale}, by the rule {form.rule.value}"
    elif isinstance(form, Float):
        parts = [("sign", int(form.signed)), ("exponent", form.exponent), ("mantissa", form.mantissa)]
        kind = "floating point, " + ", ".join(f"{n} {word}" for word, n in parts if n)
        kind += f" bits, bias {form.bias}" + ("" if form.subnormals or not form.zero else ", no subnormals")
    elif isinstance(form, Log):
        kind = f"0 and powers of {'sqrt(2)' if form.root else '2'}, with a sign"
    elif isinstance(form, Flex):
        kind = f"integers under one shared exponent of {form.exponent_bits} bits"
    elif isinstance(form, Fixed):
        kind = f"{'two' + chr(39) + 's complement' if form.signed else 'unsigned'} fixed point"
        kind += "" if form.fraction is None else f", {form.fraction} fraction bits"
    elif isinstance(form, Integers):
        kind = "two's complement integers" if form.signed else "unsigned integers"
    else:
        kind = "the sign" if isinstance(form, Binary) else "sign or zero"
    return f"{form}: {kind}"


def fact_lines(form: Format, scale: float | None, zero_point: int | None) -> list[str]:
    """What one can count, with the definitions of what is not plain."""
    fact = facts(form, scale, zero_point)
    rows = []
    if isinstance(form, Block):
        share = f"{form.scale.bits} a scale / {form.size}"
        rows = [("bits", f"{form.bits} an element + {share} = {form.bits_per_element:g}")]
    else:
        rows = [("bits", str(form.bits)), ("scale", _power_or_number(float(form.scale_or_default(scale))))]
    if zero_point is not None:
        rows.append(("zero point", f"{zero_point}: value = (code - {zero_point}) x scale"))
    rows.append(("codes", _codes_text(form, fact)))
    at = ", at block scale 1" if isinstance(form, Block) else ""
    rows.append(("range", f"{say(fact.low)} to {say(fact.high)}{at}"))
    rows += _step_rows(form, fact)
    if fact.dynamic_range is not None and fact.smallest is not None:
        ends = f"20 log10({fact.high:.8g} / {fact.smallest:.8g}), largest / smallest above 0"
        rows.append(("dynamic range", f"{fact.dynamic_range:.1f} dB = {ends}"))
    if isinstance(form, Block):
        extent = block_range(form, scale)
        rows.append(("block scales", f"{say(extent.scale_low)} to {say(extent.scale_high)}"))
        reach = f"{say(extent.smallest)} to {say(extent.high)}, {extent.dynamic_range:.0f} dB"
        rows.append(("over all scales", reach))
    rows.append(("levels", _levels_text(fact)))
    rows.append(("exact sums", exact_text(fact)))
    width = max(len(label) for label, _ in rows)
    return [f"  {label.ljust(width)}  {text}" for label, text in rows]


def _power_or_number(value: float) -> str:
    mantissa, exponent = math.frexp(value)
    return f"2^{exponent - 1} = {say(value)}" if mantissa == 0.5 and value != 1 else say(value)


def _short(value: float) -> str:
    return say(value) if len(say(value)) <= 9 else f"{value:.5g}"


def _codes_text(form: Format, fact: Facts) -> str:
    if not isinstance(form, Float) and not (isinstance(form, Block) and isinstance(form.element, Float)):
        kinds = [] if not fact.unused else [f"{fact.unused} bit pattern is no code"]
        inner = form.element if isinstance(form, Block) else form
        where = "" if isinstance(inner, Log) else f", {describe_codes(inner)}"
        return "; ".join([f"{fact.values:,}{where}", *kinds])
    kinds = [f"{fact.values:,} values"]
    for count, word in ((fact.infinities, "infinity"), (fact.nans, "NaN"), (int(fact.negative_zero), "-0")):
        plural = "infinities" if word == "infinity" and count > 1 else word
        one = "-0" if word == "-0" else f"{count:,} {plural}"
        kinds.append(one if count else f"no {word}")
    if fact.unused:
        kinds.append(f"{fact.unused} more that mean 0")
    return f"{fact.codes:,}: {', '.join(kinds)}"


def _step_rows(form: Format, fact: Facts) -> list[tuple[str, str]]:
    inner = form.element if isinstance(form, Block) else form
    if isinstance(inner, Float):
        rows = []
        if fact.smallest_normal is not None:
            rows.append(("normal", f"from {_power_or_number(fact.smallest_normal)}"))
        if fact.smallest is not None and fact.smallest != fact.smallest_normal:
            rows.append(("subnormal", f"from {_power_or_number(fact.smallest)}"))
        if fact.step_low is not None and fact.step_high is not None:
            low, high = _power_or_number(fact.step_low), _power_or_number(fact.step_high)
            rows.append(("step", f"{low} near 0, {high} near the largest"))
        return rows
    if isinstance(inner, Log):
        return [
            (
                "step",
                f"a factor of {'sqrt(2)' if inner.root else '2'}; the smallest is {say(fact.smallest or 0)}",
            )
        ]
    return [("step", _power_or_number(fact.step_low or 0.0))]


def _levels_text(fact: Facts) -> str:
    return f"multiples of {_power_or_number(fact.unit)}, |level| up to {_big(fact.level_max)}"


def exact_text(fact: Facts) -> str:
    """How long a sum of products of two such levels stays exact, in each accumulator."""
    terms = {name: count for name, count in fact.exact_terms.items() if count}
    if len(terms) == 3:
        terms.pop("float64")
    if not terms:
        return "none is provable: products are summed in float32"
    return "of products of two levels: " + ", ".join(f"{_big(n)} in {name}" for name, n in terms.items())


def _big(n: int) -> str:
    return f"{n:,}" if n < 10**9 else f"2^{math.log2(n):.4g}"


def fate_lines(form: Format, scale: float | None, zero_point: int | None) -> list[str]:
    """What NaN, the infinities and too large numbers become under each overflow rule."""
    table = fates(form, scale, zero_point)
    first = next(iter(table.values()))
    names = {"beyond": "1.5 max", "-beyond": "-1.5 max"}
    head = ("overflow", *(names.get(name, name) for name in first))
    merged: dict[tuple[str, ...], list[str]] = {}
    for rule, row in table.items():
        merged.setdefault(tuple(_short(v) for v in row.values()), []).append(rule.value)
    labels = [", ".join(rules) for rules in merged.values()] if len(merged) > 1 else ["whatever the rule"]
    rows = [(label, *values) for label, values in zip(labels, merged, strict=True)]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [_columns(row, widths) for row in (head, *rows)]


# --- codes -------------------------------------------------------------------------------------------------


def shown_codes(form: Format, show_all: bool) -> list[int | None]:
    """Every code, or both ends of each sign; None where some are left out."""
    codes = list(form.codes()) if len(form.codes()) <= MOST_CODES else form.codes()
    if show_all or len(codes) <= SHOWN_CODES:
        return list(codes)
    inner = form.element if isinstance(form, Block) else form
    signed = isinstance(inner, Log) or (isinstance(inner, Float) and inner.signed)
    middle = len(codes) // 2 + (1 if isinstance(inner, Log) else 0)
    halves = [range(middle), range(middle, len(codes))] if signed else [range(len(codes))]
    quarter = SHOWN_CODES // (2 * len(halves))
    shown: list[int | None] = []
    for half in halves:
        shown += [codes[i] for i in half[:quarter]]
        shown += [None]
        shown += [codes[i] for i in half[-quarter:]]
    return shown


def code_lines(form: Format, scale: float | None, zero_point: int | None, show_all: bool) -> list[str]:
    """The code table, in as many columns as fit into 100."""
    inner = form.element if isinstance(form, Block) else form
    worth = float(form.scale_or_default(scale)) * (form.step if isinstance(form, Block) else 1.0)
    cells = []
    for code in shown_codes(form, show_all):
        if code is None:
            cells.append(("...", "", "", ""))
            continue
        value = (inner.number(code) - (zero_point or 0)) * worth
        cells.append((str(code), pattern(form, code), say(value), kind_of(form, code)))
    widths = [max(len(cell[i]) for cell in cells) for i in range(4)]
    texts = [
        f"{a.rjust(widths[0])}  {b.ljust(widths[1])}  {c.rjust(widths[2])}  {d.ljust(widths[3])}"
        for a, b, c, d in cells
    ]
    across = max(min(98 // (len(texts[0]) + 4), 4), 1) if len(texts) > SHOWN_CODES + 2 else 1
    down = -(-len(texts) // across)
    rows = [texts[i::down] for i in range(down)]
    head = f"code, {' '.join(field_names(form))}, value"
    more = len(form.codes()) - sum(c is not None for c in shown_codes(form, show_all))
    note = f" ({more:,} more: --all)" if more else ""
    at = " at block scale 1" if isinstance(form, Block) else ""
    return [f"[codes: {head}{at}{note}]", *("  " + "    ".join(row).rstrip() for row in rows)]


# --- data --------------------------------------------------------------------------------------------------


def as_json(form: Format, scale: float | None, zero_point: int | None) -> dict[str, Any]:
    """The facts as plain data; what is infinite or does not exist is null."""
    data: dict[str, Any] = {"name": str(form), "family": type(form).__name__.lower(), "bits": form.bits}
    if isinstance(form, Block):
        extent = dataclasses.asdict(block_range(form, scale))
        data |= {"block": form.size, "element": str(form.element), "scale_format": str(form.scale)}
        data |= {"rule": form.rule.value, **{f"blocks_{k}": v for k, v in extent.items()}}
        data["bits_per_element"] = data.pop("blocks_bits_per_element")
    data["scale"] = float(form.scale_or_default(scale))
    if zero_point is not None:
        data["zero_point"] = zero_point
    fact = facts(form, scale, zero_point)
    data |= dataclasses.asdict(fact)
    data["exact_terms"] = fact.exact_terms
    return {key: plain(value) for key, value in data.items()}


def plain(value: Any) -> Any:
    """`value` for JSON, which has no infinities, no NaN, and no integers that a double does not hold."""
    if isinstance(value, int) and abs(value) > 1 << 53:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value
