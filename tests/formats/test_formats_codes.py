"""Formats: every code of every small format, scalar reference against torch twin, names, errors."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from formats_reference import NEAREST, expected_code, interesting_values
from hypothesis import given, settings
from hypothesis import strategies as st

import bitwright as bw
from bitwright.errors import BitwrightError, InvalidTypeError, InvalidValueError
from bitwright.formats import (
    EXAMPLES,
    Binary,
    Fixed,
    Int,
    Key,
    Rounding,
    Ternary,
    UFixed,
    UInt,
    describe_codes,
    parse,
)

WIDTHS = (*range(1, 11), 16)
SMALL = [
    *[kind(width) for kind in (Int, UInt) for width in WIDTHS],
    *[
        kind(width, fraction)
        for kind in (Fixed, UFixed)
        for width in WIDTHS
        for fraction in (-2, 0, width, width + 3)
    ],
    Binary(),
    Ternary(),
]
WIDE = [
    *[kind(width) for kind in (Int, UInt) for width in (17, 23, 24, 25, 26, 31, 32)],
    *[kind(width, fraction) for kind in (Fixed, UFixed) for width in (24, 25, 32) for fraction in (-2, 12)],
]
DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]


def step_of(form):
    return form.default_scale


@pytest.mark.parametrize("form", SMALL, ids=str)
def test_every_code_survives_decode_and_encode(form):
    codes = list(form.codes())
    assert len(codes) == (2**form.bits if not isinstance(form, Ternary) else 3)
    assert codes == sorted(codes)
    assert (codes[0], codes[-1]) == (form.code_min, form.code_max)
    tensor = torch.tensor(codes)
    values = form.decode(tensor)
    assert values.dtype == torch.float32
    for rounding in DETERMINISTIC:
        assert form.encode(values, rounding=rounding).tolist() == codes
    assert form.encode(values, rounding="stochastic", key=Key(3)).tolist() == codes
    assert torch.equal(form.quantize(values), values)
    few = codes if len(codes) <= 1024 else codes[::97]
    for code in few:
        value = form.decode(code)
        assert value == code * step_of(form)  # a power of two: exact
        assert form.encode(value) == code
        assert form.quantize(value) == value
    assert form.grid()[:4] == values[:4].tolist() if len(codes) <= 1024 else True


@pytest.mark.parametrize("form", SMALL, ids=str)
def test_twin_equals_reference_and_the_definition(form):
    """On values, ties, their neighbours, zeros, subnormals, infinities, NaN and what is huge."""
    values = interesting_values(form)
    x = torch.tensor(values, dtype=torch.float32)
    for rounding in DETERMINISTIC:
        twin_codes = form.encode(x, rounding=rounding)
        twin_values = form.quantize(x, rounding=rounding)
        assert torch.equal(form.decode(twin_codes), twin_values)
        for value, code, quantised in zip(values, twin_codes.tolist(), twin_values.tolist(), strict=True):
            assert form.encode(value, rounding=rounding) == code, (value, rounding)
            assert form.quantize(value, rounding=rounding) == quantised, (value, rounding)
            assert expected_code(form, value, form.default_scale, rounding.value) == code, (value, rounding)


@pytest.mark.parametrize("form", [Int(3), UInt(3), Fixed(4, 2), UFixed(3, 5), Ternary(), Int(8)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.25, 0.1, 3.0, 1e-30, 1e30], ids=str)
def test_any_scale(form, scale):
    values = interesting_values(form, scale)
    x = torch.tensor(values, dtype=torch.float32)
    tensor_scale = torch.tensor(scale, dtype=torch.float32)
    for rounding in DETERMINISTIC:
        codes = form.encode(x, scale=scale, rounding=rounding)
        assert torch.equal(codes, form.encode(x, scale=tensor_scale, rounding=rounding))
        assert codes.tolist() == [form.encode(v, scale=scale, rounding=rounding) for v in values]
        for value, code in zip(values, codes.tolist(), strict=True):
            assert code == expected_code(form, value, scale, rounding.value), (value, rounding)
        quantised = form.quantize(x, scale=tensor_scale, rounding=rounding)
        assert torch.equal(quantised, form.decode(codes, scale=scale))


@pytest.mark.parametrize("form", WIDE, ids=str)
def test_wide_formats_on_drawn_codes(form):
    generator = np.random.default_rng(form.bits)
    drawn = generator.integers(form.code_min, form.code_max, 400, endpoint=True)
    codes = torch.tensor([form.code_min, form.code_max, 0, *drawn.tolist()])
    values = form.decode(codes)
    assert values.dtype == (torch.float64 if form.wide else torch.float32)
    assert torch.equal(form.encode(values).to(torch.int64), codes)
    assert torch.equal(form.quantize(values), values)
    for code in codes[:20].tolist():
        assert form.encode(form.decode(code)) == code
    x = interesting_values(form)
    twin = form.encode(torch.tensor(x, dtype=torch.float32))
    assert twin.tolist() == [form.encode(v) for v in x]
    assert [expected_code(form, v, form.default_scale, "nearest-even") for v in x] == twin.tolist()


def test_wide_says_when_a_level_needs_more_than_24_bits():
    assert [Int(w).wide for w in (24, 25, 26)] == [False, False, True]  # -2^24 is one bit
    assert [UInt(w).wide for w in (23, 24, 25)] == [False, False, True]


def test_float64_input_keeps_its_own_quotient():
    form = Fixed(8, 4)
    above_tie = 0.5 * 2**-4 * (1 + 2.0**-40)  # float32 would see the tie and round to 0
    x = torch.tensor([above_tie], dtype=torch.float64)
    assert form.encode(x).item() == 1
    assert form.encode(x.float()).item() == 0
    assert form.quantize(x).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_widened_first(dtype):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(500, generator=generator) * 4).to(dtype)
    for form in (Fixed(8, 4), Int(4), Binary(), Ternary()):
        assert torch.equal(form.quantize(x), form.quantize(x.float()))
        assert form.quantize(x).dtype == torch.float32


@pytest.mark.parametrize("form", [Fixed(8, 4), UInt(4), Binary(), Ternary(), Int(32)], ids=str)
def test_out_receives_the_values_also_in_place(form):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64 if form.wide else torch.float32) * 5
    expected = form.quantize(x)
    buffer = torch.empty_like(expected)
    returned = form.quantize(x, out=buffer)
    assert returned.data_ptr() == buffer.data_ptr()
    assert torch.equal(buffer, expected)
    form.quantize(x, out=x)
    assert torch.equal(x, expected)
    with pytest.raises(InvalidValueError, match="out has the shape of x"):
        form.quantize(x, out=torch.empty(3, 4, dtype=x.dtype))
    with pytest.raises(InvalidValueError, match="out has the shape of x"):
        form.quantize(x, out=torch.empty(3, 5, dtype=torch.float16))


def test_quantize_leaves_its_input_alone():
    x = torch.tensor([0.3, math.nan, 7.0])
    before = x.clone()
    for form in (Int(4), Binary(), Ternary(), Fixed(8, 4)):
        for rounding in Rounding:
            form.quantize(x, rounding=rounding, key=Key())
            assert torch.equal(x.nan_to_num(9.0), before.nan_to_num(9.0))


def test_scale_tensors_broadcast():
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    scale = torch.tensor([[1.0], [0.5]])
    codes = Int(8).encode(x, scale=scale)
    assert codes.tolist() == [[1, 2, 3], [2, 4, 6]]
    assert torch.equal(Int(8).decode(codes, scale=scale), x)
    assert torch.equal(Int(8).quantize(x, scale=scale.double()), x)  # a scale is float32, whatever came
    assert Int(8).quantize(x, scale=scale.double()).dtype == torch.float32


def test_a_sliced_tensor_is_like_its_copy():
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))[::2, 1::3].T
    key = Key(1, "slice")
    for rounding in Rounding:
        twin = Fixed(8, 4).quantize(x, rounding=rounding, key=key)
        assert torch.equal(twin, Fixed(8, 4).quantize(x.contiguous(), rounding=rounding, key=key))


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16]
)
def test_codes_may_come_in_any_integer_type(dtype):
    codes = torch.tensor([0, 5, 7]).to(dtype)
    for form in (Int(4), UInt(8), Int(8), Fixed(16, 2), UInt(32)):
        assert form.decode(codes).tolist() == [form.decode(c) for c in (0, 5, 7)]
    assert Int(4).decode(np.int64(-8)) == -8.0
    assert Int(32).decode(np.int64(-(2**31))) == -(2.0**31)  # without walking four billion codes


def test_encode_takes_the_smallest_type():
    x = torch.zeros(1)
    types = {
        torch.int8: [Int(1), Int(8), Binary(), Ternary(), Fixed(8, 3)],
        torch.uint8: [UInt(1), UInt(8), UFixed(8, 8)],
        torch.int16: [Int(9), Int(16), UInt(9), UInt(15)],
        torch.int32: [Int(17), Int(32), UInt(16), UInt(31)],
        torch.int64: [UInt(32)],
    }
    for dtype, forms in types.items():
        for form in forms:
            assert form.encode(x).dtype == dtype, form


@pytest.mark.parametrize(
    "form", [*SMALL, *WIDE, Fixed(12), UFixed(5), Fixed(8, -100), Fixed(8, 100)], ids=str
)
def test_names_parse_back_and_formats_are_values(form):
    again = parse(str(form))
    assert again == form
    assert hash(again) == hash(form)
    assert parse(f"  {str(form).upper()} ") == form
    assert parse(form) is form
    assert bw.format(form.name) == form
    if dataclasses.fields(form):
        with pytest.raises(dataclasses.FrozenInstanceError):
            form.width = 3


def test_kinds_with_the_same_fields_differ():
    assert len({Int(8), UInt(8), Fixed(8), UFixed(8), Fixed(8, 0), UFixed(8, 0), Binary(), Ternary()}) == 8


def test_canonical_names():
    assert [str(f) for f in (Int(8), UInt(4), Fixed(8, 4), Fixed(8, -2), UFixed(8, 8), Fixed(12))] == [
        "int8", "uint4", "fixed8.4", "fixed8.-2", "ufixed8.8", "fixed12",
    ]  # fmt: skip
    assert {type(parse(name)) for name in EXAMPLES} >= {Int, UInt, Fixed, UFixed, Binary, Ternary}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("binry", "binary"), ("fixd8.4", "fixed8.4"), ("ternery", "ternary"), ("itn8", "int8")],
)
def test_an_unknown_name_lists_the_nearest_first(name, nearest):
    with pytest.raises(InvalidValueError) as info:
        parse(name)
    message = str(info.value)
    assert f"the valid ones are {nearest}" in message
    assert all(example in message for example in EXAMPLES)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "int",
        "int8.4",
        "int-8",
        "int0",
        "int33",
        "fixed8.",
        "fixed8.101",
        "int8 4",
        "int٨",
        "int" + "9" * 5000,
    ],
)
def test_bad_names_are_one_kind_of_error(name):
    with pytest.raises(InvalidValueError):
        parse(name)


def test_errors_say_the_rule_and_what_came():
    cases = [
        (lambda: Int(0), "between 1 and 32; got 0"),
        (lambda: UInt(33), "between 1 and 32; got 33"),
        (lambda: Fixed(8, 101), "between -100 and 100; got 101"),
        (lambda: Fixed(12).quantize(1.0), "fixed12 has no point of its own"),
        (lambda: Fixed(12).encode(torch.ones(2)), "fixed12 has no point of its own"),
        (lambda: Int(8).quantize(1.0, scale=0.0), "a scale is positive"),
        (lambda: Int(8).quantize(1.0, scale=-1.0), "a scale is positive"),
        (lambda: Int(8).quantize(1.0, scale=math.nan), "a scale is positive"),
        (lambda: Int(8).quantize(1.0, scale=1e-60), "a scale is positive"),
        (lambda: Int(8).quantize(1.0, rounding="stochastic"), "needs a key"),
        (lambda: Int(8).quantize(torch.ones(2), rounding="stochastic"), "needs a key"),
        (lambda: Binary().encode(1.0, rounding="stochastic"), "needs a key"),
        (lambda: Int(8).quantize(1.0, rounding="nearest"), "unknown rounding 'nearest'"),
        (lambda: Int(4).decode(8), "-8 to 7; got 8"),
        (lambda: Binary().decode(0), "-1 and 1; got 0"),
        (lambda: Binary().decode(torch.tensor([1, 0])), r"got 0; at index \(1,\)"),
        (lambda: Int(4).decode(torch.tensor([[1, 9]])), r"got 9; at index \(0, 1\)"),
        (lambda: Key(seed=-1), "seed of a Key"),
        (lambda: Key(tensor=2**32), "tensor of a Key"),
        (lambda: Key(call=2**16), "call of a Key"),
    ]
    for call, message in cases:
        with pytest.raises(InvalidValueError, match=message):
            call()
    types = [
        (lambda: Int(8.0), "bits of Int is an int"),
        (lambda: Int(True), "bits of Int is an int"),
        (lambda: Fixed(8, 1.5), "fraction of Fixed is an int"),
        (lambda: Int(8).quantize([1.0]), "a number or a torch tensor"),
        (lambda: Int(8).quantize(torch.ones(2, dtype=torch.int32)), "only float tensors"),
        (lambda: Int(8).decode(torch.ones(2)), "codes are integers"),
        (lambda: parse(8), "a format's name is a string"),
    ]
    for call, message in types:
        with pytest.raises(InvalidTypeError, match=message):
            call()
    assert issubclass(InvalidValueError, ValueError)
    assert issubclass(InvalidTypeError, TypeError)
    assert issubclass(InvalidValueError, BitwrightError)


def test_empty_tensors_and_scalars():
    for form in (Int(8), Binary(), Ternary(), Fixed(8, 4)):
        assert form.quantize(torch.empty(0, 3)).shape == (0, 3)
        assert form.encode(torch.tensor(0.7)).shape == ()
        assert form.quantize(torch.empty(0), rounding="stochastic", key=Key()).shape == (0,)


def test_explain_shows_the_numbers():
    text = Fixed(8, 4).explain(3.14)
    for part in ("fixed8.4: 3.14", "2^-4", "50.24", "50", "00110010", "3.125", "-0.015"):
        assert part in text
    assert "-128 to 127: 127\n" in Fixed(8, 4).explain(100.0)
    assert "(unchanged)" in text
    assert "(1 in 1 bit)" in Int(1).explain(-1.0)  # two's complement
    assert "(0 in 1 bit)" in Int(1).explain(0.0)
    assert "(0 in 1 bit)" in Binary().explain(-1.0)
    assert "(1 in 1 bit)" in Binary().explain(0.0)
    assert "(11 in 2 bits)" in Ternary().explain(-1.0)
    assert "counts as 0" in Int(4).explain(math.nan)
    assert "0.3" in Int(4).explain(1.0, scale=0.3)


def test_explain_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in (Fixed(8, 4), UInt(3), Binary(), Ternary(), Int(32)):
            for x in (0.0, -0.0, 1e300, -1e300, math.inf, -math.inf, math.nan, 5e-324):
                assert str(form.encode(x)) in form.explain(x)


def test_descriptions():
    assert describe_codes(Int(8)) == "-128 to 127"
    assert describe_codes(Binary()) == "-1 and 1"


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    bits=st.integers(1, 32),
    fraction=st.integers(-20, 40),
    signed=st.booleans(),
    x=st.floats(width=32, allow_nan=True, allow_infinity=True),
    rounding=st.sampled_from(NEAREST),
)
def test_any_format_on_any_float(bits, fraction, signed, x, rounding):
    form = (Fixed if signed else UFixed)(bits, fraction)
    code = form.encode(x, rounding=rounding)
    tensor = torch.tensor([x], dtype=torch.float32)
    assert form.encode(tensor, rounding=rounding).item() == code
    assert form.quantize(tensor, rounding=rounding).item() == form.quantize(x, rounding=rounding)
    assert form.quantize(x, rounding=rounding) == form.decode(code)
    assert expected_code(form, x, form.default_scale, rounding) == code


def test_division_is_one_ieee_float32_division():
    form, scale = Int(16), 0.1
    xs = torch.rand(10_000, generator=torch.Generator().manual_seed(3)) * 3000
    expected = np.rint(xs.numpy() / np.float32(scale)).clip(-32768, 32767)
    assert form.encode(xs, scale=scale).tolist() == expected.astype(int).tolist()
    assert [form.encode(float(x), scale=scale) for x in xs[:500]] == expected[:500].astype(int).tolist()
