"""The graph of a model, read by torch.fx, and the folds found in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn

from bitwright.errors import InvalidValueError
from bitwright.nn.fold import Fold
from bitwright.nn.layers import ComputeLayer
from bitwright.nn.norm import BatchNorm1d, BatchNorm2d

POSITIONAL = (nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)
"""Modules that in eval only move elements, or do nothing."""
MONOTONE = (nn.ReLU, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d)
"""Modules that commute with rounding to a grid."""


class UntraceableError(InvalidValueError):
    """The model's forward has control flow that torch.fx cannot follow."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(("torch.nn.", "bitwright."))


def trace(model: nn.Module) -> fx.Graph:
    """The graph of one forward pass; our modules and torch's are its leaves."""
    if _Tracer().is_leaf_module(model, "") and not list(model.children()):
        raise UntraceableError(
            "a single layer has no graph", got=type(model).__name__, fix="wrap it in nn.Sequential"
        )
    try:
        return _Tracer().trace(model)
    except Exception as error:  # fx raises whatever the traced code raises
        raise UntraceableError(
            "the forward pass can be traced by torch.fx",
            got=f"{type(error).__name__}: {error}",
            where=type(model).__name__,
            fix="remove control flow that depends on tensor values",
        ) from error


def is_flatten(node: fx.Node) -> bool:
    """Whether the node is flatten(x, 1), as a function or a method."""
    function = node.op == "call_function" and node.target is torch.flatten
    method = node.op == "call_method" and node.target == "flatten"
    if not (function or method):
        return False
    start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
    return (start, end) == (1, -1)


def describe(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """A node in words: "relu1 (ReLU)" or "function add"."""
    if node.op == "call_module":
        return f"{node.target} ({type(modules[str(node.target)]).__name__})"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    return f"{node.op.removeprefix('call_')} {name}"


@dataclass(frozen=True)
class Link:
    """One compute layer's way to its consumer, or why it has none."""

    layer: str
    path: tuple[fx.Node, ...] = ()
    """The nodes between the layer and its consumer, norm included."""
    consumer: fx.Node | None = None
    problem: str | None = None


def links(model: nn.Module, graph: fx.Graph) -> list[Link]:
    """For each compute layer in execution order: what lies between it and what consumes its codes."""
    modules = dict(model.named_modules())
    # one module may be reached by several names, and be called several times
    called = [modules[str(node.target)] for node in graph.nodes if node.op == "call_module"]
    repeated = {module for module, count in Counter(called).items() if count > 1}
    return [
        _follow(node, modules, repeated)
        for node in graph.nodes
        if node.op == "call_module" and isinstance(modules[str(node.target)], ComputeLayer)
    ]


def _follow(start: fx.Node, modules: dict[str, nn.Module], repeated: set[nn.Module]) -> Link:
    layer = str(start.target)
    path: list[fx.Node] = []
    seen_norm = seen_clip = False
    node = start
    while True:
        users = list(node.users)
        if node.op == "call_module" and modules[str(node.target)] in repeated:
            return Link(layer, problem=f"{node.target} is called more than once")
        if len(users) != 1:
            return Link(layer, problem=f"its result feeds {len(users)} operations, not one")
        node = users[0]
        if node.op == "output":
            if seen_clip:
                return Link(layer, problem="a clip or pool lies between it and the network's output")
            return Link(layer, tuple(path), node)
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, ComputeLayer):
            if module.slots.of("forward.activation") is None:
                return Link(layer, problem=f"{node.target} takes float activations")
            return Link(layer, tuple(path), node)
        if isinstance(module, BatchNorm1d | BatchNorm2d):
            if seen_norm or not _only_pools(path, modules):
                return Link(layer, problem=f"{node.target} is not directly behind it")
            seen_norm, seen_clip = True, False
        elif isinstance(module, MONOTONE):
            seen_clip = True
        elif not (isinstance(module, POSITIONAL) or is_flatten(node)):
            return Link(layer, problem=f"{describe(node, modules)} follows it")
        path.append(node)


def _only_pools(path: list[fx.Node], modules: dict[str, nn.Module]) -> bool:
    """Whether the channels and the order of the values are as the layer left them."""
    kept = (nn.MaxPool1d, nn.MaxPool2d, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)
    return all(isinstance(modules.get(str(node.target)), kept) for node in path)


def link_folds(model: nn.Module) -> list[Link]:
    """Give each compute layer, and the norm behind it, their `Fold`; returns the links it found."""
    graph = trace(model)
    modules = dict(model.named_modules())
    found = links(model, graph)
    for link in found:
        layer = modules[link.layer]
        assert isinstance(layer, ComputeLayer)
        layer.fold = None
        if link.problem is not None or link.consumer is None:
            continue
        norms = [modules[str(n.target)] for n in link.path if n.op == "call_module"]
        norm = next((m for m in norms if isinstance(m, BatchNorm1d | BatchNorm2d)), None)
        # the graph's end is named "output", and so may a layer be
        target = modules.get(str(link.consumer.target)) if link.consumer.op == "call_module" else None
        consumer = target.slots.of("forward.activation") if isinstance(target, ComputeLayer) else None
        layer.fold = Fold(layer, norm, consumer)
        if norm is not None:
            norm.fold = layer.fold
    return found
