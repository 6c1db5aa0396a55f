"""An integer network as one C99 file: the same integers as `integer/interpreter.py`, on any machine.

Stages (stages.py) are laid out in memory (layout.py); each becomes one function by a template, whose
innermost statements come from steps.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright import __version__
from bitwright.errors import InvalidTypeError
from bitwright.export.functions import Function
from bitwright.export.layout import Layout, arrange
from bitwright.export.text import Text, check_identifier, comment, identifiers, plus, render
from bitwright.formats import Binary
from bitwright.integer import Network, Output

FLOAT32_WHOLE = 1 << 24
"""Every integer up to it is a float32."""


@dataclass(frozen=True)
class CSource:
    """One network in C.

    Args:
        source: the .c file, complete in itself.
        header: the .h file, its interface.
        constants: bytes of weights, thresholds, multipliers and tables.
        arena: bytes of memory that a run works in.
        layout: the stages and where their tensors lie.
    """

    source: str
    header: str
    constants: int
    arena: int
    layout: Layout


def to_c(network: Network, name: str = "network", *, fuse: bool = True) -> CSource:
    """Write a network in C99.

    Args:
        name: begins every public name of the file: a C identifier.
        fuse: without it, every operation's tensor exists in memory, for comparisons.

    Raises:
        InvalidTypeError: it is a chain with float islands.
        InvalidValueError: the name is no identifier.
        MissingExtraError: jinja2 is missing.
    """
    if not isinstance(network, Network):
        raise InvalidTypeError(
            "C is written of one integer network",
            got=network,
            fix="export each of a chain's networks; what lies between is the caller's code",
        )
    check_identifier(name)
    layout, text = arrange(network, fuse), Text()
    ids = identifiers(placed.stage.result for placed in layout.placed)
    functions = [Function(text, network, placed, ids[placed.stage.result]) for placed in layout.placed]
    written = [part for function in functions for part in function.write()]
    context = _interface(network, name, layout)
    source = render(
        "network.c.j2",
        **context,
        parts=[*map(_dense, [*text.constants, *text.helpers.values(), *written])],
        calls=[function.call() for function in functions],
        constants=text.flash,
        summary=f"{len(network.operations)} operations in {len(layout.placed)} stages",
        **_encoding(network),
    )
    header = render("network.h.j2", **context)
    return CSource(source.strip() + "\n", header.strip() + "\n", text.flash, layout.arena, layout)


# --- ends -------------------------------------------------------------------------------------------


def _interface(network: Network, name: str, layout: Layout) -> dict[str, Any]:
    first, last = network.input, network.operations[-1]
    return {
        "name": name,
        "version": __version__,
        "codes": layout.input,
        "numbers": layout.output,
        "arena": layout.arena,
        "input_format": comment(str(first.format)),
        "input_shape": ", ".join(map(str, first.shape)),
        "output_shape": ", ".join(map(str, network.types[last.name].shape)),
        "numbers_are": "x M + B of the last layer" if isinstance(last, Output) else "the channels of maxima",
        "scores": any(isinstance(operation, Output) for operation in network.operations[:-1]),
        "scale": repr(float(first.scale)),
        "zero": plus(first.zero_point),
        "shift": last.shift if isinstance(last, Output) else None,
    }


def _encoding(network: Network) -> dict[str, Any]:
    """The quantisation of the input: a division in float32, or float64 where numbers have more bits."""
    first, last = network.input, network.operations[-1]
    kind, wide = network.types[first.name], first.format.wide
    real = "double" if wide or kind.bound > FLOAT32_WHOLE else "float"
    suffix = "f" if real == "float" else ""
    if wide:
        quotient = f"(double)x[i] / {float(first.scale).hex()}"
    else:
        quotient = f"(float)(x[i] / {float(np.float32(first.scale)).hex()}f)"
    return {
        "binary": isinstance(first.format, Binary),
        "real": real,
        "quotient": quotient,
        "half": f"0.5{suffix}",
        "low": f"{kind.low}.0{suffix}",
        "high": f"{kind.high}.0{suffix}",
        "low_code": first.format.code_min,
        "high_code": first.format.code_max,
        "step": (2.0**-last.shift).hex() if isinstance(last, Output) else "",
    }


def _dense(function: str) -> str:
    """A function without the blank lines that templates leave."""
    return "\n".join(line.rstrip() for line in function.splitlines() if line.strip())
