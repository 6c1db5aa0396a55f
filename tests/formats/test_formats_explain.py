"""Facts equal what enumeration finds; every explanation ends in the code that encode gives."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Block, Float, Key, Log, Overflow, Rounding, parse
from bitwright.formats.explain import explain, say
from bitwright.formats.facts import block_range, facts, fates, kind_of, overflows, pattern

NAMES = (
    *("int8", "int1", "uint1", "uint4", "fixed8.4", "fixed6.-2", "ufixed8.8", "binary", "ternary"),
    *("log2", "log4", "log4-sqrt2", "e4m3fn", "e5m2", "e2m1f", "e2m3f", "e4m3fnuz", "binary8p4", "e8m0fnu"),
    *("e4m3fn-flush", "ue4m3fn", "e1m2f", "e3m0f", "e5m2b20", "e1m3", "e1m1fn", "e2m1fnan"),
)
BLOCKS = (
    *("mxfp4", "mxfp8e4m3", "mxint8", "nvfp4", "bfp4x16"),
    *(f"block16-e2m1f-e8m0fnu-{rule}" for rule in ("floor", "ceil", "rceil", "even")),
)
VALUES = (0.0, -0.0, 0.3, -0.3, 1.0, 2.5, -2.5, 0.003, -3.7, 100.0, -500.0, 1e9, 1e-9, 3e38, 1e300)
SPECIAL = (math.nan, math.inf, -math.inf)


def finite_numbers(form):
    """Every finite number of a format, with repeats; a NaN or an infinity is told by its own count."""
    return [v for v in map(form.number, form.codes()) if math.isfinite(v)]


@pytest.mark.parametrize("name", [*NAMES, "fp16"])
def test_facts_are_what_enumeration_finds(name):
    form = parse(name)
    found, every = facts(form), [form.number(code) for code in form.codes()]
    worth = form.default_scale
    numbers = sorted(set(finite_numbers(form)))
    positive = [v for v in numbers if v > 0]
    gaps = [b - a for a, b in pairwise(numbers) if a >= 0]
    assert found.codes == 2**form.bits
    assert found.values == len(numbers)
    assert found.nans == sum(map(math.isnan, every))
    assert found.infinities == sum(map(math.isinf, every))
    assert found.negative_zero == any(v == 0 and math.copysign(1, v) < 0 for v in every)
    assert (found.low, found.high) == (numbers[0] * worth, numbers[-1] * worth)
    assert found.smallest == (positive[0] * worth if positive else None)
    if gaps:
        assert (found.step_low, found.step_high) == (min(gaps) * worth, max(gaps) * worth)
    if positive:
        assert found.dynamic_range == pytest.approx(20 * math.log10(positive[-1] / positive[0]), abs=1e-9)
        assert 10 ** (found.dynamic_range / 20) == pytest.approx(found.high / found.smallest)
    assert found.level_max == max(abs(v) for v in numbers) / form.unit
    normal = [v for c, v in enumerate(every) if isinstance(form, Float) and v > 0 and not kind_of(form, c)]
    if normal and form.mantissa:
        assert found.smallest_normal <= min(normal)
        assert found.smallest_normal in positive


def test_facts_of_published_formats():
    # the table of OCP's 8-bit specification
    e4m3, e5m2 = facts(parse("e4m3fn")), facts(parse("e5m2"))
    assert (e4m3.high, e4m3.smallest_normal, e4m3.smallest) == (448.0, 2**-6, 2**-9)
    assert (e5m2.high, e5m2.smallest_normal, e5m2.smallest) == (57344.0, 2**-14, 2**-16)
    assert (e4m3.infinities, e4m3.nans, e5m2.infinities, e5m2.nans) == (0, 2, 2, 6)
    assert facts(parse("int8")).exact_terms == {"float32": 1024, "int32": 131071, "float64": 2**39}
    assert facts(parse("fp32")).smallest == 2.0**-149
    mx = block_range(parse("mxfp4"))
    assert (mx.bits_per_element, mx.scale_low, mx.scale_high) == (4.25, 2.0**-127, 2.0**127)
    assert block_range(parse("nvfp4")).bits_per_element == 4.5
    assert block_range(parse("nvfp4")).high == 6 * 448


def test_facts_with_a_zero_point():
    form = parse("uint8")
    found = facts(form, 0.02, 128)
    values = [form.decode(c, scale=0.02, zero_point=128) for c in form.codes()]
    assert (found.low, found.high) == (pytest.approx(values[0]), pytest.approx(values[-1]))
    assert found.smallest == pytest.approx(values[129])
    assert found.level_max == 128
    with pytest.raises(InvalidTypeError, match="no zero point"):
        facts(parse("fixed8.4"), zero_point=3)
    with pytest.raises(InvalidValueError, match="between 0 and 255"):
        facts(form, zero_point=256)


@pytest.mark.parametrize("name", NAMES)
def test_patterns_are_the_bits_of_the_codes(name):
    form = parse(name)
    seen = {pattern(form, code) for code in form.codes()}
    assert len(seen) == len(form.codes())
    for code in form.codes():
        bits = pattern(form, code).replace(" ", "")
        assert len(bits) == form.bits
        if isinstance(form, Float | Log):
            assert int(bits, 2) == code
    if name == "e4m3fn":
        assert pattern(form, 0b0_1000_011) == "0 1000 011"


def test_kinds_of_codes():
    form = parse("e4m3fn")
    kinds = {code: kind_of(form, code) for code in (0, 1, 8, 126, 127, 128, 42)}
    assert kinds == {
        0: "",
        1: "subnormal",
        8: "smallest normal",
        126: "largest",
        127: "NaN",
        128: "-0",
        42: "",
    }
    assert kind_of(parse("e5m2"), 0b0_11111_00) == "infinity"
    assert kind_of(parse("e4m3fn-flush"), 1) == "another 0"


def test_fates_are_what_quantize_gives():
    assert fates(parse("int8"))[Overflow.WRAP] == {
        "NaN": 0.0,
        "+inf": 127.0,
        "-inf": -128.0,
        "beyond": 192 - 256,
        "-beyond": -192 + 256,
    }
    assert Overflow.WRAP not in overflows(parse("e5m2"))
    assert fates(parse("e5m2"))[Overflow.INFINITE]["beyond"] == math.inf
    assert math.isnan(fates(parse("e4m3fn"))[Overflow.INFINITE]["beyond"])
    assert fates(parse("mxfp4"))[Overflow.SATURATE]["NaN"] == 0.0
    assert "beyond" not in fates(parse("fp32"))[Overflow.SATURATE]  # nothing lies beyond but infinity


def told(text, label):
    """The text of the last line with that label."""
    return [line[2 + 9 + 1 :] for line in text.splitlines() if line.startswith(f"  {label} ")][-1]


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("name", [*NAMES, "flex16+5", "int32", "bf16", "fp32"])
def test_explanations_end_in_the_code_of_encode(name, rounding):
    form, key = parse(name), Key(seed=5)
    scale = 2.0**-10 if name == "flex16+5" else None
    for overflow in overflows(form):
        for x in (*VALUES, *SPECIAL):
            how = {"scale": scale, "rounding": rounding, "overflow": overflow, "key": key}
            code, text = form.encode(x, **how), explain(form, x, **how)
            assert told(text, "code").split()[0] == str(code)
            assert told(text, "value").endswith(f"= {say(form.decode(code, scale=scale))}")
            check_steps(form, text, code, overflow)


def check_steps(form, text, code, overflow):
    """The steps, which explain works out itself, come to the same number."""
    labels = [line[2:12].strip() for line in text.splitlines()[1:]]
    number = form.number(code)
    if "clip" in labels and not isinstance(form, Log):
        assert re.search(rf": (saturates at )?{code}( \(unchanged\))?$", told(text, "clip"))
    elif "wrap" in labels:
        assert re.search(rf": {code}( \(unchanged\))?$", told(text, "wrap"))
    elif "sign" in labels and form.bits == 1:
        assert told(text, "sign").endswith(f"{code:+d}")
    elif isinstance(form, Log) and "clip" not in labels:
        assert told(text, "round").endswith(f": {say(abs(number))}")
    elif "overflow" in labels:
        fate = told(text, "overflow")
        expected = told(text, "number").split("= ")[-1] if fate.startswith("none") else fate.split(": ")[-1]
        assert say(abs(number)) == expected.removeprefix("-")


@pytest.mark.parametrize("rounding", ["nearest-even", "floor", "stochastic"])
def test_explanations_of_affine_codes(rounding):
    form = parse("uint8")
    for x in (*VALUES, *SPECIAL):
        how = {"scale": 0.02, "zero_point": 128, "rounding": rounding, "key": Key()}
        text = explain(form, x, **how)
        assert told(text, "code").split()[0] == str(form.encode(x, **how))
        assert told(text, "value").endswith(f"= {say(form.quantize(x, **how))}")
    text = explain(form, -0.3, 0.02, 128)
    assert told(text, "shift") == "-15 + 128 = 113"


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("rounding", ["nearest-even", "ceil", "stochastic"])
def test_explanations_of_blocks(name, rounding):
    form = parse(name)
    assert isinstance(form, Block)
    for row in ([0.3, -1.7, 5.0, 0.01], [0.0], [1e30, 1.0], [1e-42], [7.9, 1.9], [math.nan, 2.0, math.inf]):
        for scale in (None, 0.3):
            text = explain(form, row, scale, rounding=rounding, key=Key(seed=2))
            codes, (scale_code,) = form.encode_row(row, scale or 1.0, Rounding(rounding), key=Key(seed=2))
            values = form.decode_row(codes, [scale_code], scale or 1.0)
            number = form.scale.number(scale_code)
            assert f", code {scale_code}  (" in told(text, "scale")
            if form.rule.value != "divide" and "clip" not in text.replace("(limit)", ""):
                exponent = told(text, "rule").split("= ")[-1]
                assert (
                    exponent.endswith("2^-127") if max(map(abs, row)) == 0 else 2.0 ** int(exponent) == number
                )
            table = [line.split("  ") for line in text.splitlines()[-len(row) :]]
            for cells, code, value in zip(table, codes, values, strict=True):
                kept = [cell.strip() for cell in cells if cell.strip()]
                assert kept[-2] == say(value)
                assert kept[-3] == pattern(form, code)


def test_explain_refuses_what_makes_no_sense():
    with pytest.raises(InvalidValueError, match="1 to 16 numbers"):
        explain(parse("nvfp4"), [1.0] * 17)
    with pytest.raises(InvalidValueError, match="one number at a time"):
        explain(parse("int8"), [1.0, 2.0])
    with pytest.raises(InvalidValueError, match="needs a key"):
        explain(parse("int8"), 1.0, rounding="stochastic")
    with pytest.raises(InvalidValueError, match="does not wrap"):
        explain(parse("e4m3fn"), 1.0, overflow="wrap")
    with pytest.raises(InvalidTypeError, match="no zero point"):
        explain(parse("e4m3fn"), 1.0, zero_point=3)


def test_say_gives_numbers_back():
    for value in (0.1, 2.0**-149, 448.0, 2**31 - 1.0, -0.0, 65504.0, 3.4028234663852886e38):
        assert float(say(value)) == pytest.approx(value, rel=1e-7)
    assert say(2**31 - 1.0) == "2147483647"
    assert (say(math.nan), say(math.inf), say(-math.inf)) == ("NaN", "inf", "-inf")
