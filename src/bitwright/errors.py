"""Errors: one base class, one shape of message (the rule, what came, where, what to do)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BitwrightError(Exception):
    """Base of every error that bitwright raises for something that its user can mend.

    Args:
        rule: what must hold.
        got: what came instead.
        where: the layer, tensor, file or option it concerns.
        fix: what to do about it.
    """

    def __init__(
        self, rule: str, *, got: object = None, where: object = None, fix: str | None = None
    ) -> None:
        parts = [rule]
        if got is not None:
            parts.append(f"got {got}")
        if where is not None:
            parts.append(f"at {where}")
        if fix is not None:
            parts.append(fix)
        super().__init__("; ".join(parts))


class InvalidValueError(BitwrightError, ValueError):
    """A value of the right type breaks a stated rule."""


class InvalidTypeError(BitwrightError, TypeError):
    """A value of the wrong type."""


class FileFormatError(InvalidValueError):
    """A file is missing, truncated, edited, or not what its name says."""


class MissingExtraError(BitwrightError, ImportError):
    """An optional package is needed for what was asked."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> InvalidValueError:
    """The error for an unknown `name` of a `kind`: lists every valid name, the nearest first."""
    names = sorted(valid)
    nearest = difflib.get_close_matches(str(name), names, n=len(names), cutoff=0.5)
    ordered = nearest + [n for n in names if n not in nearest]
    fix = f"did you mean {nearest[0]!r}?" if nearest else None
    return InvalidValueError(f"unknown {kind} {name!r}: the valid ones are {', '.join(ordered)}", fix=fix)
