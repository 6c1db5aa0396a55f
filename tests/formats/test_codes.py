"""Every code, every rounding: the scalar reference against exact fractions, the torch twin against it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Rounding, Ternary, UFixed, UInt, Uniform, parse

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]


def small_formats():
    yield from (Binary(), Ternary())
    for width in range(1, 10):
        yield from (Int(width), UInt(width))
        for fraction in (-2, 0, width, width + 3):
            yield from (Fixed(width, fraction), UFixed(width, fraction))


SMALL = list(small_formats())
WIDE = [Int(16), UFixed(16, 19), Int(24), Int(25), UInt(24), UInt(25), Fixed(31, 5), Int(32), UInt(32)]


def exact(form, x, scale, rounding):
    """The code of x by fractions: the definition, once more."""
    q = Fraction(float(form.float_type(x) / form.float_type(scale)))
    if isinstance(form, Binary):
        return 1 if q >= 0 else -1
    below, rest = math.floor(q), q - math.floor(q)
    half = Fraction(1, 2)
    up = {
        Rounding.NEAREST_EVEN: rest > half or (rest == half and below % 2 == 1),
        Rounding.NEAREST_AWAY: rest > half or (rest == half and q > 0),
        Rounding.FLOOR: False,
        Rounding.CEIL: rest > 0,
        Rounding.TOWARD_ZERO: rest > 0 and q < 0,
    }[rounding]
    return min(max(below + up, form.code_min), form.code_max)


def hard_cases(form, codes):
    """Values of codes, the ties between them, the neighbours of both, and the far ends."""
    step = np.float32(form.default_scale)
    points = np.array([c + d for c in codes for d in (0.0, 0.5, -0.5, 0.25)], np.float32) * step
    around = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))]
    far = np.array([0.0, -0.0, 1e-45, -1e-45, 1e30, -1e30, 0.49999997, -0.49999997], np.float32)
    return np.unique(np.concatenate([*around, far, far * step]))


@pytest.mark.parametrize("form", SMALL, ids=str)
def test_every_code_comes_back(form):
    codes = list(form.codes())
    assert len(codes) == len(set(codes)) <= 1 << form.bits
    values = [form.decode(c) for c in codes]
    assert [form.encode(v) for v in values] == codes
    assert values == sorted(values) == form.grid()
    assert values == [float(Fraction(c) * Fraction(form.default_scale)) for c in codes]
    tensor = torch.tensor(codes)
    decoded = form.decode(tensor)
    assert decoded.tolist() == values
    assert form.encode(decoded).tolist() == codes
    assert torch.equal(form.quantize(decoded), decoded)


@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
@pytest.mark.parametrize("form", SMALL, ids=str)
def test_scalar_and_twin_agree_with_fractions(form, rounding):
    codes = list(form.codes())
    codes = codes if len(codes) <= 64 else codes[:16] + codes[len(codes) // 2 - 16 :][:32] + codes[-16:]
    xs = hard_cases(form, codes)
    expected = [exact(form, x, form.default_scale, rounding) for x in xs]
    assert form.encode(torch.from_numpy(xs), rounding=rounding).tolist() == expected
    assert [form.encode(float(x), rounding=rounding) for x in xs] == expected
    values = form.quantize(torch.from_numpy(xs), rounding=rounding)
    assert torch.equal(values, form.decode(torch.tensor(expected)))


@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
@pytest.mark.parametrize("form", WIDE, ids=str)
def test_wide_formats_agree_with_fractions(form, rounding):
    generator = np.random.default_rng(7)
    span = float(form.code_max) * (form.default_scale or 1)
    xs = np.concatenate(
        [
            generator.uniform(-1.1, 1.1, 300) * span,
            generator.integers(-9, 9, 100) * (form.default_scale or 1) / 2,
            [0.0, -0.0, span, -span, span * 4, -span * 4],
        ]
    ).astype(np.float32)
    expected = [exact(form, x, form.default_scale, rounding) for x in xs]
    assert form.encode(torch.from_numpy(xs), rounding=rounding).tolist() == expected
    assert [form.encode(float(x), rounding=rounding) for x in xs] == expected
    codes = [
        form.code_min,
        form.code_min + 1,
        -1 if form.code_min < 0 else 1,
        0,
        form.code_max - 1,
        form.code_max,
    ]
    assert [form.encode(form.decode(c)) for c in codes] == codes
    assert form.encode(form.decode(torch.tensor(codes))).tolist() == codes


@pytest.mark.parametrize("form", [*SMALL, *WIDE], ids=str)
def test_fate_of_nan_and_infinities(form):
    xs = torch.tensor([math.nan, math.inf, -math.inf])
    expected = [form.encode(0.0), form.code_max, form.code_min]
    assert form.encode(xs).tolist() == expected
    assert [form.encode(float(x)) for x in xs] == expected
    assert torch.equal(form.quantize(xs), form.decode(torch.tensor(expected)))


def test_ties_as_documented():
    form = Int(8)
    table = {
        "nearest-even": (2, -2),
        "nearest-away": (3, -3),
        "floor": (2, -3),
        "ceil": (3, -2),
        "toward-zero": (2, -2),
    }
    for name, expected in table.items():
        assert form.encode(torch.tensor([2.5, -2.5]), rounding=name).tolist() == list(expected)
    # floor(|x| + 1/2) would round this one up, since the addition rounds to 1
    assert form.encode(0.49999997, rounding="nearest-away") == 0
    assert form.encode(torch.tensor([0.49999997]), rounding="nearest-away").item() == 0


def test_sign_of_zero_is_plus_one():
    assert Binary().encode(torch.tensor([0.0, -0.0, 1e-45, -1e-45])).tolist() == [1, 1, 1, -1]


def test_scale_may_be_a_tensor_that_broadcasts():
    form = Int(8)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    scale = torch.tensor([[0.5], [2.0]])
    assert form.encode(x, scale=scale).tolist() == [[2, 4], [2, 2]]
    assert form.quantize(x, scale=scale).tolist() == [[1.0, 2.0], [4.0, 4.0]]


def test_division_is_one_ieee_float32_division():
    form, scale = Int(16), 0.1
    xs = torch.rand(10_000, generator=torch.Generator().manual_seed(3)) * 3000
    expected = np.rint(xs.numpy() / np.float32(scale)).clip(-32768, 32767)
    assert form.encode(xs, scale=scale).tolist() == expected.astype(int).tolist()
    assert [form.encode(float(x), scale=scale) for x in xs[:500]] == expected[:500].astype(int).tolist()


def test_other_float_types():
    form = Fixed(8, 4)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = torch.tensor([1.03, -0.47, 20.0]).to(dtype)
        assert form.quantize(x).dtype == torch.float32
        assert form.encode(x).tolist() == form.encode(x.double()).tolist()
    assert Int(32).quantize(torch.tensor([1.5])).dtype == torch.float64


def test_out_receives_the_values_also_in_place():
    form, x = Fixed(8, 4), torch.tensor([0.3, -9.0])
    y = torch.empty(2)
    assert form.quantize(x, out=y) is y
    assert y.tolist() == [0.3125, -8.0]
    assert form.quantize(x, out=x) is x
    assert torch.equal(x, y)
    with pytest.raises(InvalidValueError, match="out has the shape"):
        form.quantize(x, out=torch.empty(3))


@pytest.mark.parametrize("form", [*SMALL, *WIDE, Fixed(12), UFixed(5)], ids=str)
def test_names_parse_back(form):
    assert parse(str(form)) == form
    assert hash(parse(str(form))) == hash(form)
    assert bw.format(str(form).upper()) == form


def test_values_are_frozen_and_told_apart():
    assert Fixed(8, 4) != UFixed(8, 4)
    assert Int(8) != UInt(8)
    with pytest.raises(AttributeError):
        Int(8).width = 9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fixd8.4", "did you mean 'fixed8.4'"),
        ("binry", "did you mean 'binary'"),
        ("int0", "between 1 and 32"),
        ("int33", "between 1 and 32"),
        ("fixed8.101", "between -100 and 100"),
        ("int", "valid ones are"),
        ("fixed8.4.2", "valid ones are"),
        ("int\uff18", "valid ones are"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(InvalidValueError, match=message):
        parse(name)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Int(8.0), InvalidTypeError, "is an int"),
        (lambda: parse(8), InvalidTypeError, "string"),
        (lambda: Fixed(12).quantize(1.0), InvalidValueError, "needs a scale"),
        (lambda: Fixed(12).quantize(torch.ones(2)), InvalidValueError, "needs a scale"),
        (lambda: Int(8).quantize(1.0, scale=0.0), InvalidValueError, "positive"),
        (lambda: Int(8).quantize(1.0, scale=math.inf), InvalidValueError, "positive"),
        (lambda: Int(8).quantize(1.0, scale=1e-60), InvalidValueError, "positive"),
        (lambda: Int(8).encode(torch.ones(2, dtype=torch.int64)), InvalidTypeError, "float tensors"),
        (lambda: Int(8).encode("1"), InvalidTypeError, "tensor"),
        (lambda: Int(8).decode(128), InvalidValueError, "-128 to 127"),
        (lambda: Int(8).decode(torch.tensor([0, 128])), InvalidValueError, r"index \(1,\)"),
        (lambda: Binary().decode(torch.tensor([1, 0])), InvalidValueError, "-1 and 1"),
        (lambda: Int(8).decode(torch.ones(2)), InvalidTypeError, "integers"),
        (
            lambda: Int(8).quantize(1.0, rounding="nearst-even"),
            InvalidValueError,
            "did you mean 'nearest-even'",
        ),
        (lambda: Int(8).quantize(torch.ones(2), rounding="stochastic"), InvalidValueError, "needs a key"),
        (lambda: Int(8).quantize(1.0, rounding="stochastic"), InvalidValueError, "needs a key"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_explain_shows_the_numbers():
    text = Fixed(8, 4).explain(3.14)
    for piece in ("2^-4", "50.24", "50", "00110010", "3.125", "-0.015"):
        assert piece in text
    assert "saturates" in Int(8).explain(math.inf)
    assert "NaN" in Int(8).explain(math.nan)
    assert "127" in Int(8).explain(1000)
    assert ">= 0" in Binary().explain(0.0)


@pytest.mark.parametrize("form", [Int(4), UInt(4), Ternary()], ids=str)
def test_uniform_limits(form):
    assert isinstance(form, Uniform | Ternary)
    assert (form.code_min, form.code_max) == {"int4": (-8, 7), "uint4": (0, 15), "ternary": (-1, 1)}[
        str(form)
    ]
