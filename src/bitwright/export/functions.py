"""The C function of one stage, as its template (stages.c.j2) sees it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitwright.export.layout import Placed
from bitwright.export.memory import Tensor, value_type
from bitwright.export.products import ProductPlan, Rows, Window
from bitwright.export.steps import Steps, index, load
from bitwright.export.text import Text, comment, plus, render_macro, times
from bitwright.formats import Binary, Log
from bitwright.integer import (
    Argmax,
    AvgPool,
    Codes,
    Concat,
    Embedding,
    MaxPool,
    Network,
    Output,
    Reshape,
    Transpose,
)
from bitwright.integer.codes import to_levels
from bitwright.integer.operations import Product

TEMPLATE = "stages.c.j2"


class Function:
    """One stage in C: `write` gives its text and `call` the call that runs it.

    Args:
        text: takes the constants and helpers that the function needs.
        name: the function's.
    """

    def __init__(self, text: Text, network: Network, placed: Placed, name: str) -> None:
        self.text, self.network, self.placed, self.id = text, network, placed, name
        self.product = placed.product
        self.places, self.channels = placed.result.places, placed.result.channels
        self.names = {name: f"x{i}" if i else "x" for i, name in enumerate(placed.sources)}
        self.steps: list[str] = []
        self.scratch_types: dict[str, str] = {}

    def write(self) -> list[str]:
        """The function; in front of it the one that gathers a product's inputs."""
        first, pool = self.placed.stage.first, self.placed.stage.pool
        made: str | None = (pool or first).name
        parts: dict[str, dict[str, Any]]
        match first:
            case Product():
                assert self.product is not None
                parts = {} if self.product.direct else {"patch": {}}
                parts["product"] = self._product(self.product)
            case MaxPool() | AvgPool():
                parts = {"pool": self._pool(first)}
            case Concat():
                parts = {"concat": self._concat(first)}
            case Embedding():
                parts = {"embedding": self._embedding(first)}
            case Reshape() | Transpose():
                parts = {"copy": self._copy(first)}
            case Argmax():
                parts = {"argmax": self._argmax(first)}
            case _:
                parts, made = {"load": {}}, None
        if not isinstance(first, Reshape | Transpose | Argmax):
            steps = Steps(self.text, self.network, self.placed, self.names, self.id)
            self.steps = steps.write(made)
        context = {name: value for part in parts.values() for name, value in part.items()}
        return [render_macro(TEMPLATE, macro, self, context) for macro in parts]

    def call(self) -> dict[str, Any]:
        """How the network calls it, after `write`."""
        result = _address(self.placed.result, "numbers")
        arguments = [_address(tensor, "codes") for tensor in self.placed.sources.values()] + [result]
        for name, buffer in self.placed.scratch.items():
            arguments.append(f"({self.scratch_types[name]} *)(void *)(memory + {buffer.offset})")
        return {
            "id": self.id,
            "arguments": ", ".join(arguments),
            "result": result,
            "bytes": self.placed.result.bytes,
        }

    @property
    def comment(self) -> str:
        """What the function computes."""
        kinds = ", ".join(f"{n} ({self.network.operation(n).kind})" for n in self.placed.stage.names)
        return comment(f"{kinds}: [{', '.join(map(str, self.placed.result.type.shape))}]")

    @property
    def parameters(self) -> str:
        """What the function takes: sources, result, scratch memory."""
        sources = [f"const {t.c_type} *{self.names[n]}" for n, t in self.placed.sources.items()]
        scratch = [f"{kind} *{name}" for name, kind in self.scratch_types.items()]
        return ", ".join([*sources, f"{self.placed.result.c_type} *y", *scratch])

    # --- what the macros need ------------------------------------------------------------------------

    def _product(self, q: ProductPlan) -> dict[str, Any]:
        if "patch" in self.placed.scratch:
            self.scratch_types["patch"] = q.patch_type
        inputs, outputs = q.source.channels // q.groups, q.outputs // q.groups
        place, channel = f"(row * {q.source.image[1]} + column)", f"(group * {inputs} + k)"
        kinds = [q.patch_type, q.rows.c_type, q.sum_type]
        return {
            **self._rows(q.rows),
            "dot": self.text.helper("dot", "_".join(["dot", *(k.removesuffix("_t") for k in kinds)]), *kinds),
            "inputs": inputs,
            "load": load(q.source, "x", place, channel),
            "first": f"group * {outputs}",
            "last": f"(group + 1) * {outputs}",
        }

    def _rows(self, rows: Rows) -> dict[str, Any]:
        """Stored rows as constants: in an integer type, or packed beside a function that unpacks one."""
        if rows.direct:
            weight = self.text.array(f"{self.id}_w", rows.stored, rows.c_type)
            return {"weight": weight, "unpack": None, "row_type": rows.c_type}
        octets = rows.stored.view(np.uint8)
        self.scratch_types["row"] = rows.c_type
        return {
            "weight": self.text.array(f"{self.id}_w", octets, "uint8_t"),
            "unpack": self._unpack(rows.codes, rows.c_type),
            "row_type": rows.c_type,
            "row_bytes": octets.shape[1],
        }

    def _unpack(self, codes: Codes, kind: str) -> str:
        """The function that unpacks rows of a format."""
        form, half = codes.format, 1 << codes.format.bits - 1
        if isinstance(form, Log):
            what, level = f"log{form.bits}_{'root' if form.root else 'two'}", "{0}_levels[{1}]"
        elif isinstance(form, Binary):
            what, level = "binary", "2 * {1} - 1"
        elif form.code_min < 0:
            what, level = f"int{form.bits}", f"({{1}} ^ {half}) - {half}"
        else:
            what, level = f"uint{form.bits}", "{1}"
        name = f"unpack_{what}_{kind.removesuffix('_t')}"
        if isinstance(form, Log) and name not in self.text.helpers:
            bits = np.array([c if c in form.codes() else 0 for c in range(1 << form.bits)])
            self.text.array(f"{name}_levels", to_levels(form, bits))
        return self.text.helper("unpack", name, form.bits, kind, level)

    def _pool(self, operation: MaxPool | AvgPool) -> dict[str, Any]:
        (x,) = (self.placed.sources[name] for name in operation.inputs)
        made = self.network.types[operation.name]
        ones = (1,) * len(operation.kernel)
        return {
            "window": Window.of(operation.kernel, operation.stride, operation.pads, ones),
            "columns": made.shape[-1],
            "image": x.image,
            "sums": isinstance(operation, AvgPool),
            "value_type": value_type(max(made.bound, x.type.bound)),
            "initial": 0 if isinstance(operation, AvgPool) else x.type.low,
            "load": load(x, "x", f"(row * {x.image[1]} + column)"),
        }

    def _concat(self, operation: Concat) -> dict[str, Any]:
        parts, first = [], 0
        for name in operation.inputs:
            x = self.placed.sources[name]
            parts.append(
                {"channels": x.channels, "first": first, "load": load(x, self.names[name], channel="k")}
            )
            first += x.channels
        return {"parts": parts, "value_type": value_type(self.network.types[operation.name].bound)}

    def _embedding(self, operation: Embedding) -> dict[str, Any]:
        x = self.placed.sources[operation.input]
        made = self.network.types[operation.name]
        place, channel = (f"(p % {x.places})", f"(p / {x.places})") if x.places > 1 else ("0", "p")
        return {
            **self._rows(Rows(operation.weight)),
            "load": load(x, "x", place, channel),
            "zero": plus(-operation.zero_point),
            "value_type": value_type(made.bound),
        }

    def _copy(self, operation: Reshape | Transpose) -> dict[str, Any]:
        x = self.placed.sources[operation.input]
        axes = operation.axes if isinstance(operation, Transpose) else range(len(x.type.shape))
        terms = [times(f"i{i}", x.strides[axis]) for i, axis in enumerate(axes)]
        return {"sizes": [x.type.shape[axis] for axis in axes], "source": " + ".join(terms)}

    def _argmax(self, operation: Argmax) -> dict[str, Any]:
        x = self.placed.sources[operation.input]
        scores = isinstance(self.network.operation(operation.input), Output)
        return {
            "places": x.places,
            "channels": x.channels,
            "real": "(float)" if scores else "",  # scores are compared as the float32 that they are
            "here": index(x),
            "there": index(x, channel="best"),
        }


def _address(tensor: Tensor, caller: str) -> str:
    """A tensor's place in memory, typed; or the caller's."""
    if tensor.buffer is None:
        return caller
    return f"({tensor.c_type} *)(void *)(memory + {tensor.buffer.offset})"
