"""Operation by operation: the integers that a model's modules compute in eval, written as a network."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from bitwright import integer
from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Rounding, Ternary, twin
from bitwright.integer import Codes, Network
from bitwright.lowering.builder import Builder, zero_point_of
from bitwright.lowering.ends import Ends
from bitwright.lowering.islands import Chain
from bitwright.lowering.weights import stored_weight, window_of
from bitwright.nn import (
    Accumulators,
    Add,
    Affine,
    ComputeLayer,
    Concat,
    ConvGeometry,
    Embedding,
    Fold,
    GlobalAvgPool,
    Join,
    Levels,
    Line,
    LinearGeometry,
    ModelGraph,
    Norm,
    Pool,
    Rows,
    Shortcut,
    Transpose,
    eval_rounding,
    is_argmax,
    requantizing,
    window,
)
from bitwright.quantize import Quantizer


@dataclass(frozen=True)
class Lowered:
    """A network, and where the model's own tensors are in it.

    Args:
        network: the integer network; a chain where the model has float islands.
        slots: (layer, operand) -> tensor that its consumer takes.
        accumulators: layer -> tensor, of layers and pools whose numbers leave the integers.
        turned: the slots whose channels the model has last, [N, ..., C], and the network first; and layers of
            such accumulators.
        pads: layer -> (left, right, top, bottom), zeros that a module pads in front of its slot, and the
            network in its convolution.
    """

    network: Network | Chain
    slots: Mapping[tuple[str, str], str]
    accumulators: Mapping[str, str]
    turned: Collection[tuple[str, str] | str]
    pads: Mapping[str, tuple[int, ...]]


def emit(graph: ModelGraph, example: torch.Tensor, meta: Mapping[str, Any], argmax: bool = False) -> Lowered:
    """The network of a checked model whose folds are linked, in eval mode.

    Args:
        example: a batch of inputs; of its numbers only the shape counts.
        argmax: whether the network ends in the argmax of the model's scores.
    """
    build = Builder(graph.modules)
    emitter = _Emitter(graph, build, Ends(graph, build, torch.zeros_like(example[:1])), argmax)
    for node in graph.live:
        if node not in graph.floating:
            emitter.node(node)
    network = emitter.ends.network(meta)
    return Lowered(network, emitter.slots, emitter.accumulators, emitter.turned, emitter.pads)


@dataclass
class _Emitter:
    graph: ModelGraph
    build: Builder
    ends: Ends
    argmax: bool
    held: dict[fx.Node, str] = field(default_factory=dict)
    """Node -> the tensor that holds its integers: levels of its source's primary, or raw numbers."""
    last: set[fx.Node] = field(default_factory=set)
    """Nodes whose channels, first here, are the model's last axis."""
    slots: dict[tuple[str, str], str] = field(default_factory=dict)
    turned: set[tuple[str, str] | str] = field(default_factory=set)
    pads: dict[str, tuple[int, ...]] = field(default_factory=dict)
    requantized: dict[tuple[str, Quantizer], str] = field(default_factory=dict)
    accumulators: dict[str, str] = field(default_factory=dict)

    def node(self, node: fx.Node) -> None:
        module = self.graph.module(node)
        if self.graph.is_island(node):
            root, _ = self.graph.root(node.all_input_nodes[0])
            turned = root in self.held and self._is_turned(root)
            self._enter(node, self.ends.island(node, self.held.get(root), turned))
        elif node.op == "placeholder":
            self._enter(node, self.ends.enter(node, "input"))
        elif node.op == "output":
            self._output(node)
        elif is_argmax(node):
            (scores,) = node.all_input_nodes
            self.ends.argmax(self.held[scores], self._is_turned(scores))
        elif isinstance(module, ComputeLayer):
            self.held[node] = self._product(node, module)
        elif isinstance(module, Embedding):
            self.held[node] = self._embedding(node, module)
        elif isinstance(module, Add):
            self.held[node] = self._add(node, module)
        elif isinstance(module, Concat):
            parts = self._operands(node, module, last=False)
            self.held[node] = self.build.append(integer.Concat(self._name(node), tuple(parts)))
        elif isinstance(module, Pool):
            self.held[node] = self._pool(node, module)
        elif isinstance(module, Norm):
            self.held[node] = self._norm(node, module)
        else:
            self.held[node] = self._transparent(node, module)

    def _enter(self, node: fx.Node, made: str | None) -> None:
        if made is not None:
            self.held[node] = made

    def _name(self, node: fx.Node) -> str:
        """The module's; a further call of the same module is counted."""
        name = str(node.target)
        return name if name not in self.build.types else self.build.free(f"{name}_1")

    def _first(self, node: fx.Node) -> str:
        """A node's tensor in the model's order of axes."""
        return self.build.turn(self.held[node], node in self.last, last=False)

    def _is_turned(self, node: fx.Node) -> bool:
        """Whether a node's channels are first here and last in the model."""
        return node in self.last and self.build.rank(self.held[node]) > 1

    def _output(self, node: fx.Node) -> None:
        tensors = node.all_input_nodes
        if len(tensors) != 1 or node.args[0] is not tensors[0]:
            raise InvalidValueError("a network has one output", got=str(node.args[0]))
        (scores,) = tensors
        if is_argmax(scores):
            return
        if self.graph.is_island(self.graph.root(scores)[0]):
            if self.argmax:
                raise InvalidValueError(
                    "an argmax takes the scores of integers", got="those of an island", where=str(scores)
                )
            return
        if self.argmax:
            self.ends.argmax(self.held[scores], self._is_turned(scores))
        else:
            self.ends.scores(self.held[scores], self._is_turned(scores), "output")

    # --- sources --------------------------------------------------------------------------------------

    def _product(self, node: fx.Node, layer: ComputeLayer) -> str:
        last = isinstance(layer, nn.Linear)
        (source,) = self._operands(node, layer, last)
        if last:
            self.last.add(node)
        weight, name, geometry = stored_weight(layer), self._name(node), layer.geometry
        before = self.graph.module(node.all_input_nodes[0])
        if isinstance(before, nn.ZeroPad2d):
            self.pads[layer.slots.layer] = before.padding
        if isinstance(geometry, LinearGeometry):
            made = self.build.append(integer.Linear(name, source, weight))
        elif isinstance(geometry, ConvGeometry):
            slides = window_of(geometry, self.pads.get(layer.slots.layer))
            made = self.build.append(integer.Conv(name, source, weight, *slides))
        else:
            what, more = window_of(geometry.conv), geometry.output_padding
            made = self.build.append(integer.ConvTranspose(name, source, weight, *what, more))
        fold = layer.fold
        assert fold is not None
        assert isinstance(fold.source, Accumulators)
        if fold.consumer is None:
            self.accumulators[layer.slots.layer] = made
            if self.build.rank(made) > 1 and last:
                self.turned.add(layer.slots.layer)
        return made if fold.by_norm else self._round(fold, fold.source.line(), [made], name)

    def _embedding(self, node: fx.Node, module: Embedding) -> str:
        tokens, name = self.held[node.all_input_nodes[0]], self._name(node)
        if self.build.types[tokens].high >= module.num_embeddings:
            known = integer.Clip(self.build.free(f"{name}.clip"), tokens, 0, module.num_embeddings - 1)
            tokens = self.build.append(known)
        rows = self.build.append(integer.Embedding(name, tokens, stored_weight(module)))
        self.last.add(node)
        fold = module.fold
        assert fold is not None
        assert isinstance(fold.source, Rows)
        return self._round(fold, fold.source.line(), [rows], name)

    def _add(self, node: fx.Node, module: Add) -> str:
        fold = module.fold
        assert fold is not None
        assert isinstance(fold.source, Levels)
        last = fold.norm is None and node.all_input_nodes[0] in self.last
        parts = self._operands(node, module, last)
        if last:
            self.last.add(node)
        return self._round(fold, fold.source.line(), parts, self._name(node))

    def _pool(self, node: fx.Node, module: Pool) -> str:
        shape = self.build.types[self.held[node.all_input_nodes[0]]].shape
        last = isinstance(module, GlobalAvgPool) and module.channels_last(len(shape) + 1)
        (source,) = self._operands(node, module, last)
        size, name, fold = self.build.types[source].shape[1:], self._name(node), module.fold
        assert fold is not None
        assert isinstance(fold.source, Levels)
        if isinstance(module, GlobalAvgPool) and not module.covers(len(size) + 2):
            raise InvalidValueError(
                "a mean is taken over all positions", got=f"axes {module.dims} of {size}", where=name
            )
        what = window(module, size)
        sums = self.build.append(integer.AvgPool(name, source, what.kernel, what.stride, what.padding))
        line = fold.source.line(math.prod(what.kernel), what.divisor)
        if fold.consumer is None:
            self.accumulators[module.slots.layer] = sums
        made = self._round(fold, line, [sums], name)
        return (
            made
            if not isinstance(module, GlobalAvgPool) or module.keepdim
            else self.build.flatten(made, name)
        )

    def _norm(self, node: fx.Node, norm: Norm) -> str:
        fold, held = norm.fold, self.held[node.all_input_nodes[0]]
        assert fold is not None
        if not fold.by_norm:
            return held
        last = node.all_input_nodes[0] in self.last
        if last and len(self.build.types[held].shape) > 1 and isinstance(fold.source, Accumulators):
            raise InvalidValueError(
                "a norm behind a linear layer has that layer's channels",
                got="a linear layer over positions, whose channels are last",
                where=str(node.target),
                fix="put a transpose(1, 2) and a Conv1d with kernel 1 in the layer's place",
            )
        held = self._first(node.all_input_nodes[0])
        return self._round(fold, fold.source.line(), [held], fold.source.name)

    def _operands(self, node: fx.Node, module: ComputeLayer | Join, last: bool) -> list[str]:
        """The tensors of codes that a module's slots see; `last`: with the model's last axis as channels."""
        return [
            self.build.turn(self._operand(tensor, module, operand), tensor in self.last, last)
            for operand, tensor in self.graph.operands(node)
            if operand is not None
        ]

    def _operand(self, tensor: fx.Node, module: ComputeLayer | Join, operand: str) -> str:
        slots, name = module.slots, self.held[tensor]
        quantizer, primary = slots.of(operand), slots.primaries.get(operand)
        assert quantizer is not None
        place = f"{slots.layer}.{operand}"
        if primary is not None:
            fold = requantizing(primary, quantizer, place)
            assert isinstance(fold.source, Levels)
            if (name, quantizer) not in self.requantized:
                self.requantized[name, quantizer] = self._round(fold, fold.source.line(), [name], place)
            name = self.requantized[name, quantizer]
        elif self.build.types[name].format is None and not isinstance(module, Add):
            name = self._as_codes(name, quantizer, place)
        self.slots[slots.layer, operand] = name
        if self._is_turned(tensor):
            self.turned.add((slots.layer, operand))
        return name

    def _as_codes(self, name: str, quantizer: Quantizer, place: str) -> str:
        """Levels that a shortcut's convolution moved, as codes again; a clipped binary stays what it is."""
        if isinstance(quantizer.format, Binary):
            return name
        channels = self.build.types[name].shape[0]
        ones, zeros = np.ones(channels, np.int64), np.zeros(channels, np.int64)
        form, zero_point = quantizer.format, zero_point_of(quantizer)
        affine = integer.Affine(
            self.build.free(f"{place}.affine"), name, ones, zeros, 0, form, Rounding.NEAREST_EVEN, zero_point
        )
        return self.build.append(affine)

    def _round(self, fold: Fold, line: Line, inputs: Sequence[str], name: str) -> str:
        """Raw numbers on `line` to the consumer's codes. Those that leave the integers stay as they are."""
        affine = fold.affine(line)
        if fold.consumer is not None:
            return self.build.codes(affine, inputs, fold.consumer, name)
        x, channels = inputs[0], self.build.channels(inputs[0])
        multiplier, offset = affine.multiplier.expand(len(inputs), channels), affine.offset.expand(channels)
        affine = Affine(multiplier, offset, affine.shift)
        if len(inputs) > 1:
            x, affine = self.build.sums(affine, inputs, name)
        self.ends.leaving = (affine, fold.source.name)
        return x

    # --- what lies between ----------------------------------------------------------------------------

    def _transparent(self, node: fx.Node, module: nn.Module | None) -> str:
        before = node.all_input_nodes[0]
        held, name = self.held[before], self._name(node)
        if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
            rank = 1 if isinstance(module, nn.MaxPool1d) else 2
            numbers = (
                (n,) * rank if isinstance(n, int) else tuple(n)
                for n in (module.kernel_size, module.stride, module.padding)
            )
            return self.build.append(integer.MaxPool(name, self._first(before), *numbers))
        if isinstance(module, nn.AdaptiveMaxPool1d | nn.AdaptiveMaxPool2d):
            x = self._first(before)
            size = self.build.types[x].shape[1:]
            return self.build.append(integer.MaxPool(name, x, size, size, (0,) * len(size)))
        if isinstance(module, nn.Flatten):
            return self._flatten(node, module, name)
        if isinstance(module, Shortcut):
            held = self._first(before)
            channels = self.build.types[held].shape[0]
            identity = np.eye(module.before + channels + module.after, channels, -module.before, np.int64)
            weight = Codes.pack(Ternary(), identity[:, :, None, None])
            return self.build.append(integer.Conv(name, held, weight, (module.stride,) * 2, (0, 0)))
        last = before in self.last
        if isinstance(module, Transpose):
            if len(self.build.types[held].shape) != 2:
                raise InvalidValueError(
                    "a transpose(1, 2) is of positions and channels",
                    got=f"a tensor of {len(self.build.types[held].shape) + 1} axes",
                    where=name,
                )
            last = not last
        if last:
            self.last.add(node)
        if isinstance(module, nn.ReLU):
            return self._clip(node, held, 0.0, math.inf)
        if isinstance(module, nn.Hardtanh):
            return self._clip(node, held, module.min_val, module.max_val)
        return held

    def _flatten(self, node: fx.Node, module: nn.Flatten, name: str) -> str:
        """The axes 1 to `end_dim` of a batch as one; among them channels that the model has last."""
        before = node.all_input_nodes[0]
        held = self.held[before]
        rank = len(self.build.types[held].shape)
        axes = module.end_dim if module.end_dim > 0 else module.end_dim + 1 + rank  # how many become one
        if before not in self.last or rank == 1:
            return self.build.flatten(held, name, axes)
        if axes < rank:
            raise InvalidValueError(
                "a flatten takes the channels, which the model has last, too",
                got=f"end_dim={axes}",
                where=name,
            )
        made = self.build.flatten(self._first(before), name, axes)
        self.build.flattened.add(made)
        return made

    def _clip(self, node: fx.Node, held: str, low: float, high: float) -> str:
        """Bounds of values -> bounds of codes: rounding is monotone, so clipping commutes with it."""
        source = self.graph.source_of(node)
        assert source is not None
        quantizer = source.primary
        assert quantizer is not None
        scale = quantizer.current_scale()
        # in the type of the values that `grid_values` hands on
        real = torch.float32 if scale is None and not quantizer.format.wide else torch.float64
        if self.graph.is_input(source.node):
            real = torch.float32
        limits = torch.tensor([low, high], dtype=real)
        bounds = twin.numbers(
            quantizer.format,
            limits,
            scale,
            eval_rounding(quantizer),
            zero_point=quantizer.current_zero_point(),
        )
        first, last = (int(b) for b in bounds)
        if first > self.build.types[held].low or last < self.build.types[held].high:
            return self.build.append(integer.Clip(self._name(node), held, first, last))
        return held
