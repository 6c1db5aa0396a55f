"""Statistics against plain loops, and their merges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitwright.formats import Int, parse
from bitwright.quantize import Merge, Statistic, measure
from bitwright.quantize.statistics import BINS, upper_edge


def tensor():
    x = torch.randn(4, 3, 7, generator=torch.Generator().manual_seed(0)) * 5
    x[0, 0, :4] = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    return x


def by_hand(values, scale, low, high):
    """Every statistic of a list of floats, in Python."""
    finite = [v if math.isfinite(v) else 0.0 for v in values]
    over = [v for v in values if v / scale < low or v / scale > high]
    half = [v for v in values if v / scale < low / 2 or v / scale > high / 2]
    return {
        Statistic.MAX_ABS: max(map(abs, finite)),
        Statistic.LARGEST: max([*finite, 0.0]),
        Statistic.SMALLEST: min([*finite, 0.0]),
        Statistic.COUNT: len(values),
        Statistic.OVER: len(over),
        Statistic.OVER_HALF: len(half),
        Statistic.TOTAL: math.fsum(finite),
        Statistic.MAGNITUDE: math.fsum(map(abs, finite)),
        Statistic.SQUARES: math.fsum(float(np.float32(v) * np.float32(v)) for v in finite),
    }


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -2])
@pytest.mark.parametrize("name", ["int4", "uint3", "ternary", "e4m3fn", "log4"])
def test_statistics_are_those_of_a_loop(axis, name):
    x, form = tensor(), parse(name)
    scale = torch.tensor(0.5)
    simple = [s for s in Statistic if s not in (Statistic.HISTOGRAM, Statistic.ERRORS)]
    taken = measure(x, form, scale, None, simple, axis)
    parts = [x.flatten()] if axis is None else [p.flatten() for p in x.unbind(axis)]
    shape = () if axis is None else tuple(n if i == axis % 3 else 1 for i, n in enumerate(x.shape))
    hands = [by_hand(part.tolist(), 0.5, form.min_number, form.max_number) for part in parts]
    for statistic in simple:
        value = taken[statistic]
        assert value.dtype == statistic.dtype
        assert value.shape == shape
        expected = torch.tensor([h[statistic] for h in hands], dtype=torch.float64)
        got = value.flatten().double()
        exact = statistic.dtype != torch.float64
        assert torch.equal(got, expected) if exact else torch.allclose(got, expected, rtol=1e-12), statistic


@pytest.mark.parametrize("axis", [None, 1])
def test_the_histogram_counts_magnitudes_by_their_bits(axis):
    x = tensor()
    x[1, 1, :4] = torch.tensor([1e-30, 1e30, 2.0**-64, -(2.0**31)])
    histogram = measure(x, Int(8), None, None, [Statistic.HISTOGRAM], axis)[Statistic.HISTOGRAM]
    parts = [x] if axis is None else list(x.unbind(axis))
    assert histogram.shape == ((BINS,) if axis is None else (BINS, 1, 3, 1))
    for part, counts in zip(parts, histogram.reshape(BINS, -1).T, strict=True):
        expected = np.zeros(BINS, np.int64)
        for v in part.abs()[part.isfinite()].tolist():
            exponent = math.floor(math.log2(v)) if v else -200
            place = int((v / 2.0**exponent - 1) * 32) if v else 0
            expected[min(max((exponent + 64) * 32 + place, 0), BINS - 1)] += 1
        assert (counts.numpy() == expected).all()
    edges = upper_edge(torch.arange(BINS)).double()
    assert edges[0] == 2.0**-64 * (1 + 1 / 32)
    assert edges[-1] == 2.0**32
    assert (edges[1:] / edges[:-1] <= 1 + 1 / 32).all()


def test_errors_are_those_of_the_format():
    x = tensor().nan_to_num(0, 0, 0)
    candidates = torch.tensor([0.5, 1.0, 3.0])
    errors = measure(x, Int(4), None, None, [Statistic.ERRORS], None, candidates)[Statistic.ERRORS]
    for got, scale in zip(errors, candidates.tolist(), strict=True):
        value = Int(4).encode(x, scale=scale).double() * scale
        assert got.item() == pytest.approx(((value - x) ** 2).sum().item(), rel=1e-12)


def test_with_a_zero_point_the_limits_are_shifted():
    x = torch.tensor([-1.0, 0.0, 14.0, 14.5, 15.0, 16.0])
    zero_point = torch.tensor(1, dtype=torch.int32)
    taken = measure(x, parse("uint4"), None, zero_point, [Statistic.OVER])
    assert taken[Statistic.OVER] == 3  # 15.5, 16 and 17 of 0 to 15


def test_binary_never_overflows_and_no_wish_is_no_work():
    assert measure(tensor(), parse("binary"), None, None, [Statistic.OVER])[Statistic.OVER] == 0
    assert measure(tensor(), Int(4), None, None, []) == {}


def test_merges():
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    assert Merge.MAX(a, b).tolist() == [1.0, 3.0]
    assert Merge.MIN(a, b).tolist() == [0.5, -2.0]
    assert Merge.SUM(a, b).tolist() == [1.5, 1.0]
    assert {s.merge for s in Statistic} == set(Merge)


@pytest.mark.parametrize("axis", [None, 1])
def test_an_empty_tensor_measures_zero(axis):
    x = torch.empty(0, 3)
    wants = [s for s in Statistic if s is not Statistic.ERRORS]
    for statistic, value in measure(x, Int(4), torch.tensor(1.0), None, wants, axis).items():
        assert not value.any(), statistic
