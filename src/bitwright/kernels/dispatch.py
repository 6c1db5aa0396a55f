"""Which instruction sets this machine executes, and which one is used."""

from __future__ import annotations

import os
import platform
from typing import Any

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.kernels import _native

ISA_VARIABLE = "BITWRIGHT_ISA"
"""Environment variable that forces an instruction set; read whenever one is chosen."""


# the machine does not change while the process runs; every engine instruction set is among them
_QUANTIZE_ISAS = tuple(_native.quantize_isas())


def available_isas() -> tuple[str, ...]:
    """The instruction sets of the engine's kernels that this machine can execute, the slowest first."""
    return tuple(_native.isas())


def quantize_isas() -> tuple[str, ...]:
    """The instruction sets of the emulation quantisers here, the slowest first. There are more of them
    than of the engine's kernels."""
    return _QUANTIZE_ISAS


def check_isa(name: object, where: str) -> str:
    """`name`, if it is an instruction set whose engine kernels this machine can execute."""
    return _check(name, available_isas(), where)


def check_quantize_isa(name: object, where: str) -> str:
    """`name`, if it is an instruction set whose quantisers this machine can execute."""
    return _check(name, _QUANTIZE_ISAS, where)


def default_isa() -> str:
    """The best instruction set of the engine here, or the one that `BITWRIGHT_ISA` forces.

    Forcing one that only the quantisers know leaves the engine with its scalar kernels.
    """
    forced = os.environ.get(ISA_VARIABLE)
    if forced:
        name = _check_forced(forced)
        return name if name in available_isas() else "scalar"
    return available_isas()[-1]


def default_quantize_isa() -> str:
    """The best instruction set of the quantisers here, or the one that `BITWRIGHT_ISA` forces."""
    forced = os.environ.get(ISA_VARIABLE)
    return _check_forced(forced) if forced else _QUANTIZE_ISAS[-1]


def _check_forced(name: str) -> str:
    return _check(name, _QUANTIZE_ISAS, f"environment variable {ISA_VARIABLE}")


def _check(name: object, valid: tuple[str, ...], where: str) -> str:
    if not isinstance(name, str):
        raise InvalidTypeError("an instruction set is a string", got=type(name).__name__, where=where)
    if name not in valid:
        raise InvalidValueError(
            f"an instruction set that this machine executes: {', '.join(valid)}",
            got=repr(name),
            where=where,
        )
    return name


def describe() -> dict[str, Any]:
    """What dispatch saw and chose: machine, CPU features, instruction sets, kernels in use."""
    isa = default_isa()
    return {
        "machine": platform.machine(),
        "cpu_features": _native.cpu_features(),
        "isas": available_isas(),
        "isa": isa,
        "kernels": _native.kernels(isa),
        "quantize_isas": quantize_isas(),
        "quantize_isa": default_quantize_isa(),
    }
