"""Which instruction sets this machine executes, and which one is used."""

from __future__ import annotations

import os
import platform
from typing import Any

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.kernels import _native

ISA_VARIABLE = "BITWRIGHT_ISA"
"""Environment variable that forces an instruction set; read whenever one is chosen."""


def available_isas() -> tuple[str, ...]:
    """The instruction sets that this machine can execute, the slowest first."""
    return tuple(_native.isas())


def check_isa(name: object, where: str) -> str:
    """`name`, if it is an instruction set that this machine can execute."""
    if not isinstance(name, str):
        raise InvalidTypeError("an instruction set is a string", got=type(name).__name__, where=where)
    valid = available_isas()
    if name not in valid:
        raise InvalidValueError(
            f"an instruction set that this machine executes: {', '.join(valid)}",
            got=repr(name),
            where=where,
        )
    return name


def default_isa() -> str:
    """The best instruction set of this machine, or the one that `BITWRIGHT_ISA` forces."""
    forced = os.environ.get(ISA_VARIABLE)
    if forced:
        return check_isa(forced, f"environment variable {ISA_VARIABLE}")
    return available_isas()[-1]


def describe() -> dict[str, Any]:
    """What dispatch saw and chose: machine, CPU features, instruction sets, kernels in use."""
    isa = default_isa()
    return {
        "machine": platform.machine(),
        "cpu_features": _native.cpu_features(),
        "isas": available_isas(),
        "isa": isa,
        "kernels": _native.kernels(isa),
    }
