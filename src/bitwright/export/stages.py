"""From operations to stages: what one loop nest of the C file computes.

A stage begins with an operation that moves or sums numbers (a product, a pool, a copy...) or reads a tensor
in memory, and takes in every operation behind it that maps number to number and alone reads what is in
front of it: affine maps, thresholds, clips, tables, sums with tensors that exist by then, and the output.
So accumulators and the terms of residual sums never need memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.integer import (
    Add,
    Affine,
    Clip,
    Concat,
    Embedding,
    MaxPool,
    Network,
    Operation,
    Output,
    Table,
    Threshold,
)
from bitwright.integer.operations import Product
from bitwright.integer.operations.pooling import Pool

MAX_FUSED_WINDOW = 9
"""Places of a pool that runs inside a product: their inputs lie side by side in memory."""

Pointwise = (Affine, Threshold, Clip, Table, Add, Output)
Producers = (Product, Pool, Concat, Embedding)


@dataclass(frozen=True)
class Stage:
    """`first` makes numbers, `pool` takes the largest of some, `steps` map each of them to the next.

    Where `first` is pointwise itself, it is the first of the steps.
    """

    first: Operation
    pool: MaxPool | None
    steps: tuple[Operation, ...]

    @property
    def result(self) -> str:
        """The tensor that the stage leaves in memory."""
        last = [self.first, *([self.pool] if self.pool else []), *self.steps][-1]
        return last.name

    @property
    def names(self) -> tuple[str, ...]:
        """Every operation of the stage."""
        parts = [self.first, *([self.pool] if self.pool else []), *self.steps]
        return tuple(dict.fromkeys(operation.name for operation in parts))

    @property
    def beside(self) -> tuple[str, ...]:
        """The tensors that the steps read at the place they write: terms of sums, in order."""
        inside = set(self.names)
        reads = self.first.inputs if self.first in self.steps else ()
        reads += tuple(name for step in self.steps for name in step.inputs)
        return tuple(dict.fromkeys(name for name in reads if name not in inside))

    @property
    def around(self) -> tuple[str, ...]:
        """The tensors that `first` reads at other places than it writes."""
        return () if self.first in self.steps else tuple(dict.fromkeys(self.first.inputs))


def stages_of(network: Network, fuse: bool = True) -> list[Stage]:
    """The stages of a network in execution order; without `fuse`, one for each operation but the input."""
    operations = _needed(network) if fuse else network.operations
    readers: dict[str, list[Operation]] = {name: [] for name in network.types}
    for operation in operations:
        for name in operation.inputs:
            readers[name].append(operation)

    def only_reader(operation: Operation) -> Operation | None:
        found = readers[operation.name]
        return found[0] if fuse and len(found) == 1 else None

    stages: list[Stage] = []
    made, taken = {network.input.name}, {network.input.name}
    for operation in operations:
        if operation.name in taken:
            continue
        last, pool = operation, None
        steps = [operation] if isinstance(operation, Pointwise) else []
        if isinstance(operation, Product):
            pool = _pool_inside(network, only_reader(operation))
            last = pool or operation
        while steps or isinstance(operation, Producers):
            reader = only_reader(last)
            if not isinstance(reader, Pointwise) or not set(reader.inputs) - {last.name} <= made:
                break
            steps.append(reader)
            last = reader
        stages.append(Stage(operation, pool, tuple(steps)))
        taken.update(stages[-1].names)
        made.add(last.name)
    return stages


def _needed(network: Network) -> list[Operation]:
    """The operations that the last one needs."""
    needed = {network.operations[-1].name}
    for operation in reversed(network.operations):
        if operation.name in needed:
            needed.update(operation.inputs)
    return [operation for operation in network.operations if operation.name in needed]


def _pool_inside(network: Network, reader: Operation | None) -> MaxPool | None:
    """A pool that a product can run itself: small windows that do not overlap, so no sum is made twice."""
    if not isinstance(reader, MaxPool) or math.prod(reader.kernel) > MAX_FUSED_WINDOW:
        return None
    apart = all(s >= k for s, k in zip(reader.stride, reader.kernel, strict=True))
    return reader if apart else None
