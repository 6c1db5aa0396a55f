"""What is done with a model's graph: shared quantisers, folds, and whose codes a slot takes."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx, nn

from bitwright.formats import Block
from bitwright.nn.embedding import Embedding, Rows
from bitwright.nn.fold import Accumulators, Fold, Levels
from bitwright.nn.graph import ModelGraph, Norm, Source
from bitwright.nn.joins import Add, Concat, Join, Pool
from bitwright.nn.layers import ComputeLayer
from bitwright.nn.slots import Slots
from bitwright.quantize import Quantizer, QuantizerSpec


def share_quantizers(model: nn.Module) -> None:
    """Let slots of one spec that read one source share one quantiser: the first to run.

    A concat's own quantiser counts among the readers of its result, and reads all of its inputs.
    """
    graph = ModelGraph(model)
    parents: dict[Quantizer, Quantizer] = {}

    def first(quantizer: Quantizer) -> Quantizer:
        while quantizer in parents:
            quantizer = parents[quantizer]
        return quantizer

    readers = [reader for found in graph.readers.values() for reader in found]
    position = {node: place for place, node in enumerate(graph.graph.nodes)}
    readers.sort(key=lambda reader: position[reader.node])
    order = {graph.quantizer(reader): place for place, reader in reversed(list(enumerate(readers)))}
    for node, found in graph.readers.items():
        made = graph.module(node)
        quantizers = [graph.quantizer(reader) for reader in found]
        if isinstance(made, Concat):
            quantizers.append(made.slots.of("activation"))
        groups: dict[QuantizerSpec, Quantizer] = {}
        for quantizer in quantizers:
            # blocks run along each product's own axis
            if quantizer is None or isinstance(quantizer.format, Block):
                continue
            pair = first(quantizer), first(groups.setdefault(quantizer.spec, quantizer))
            one, other = sorted(pair, key=order.__getitem__)
            if one is not other:
                parents[other] = one
    for holder in model.modules():
        if isinstance(holder, Slots):
            holder.merge(first)


def link_folds(model: nn.Module, islands: Collection[str] = ()) -> ModelGraph:
    """Give every source its `Fold`, and every slot that reads another quantiser's codes that quantiser.

    `islands` names modules that stay in float, beside those that we do not know.
    """
    graph = ModelGraph(model, islands)
    for found in model.modules():
        if isinstance(found, Concat):
            found.integers = False
        elif isinstance(found, ComputeLayer | Embedding | Join | Norm):
            found.fold = None
        if isinstance(found, Slots):
            found.primaries = {}
    codes: set[fx.Node] = set()
    """Sources whose numbers are the primary's codes in eval."""
    for node, source in graph.sources.items():
        fold = None if source.problem is not None else _fold(graph, source, codes)
        primary = source.primary
        rounded = fold is not None and fold.problem is None
        if graph.is_input(node) or isinstance(graph.module(node), Concat):
            rounded = source.problem is None
        if primary is None or not rounded or not primary.format.integral:
            continue
        codes.add(node)
        made = graph.module(node)
        if isinstance(made, Concat):
            made.integers = True
        for reader in source.readers:
            module, quantizer = graph.module(reader.node), graph.quantizer(reader)
            if quantizer is not None and quantizer is not primary and quantizer.format.integral:
                assert isinstance(module, ComputeLayer | Join)
                module.slots.primaries[str(reader.operand)] = primary
    return graph


def _fold(graph: ModelGraph, source: Source, codes: set[fx.Node]) -> Fold | None:
    """The fold that ends at this source's readers, handed to the modules that evaluate it."""
    node, module = source.node, graph.module(source.node)
    if graph.is_island(node):
        return None
    if isinstance(module, Norm):
        before = graph.source_of(node)
        assert before is not None
        if before.norm is not node:  # it takes codes
            if before.node in codes:
                module.fold = Fold(Levels(str(node.target), [before.primary]), module, source.primary)
            return module.fold
        return _source_fold(graph.module(before.node), module, source.primary)
    return None if source.norm is not None else _source_fold(module, None, source.primary)


def _source_fold(module: nn.Module | None, norm: Norm | None, consumer: Quantizer | None) -> Fold | None:
    if isinstance(module, ComputeLayer):
        module.fold = Fold(Accumulators(module), norm, consumer)
    elif isinstance(module, Embedding):
        module.fold = Fold(Rows(module), None, consumer)
    elif isinstance(module, Add | Pool):
        slots = module.slots
        places = range(2 if isinstance(module, Add) else 1)
        quantizers = [slots.of(f"{place}.activation") for place in places]
        module.fold = Fold(Levels(slots.layer, quantizers), norm, consumer, by_norm=False)
    else:  # codes: an input, or a concat
        return None
    if norm is not None:
        norm.fold = module.fold
    return module.fold
