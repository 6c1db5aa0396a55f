"""An independent definition of the codes, on exact fractions; and values that try it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from bitwright.formats import Binary

NEAREST = ("nearest-even", "nearest-away", "floor", "ceil", "toward-zero")


def round_fraction(q, rounding):
    """`q` rounded to an integer, from the definition of each rounding."""
    below = q.numerator // q.denominator
    rest = q - below
    above = below + (rest > 0)
    if rounding == "floor":
        return below
    if rounding == "ceil":
        return above
    if rounding == "toward-zero":
        return below if q >= 0 else above
    if rest != Fraction(1, 2):
        return below if rest < Fraction(1, 2) else above
    if rounding == "nearest-even":
        return below if below % 2 == 0 else above
    assert rounding == "nearest-away"
    return above if q > 0 else below


def quotient(form, x, scale):
    """x / scale as the float32 (or, for wide formats, float64) that IEEE division gives."""
    real = np.float64 if form.wide else np.float32
    with np.errstate(all="ignore"):
        return float(np.divide(np.float32(x).astype(real), np.float32(scale).astype(real)))


def expected_code(form, x, scale, rounding):
    q = quotient(form, x, scale)
    if math.isnan(q):
        q = 0.0
    if isinstance(form, Binary):
        return 1 if q >= 0 else -1
    if math.isinf(q):
        return form.code_max if q > 0 else form.code_min
    return min(max(round_fraction(Fraction(q), rounding), form.code_min), form.code_max)


def interesting_values(form, scale=None):
    """Codes and ties near both ends and zero, their float32 neighbours, and everything special."""
    step = Fraction(float(np.float32(form.default_scale if scale is None else scale)))
    codes = {form.code_min, form.code_max, *range(-9, 10)}
    if form.bits <= 5:
        codes |= set(range(form.code_min - 1, form.code_max + 2))
    codes |= {form.code_min + 1, form.code_min - 1, form.code_max - 1, form.code_max + 1}
    exact = [
        float(np.float32(float((c + half) * step))) for c in sorted(codes) for half in (0, Fraction(1, 2))
    ]
    around = []
    for value in exact:
        single = np.float32(value)
        with np.errstate(all="ignore"):
            around += [float(np.nextafter(single, np.float32(way))) for way in (-np.inf, np.inf)]
    special = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan]
    near_half = [0.49999997 * float(step), -0.49999997 * float(step)]
    return [float(np.float32(v)) for v in exact + around + special + near_half]
