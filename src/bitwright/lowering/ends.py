"""Where numbers enter the integers and where they leave: inputs, values for islands, scores, an argmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from bitwright import integer
from bitwright.errors import InvalidValueError
from bitwright.formats import UInt
from bitwright.integer import Network, Operation
from bitwright.lowering.builder import Builder, scale_of, zero_point_of
from bitwright.lowering.islands import CHAIN_NOTE, Chain, FloatIsland, chain_notes
from bitwright.nn import Affine, Embedding, ModelGraph

ARGMAX_BOUND = 1 << 23
"""Below it different sums stay different in the float32 that the model compares."""


@dataclass
class Ends:
    """The parts of a chain, each complete when its numbers leave; one part where there are no islands.

    Args:
        zeros: what goes into the present part, as zeros.
        leaving: what maps the numbers that leave the integers next to values, and its layer's name.
    """

    graph: ModelGraph
    build: Builder
    zeros: torch.Tensor
    leaving: tuple[Affine, str] | None = None
    parts: list[list[Operation] | FloatIsland] = field(default_factory=list)

    def enter(self, node: fx.Node, name: str) -> str | None:
        """The operation that makes a part's first codes; none where only an island takes the numbers."""
        source, name, shape = self.graph.sources[node], self.build.free(name), tuple(self.zeros.shape[1:])
        readers = [self.graph.module(reader.node) for reader in source.readers]
        tables = [module for module in readers if isinstance(module, Embedding)]
        quantizer = source.primary
        if tables:
            form = UInt(max(1, max(table.num_embeddings - 1 for table in tables).bit_length()))
            return self.build.append(integer.Input(name, "", shape, form, 1.0))
        if quantizer is not None:
            scale, zero_point = scale_of(quantizer), zero_point_of(quantizer)
            return self.build.append(integer.Input(name, "", shape, quantizer.format, scale, zero_point))
        if node.op == "placeholder" and not any(self.graph.is_island(r.node) for r in source.readers):
            raise InvalidValueError("the input goes to a quantised layer", got="nothing", where=node.name)
        return None

    def island(self, node: fx.Node, held: str | None, turned: bool) -> str | None:
        """The present part ends with the values that the island takes; what it gives enters the next one.

        Args:
            held: the integers in front of it; None where it takes floats as they come.
            turned: whether the model has their channels last.
        """
        if held is not None:
            shape = self.build.types[self.values(held, f"{node.target}.values")].shape
            self.parts.append(self.build.close())
            self.zeros = torch.zeros((1, *(shape[1:] + shape[:1] if turned else shape)))
        _, path = self.graph.root(node.all_input_nodes[0])
        readers = self.graph.sources[node].readers
        behind = [step for reader in readers if reader.node.op == "output" for step in reader.path]
        modules = [self.graph.module(step) for step in (*path, node, *behind)]
        island = FloatIsland.of(str(node.target), [m for m in modules if m is not None], turned)
        self.parts.append(island)
        self.zeros = island.values(self.zeros)
        return self.enter(node, f"{node.target}.codes")

    def values(self, held: str, name: str) -> str:
        """Raw numbers as float32."""
        assert self.leaving is not None
        affine, _ = self.leaving
        # a flatten may have come between: its rows are channels times positions
        repeats = self.build.channels(held) // len(affine.offset)
        spread = np.tile if held in self.build.flattened else np.repeat
        multiplier = spread(affine.multiplier.reshape(-1).numpy(), repeats)
        offset = spread(affine.offset.numpy(), repeats)
        output = integer.Output(self.build.free(name), held, multiplier, offset, affine.shift)
        return self.build.append(output)

    def scores(self, held: str, turned: bool, name: str) -> str:
        """The values that the model returns, in its order of axes."""
        assert self.leaving is not None
        if turned:
            raise InvalidValueError(
                "what leaves the network has its channels in front",
                got="the scores of each position, with channels last",
                where=self.leaving[1],
                fix="return scores.transpose(1, 2); or is the example no batch of the model's inputs?",
            )
        return self.values(held, name)

    def argmax(self, held: str, turned: bool) -> str:
        """Of the scores; of the integers themselves where they are in the scores' order."""
        assert self.leaving is not None
        affine, _ = self.leaving
        multiplier = affine.multiplier.reshape(-1)
        alike = bool((multiplier == multiplier[0]).all()) and int(multiplier[0]) > 0
        exact = self.build.types[held].bound <= ARGMAX_BOUND
        if turned or not alike or not exact or bool(affine.offset.any()):
            held = self.scores(held, turned, "scores")
        return self.build.append(integer.Argmax(self.build.free("output"), held))

    def network(self, meta: Mapping[str, Any]) -> Network | Chain:
        """All parts; of several, each network says which it is."""
        if self.build.operations:
            self.parts.append(self.build.close())
        notes = chain_notes(self.parts)
        if len(notes) == 1:
            notes = [None]
        made = [
            part
            if isinstance(part, FloatIsland)
            else Network(part, meta if note is None else {**meta, CHAIN_NOTE: note})
            for part, note in zip(self.parts, notes, strict=True)
        ]
        return made[0] if len(made) == 1 and isinstance(made[0], Network) else Chain(made, meta)
