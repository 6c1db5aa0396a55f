"""Names: every format has one that parses back; the world's are understood; all others are one error."""

from __future__ import annotations

import re
import shlex

import pytest
from formats_catalog import BLOCKS, FLOATS, HALVES, LOGS, ODD_FLOATS, UNIFORM, WIDE_FLOATS
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import bitwright as bw
from bitwright.errors import BitwrightError, InvalidTypeError, InvalidValueError
from bitwright.formats import (
    E8M0,
    EXAMPLES,
    Binary,
    Block,
    Fixed,
    Flex,
    Float,
    Int,
    Log,
    ScaleRule,
    Specials,
    Ternary,
    UFixed,
    UInt,
    parse,
)

EVERY = [*UNIFORM, *LOGS, *FLOATS, *HALVES, *WIDE_FLOATS, *ODD_FLOATS, *BLOCKS]


def build(kind, *arguments, **options):
    """A format, or a discarded example where there is none."""
    try:
        return kind(*arguments, **options)
    except BitwrightError:
        assume(False)


widths, fractions = st.integers(1, 32), st.none() | st.integers(-100, 100)
uniform = st.one_of(
    st.builds(Int, widths),
    st.builds(UInt, widths),
    st.builds(Fixed, widths, fractions),
    st.builds(UFixed, widths, fractions),
    st.builds(Flex, st.integers(2, 32), st.integers(1, 8), st.none() | st.integers(-126, 126)),
    st.builds(Log, st.integers(2, 8), st.booleans()),
    st.sampled_from([Binary(), Ternary()]),
)


@st.composite
def floats(draw):
    return build(
        Float,
        draw(st.integers(1, 8)),
        draw(st.integers(0, 23)),
        draw(st.sampled_from(Specials)),
        bias=draw(st.none() | st.integers(0, 150)),
        subnormals=draw(st.booleans()),
        signed=draw(st.booleans()),
    )


@st.composite
def blocks(draw):
    signed = [f for f in FLOATS if f.signed] + HALVES + ODD_FLOATS[1:5]
    element = draw(
        st.one_of(
            st.sampled_from(signed),
            st.builds(Int, st.integers(2, 25)),
            st.builds(Fixed, st.integers(2, 25), st.integers(-100, 100)),
        )
    )
    rule = draw(st.sampled_from(ScaleRule))
    scale = draw(st.sampled_from([*FLOATS, *HALVES])) if rule is ScaleRule.DIVIDE else E8M0
    return build(Block, element, draw(st.integers(1, 1 << 20)), scale, rule)


def check_name(form):
    name = str(form)
    assert parse(name) == form
    assert hash(parse(name)) == hash(form)
    assert str(parse(name)) == name == form.name
    assert parse(f" {name.upper()}\n") == form
    assert shlex.quote(name) == name or "+" in name or "@" in name, "safe in a shell"
    assert re.fullmatch(r"[a-z0-9.+@-]+", name)


def test_every_catalogued_format_has_a_name_of_its_own():
    for form in EVERY:
        check_name(form)
    assert len({str(form) for form in EVERY}) == len(set(EVERY)) > 700


@settings(deadline=None, derandomize=True, max_examples=600)
@given(uniform)
def test_any_uniform_or_logarithmic_format_parses_back(form):
    check_name(form)


many = settings(
    deadline=None, derandomize=True, max_examples=300, suppress_health_check=[HealthCheck.filter_too_much]
)


@many
@given(floats())
def test_any_float_parses_back(form):
    check_name(form)


@many
@given(blocks())
def test_any_block_parses_back(form):
    check_name(form)


ALIASES = {
    "float16": "fp16", "half": "fp16", "e5m10": "fp16", "float16 ": "fp16",
    "bfloat16": "bf16", "e8m7": "bf16",
    "float32": "fp32", "e8m23": "fp32", "e8m10": "tf32",
    "float8_e4m3fn": "e4m3fn", "float8_e5m2": "e5m2", "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float8_e4m3b11fnuz": "e4m3b11fnuz", "float8_e3m4": "e3m4", "float8_e4m3": "e4m3",
    "float8_e8m0fnu": "e8m0fnu", "e8m0": "e8m0fnu",
    "float6_e2m3fn": "e2m3f", "float6_e3m2fn": "e3m2f", "fp6": "e3m2f",
    "float4_e2m1fn": "e2m1f", "e2m1fn": "e2m1f", "fp4": "e2m1f",
    "mxfp8": "mxfp8e4m3", "mxfp6": "mxfp6e3m2", "mxfp4e2m1": "mxfp4",
    "binary8p4": "e4m3uz", "binary8p3se": "e5m2uz", "binary8p1": "e7m0uz",
    "block32-e4m3fn-e8m0fnu-floor": "mxfp8e4m3", "block16-e2m1fn-e4m3fn-divide": "nvfp4",
    "block32-int8-e8m0fnu-floor": "bfp8x32", "block32-fixed8.6-e8m0fnu-floor": "mxint8",
    "INT8": "int8", "fixed8.04": "fixed8.4", "int08": "int8",
}  # fmt: skip


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias):
    assert str(parse(alias)) == ALIASES[alias]
    assert bw.format(alias) == parse(ALIASES[alias])


def test_names_that_are_near_are_different_formats():
    for a, b in (
        ("binary", "binary8p4"),
        ("e2m1f", "e2m1fnan"),
        ("e4m3", "e4m3fn"),
        ("e4m3fnuz", "e4m3uz"),
        ("int8", "fixed8"),
        ("fixed8", "fixed8.0"),
        ("mxint8", "bfp8x32"),
        ("e4m3fn", "e4m3fn-flush"),
        ("e5m2", "ue5m2"),
    ):
        assert parse(a) != parse(b)


HOSTILE = [
    "", " ", "-", ".", "int", "int-8", "int+8", "int8.4", "int8 4", "int8x", "xint8", "int0", "int33",
    "int" + "9" * 5000, "int٨", "\uff49nt8", "\u0131nt8", "int8\x00", "int8\n\n8", "uint0", "uint33", "fixed",
    "fixed8.", "fixed.4", "fixed8.4.4", "fixed8.101", "fixed8.-101", "fixed0.4", "fixed33.1", "fixed8.--4",
    "ufixed8.-", "flex", "flex16", "flex16+", "flex16+0", "flex16+9", "flex1+5", "flex33+5", "flex16+5@",
    "flex16+5@200", "log1", "log9", "log4-sqrt3", "log4sqrt2", "e0m3", "e9m3", "e4m24", "e4", "e4m", "m3",
    "e4m3fx", "e4m3b", "e4m3b999", "e4m3b151", "e5m0", "e8m3fn", "ue4m3fnuz", "e4m3-", "e1m0fn",
    "binary8p8", "binary8p0", "binary99p1", "binary8", "binary8p4xx", "bfp8", "bfp8x", "bfp8x0", "bfp99x32",
    "bfp8x9999999", "mxfp7", "mxfp8e3m4", "block", "block16", "block16-int8", "block16-int8-e8m0fnu",
    "block16-int8-e8m0fnu-up", "block0-int8-e8m0fnu-floor", "block16-binary-e8m0fnu-floor",
    "block16-uint8-e8m0fnu-floor", "block16-int8-e4m3fn-floor", "block16-int8-e8m0fnu-divide",
    "block16-mxfp4-e8m0fnu-floor", "block16-fixed8-e8m0fnu-floor", "block16-int8-int8-floor",
    "block4-block4-int8-e8m0fnu-floor-e8m0fnu-floor", "float8_", "float8_int8", "float8_float8_e4m3",
    "../int8", "int8;ls", "__class__", "{int8}", "%s", "a" * 100_000, "block1-" * 2000,
    "block4-" * 500 + "int8" + "-e8m0fnu-floor" * 500, "fixed" + "1" * 400 + "." + "2" * 400,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:24]))
def test_hostile_names_are_an_error_of_ours(name):
    with pytest.raises((InvalidValueError, InvalidTypeError)) as info:
        parse(name)
    assert len(str(info.value)) < 2000 + 2 * len(name)


@pytest.mark.parametrize("bad", [None, 8, b"int8", ["int8"], object()], ids=repr)
def test_only_strings_are_names(bad):
    with pytest.raises(InvalidTypeError, match="name is a string"):
        parse(bad)


@settings(deadline=None, derandomize=True, max_examples=500)
@given(
    st.text(max_size=30)
    | st.from_regex(r"(int|fixed|e|log|block|bfp)[0-9.m+-]{0,12}[a-z0-9]{0,6}", fullmatch=True)
)
def test_any_text_parses_or_is_an_error_of_ours(text):
    try:
        form = parse(text)
    except BitwrightError:
        return
    check_name(form)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("binry", "binary"), ("ternery", "ternary"), ("itn8", "int8"), ("unit4", "uint4"),
        ("fixd8.4", "fixed8.4"),
        ("ufixd8.8", "ufixed8.8"), ("flx16+5", "flex16+5"), ("e4m3fnn", "e4m3fn"), ("bf61", "bf16"),
        ("lg4", "log4"),
        ("mxfp8e4m4", "mxfp8e4m3"), ("bfp8-32", "bfp8x32"), ("binary8q4", "binary8p4"),
    ],
)  # fmt: skip
def test_an_unknown_name_lists_the_nearest_first(name, nearest):
    with pytest.raises(InvalidValueError) as info:
        parse(name)
    message = str(info.value)
    assert f"the valid ones are {nearest}" in message
    assert all(example in message for example in EXAMPLES)


def test_examples_cover_the_families():
    kinds = {type(parse(name)) for name in EXAMPLES}
    assert kinds == {Int, UInt, Fixed, UFixed, Flex, Float, Log, Block, Binary, Ternary}
    for name in EXAMPLES:
        assert parse(str(parse(name))) == parse(name)


def test_formats_are_values():
    assert parse("e4m3fn") is parse("e4m3fn")
    assert parse(Int(8)) == Int(8)
    assert (
        len({Float(4, 3), Float(4, 3, bias=7), Float(4, 3, Specials.IEEE)}) == 1
    )  # the usual bias, said or not
    assert len({Flex(16, 5), Flex(16, 5, 7)}) == 1
    for form in EVERY[::50]:
        with pytest.raises((AttributeError, TypeError)):
            form.width = 3
