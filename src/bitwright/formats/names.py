"""Names of formats: `parse(str(f)) == f` for every format."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from bitwright.errors import InvalidTypeError, unknown_name
from bitwright.formats.block import E8M0, Block, ScaleRule
from bitwright.formats.floating import Float, Specials
from bitwright.formats.logarithmic import Log
from bitwright.formats.number import Format
from bitwright.formats.uniform import Binary, Fixed, Flex, Int, Ternary, UFixed, UInt

_KNOWN_FLOATS = {
    "fp16": Float(5, 10),
    "bf16": Float(8, 7),
    "tf32": Float(8, 10),
    "fp32": Float(8, 23),
    "e8m0fnu": E8M0,
}
"""Floats with a name of their own."""

_OCP_SMALL = {name: Float(int(name[1]), int(name[3]), Specials.F) for name in ("e2m1", "e2m3", "e3m2")}
"""OCP's small floats have no NaN, though the world calls them e2m1fn, e2m3fn and e3m2fn."""

_E4M3, _E5M2 = Float(4, 3, Specials.FN), Float(5, 2)

_KNOWN_BLOCKS = {
    "mxfp8e4m3": Block(_E4M3),
    "mxfp8e5m2": Block(_E5M2),
    "mxfp6e3m2": Block(_OCP_SMALL["e3m2"]),
    "mxfp6e2m3": Block(_OCP_SMALL["e2m3"]),
    "mxfp4": Block(_OCP_SMALL["e2m1"]),
    "mxint8": Block(Fixed(8, 6)),
    "nvfp4": Block(_OCP_SMALL["e2m1"], 16, _E4M3, ScaleRule.DIVIDE),
}

_ALIASES = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "half": "fp16",
    "fp4": "e2m1f",
    "fp6": "e3m2f",
    "e8m0": "e8m0fnu",
    "mxfp8": "mxfp8e4m3",
    "mxfp6": "mxfp6e3m2",
    "mxfp4e2m1": "mxfp4",
    **{f"{name}fn": f"{name}f" for name in _OCP_SMALL},
}
"""Other names that the world uses."""

_FLOAT = r"(u?)e([1-8])m(\d{1,2})(?:b(\d{1,3}))?(fnuz|fnan|fn|f|uz)?(-flush)?"
_RULES = "|".join(rule.value for rule in ScaleRule)


def float_name(form: Float) -> str:
    """The canonical name: e<exponent>m<mantissa>, then what departs from IEEE."""
    for name, known in _KNOWN_FLOATS.items():
        if form == known:
            return name
    suffix = "" if form.specials is Specials.IEEE else form.specials.value
    if form.specials is Specials.FN and f"e{form.exponent}m{form.mantissa}" in _OCP_SMALL:
        suffix = "fnan"
    bias = "" if form.bias == form.usual_bias else f"b{form.bias}"
    unsigned = "" if form.signed else "u"
    return f"{unsigned}e{form.exponent}m{form.mantissa}{bias}{suffix}{'' if form.subnormals else '-flush'}"


def block_name(form: Block) -> str:
    """The canonical name: a standard's own, bfp<bits>x<size>, or all four parts."""
    for name, known in _KNOWN_BLOCKS.items():
        if form == known:
            return name
    if form == Block(form.element, form.size) and isinstance(form.element, Int):
        return f"bfp{form.element.bits}x{form.size}"
    return f"block{form.size}-{form.element}-{form.scale}-{form.rule.value}"


def _float(match: re.Match[str]) -> Format:
    unsigned, exponent, mantissa, bias, suffix, flush = match.groups()
    specials = Specials({None: "ieee", "fnan": "fn"}.get(suffix, suffix))
    return Float(
        int(exponent),
        int(mantissa),
        specials,
        _optional_int(bias),
        subnormals=flush is None,
        signed=not unsigned,
    )


def _p3109(match: re.Match[str]) -> Format:
    # IEEE P3109: width k, precision p with the hidden bit; NaN in the place of -0, all ones are infinite
    width, precision = int(match[1]), int(match[2])
    return Float(width - precision, precision - 1, Specials.UZ)


def _block(match: re.Match[str]) -> Format:
    scale = parse(match[3])
    if not isinstance(scale, Float):
        raise InvalidTypeError("scales of a block are powers of two or floats", got=match[3])
    return Block(parse(match[2]), int(match[1]), scale, ScaleRule(match[4]))


def _optional_int(text: str | None) -> int | None:
    return None if text is None else int(text)


_PATTERNS: tuple[tuple[str, str, Callable[[re.Match[str]], Format]], ...] = (
    ("int8", r"int(\d{1,9})", lambda m: Int(int(m[1]))),
    ("uint4", r"uint(\d{1,9})", lambda m: UInt(int(m[1]))),
    ("fixed8.4", r"fixed(\d{1,9})(?:\.(-?\d{1,9}))?", lambda m: Fixed(int(m[1]), _optional_int(m[2]))),
    ("ufixed8.8", r"ufixed(\d{1,9})(?:\.(-?\d{1,9}))?", lambda m: UFixed(int(m[1]), _optional_int(m[2]))),
    (
        "flex16+5",
        r"flex(\d{1,9})\+(\d{1,9})(?:@(-?\d{1,9}))?",
        lambda m: Flex(int(m[1]), int(m[2]), _optional_int(m[3])),
    ),
    ("e4m3fn", _FLOAT, _float),
    ("bf16", "|".join(_KNOWN_FLOATS), lambda m: _KNOWN_FLOATS[m[0]]),
    ("binary8p4", r"binary(\d{1,2})p(\d{1,2})(?:se)?", _p3109),
    ("log4", r"log(\d{1,9})(-sqrt2)?", lambda m: Log(int(m[1]), m[2] is not None)),
    ("mxfp8e4m3", "|".join(_KNOWN_BLOCKS), lambda m: _KNOWN_BLOCKS[m[0]]),
    ("bfp8x32", r"bfp(\d{1,9})x(\d{1,9})", lambda m: Block(Int(int(m[1])), int(m[2]))),
    (
        "block64-e4m3fn-e8m0fnu-rceil",
        rf"block(\d{{1,9}})-((?!block).+?)-([a-z0-9]+(?:-flush)?)-({_RULES})",
        _block,
    ),
    ("binary", r"binary", lambda _: Binary()),
    ("ternary", r"ternary", lambda _: Ternary()),
)

EXAMPLES = tuple(example for example, _, _ in _PATTERNS)
"""One name of each family."""


def parse(name: str | Format) -> Format:
    """The format of that name, such as "fixed8.4", "e4m3fn", "mxfp4" or "binary".

    Names of ml_dtypes, torch and ONNX ("float8_e4m3fn", "bfloat16") are understood.

    Raises:
        InvalidValueError: no format has this name; the message lists the families, nearest first.
    """
    if isinstance(name, Format):
        return name
    if not isinstance(name, str):
        raise InvalidTypeError("a format's name is a string", got=repr(name))
    return _parse(name.strip().lower())


@lru_cache(maxsize=1024)
def _parse(name: str) -> Format:
    plain = re.sub(r"^float\d+_(?=e\d)", "", name)
    plain = _ALIASES.get(plain, plain)
    for _, pattern, build in _PATTERNS:
        if match := re.fullmatch(pattern, plain, re.ASCII):
            return build(match)
    raise unknown_name("format", name, EXAMPLES)
