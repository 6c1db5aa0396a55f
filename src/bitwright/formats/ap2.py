"""AP2: the nearest power of two, in the logarithm (QNN, section 2): what a shift multiplies by."""

from __future__ import annotations

import math

import torch

from bitwright.formats.logarithmic import Log
from bitwright.formats.operators import quantize

EXPONENT = 63
"""AP2 gives powers from 2^-63 to 2^63; what is beyond saturates, what is below 2^-63.5 becomes 0."""

_POWERS = Log(8)
_SMALLEST = 2.0**-EXPONENT


def ap2(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """sign(x) 2^round(log2 |x|), 0 for 0 and for NaN: the format log8 at scale 2^-63, in one pass.

    Args:
        x: float32 of any shape.
        out: receives the result; may be x.
    """
    scale = torch.tensor(_SMALLEST, device=x.device)
    return quantize(_POWERS, x, scale, out=out)[0]


def ap2_number(x: float) -> float:
    """The same of one positive number, without limits."""
    mantissa, exponent = math.frexp(x)
    # mantissa lies in [1/2, 1), and 2^-1/2 is irrational: there are no ties
    return math.ldexp(1.0, exponent if mantissa * mantissa > 0.5 else exponent - 1)
