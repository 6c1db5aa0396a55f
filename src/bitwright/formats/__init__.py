"""formats: what a number is. Frozen values, their scalar reference and its torch twin; no state."""

from bitwright.formats.names import EXAMPLES, parse
from bitwright.formats.number import (
    Binary,
    Fixed,
    Format,
    Int,
    Ternary,
    UFixed,
    UInt,
    Uniform,
    describe_codes,
)
from bitwright.formats.random import Key, tensor_id
from bitwright.formats.rounding import RANDOM_BITS, Rounding

__all__ = [
    "EXAMPLES",
    "RANDOM_BITS",
    "Binary",
    "Fixed",
    "Format",
    "Int",
    "Key",
    "Rounding",
    "Ternary",
    "UFixed",
    "UInt",
    "Uniform",
    "describe_codes",
    "parse",
    "tensor_id",
]
