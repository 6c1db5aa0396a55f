"""The steps of a stage as C statements: from the number v0 that it made to the one that it stores.

Statements stand inside the loops over places `p` and channels `c`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from bitwright.export.layout import Placed, sum_bound
from bitwright.export.memory import Tensor, value_type
from bitwright.export.text import Text, cast, literal, plus, times
from bitwright.integer import (
    Add,
    Affine,
    Clip,
    Network,
    Operation,
    Output,
    Table,
    TensorType,
    Threshold,
)


class Steps:
    """Writes the statements of one stage.

    Args:
        names: the C name of each tensor that the stage reads.
        prefix: of the stage's constants.
    """

    def __init__(
        self, text: Text, network: Network, placed: Placed, names: Mapping[str, str], prefix: str
    ) -> None:
        self.text = text
        self.types = network.types
        self.placed = placed
        self.names = names
        self.prefix = prefix
        self.lines: list[str] = []
        self.values: dict[str, str] = {}
        """The C variable that holds the number of an operation."""

    def write(self, made: str | None) -> list[str]:
        """Statements from `made`, whose number is v0, to the store; None: steps read what they need."""
        if made is not None:
            self.values[made] = "v0"
        steps = list(self.placed.stage.steps)
        while steps:
            step, clips = steps.pop(0), []
            while isinstance(step, Affine | Add) and steps and isinstance(steps[0], Clip):
                clips.append(steps.pop(0))
            kind = self.types[clips[-1].name] if clips else self.types[step.name]
            match step:
                case Affine() | Add():
                    self._requantise(step, kind, clips[-1] if clips else step)
                case Threshold():
                    self._threshold(step, kind)
                case Clip():
                    self._clip(step, kind)
                case Table():
                    self._table(step, kind)
                case Output():
                    self._output(step)
        return [*self.lines, self._store(self.placed.result)]

    def value(self, name: str) -> str:
        """The number of a tensor: a variable of the stage, or read from memory."""
        return self.values[name] if name in self.values else load(self.placed.sources[name], self.names[name])

    def _new(self, operation: Operation, kind: str, expression: str) -> None:
        name = f"v{len(self.values) + 1}"
        self.lines.append(f"const {kind} {name} = {expression};")
        self.values[operation.name] = name

    def _constant(self, values: np.ndarray, what: str) -> str:
        return self.text.per_channel(f"{self.prefix}_{what}{len(self.values) + 1}", values)

    def _sum(self, step: Affine | Add | Output) -> str:
        """x1 M1[c] + x2 M2[c] + ... + B[c]."""
        rows = step.multiplier if isinstance(step, Add) else step.multiplier[None]
        terms = []
        for i, (name, row) in enumerate(zip(step.inputs, rows, strict=True)):
            multiplier = self._constant(row, f"m{i}_" if len(rows) > 1 else "m")
            factor = "" if multiplier == "1" else f" * {multiplier}"
            terms.append(cast("int64_t", self.value(name)) + factor)
        offset = self._constant(step.offset, "b")
        return " + ".join([*terms, *([] if offset == "0" else [offset])])

    def _requantise(self, step: Affine | Add, kind: TensorType, last: Operation) -> None:
        """clip(round(sum 2^-s)); a clip behind it only narrows the bounds."""
        rounded = f"y{len(self.values) + 1}"
        self.lines.append(f"const int64_t {rounded} = {self._sum(step)};")
        if step.shift:
            self.text.helper("floor_shift", "round_floor")
            way = step.rounding.value.replace("-", "_")
            rounded = f"{self.text.helper(way, f'round_{way}')}({rounded}, {step.shift})"
        bound = sum_bound(step, [self.types[name] for name in step.inputs]) >> step.shift
        self._new(last, value_type(kind.bound), self._clipped(rounded, max(bound + 1, kind.bound), kind))

    def _clipped(self, number: str, bound: int, kind: TensorType) -> str:
        """`number`, of magnitude up to `bound`, between the limits of `kind`."""
        work = value_type(bound)
        clip = self.text.helper("clip", f"clip_{work.removesuffix('_t')}", work)
        return f"{clip}({cast(work, number)}, {literal(kind.low)}, {literal(kind.high)})"

    def _threshold(self, step: Threshold, kind: TensorType) -> None:
        """The code whose index is the number of thresholds that direction * x reaches."""
        source, codes = self.types[step.input], step.format.codes()
        (step_size,) = {b - a for a, b in pairwise(codes)}
        x, low, count = self.value(step.input), codes[0] - step.zero_point, len(codes) - 1
        direction = self._constant(step.direction, "d")
        if direction == "-1":
            x = f"-({x})"
        elif direction != "1":
            x = f"{direction} * ({x})"
        # beyond the numbers that can come, a limit may as well be the next one
        limits = np.clip(step.thresholds, -source.bound, source.bound + 1)
        name = self.text.array(f"{self.prefix}_t{len(self.values) + 1}", limits)
        n = f"n{len(self.values) + 1}"
        self.lines.append(f"const {value_type(source.bound)} d{n} = {x};")
        self.lines.append(f"int {n} = 0;")
        self.lines.append(f"while ({n} < {count} && d{n} >= {name}[{times('c', count)} + {n}]) {n}++;")
        factor = "" if step_size == 1 else f"{step_size} * "
        self._new(step, value_type(kind.bound), f"{factor}{n}{plus(low)}")

    def _clip(self, step: Clip, kind: TensorType) -> None:
        bound = max(self.types[step.input].bound, kind.bound)
        self._new(step, value_type(kind.bound), self._clipped(self.value(step.input), bound, kind))

    def _table(self, step: Table, kind: TensorType) -> None:
        rows, columns = step.entries.shape
        name = self.text.array(f"{self.prefix}_entries{len(self.values) + 1}", step.entries - step.zero_point)
        row = f"{times('c', columns)} + " if rows > 1 else ""
        self._new(step, value_type(kind.bound), f"{name}[{row}{self.value(step.input)}{plus(-step.first)}]")

    def _output(self, step: Output) -> None:
        """x M[c] + B[c]; the shift is left to whoever wants a float."""
        kind = self.placed.result.c_type
        self._new(step, kind, cast(kind, self._sum(step)))

    def _store(self, result: Tensor) -> str:
        number = self.values[self.placed.stage.result] if self.values else "v0"
        return f"y[{index(result)}] = {cast(result.c_type, number + plus(-result.base))};"


def load(tensor: Tensor, name: str, place: str = "p", channel: str = "c") -> str:
    """The level of a tensor at a place and a channel."""
    number = f"({value_type(tensor.type.bound)}){name}[{index(tensor, place, channel)}]"
    return number + plus(tensor.base)


def index(tensor: Tensor, place: str = "p", channel: str = "c") -> str:
    """Where the number of a place and a channel lies."""
    return f"{times(place, tensor.place_stride)} + {times(channel, tensor.channel_stride)}"
