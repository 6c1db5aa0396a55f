"""bitwright trains and runs neural networks in few bits, where the bits are real.

Nothing is imported until it is used: `import bitwright` loads neither torch nor any optional package,
and `bitwright.integer` never loads torch at all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bitwright.formats import Binary as Binary
    from bitwright.formats import Block as Block
    from bitwright.formats import Fixed as Fixed
    from bitwright.formats import Flex as Flex
    from bitwright.formats import Float as Float
    from bitwright.formats import Format as Format
    from bitwright.formats import Int as Int
    from bitwright.formats import Key as Key
    from bitwright.formats import Log as Log
    from bitwright.formats import Overflow as Overflow
    from bitwright.formats import Rounding as Rounding
    from bitwright.formats import ScaleRule as ScaleRule
    from bitwright.formats import Specials as Specials
    from bitwright.formats import Ternary as Ternary
    from bitwright.formats import UFixed as UFixed
    from bitwright.formats import UInt as UInt
    from bitwright.formats import parse as format  # noqa: A004, F401 - the public name
    from bitwright.integer import Network as Network
    from bitwright.integer import load as load
    from bitwright.lowering import lower as lower
    from bitwright.lowering import verify as verify
    from bitwright.quantize import calibrate as calibrate
    from bitwright.recipes import dequantize_ as dequantize_
    from bitwright.recipes import quantize_ as quantize_
    from bitwright.recipes import recipe as recipe
    from bitwright.recipes import refine as refine
    from bitwright.recipes import wrap as wrap
    from bitwright.training.packed import store_as_codes as store_as_codes

# public name -> (room, name there)
_PUBLIC = {
    "Binary": ("formats", "Binary"),
    "Block": ("formats", "Block"),
    "Fixed": ("formats", "Fixed"),
    "Flex": ("formats", "Flex"),
    "Float": ("formats", "Float"),
    "Format": ("formats", "Format"),
    "Int": ("formats", "Int"),
    "Key": ("formats", "Key"),
    "Log": ("formats", "Log"),
    "Overflow": ("formats", "Overflow"),
    "Rounding": ("formats", "Rounding"),
    "ScaleRule": ("formats", "ScaleRule"),
    "Specials": ("formats", "Specials"),
    "Ternary": ("formats", "Ternary"),
    "UFixed": ("formats", "UFixed"),
    "UInt": ("formats", "UInt"),
    "format": ("formats", "parse"),
    "calibrate": ("quantize", "calibrate"),
    "dequantize_": ("recipes", "dequantize_"),
    "quantize_": ("recipes", "quantize_"),
    "recipe": ("recipes", "recipe"),
    "refine": ("recipes", "refine"),
    "wrap": ("recipes", "wrap"),
    "Network": ("integer", "Network"),
    "load": ("integer", "load"),
    "lower": ("lowering", "lower"),
    "verify": ("lowering", "verify"),
    "store_as_codes": ("training", "store_as_codes"),
}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - names are resolved on first use


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bitwright' has no attribute {name!r}")
    room, attribute = _PUBLIC[name]
    value = getattr(importlib.import_module(f"bitwright.{room}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
