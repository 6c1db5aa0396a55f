"""The graph of a model, read by torch.fx: what makes numbers, and what reads them.

A *source* makes numbers: a compute layer, an embedding, an add, an average pool, a concat, a norm, the
model's input. What lies behind it moves numbers or commutes with rounding (`TRANSPARENT`), up to its readers:
slots, norms, the output. A norm that alone reads a layer, add or pool is folded into that source; any other
norm takes codes.

All slots with one spec that read one source share one quantiser. Of the quantisers that remain, the source
rounds to its *primary*, the one with the most bits (signed before unsigned, then the first to run); every
other slot makes its codes of the primary's.

A module that we do not know, or that is named so, is a *float island*: integers end in front of it with
values, and what it gives is an input anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from bitwright.errors import InvalidValueError
from bitwright.nn.embedding import Embedding
from bitwright.nn.joins import Add, Concat, Join, Pool, Shortcut, Transpose
from bitwright.nn.layers import ComputeLayer
from bitwright.nn.norm import BatchNorm1d, BatchNorm2d
from bitwright.quantize import Quantizer

POSITIONAL = (
    nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity, nn.ZeroPad2d, Shortcut, Transpose,
)  # fmt: skip
"""Modules that in eval only move elements, add zeros, or do nothing."""
MONOTONE = (
    nn.ReLU, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
"""Modules that commute with rounding to a grid."""
TRANSPARENT = (*POSITIONAL, *MONOTONE)
Norm = BatchNorm1d | BatchNorm2d


class UntraceableError(InvalidValueError):
    """The model's forward has control flow that torch.fx cannot follow."""


class _Tracer(fx.Tracer):
    def __init__(self, islands: Collection[str]) -> None:
        super().__init__()
        self.islands = islands

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or module_qualified_name in self.islands


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one operation to us: torch's own, and ours."""
    ours = type(module).__module__.startswith(("torch.nn.", "bitwright.nn."))
    return ours and not isinstance(module, nn.Sequential)


def trace(model: nn.Module, islands: Collection[str] = ()) -> fx.Graph:
    """The graph of one forward pass; our modules, torch's and the named ones are its leaves."""
    if is_leaf(model):
        raise UntraceableError(
            "a single layer has no graph", got=type(model).__name__, fix="wrap it in nn.Sequential"
        )
    try:
        return _Tracer(islands).trace(model)
    except Exception as error:  # fx raises whatever the traced code raises
        raise UntraceableError(
            "the forward pass can be traced by torch.fx",
            got=f"{type(error).__name__}: {error}",
            where=type(model).__name__,
            fix="remove control flow that depends on tensor values",
        ) from error


def describe(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """A node in words: "relu1 (ReLU)" or "function add"."""
    if node.op == "call_module":
        return f"{node.target} ({type(modules[str(node.target)]).__name__})"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    return f"{node.op.removeprefix('call_')} {name}"


def is_argmax(node: fx.Node) -> bool:
    """Whether the node is the model's output, x.argmax(1)."""
    if node.target not in (torch.argmax, "argmax") or [user.op for user in node.users] != ["output"]:
        return False
    given = [*node.args[1:], *node.kwargs.values()]
    return given == [1]


@dataclass(frozen=True)
class Reader:
    """What reads a source: an operand of a module, a norm, the model's output, or something unknown."""

    node: fx.Node
    path: tuple[fx.Node, ...]
    """The transparent nodes between the source and it."""
    operand: str | None = None
    """Of a module with slots."""


@dataclass(frozen=True)
class Source:
    """A node that makes numbers, and what becomes of them.

    Args:
        node: a module's call, or the model's input.
        readers: in execution order.
        norm: the norm that is folded into it, and reads it alone.
        primary: the quantiser on whose grid its numbers are in eval; None where they leave the model, go
            through the norm, or cannot be integers.
        problem: why they cannot.
    """

    node: fx.Node
    readers: tuple[Reader, ...]
    norm: fx.Node | None = None
    primary: Quantizer | None = None
    problem: str | None = None


class ModelGraph:
    """A traced model and its sources.

    Args:
        model: with our modules in it.
        islands: names of modules that stay in float.

    Raises:
        UntraceableError: torch.fx cannot follow it.
    """

    def __init__(self, model: nn.Module, islands: Collection[str] = ()) -> None:
        self.islands = frozenset(islands)
        self.graph = trace(model, self.islands)
        self.modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        called = [m for node in self.graph.nodes if (m := self.module(node)) is not None]
        # one module may be reached by several names, and be called several times
        self._repeated = {module for module, count in Counter(called).items() if count > 1}
        self.live = _live(self.graph)
        self.readers: dict[fx.Node, list[Reader]] = {}
        for node in self.graph.nodes:
            if not self.is_transparent(node):
                for operand, tensor in self.operands(node):
                    root, path = self.root(tensor)
                    self.readers.setdefault(root, []).append(Reader(node, path, operand))
        self.sources: dict[fx.Node, Source] = {}
        for node in self.graph.nodes:
            made = self.module(node)
            if self.is_input(node) or isinstance(made, ComputeLayer | Embedding | Join | Norm):
                self.sources[node] = self._source(node)
        self.floating = self._floating()
        """Nodes that run in float, with the island in front of them or behind."""

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def is_transparent(self, node: fx.Node) -> bool:
        """Whether the numbers pass this node with at most their places and their ends changed."""
        return isinstance(self.module(node), TRANSPARENT) and str(node.target) not in self.islands

    def is_island(self, node: fx.Node) -> bool:
        """Whether a node is a module of one tensor that computes in float."""
        module = self.module(node)
        if module is None or len(_tensors(node)) != 1:
            return False
        known = self.is_transparent(node) or isinstance(module, ComputeLayer | Embedding | Join | Norm)
        return not known or str(node.target) in self.islands

    def is_norm(self, node: fx.Node) -> bool:
        """Whether a node is a norm that integers compute."""
        return isinstance(self.module(node), Norm) and not self.is_island(node)

    def is_input(self, node: fx.Node) -> bool:
        """Whether a node gives floats that slots quantise: the model's input, or an island."""
        return node.op == "placeholder" or self.is_island(node)

    def quantizer(self, reader: Reader) -> Quantizer | None:
        """Of the slot that reads; None for other readers, and where it stays float."""
        module = self.module(reader.node)
        if reader.operand is None or not isinstance(module, ComputeLayer | Join):
            return None
        return module.slots.of(reader.operand)

    def describe(self, node: fx.Node) -> str:
        """The node in words."""
        return describe(node, self.modules)

    # --- reading ----------------------------------------------------------------------------------------

    def operands(self, node: fx.Node) -> Iterator[tuple[str | None, fx.Node]]:
        """(operand, tensor) for each tensor that a node takes; operand None where it has no slots."""
        module = self.module(node)
        for index, tensor in enumerate(_tensors(node)):
            if isinstance(module, ComputeLayer):
                yield "forward.activation", tensor
            elif isinstance(module, Join):
                yield f"{index}.activation", tensor
            else:
                yield None, tensor

    def root(self, node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
        """The node that makes a tensor's numbers, and the transparent ones between."""
        path: list[fx.Node] = []
        while self.is_transparent(node):
            path.append(node)
            (node,) = node.all_input_nodes
        return node, tuple(reversed(path))

    def _source(self, node: fx.Node) -> Source:
        module, readers = self.module(node), tuple(self.readers.get(node, ()))
        if self.is_norm(node) and (problem := self._norm_problem(node)):
            return Source(node, readers, problem=problem)
        problem = self._reader_problem(node, readers)
        if problem is not None:
            return Source(node, readers, problem=problem)
        if isinstance(module, Concat):
            return Source(node, readers, primary=module.slots.of("activation"))
        norms = [reader.node for reader in readers if self.is_norm(reader.node)]
        if self._folds_norm(node, readers):
            return Source(node, readers, norm=norms[0])
        found = [quantizer for reader in readers if (quantizer := self.quantizer(reader)) is not None]
        if norms and not found:
            return Source(node, readers, problem=f"{self.describe(norms[0])} is not directly behind it")
        # max takes the first of equals
        return Source(node, readers, primary=max(found, key=_breadth) if found else None)

    def _folds_norm(self, node: fx.Node, readers: tuple[Reader, ...]) -> bool:
        """Whether one norm reads the node alone, with channels and order of the values as the node left them.

        A max-pool may lie between a layer and its norm, which then evaluates the integers.
        """
        if len(readers) != 1 or not self.is_norm(readers[0].node):
            return False
        kept: tuple[type[nn.Module], ...] = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)
        module = self.module(node)
        if isinstance(module, ComputeLayer):
            kept = (*kept, nn.MaxPool1d, nn.MaxPool2d)
        elif not isinstance(module, Add | Pool):
            return False
        return all(isinstance(self.module(n), kept) for n in readers[0].path)

    def _norm_problem(self, node: fx.Node) -> str | None:
        """Why what a norm takes is neither raw numbers nor codes."""
        source = self.source_of(node)
        if source is None or (source.norm is not node and source.primary is None):
            return "it is not directly behind a layer, an add or a pool, nor takes what a slot takes too"
        return None

    def source_of(self, node: fx.Node) -> Source | None:
        """The source that a node's first tensor comes from, where it is one."""
        root, _ = self.root(node.all_input_nodes[0])
        return self.sources.get(root)

    def _reader_problem(self, node: fx.Node, readers: tuple[Reader, ...]) -> str | None:
        """Why what reads a node's numbers cannot take integers."""
        if self.module(node) in self._repeated and not self.is_input(node):
            return f"{node.target} is called more than once"
        problems = (self._problem_with(node, reader, readers) for reader in readers)
        return next((problem for problem in problems if problem is not None), None)

    def _problem_with(self, node: fx.Node, reader: Reader, readers: tuple[Reader, ...]) -> str | None:
        if (culprit := self._in_place(node, reader)) is not None:
            return f"{self.describe(culprit)} works in place on a tensor that others read"
        if self.is_island(reader.node) or reader.node.op == "output" or is_argmax(reader.node):
            if len(readers) > 1:
                what = reader.node.target if self.is_island(reader.node) else "the network's output"
                return f"its result feeds {what} and other operations"
            return self._end_problem(node, reader)
        module, problem = self.module(reader.node), None
        if module in self._repeated:
            problem = f"{reader.node.target} is called more than once"
        elif isinstance(module, Embedding):
            others = any(not isinstance(self.module(r.node), Embedding) for r in readers)
            if node.op != "placeholder" or reader.path or others:
                problem = f"{reader.node.target} takes tokens: a model's input that only embeddings read"
        elif isinstance(module, ComputeLayer | Join):
            if self.quantizer(reader) is None:
                problem = f"{reader.node.target} takes float activations"
        elif not self.is_norm(reader.node):
            problem = f"{self.describe(reader.node)} follows it"
        return problem

    def _end_problem(self, node: fx.Node, reader: Reader) -> str | None:
        """Why a source's numbers cannot leave the integers: for an island, or as the model's output."""
        island, floats = self.is_island(reader.node), self.is_input(node)
        if floats and (island or (self.is_island(node) and reader.node.op == "output")):
            return None  # floats all the way
        if floats or isinstance(self.module(node), Concat):
            what = f"what {reader.node.target} takes" if island else "the network's output"
            return f"it is {what}, but no result of arithmetic"
        if not island and any(isinstance(self.module(n), (*MONOTONE, Shortcut)) for n in reader.path):
            return "a clip or pool lies between it and the network's output"
        return None

    def _floating(self) -> frozenset[fx.Node]:
        found = (
            reader.path
            for source in self.sources.values()
            for reader in source.readers
            if self.is_island(reader.node) or (self.is_island(source.node) and reader.node.op == "output")
        )
        return frozenset(node for path in found for node in path)

    def _in_place(self, node: fx.Node, reader: Reader) -> fx.Node | None:
        """What changes the source's tensor under other readers' eyes."""
        before = [node]
        for step in reader.path:
            if getattr(self.module(step), "inplace", False) and any(len(n.users) > 1 for n in before):
                return step
            before.append(step)
        return None


def _live(graph: fx.Graph) -> list[fx.Node]:
    """The inputs and what the output depends on, in execution order."""
    wanted: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op in ("output", "placeholder") or node in wanted:
            wanted.update((node, *node.all_input_nodes))
    return [node for node in graph.nodes if node in wanted]


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The nodes among a node's arguments, in order; one may come twice."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _breadth(quantizer: Quantizer) -> tuple[int, bool]:
    form = quantizer.format
    return form.bits, form.code_min < 0 or quantizer.spec.controller.affine
