"""formats: what a number is. Frozen values, their scalar reference and its torch twin; no state."""

from bitwright.formats.block import E8M0, Block, ScaleRule
from bitwright.formats.floating import Float, Specials
from bitwright.formats.logarithmic import Log
from bitwright.formats.names import EXAMPLES, parse
from bitwright.formats.number import Format, describe_codes
from bitwright.formats.random import Key, tensor_id
from bitwright.formats.rounding import RANDOM_BITS, Overflow, Rounding
from bitwright.formats.uniform import (
    Binary,
    Fixed,
    Flex,
    Int,
    Integers,
    Ternary,
    UFixed,
    UInt,
    Uniform,
)

__all__ = [
    "E8M0",
    "EXAMPLES",
    "RANDOM_BITS",
    "Binary",
    "Block",
    "Fixed",
    "Flex",
    "Float",
    "Format",
    "Int",
    "Integers",
    "Key",
    "Log",
    "Overflow",
    "Rounding",
    "ScaleRule",
    "Specials",
    "Ternary",
    "UFixed",
    "UInt",
    "Uniform",
    "describe_codes",
    "parse",
    "tensor_id",
]
