"""Optimal steps: the paper's table, our own grids', and two independent judges."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, optimize

from bitwright.errors import InvalidValueError
from bitwright.quantize import Density, grid_table, mid_rise_table
from bitwright.quantize.densities import grid, mid_rise

# Lin et al., section 1, steps and SQNR in dB at 1 to 10 bits, re-derived
TABLE = {
    Density.GAUSSIAN: (
        ("1.596", "0.996", "0.586", "0.335", "0.1881", "0.1041", "0.0569", "0.0308", "0.0165", "0.0088"),
        ("4.40", "9.25", "14.27", "19.38", "24.57", "29.83", "35.17", "40.57", "46.03", "51.55"),
    ),
    Density.LAPLACIAN: (
        ("1.414", "1.087", "0.731", "0.461", "0.2800", "0.1657", "0.0961", "0.0548", "0.0309", "0.0172"),
        ("3.01", "7.07", "11.44", "15.96", "20.60", "25.36", "30.23", "35.21", "40.28", "45.44"),
    ),
    Density.GAMMA: (
        ("1.155", "1.066", "0.796", "0.540", "0.3459", "0.2130", "0.1273", "0.0744", "0.0426", "0.0241"),
        ("1.76", "4.95", "8.78", "13.00", "17.49", "22.17", "27.00", "31.95", "37.01", "42.14"),
    ),
}
PDF = {
    Density.GAUSSIAN: lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    Density.LAPLACIAN: lambda x: math.exp(-math.sqrt(2) * x) / math.sqrt(2),
    Density.GAMMA: lambda x: 3**0.25 / math.sqrt(8 * math.pi * x) * math.exp(-math.sqrt(3) * x / 2),
}


@pytest.mark.parametrize("density", TABLE)
def test_the_papers_table_to_its_printed_digits(density):
    steps, sqnr = TABLE[density]
    got = mid_rise_table(range(1, 11))[density]
    for optimum, step, db in zip(got, steps, sqnr, strict=True):
        digits = len(step.partition(".")[2])
        assert f"{optimum.step:.{digits}f}" == step
        assert f"{optimum.sqnr_db:.2f}" == db


def test_the_uniform_density_fills_its_levels():
    for bits, optimum in enumerate(mid_rise_table()[Density.UNIFORM], start=1):
        assert optimum.step / math.sqrt(3) == pytest.approx(2 / 2**bits, rel=1e-5)  # the paper's, on [-1, 1]
        assert optimum.sqnr_db == pytest.approx(20 * math.log10(2**bits), abs=1e-6)


def half_error(density, step, top):
    """scipy: the error on the positive half line, cell by cell, of the density's half."""
    edges = [0.0, *((i + 0.5) * step for i in range(top)), math.inf]
    total = 0.0
    for level, (low, high) in enumerate(pairwise(edges)):
        c = level * step
        if density is Density.GAMMA and low == 0:  # x = u^2 at the pole

            def integrand(u, c=c):
                return (u * u - c) ** 2 * PDF[density](max(u * u, 1e-300)) * 2 * u

            end = math.sqrt(high) if high < math.inf else 10.0
            total += integrate.quad(integrand, 0, end, epsabs=1e-12)[0]
        else:
            total += integrate.quad(lambda x, c=c: (x - c) ** 2 * PDF[density](x), low, high, epsabs=1e-12)[0]
    return total


@pytest.mark.parametrize("density", TABLE)
@pytest.mark.parametrize(("low", "high"), [(-2, 1), (-4, 3), (-1, 1), (0, 3), (0, 7), (-1, 0)])
def test_our_grids_are_scipys(density, low, high):
    def error(step):
        if low == 0:
            return 2 * half_error(density, step, high)
        return half_error(density, step, high) + half_error(density, step, -low)

    found = optimize.minimize_scalar(error, bounds=(0.05, 4), method="bounded", options={"xatol": 1e-6})
    got = grid(density, low, high)
    assert got.sqnr_db == pytest.approx(-10 * math.log10(found.fun), abs=1e-5)
    assert got.step == pytest.approx(found.x, rel=1e-3)


@pytest.mark.parametrize("signed", [True, False])
def test_our_tables_by_monte_carlo(signed):
    rng = np.random.default_rng(0)
    n = 1_000_000
    half = rng.gamma(0.5, 2 / math.sqrt(3), n)
    draws = {
        Density.GAUSSIAN: rng.normal(size=n),
        Density.LAPLACIAN: rng.laplace(scale=1 / math.sqrt(2), size=n),
        Density.GAMMA: half * rng.choice([-1, 1], n),
        Density.UNIFORM: rng.uniform(-math.sqrt(3), math.sqrt(3), n),
    }
    for density, row in grid_table((2, 4, 6), signed).items():
        x = draws[density] if signed else np.abs(draws[density])
        for bits, optimum in zip((2, 4, 6), row, strict=True):
            low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            errors = []
            for factor in (0.85, 1.0, 1.15):
                step = optimum.step * factor
                quantised = np.clip(np.rint(x / step), low, high) * step
                errors.append(np.mean((quantised - x) ** 2))
            assert errors[1] < min(errors[0], errors[2])
            assert 10 * math.log10(np.mean(x**2) / errors[1]) == pytest.approx(optimum.sqnr_db, abs=0.15)


def test_more_bits_are_better_and_odd_requests_are_refused():
    for density in Density:
        gains = [grid(density, -(1 << b - 1), (1 << b - 1) - 1).sqnr_db for b in range(1, 13)]
        assert sorted(gains) == gains
    for call in (
        lambda: mid_rise(Density.GAMMA, 0),
        lambda: mid_rise(Density.GAMMA, 17),
        lambda: grid(Density.GAMMA, 1, 3),
        lambda: grid(Density.GAMMA, 0, 1 << 16),
    ):
        with pytest.raises(InvalidValueError):
            call()
    with pytest.raises(InvalidValueError, match=r"unknown density 'gausian'.*did you mean 'gaussian'"):
        Density.of("gausian")


def test_the_docs_page_holds_these_tables():
    page = (Path(__file__).parents[2] / "docs" / "controllers.md").read_text()
    for table in (mid_rise_table(), grid_table(), grid_table(signed=False)):
        for bits in range(8):
            row = " | ".join(f"{table[d][bits].step:.4f} / {table[d][bits].sqnr_db:.2f}" for d in Density)
            assert f"| {bits + 1} | {row} |" in page
