"""Arithmetic in registers of 24 significant bits, on exact fractions: no floats anywhere."""

from __future__ import annotations

import math
from fractions import Fraction

BITS = 24


def rounded(x: Fraction) -> Fraction:
    """x to 24 significant bits, ties to even."""
    if x == 0:
        return x
    # 2^e <= |x| < 2^(e + 1)
    e = abs(x.numerator).bit_length() - x.denominator.bit_length()
    e -= abs(x) < Fraction(2) ** e
    ulp = Fraction(2) ** (e - BITS + 1)
    return round(x / ulp) * ulp  # Python rounds a half to even


def root(x: Fraction) -> Fraction:
    """sqrt(x) to 24 significant bits: an integer square root with bits to spare, and a sticky one."""
    if x == 0:
        return x
    shift = 200
    scaled = x * 4**shift
    assert scaled.denominator == 1
    whole = math.isqrt(scaled.numerator)
    exact = whole * whole == scaled.numerator
    return rounded(Fraction(2 * whole + (not exact), 2 * 2**shift))


def grid(x: Fraction, bits: int, fraction: int) -> Fraction:
    """x on fixed<bits>.<fraction>: nearest even, saturating."""
    code = max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, round(x * 2**fraction)))
    return Fraction(code, 2**fraction)


def fractions(values: list[float]) -> list[Fraction]:
    return [Fraction(v) for v in values]
