"""Where every tensor of a network lies: views, buffers that are written in place, lifetimes.

Channels are innermost in the arena, so that products run along them. The network's input and output are the
caller's and keep the order of their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitwright.export.memory import SIZES, Buffer, Tensor, place, stored_as, value_type
from bitwright.export.products import ProductPlan, Rows, plan_product
from bitwright.export.stages import Stage, stages_of
from bitwright.integer import (
    Add,
    Affine,
    Argmax,
    Embedding,
    Linear,
    Network,
    Output,
    Reshape,
    TensorType,
    Transpose,
)
from bitwright.integer.codes import storage_type
from bitwright.integer.operations import Product


@dataclass(frozen=True, eq=False)
class Placed:
    """A stage with its tensors.

    Args:
        sources: every tensor that it reads, by name.
        result: what it writes.
        product: the plan where the stage is a product.
        scratch: memory of its own, by purpose.
    """

    stage: Stage
    sources: Mapping[str, Tensor]
    result: Tensor
    product: ProductPlan | None
    scratch: Mapping[str, Buffer]


@dataclass(frozen=True, eq=False)
class Layout:
    """The stages that run, in order; the network's input and output; the bytes of the arena."""

    placed: tuple[Placed, ...]
    input: Tensor
    output: Tensor
    arena: int


def arrange(network: Network, fuse: bool = True) -> Layout:
    """Lay out a network. Without `fuse` every operation's tensor exists in memory."""
    stages = stages_of(network, fuse)
    last_read = _last_reads(stages)
    tensors = {network.input.name: _input(network)}
    buffers: list[Buffer] = []
    placed: list[Placed] = []
    for index, stage in enumerate(stages):
        view = _view(stage, stages, tensors)
        if view is not None:
            tensors[stage.result] = view
            continue
        sources = {name: tensors[name] for name in (*stage.around, *stage.beside)}
        product = _product(network, stage, tensors)
        wanted = product.scratch if product else _scratch(stage)
        scratch = {name: Buffer(size, index, index) for name, size in wanted.items()}
        result = _result(network, stage, index, tensors, last_read)
        tensors[stage.result] = result
        placed.append(Placed(stage, sources, result, product, scratch))
        buffers += [*scratch.values(), *([result.buffer] if result.buffer else [])]
    arena = place(list(dict.fromkeys(buffers)))
    return Layout(tuple(placed), tensors[network.input.name], tensors[network.operations[-1].name], arena)


def _last_reads(stages: list[Stage]) -> dict[str, int]:
    """Of each tensor, the last stage that reads its memory: a reshape may be a view of its source."""
    last = {name: i for i, stage in enumerate(stages) for name in (*stage.around, *stage.beside)}
    for stage in reversed(stages):
        if isinstance(stage.first, Reshape):
            source = stage.first.input
            last[source] = max(last[source], last.get(stage.result, 0))
    return last


def _input(network: Network) -> Tensor:
    """The caller's codes, in the order of the shape."""
    first, kind = network.input, network.types[network.input.name]
    places = kind.elements // kind.shape[0]
    return Tensor(kind, f"{storage_type(first.format).name}_t", -first.zero_point, places, 1, None)


def _view(stage: Stage, stages: list[Stage], tensors: Mapping[str, Tensor]) -> Tensor | None:
    """What a reshape makes without moving anything; None where it has to, and for everything else."""
    if not isinstance(stage.first, Reshape):
        return None
    source, shape = tensors[stage.first.input], stage.first.shape
    elements = source.type.elements
    kind = replace(source.type, shape=shape)
    if shape[0] == source.channels and source.order is None:  # the places follow each other as before
        return replace(source, type=kind)
    if source.plain:
        return replace(source, type=kind, channel_stride=elements // shape[0], place_stride=1)
    readers = [s for s in stages if stage.result in (*s.around, *s.beside)]
    products = all(isinstance(s.first, Linear) and stage.result not in s.beside for s in readers)
    if len(shape) == 1 and source.order is None and products:
        # channels lie innermost: the weights take that order
        order = np.arange(elements).reshape(source.channels, source.places).T.reshape(-1)
        return replace(source, type=kind, channel_stride=1, place_stride=elements, order=order)
    return None


def _product(network: Network, stage: Stage, tensors: Mapping[str, Tensor]) -> ProductPlan | None:
    if not isinstance(stage.first, Product):
        return None
    made = network.types[stage.first.name]
    pooled = network.types[stage.pool.name] if stage.pool else made
    return plan_product(stage.first, tensors[stage.first.input], made, stage.pool, pooled)


def _scratch(stage: Stage) -> dict[str, int]:
    size = Rows(stage.first.weight).scratch if isinstance(stage.first, Embedding) else 0
    return {"row": size} if size else {}


def _result(
    network: Network, stage: Stage, index: int, tensors: Mapping[str, Tensor], last_read: Mapping[str, int]
) -> Tensor:
    """The tensor that a stage writes: the caller's, one over another that nobody needs after, or new."""
    kind, last = network.types[stage.result], network.operation(stage.result)
    channels = kind.shape[0] if kind.shape else 1
    places = kind.elements // channels
    if isinstance(last, Output | Argmax):
        kind = _numbers(network, last)
        made = Tensor(kind, value_type(kind.bound), 0, places, 1, None)
        inside = stage.result in last_read  # an argmax reads the output
        return replace(made, buffer=Buffer(made.bytes, index, last_read[stage.result])) if inside else made
    form, base = stored_as(kind)
    if isinstance(stage.first, Reshape | Transpose):  # the same numbers, in the order of the shape
        source = tensors[stage.first.input]
        fresh = Tensor(kind, source.c_type, source.base, places, 1, None)
    else:
        fresh = Tensor(kind, form, base, 1, channels, None)
    end = last_read.get(stage.result, index)  # nobody may read it
    for name in stage.beside:
        source = tensors[name]
        buffer = source.buffer
        if buffer is not None and buffer.last == index and _overlays(fresh, source, stage, tensors):
            buffer.last = end
            return replace(fresh, buffer=buffer)
    return replace(fresh, buffer=Buffer(fresh.bytes, index, end))


def _overlays(fresh: Tensor, source: Tensor, stage: Stage, tensors: Mapping[str, Tensor]) -> bool:
    """Whether each number of `fresh` lies where one of `source` does that no other number needs."""
    same = (fresh.channel_stride, fresh.place_stride, SIZES[fresh.c_type]) == (
        source.channel_stride,
        source.place_stride,
        SIZES[source.c_type],
    )
    elsewhere = [tensors[name] for name in stage.around]  # read at other places than those written
    elsewhere += [t for name in stage.beside if (t := tensors[name]) is not source]
    return same and all(other.buffer is not source.buffer for other in elsewhere)


def _numbers(network: Network, last: Output | Argmax) -> TensorType:
    """What a network ends in: classes, or x M + B before the shift."""
    kind = network.types[last.name]
    if isinstance(last, Argmax):
        return kind
    bound = sum_bound(last, [network.types[last.input]])
    return replace(kind, low=-bound, high=bound)


def sum_bound(step: Affine | Add | Output, sources: Sequence[TensorType]) -> int:
    """The largest magnitude of x1 M1 + x2 M2 + ... + B."""
    rows = step.multiplier if isinstance(step, Add) else step.multiplier[None]
    bound = np.abs(step.offset).astype(object)
    for row, source in zip(rows, sources, strict=True):
        bound = bound + np.abs(row).astype(object) * source.bound
    return int(bound.max())
