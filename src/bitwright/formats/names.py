"""Names of formats: `parse(str(f)) == f` for every format."""

from __future__ import annotations

import re
from collections.abc import Callable

from bitwright.errors import InvalidTypeError, unknown_name
from bitwright.formats.number import Binary, Fixed, Format, Int, Ternary, UFixed, UInt


def _optional_int(text: str | None) -> int | None:
    return None if text is None else int(text)


_PATTERNS: tuple[tuple[str, str, Callable[[re.Match[str]], Format]], ...] = (
    ("int8", r"int(\d{1,9})", lambda m: Int(int(m[1]))),
    ("uint4", r"uint(\d{1,9})", lambda m: UInt(int(m[1]))),
    ("fixed8.4", r"fixed(\d{1,9})(?:\.(-?\d{1,9}))?", lambda m: Fixed(int(m[1]), _optional_int(m[2]))),
    ("ufixed8.8", r"ufixed(\d{1,9})(?:\.(-?\d{1,9}))?", lambda m: UFixed(int(m[1]), _optional_int(m[2]))),
    ("binary", r"binary", lambda _: Binary()),
    ("ternary", r"ternary", lambda _: Ternary()),
)

EXAMPLES = tuple(example for example, _, _ in _PATTERNS)
"""One name of each family."""


def parse(name: str | Format) -> Format:
    """The format of that name, such as "fixed8.4", "fixed8.-2", "fixed12", "uint4" or "binary".

    Raises:
        InvalidValueError: no format has this name; the message lists the families, nearest first.
    """
    if isinstance(name, Format):
        return name
    if not isinstance(name, str):
        raise InvalidTypeError("a format's name is a string", got=repr(name))
    for _, pattern, build in _PATTERNS:
        if match := re.fullmatch(pattern, name.strip().lower(), re.ASCII):
            return build(match)
    raise unknown_name("format", name, EXAMPLES)
