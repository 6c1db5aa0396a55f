"""Which arithmetic a product takes, and that the proofs behind the choice hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import InvalidValueError
from bitwright.formats import parse
from bitwright.nn import multiply
from bitwright.nn.arithmetic import (
    FLOAT32_EXACT,
    Choice,
    Halves,
    Operand,
    Path,
    Speed,
    choose,
    fit_int8,
    largest_sum,
    preference,
    split,
)
from bitwright.nn.geometry import ConvGeometry, Kind, LinearGeometry

INT8, UINT8, INT12, INT16 = Operand(-128, 127), Operand(0, 255), Operand(-2048, 2047), Operand(-32768, 32767)


SMALL = (Path.FLOAT32, Path.INT8, Path.SPLIT, Path.FLOAT64)
LARGE = (Path.INT8, Path.FLOAT32, Path.SPLIT, Path.FLOAT64)
NO_INT8 = (Path.FLOAT32, Path.SPLIT, Path.FLOAT64)


def chosen(left, right, terms, norm=None, order=SMALL):
    """The path, with a norm that says nothing unless one is given."""

    def read():
        assert norm != "unread"
        return (1, terms * right.level_max) if norm is None else norm

    return choose((left, right), terms, read, order, "fc").path


@pytest.mark.parametrize(("left", "right", "terms", "norm", "order", "path"), [
    (INT8, INT8, 1024, "unread", SMALL, Path.FLOAT32),
    (INT8, INT8, 1024, "unread", LARGE, Path.INT8),
    (INT12, INT8, 64, "unread", LARGE, Path.FLOAT32),
    (INT8, INT8, 1025, "unread", SMALL, Path.INT8),
    (UINT8, INT8, 4096, "unread", SMALL, Path.INT8),
    (INT8, UINT8, 4096, "unread", SMALL, Path.INT8),
    (UINT8, UINT8, 4096, None, SMALL, Path.SPLIT),
    (INT8, INT8, 4096, None, NO_INT8, Path.SPLIT),
    (INT8, INT8, 4096, None, (Path.FLOAT32, Path.FLOAT64, Path.SPLIT), Path.FLOAT64),
    (INT8, INT8, 4096, (1, 2**17), NO_INT8, Path.FLOAT32),
    (INT8, INT8, 4096, (1, 2**17 + 1), NO_INT8, Path.SPLIT),
    (INT8, INT8, 4096, (0, 2**17), NO_INT8, Path.FLOAT32),
    (INT8, INT8, 1 << 17, None, LARGE, Path.FLOAT64),  # 2^31 no longer fits; 2^17 2^7 2^3 is no split
    (INT8, INT8, 1 << 17, (1, 2**20), SMALL, Path.INT8),
    (INT8, INT8, (1 << 17) - 1, "unread", SMALL, Path.INT8),
    (INT12, INT8, 512, None, SMALL, Path.SPLIT),
    (INT12, INT12, 512, None, LARGE, Path.FLOAT64),
    (INT12, INT12, 512, (1, 2**13), LARGE, Path.FLOAT32),
    (INT12, INT12, 512, (1, 2**19), LARGE, Path.SPLIT),
    (INT12, INT12, 512, (1, 2**19 + 1), LARGE, Path.FLOAT64),
    (INT16, INT16, 1 << 23, None, LARGE, Path.FLOAT64),
    (INT16, INT16, (1 << 23) + 1, (1, 2**38), LARGE, Path.FLOAT64),
])  # fmt: skip
def test_the_choice_is_as_documented(left, right, terms, norm, order, path):
    assert chosen(left, right, terms, norm, order) is path


CONV, LINEAR = ConvGeometry((1, 1), (1, 1)), LinearGeometry()


@pytest.mark.parametrize(("geometry", "kind", "reduction", "shape", "cpu", "int8", "order"), [
    (LINEAR, Kind.FORWARD, 64, (64, 64), True, Speed.FAST, "int8 float32 float64 split"),
    (LINEAR, Kind.FORWARD, 64, (8, 8, 64), True, Speed.FAST, "int8 float32 float64 split"),
    (LINEAR, Kind.FORWARD, 63, (64, 64), True, Speed.FAST, "float32 int8 float64 split"),
    (LINEAR, Kind.FORWARD, 64, (63, 64), True, Speed.FAST, "float32 int8 float64 split"),
    (LINEAR, Kind.WGRAD, 64, (64, 63), True, Speed.FAST, "float32 int8 float64 split"),
    (LINEAR, Kind.FORWARD, 4096, (4096, 4096), True, Speed.SLOW, "float32 int8 float64 split"),
    (LINEAR, Kind.FORWARD, 4096, (4096, 4096), True, Speed.NONE, "float32 float64 split"),
    (LINEAR, Kind.FORWARD, 4096, (4096, 4096), False, Speed.NONE, "float32 split float64"),
    (CONV, Kind.FORWARD, 576, (1, 64, 8, 8), True, Speed.FAST, "int8 float32 split float64"),
    (CONV, Kind.FORWARD, 576, (8, 32, 8, 8), True, Speed.FAST, "float32 int8 split float64"),
    (CONV, Kind.DGRAD, 576, (8, 64, 3, 3), True, Speed.FAST, "int8 float32 split float64"),
    (CONV, Kind.WGRAD, 512, (64, 8, 3, 3), True, Speed.FAST, "int8 float32 split float64"),
    (CONV, Kind.WGRAD, 512, (32, 64, 3, 3), True, Speed.FAST, "float32 int8 split float64"),
])  # fmt: skip
def test_the_order_is_as_measured(geometry, kind, reduction, shape, cpu, int8, order):
    got = preference(geometry, kind, reduction, shape, cpu, int8)
    assert " ".join(path.value for path in got) == order


def test_beyond_float64_is_an_error_that_names_the_layer():
    with pytest.raises(InvalidValueError, match=r"2\^53.*2\^53; at fc"):
        chosen(INT16, INT16, (1 << 23) + 1)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(left=st.integers(1, 2**30), right=st.integers(1, 2**30), terms=st.integers(1, 2**20))
def test_both_parts_of_a_split_stay_below_2_24(left, right, terms):
    operands = Operand(-left, left), Operand(-right, right)
    sums = terms * left, terms * right
    halves = split(operands, sums)
    if halves is None:
        return
    largest = operands[halves.side].level_max
    values = torch.tensor([largest, largest - 1, largest // 2, halves.step // 2, halves.step // 2 + 1, 1, 0])
    high = torch.round(values.double() / halves.step) * halves.step
    low = values - high
    for part in (high / halves.step, low):
        assert part.abs().max() * sums[1 - halves.side] <= FLOAT32_EXACT


def test_the_wider_operand_is_split_first():
    assert split((INT12, INT8), (512 * 2048, 512 * 128)) == Halves(0, 64)
    assert split((INT8, INT12), (512 * 128, 512 * 2048)) == Halves(1, 64)
    # the narrower one where only the norm of the other lets it pass
    assert split((INT8, INT12), (1 << 20, 1 << 20)) == Halves(0, 16)
    assert choose((INT8, INT8), 1024, lambda: (1, 0), NO_INT8) == Choice(Path.FLOAT32)


def test_what_fits_int8():
    assert [o.byte for o in (INT8, UINT8, INT12, Operand(-128, 128), Operand(0, 127), Operand(0, 256))] == [
        torch.int8, torch.uint8, None, None, torch.int8, None,
    ]  # fmt: skip
    assert fit_int8((INT8, UINT8))
    assert not fit_int8((UINT8, UINT8))
    assert not fit_int8((INT8, Operand(-128, 128)))


def test_what_a_format_says_of_its_levels():
    assert Operand.of(parse("int8")) == INT8
    assert Operand.of(parse("ufixed8.8")) == UINT8
    assert Operand.of(parse("binary")) == Operand.of(parse("ternary")) == Operand(-1, 1)
    assert Operand.of(parse("int32")) == Operand(-(2**31), 2**31 - 1)
    assert Operand.of(parse("fp4")) == Operand(-12, 12, 0.5)
    assert Operand.of(parse("e4m3fn")) == Operand(-448 * 512, 448 * 512, 2.0**-9)
    assert Operand.of(parse("log4")) == Operand(-64, 64)
    assert Operand.of(parse("uint8"), zero_point=True) == Operand(-255, 255)
    for name in ("e5m2", "bf16", "fp16", "log8", "log5-sqrt2", "mxfp4"):  # float32, and no claim
        assert Operand.of(parse(name)) is None


# --- the norm -------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    rows=st.integers(1, 4),
    columns=st.sampled_from([1, 7, 1000, 4096, 4099]),
    largest=st.sampled_from([1, 127, 4095, 4096, 4097, 32768, 2**24 - 1, 2**31]),
    fill=st.booleans(),
    unit=st.sampled_from([1.0, 2.0**-9]),
    seed=st.integers(0, 2**16),
)
def test_the_norm_is_exact(rows, columns, largest, fill, unit, seed):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(largest if fill else -largest, largest + 1, (rows, columns), generator=generator)
    numbers = levels.double() if largest > FLOAT32_EXACT else levels.float()
    expected = int(levels.abs().sum(dim=1).max())
    assert largest_sum(numbers * unit, unit) == expected
    assert largest_sum((numbers * unit).T.contiguous().T, unit) == expected


@pytest.mark.parametrize("excess", [-1, 0, 1, 2, 3])
def test_the_norm_around_2_24(excess):
    row = torch.full((4097,), 4096.0)
    row[-1] = excess  # 4096 * 4096 + excess: odd ones are no float32
    assert largest_sum(row.view(1, -1)) == 2**24 + abs(excess)


def test_the_norm_of_nothing():
    assert largest_sum(torch.zeros(0, 4)) == largest_sum(torch.zeros(4, 0)) == 0


# --- the probe ------------------------------------------------------------------------------------------


def saturating(left, right):
    """What vpmaddubsw does: pairs of products summed in 16 bits, saturated."""
    products = left.int().unsqueeze(2) * right.int().unsqueeze(0)
    if products.shape[1] % 2:
        products = torch.cat([products, torch.zeros_like(products[:, :1])], dim=1)
    pairs = products.unflatten(1, (-1, 2)).sum(dim=2).clamp(-(2**15), 2**15 - 1)
    return pairs.sum(dim=1).int()


def missing(left, right):
    raise RuntimeError("not built in")


def wrong_tail(left, right):
    sums = left.int() @ right.int()
    sums[:, 32:] = 0
    return sums


def refuses_unsigned(left, right):
    if left.dtype == torch.uint8:
        raise RuntimeError("Expected int8")
    return left.int() @ right.int()


@pytest.mark.parametrize("broken", [saturating, missing, wrong_tail, refuses_unsigned])
def test_the_probe_refuses_what_is_not_exact(broken):
    assert not multiply._agrees(broken)


def test_the_probe_takes_what_is():
    assert multiply._agrees(lambda left, right: left.int() @ right.int())
    assert (multiply.int8_speed() is not Speed.NONE) == multiply._agrees(multiply.multiply_int8)


def test_signed_saturation_alone_is_seen():
    """-128 * -128 twice is 2^15, the one signed pair that saturates."""

    def signed_only(left, right):
        return saturating(left, right) if left.dtype == torch.int8 else left.int() @ right.int()

    assert not multiply._agrees(signed_only)


# --- no TF32, no bfloat16 -------------------------------------------------------------------------------


def settings_now():
    return [s.fp32_precision for s in multiply._PRECISION["cpu"]]


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_reduced_precision_is_off_inside_products(precision, monkeypatch):
    from bitwright.nn.product import sums

    inside = []

    class Spy(LinearGeometry):
        def native(self, *args):
            inside.append(settings_now())
            return super().native(*args)

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        outside = settings_now()
        assert outside[0] not in ("none", "ieee")
        multiply.in_float(Spy(), Kind.FORWARD, torch.ones(2, 3), torch.ones(4, 3), [2, 4], torch.float32)
        assert settings_now() == outside
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(value in ("none", "ieee") for value in inside[0])
    assert sums(LinearGeometry(), Kind.FORWARD, torch.ones(2, 3), torch.ones(4, 3)).sum() == 24


def test_the_setting_of_older_torch():
    before = torch.get_float32_matmul_precision()
    setting = multiply._Legacy()
    try:
        setting.fp32_precision = "medium"
        assert torch.get_float32_matmul_precision() == setting.fp32_precision == "medium"
        with multiply.full_precision([setting]):
            assert torch.get_float32_matmul_precision() == "highest"
        assert setting.fp32_precision == "medium"
        setting.fp32_precision = "ieee"
        assert setting.fp32_precision == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


# --- scales ---------------------------------------------------------------------------------------------


def test_scaling_in_float64_gives_the_bits_of_float32():
    """24 bits times 24 bits are exact in float64, so both round once."""
    from bitwright.nn.product import _scaled

    generator = torch.Generator().manual_seed(0)
    acc = torch.randint(-(2**24), 2**24 + 1, (4000, 7), generator=generator)
    for exponent in (0, -60, 60, -120, -130, 110):  # also subnormal and infinite results
        one = torch.rand(7, generator=generator) * math.ldexp(1.0, exponent // 2)
        other = torch.rand((), generator=generator) * math.ldexp(1.0, exponent - exponent // 2)
        got = [
            _scaled(acc.to(dtype), one, other, shape=lambda values, dim: values)
            for dtype in (torch.float32, torch.float64)
        ]
        assert got[0].dtype == got[1].dtype == torch.float32
        assert torch.equal(*got)
