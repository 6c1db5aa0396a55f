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
from bitwright.formats import Binary, Int, Rounding, Ternary, UInt, twin
from bitwright.integer import Codes, Network, Operation, TensorType
from bitwright.lowering.thresholds import find_thresholds
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

THRESHOLD_BITS = 4
"""Codes of up to this many bits are made by thresholds, wider ones by an affine map and a rounding."""
ARGMAX_BOUND = 1 << 23
"""Below it different sums stay different in the float32 that the model compares."""


@dataclass(frozen=True)
class Lowered:
    """A network, and where the model's own tensors are in it.

    Args:
        network: the integer network.
        slots: (layer, operand) -> tensor that its consumer takes.
        accumulator: (layer, tensor) of the last accumulator; None where several numbers leave the model.
        turned: the slots whose channels the model has last, [N, ..., C], and the network first.
        pads: layer -> (left, right, top, bottom), zeros that a module pads in front of its slot, and the
            network in its convolution.
    """

    network: Network
    slots: Mapping[tuple[str, str], str]
    accumulator: tuple[str, str] | None
    turned: Collection[tuple[str, str]]
    pads: Mapping[str, tuple[int, ...]]


def emit(graph: ModelGraph, input_shape: tuple[int, ...], meta: Mapping[str, Any]) -> Lowered:
    """The network of a checked model whose folds are linked, in eval mode."""
    emitter = _Emitter(graph, input_shape)
    for node in graph.live:
        emitter.node(node)
    network = Network(emitter.operations, meta)
    return Lowered(network, emitter.slots, emitter.accumulator, emitter.turned, emitter.pads)


@dataclass
class _Emitter:
    graph: ModelGraph
    input_shape: tuple[int, ...]
    operations: list[Operation] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    held: dict[fx.Node, str] = field(default_factory=dict)
    """Node -> the tensor that holds its integers: levels of its source's primary, or raw numbers."""
    slots: dict[tuple[str, str], str] = field(default_factory=dict)
    last: set[fx.Node] = field(default_factory=set)
    """Nodes whose channels, first here, are the model's last axis."""
    turns: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    """(tensor, axes) -> the same numbers with the axes in that order."""
    turned: set[tuple[str, str]] = field(default_factory=set)
    flattened: set[str] = field(default_factory=set)
    """Vectors made of tensors whose channels the model has last."""
    pads: dict[str, tuple[int, ...]] = field(default_factory=dict)
    requantized: dict[tuple[str, Quantizer], str] = field(default_factory=dict)
    leaving: tuple[Affine, str] | None = None
    """What maps the numbers that leave the model to values, and its layer's name."""
    accumulator: tuple[str, str] | None = None

    def node(self, node: fx.Node) -> None:
        module = self.graph.module(node)
        if node.op == "placeholder":
            self.held[node] = self._input(node)
        elif node.op == "output":
            self._output(node)
        elif is_argmax(node):
            self.held[node] = self._argmax(node)
        elif isinstance(module, ComputeLayer):
            self.held[node] = self._product(node, module)
        elif isinstance(module, Embedding):
            self.held[node] = self._embedding(node, module)
        elif isinstance(module, Add):
            self.held[node] = self._add(node, module)
        elif isinstance(module, Concat):
            parts = self._operands(node, module, last=False)
            self.held[node] = self._append(integer.Concat(self._name(node), tuple(parts)))
        elif isinstance(module, Pool):
            self.held[node] = self._pool(node, module)
        elif isinstance(module, Norm):
            self.held[node] = self._norm(node, module)
        else:
            self.held[node] = self._transparent(node, module)

    # --- names and types ------------------------------------------------------------------------------

    def _name(self, node: fx.Node) -> str:
        """The module's; a further call of the same module is counted."""
        name = str(node.target)
        return name if name not in self.types else self._free(f"{name}_1")

    def _free(self, name: str) -> str:
        """`name`, with an underscore for each layer or tensor that is called so too."""
        while name in self.graph.modules or name in self.types:
            name += "_"
        return name

    def _append(self, operation: Operation) -> str:
        try:
            made = operation.infer(*(self.types[name] for name in operation.inputs))
        except InvalidValueError as error:
            raise InvalidValueError(
                str(error), where=operation.name, fix="does the example have the model's input shape?"
            ) from error
        self.types[operation.name] = made
        self.operations.append(operation)
        return operation.name

    # --- the order of axes ----------------------------------------------------------------------------

    def _turn(self, name: str, is_last: bool, last: bool) -> str:
        """The same numbers with the axis that is last in the model as channels, or the first behind the batch."""
        rank = len(self.types[name].shape)
        if rank == 1 or is_last == last:
            return name
        front, back = (rank - 1, *range(rank - 1)), (*range(1, rank), 0)
        axes, inverse = (front, back) if last else (back, front)
        if (name, axes) not in self.turns:
            turn = self._append(integer.Transpose(self._free(f"{name}.transpose"), name, axes))
            self.turns[name, axes], self.turns[turn, inverse] = turn, name
        return self.turns[name, axes]

    def _first(self, node: fx.Node) -> str:
        """A node's tensor in the model's order of axes."""
        return self._turn(self.held[node], node in self.last, last=False)

    # --- ends -----------------------------------------------------------------------------------------

    def _input(self, node: fx.Node) -> str:
        source = self.graph.sources[node]
        tables = [
            module for r in source.readers if isinstance(module := self.graph.module(r.node), Embedding)
        ]
        if tables:
            form = UInt(max(1, max(table.num_embeddings - 1 for table in tables).bit_length()))
            return self._append(integer.Input(self._free("input"), "", self.input_shape, form, 1.0))
        quantizer = source.primary
        if quantizer is None:
            raise InvalidValueError("the input goes to a quantised layer", got="nothing", where=node.name)
        return self._append(
            integer.Input(
                self._free("input"),
                "",
                self.input_shape,
                quantizer.format,
                _scale(quantizer),
                zero_point=_zero_point(quantizer),
            )
        )

    def _output(self, node: fx.Node) -> None:
        tensors = node.all_input_nodes
        if len(tensors) != 1 or node.args[0] is not tensors[0]:
            raise InvalidValueError("a network has one output", got=str(node.args[0]))
        if is_argmax(tensors[0]):
            return
        assert self.leaving is not None
        affine, affine_layer = self.leaving
        name = self.held[tensors[0]]
        if tensors[0] in self.last and len(self.types[name].shape) > 1:
            raise InvalidValueError(
                "what leaves the network has its channels in front",
                got=f"the scores of each position, with channels last, of {affine_layer}",
                where=name,
                fix="return scores.transpose(1, 2); or is the example no batch of the model's inputs?",
            )
        # a flatten may have come between: its rows are channels times positions
        repeats = self.types[name].shape[0] // len(affine.offset)
        spread = np.tile if name in self.flattened else np.repeat
        multiplier, offset = (
            spread(t.numpy(), repeats) for t in (affine.multiplier.reshape(-1), affine.offset)
        )
        self._append(integer.Output(self._free("output"), name, multiplier, offset, affine.shift))

    def _argmax(self, node: fx.Node) -> str:
        assert self.leaving is not None
        affine, layer = self.leaving
        name = self.held[node.all_input_nodes[0]]
        multiplier = affine.multiplier.reshape(-1)
        alike = bool((multiplier == multiplier[0]).all()) and int(multiplier[0]) > 0
        if not alike or bool(affine.offset.any()) or self.types[name].bound > ARGMAX_BOUND:
            raise InvalidValueError(
                "an argmax is taken of sums below 2^23 with one positive slope for all and no offset",
                got=f"slopes {multiplier.min()} to {multiplier.max()}, "
                f"offsets up to {affine.offset.abs().max()}, sums up to {self.types[name].bound}",
                where=layer,
                fix="return the scores, and take their argmax outside",
            )
        return self._append(integer.Argmax(self._free("output"), name))

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
            made = self._append(integer.Linear(name, source, weight))
        elif isinstance(geometry, ConvGeometry):
            slides = _window(geometry, self.pads.get(layer.slots.layer))
            made = self._append(integer.Conv(name, source, weight, *slides))
        else:
            what, more = _window(geometry.conv), geometry.output_padding
            made = self._append(integer.ConvTranspose(name, source, weight, *what, more))
        fold = layer.fold
        assert fold is not None
        assert isinstance(fold.source, Accumulators)
        if fold.consumer is None:
            self.accumulator = (layer.slots.layer, made)
            if last:
                self.turned.add((layer.slots.layer, "accumulator"))
        return made if fold.by_norm else self._round(fold, fold.source.line(), [made], name)

    def _embedding(self, node: fx.Node, module: Embedding) -> str:
        tokens, name = self.held[node.all_input_nodes[0]], self._name(node)
        if self.types[tokens].high >= module.num_embeddings:
            known = integer.Clip(self._free(f"{name}.clip"), tokens, 0, module.num_embeddings - 1)
            tokens = self._append(known)
        rows = self._append(integer.Embedding(name, tokens, stored_weight(module)))
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
        shape = self.types[self.held[node.all_input_nodes[0]]].shape
        last = isinstance(module, GlobalAvgPool) and module.channels_last(len(shape) + 1)
        (source,) = self._operands(node, module, last)
        size, name, fold = self.types[source].shape[1:], self._name(node), module.fold
        assert fold is not None
        assert isinstance(fold.source, Levels)
        if isinstance(module, GlobalAvgPool) and not module.covers(len(size) + 2):
            raise InvalidValueError(
                "a mean is taken over all positions", got=f"axes {module.dims} of {size}", where=name
            )
        what = window(module, size)
        sums = self._append(integer.AvgPool(name, source, what.kernel, what.stride, what.padding))
        line = fold.source.line(math.prod(what.kernel), what.divisor)
        if fold.consumer is None:
            self.accumulator = (module.slots.layer, sums)
        made = self._round(fold, line, [sums], name)
        return (
            made
            if not isinstance(module, GlobalAvgPool) or module.keepdim
            else self._flat(made, name, len(self.types[made].shape))
        )

    def _norm(self, node: fx.Node, norm: Norm) -> str:
        fold, held = norm.fold, self.held[node.all_input_nodes[0]]
        assert fold is not None
        if not fold.by_norm:
            return held
        last = node.all_input_nodes[0] in self.last
        if last and len(self.types[held].shape) > 1 and isinstance(fold.source, Accumulators):
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
            self._turn(self._operand(tensor, module, operand), tensor in self.last, last)
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
        elif self.types[name].format is None and not isinstance(module, Add):
            name = self._as_codes(name, quantizer, place)
        self.slots[slots.layer, operand] = name
        if tensor in self.last and len(self.types[name].shape) > 1:
            self.turned.add((slots.layer, operand))
        return name

    def _as_codes(self, name: str, quantizer: Quantizer, place: str) -> str:
        """Levels that a shortcut's convolution moved, as codes again; a clipped binary stays what it is."""
        if isinstance(quantizer.format, Binary):
            return name
        channels = self.types[name].shape[0]
        ones, zeros = np.ones(channels, np.int64), np.zeros(channels, np.int64)
        form, zero_point = quantizer.format, _zero_point(quantizer)
        affine = integer.Affine(
            self._free(f"{place}.affine"), name, ones, zeros, 0, form, Rounding.NEAREST_EVEN, zero_point
        )
        return self._append(affine)

    # --- from raw numbers to codes --------------------------------------------------------------------

    def _round(self, fold: Fold, line: Line, inputs: Sequence[str], name: str) -> str:
        """Raw numbers on `line` to the consumer's codes. Those that leave the model stay as they are."""
        affine = fold.affine(line)
        channels = self.types[inputs[0]].shape[0]
        multiplier = np.ascontiguousarray(
            affine.multiplier.expand(len(inputs), channels).numpy().astype(np.int64)
        )
        offset = np.ascontiguousarray(affine.offset.expand(channels).numpy().astype(np.int64))
        quantizer, shift = fold.consumer, affine.shift
        if len(inputs) > 1 and (quantizer is None or isinstance(quantizer.format, Binary)):
            # the exact sum, as integers of 32 bits
            total = integer.Add(name, tuple(inputs), multiplier, offset, 0, Int(32), Rounding.NEAREST_EVEN)
            inputs = [self._append(total)]
            multiplier, offset = np.ones((1, channels), np.int64), np.zeros(channels, np.int64)
        if quantizer is None:
            self.leaving = (
                Affine(torch.from_numpy(multiplier), torch.from_numpy(offset), shift),
                fold.source.name,
            )
            return inputs[0]
        form, rounding, zero_point = quantizer.format, eval_rounding(quantizer), _zero_point(quantizer)
        if len(inputs) > 1:
            return self._append(
                integer.Add(name, tuple(inputs), multiplier, offset, shift, form, rounding, zero_point)
            )
        if form.bits <= THRESHOLD_BITS:
            thresholds, direction = find_thresholds(
                multiplier[0], offset, shift, form, rounding, self.types[inputs[0]].bound, zero_point
            )
            return self._append(
                integer.Threshold(
                    self._free(f"{name}.threshold"), inputs[0], thresholds, direction, form, zero_point
                )
            )
        return self._append(
            integer.Affine(
                self._free(f"{name}.affine"),
                inputs[0],
                multiplier[0].copy(),
                offset,
                shift,
                form,
                rounding,
                zero_point,
            )
        )

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
            return self._append(integer.MaxPool(name, self._first(before), *numbers))
        if isinstance(module, nn.Flatten):
            return self._flatten(node, module, name)
        if isinstance(module, Shortcut):
            held = self._first(before)
            channels = self.types[held].shape[0]
            identity = np.eye(module.before + channels + module.after, channels, -module.before, np.int64)
            weight = Codes.pack(Ternary(), identity[:, :, None, None])
            return self._append(integer.Conv(name, held, weight, (module.stride,) * 2, (0, 0)))
        last = before in self.last
        if isinstance(module, Transpose):
            if len(self.types[held].shape) != 2:
                raise InvalidValueError(
                    "a transpose(1, 2) is of positions and channels",
                    got=f"a tensor of {len(self.types[held].shape) + 1} axes",
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
        rank = len(self.types[held].shape)
        axes = module.end_dim if module.end_dim > 0 else module.end_dim + 1 + rank  # how many become one
        if before not in self.last or rank == 1:
            return self._flat(held, name, axes)
        if axes < rank:
            raise InvalidValueError(
                "a flatten takes the channels, which the model has last, too",
                got=f"end_dim={axes}",
                where=name,
            )
        made = self._flat(self._first(before), name, axes)
        self.flattened.add(made)
        return made

    def _flat(self, held: str, name: str, axes: int) -> str:
        """The first axes as one."""
        shape = self.types[held].shape
        if len(shape) == 1:
            return held
        name = name if name not in self.types else self._free(f"{name}.flatten")
        return self._append(integer.Reshape(name, held, (math.prod(shape[:axes]), *shape[axes:])))

    def _clip(self, node: fx.Node, held: str, low: float, high: float) -> str:
        """Bounds of values -> bounds of codes: rounding is monotone, so clipping commutes with it."""
        source = self.graph.source_of(node)
        assert source is not None
        quantizer = source.primary
        assert quantizer is not None
        scale = quantizer.current_scale()
        # in the type of the values that `grid_values` hands on
        real = torch.float32 if scale is None and not quantizer.format.wide else torch.float64
        if source.node.op == "placeholder":
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
        if first > self.types[held].low or last < self.types[held].high:
            return self._append(integer.Clip(self._name(node), held, first, last))
        return held


def stored_weight(layer: ComputeLayer | Embedding) -> Codes:
    """The codes of a layer's weight, as its quantiser makes them in eval, with the output channel first.

    Of an embedding: its rows.
    """
    quantizer = layer.slots.of("forward.weight")
    assert quantizer is not None
    form, numbers = quantizer.format, quantizer(layer.weight.detach().cpu()).levels
    codes = numbers if form.integral else form.encode(numbers)
    rows = codes if isinstance(layer, Embedding) else layer.geometry.by_output(codes)
    return Codes.pack(form, rows.numpy().astype(np.int64))


def _scale(quantizer: Quantizer) -> float:
    scale = quantizer.current_scale()
    return 1.0 if scale is None else float(scale)


def _zero_point(quantizer: Quantizer) -> int:
    zero_point = quantizer.current_zero_point()
    return 0 if zero_point is None else int(zero_point)


def _window(
    conv: ConvGeometry, zeros: tuple[int, ...] | None = None
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Stride, padding, dilation and groups of an integer convolution, with what a module in front pads."""
    padding = conv.padding
    if zeros is not None:
        left, right, top, bottom = zeros
        own = padding if len(padding) == 4 else (padding[0], padding[0], padding[1], padding[1])
        padding = (own[0] + top, own[1] + bottom, own[2] + left, own[3] + right)
    return conv.stride, padding, conv.steps, conv.groups
