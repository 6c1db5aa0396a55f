"""Functional operations become named submodules, so that they can have slots: `x + y` -> `self.add(x, y)`.

Each module of the user's is traced alone, its children as leaves. Where its forward contains operations that
we know, it becomes an instance of a subclass of its own class, whose forward is the traced one with calls of
submodules in their place. Names, hooks, parameters and `isinstance` stay; `restore` takes all of it back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bitwright.nn.graph import is_leaf
from bitwright.nn.joins import Add, Concat, GlobalAvgPool, Transpose

_ADDED = "_bitwright_added"
"""Class attribute of a rewritten module: the names of its new submodules."""


class _ChildrenAsLeaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def rewrite(model: nn.Module) -> list[str]:
    """Turn known functional operations of the model's own modules into submodules, in place.

    Returns:
        Why modules were left alone: those whose training and eval mode compute different things. A module
        that cannot be traced is left alone, too.
    """
    notes = []
    for name, module in list(model.named_modules()):
        if not is_leaf(module) and not is_rewritten(module):
            problem = _rewrite(module)
            if problem is not None:
                notes.append(f"{name or type(module).__name__} {problem}")
    return notes


def is_rewritten(module: nn.Module) -> bool:
    """Whether `rewrite` changed this very module."""
    return _ADDED in type(module).__dict__


def restore(model: nn.Module) -> None:
    """Give every rewritten module its own class and forward again."""
    for module in list(model.modules()):
        if is_rewritten(module):
            for name in type(module).__dict__[_ADDED]:
                delattr(module, name)
            module.__class__ = type(module).__bases__[0]


def _rewrite(module: nn.Module) -> str | None:
    """Rewrite one module; returns why not, where that is worth a note."""
    try:
        training, evaluating = (_traced(module, mode) for mode in (True, False))
    except Exception:  # fx raises whatever the traced code raises
        return None
    added = _replace_calls(module, training)
    again = _replace_calls(module, evaluating)
    if not added:
        return None
    # what a submodule computes in each mode is its own affair
    if str(training) != str(evaluating) or repr(added) != repr(again):
        return "computes something else in training than in eval; its functional operations have no slots"
    for name, submodule in added.items():
        module.add_module(name, submodule)
    original = type(module)
    forward = type(fx.GraphModule(module, training)).forward
    members = {"forward": forward, _ADDED: tuple(added), "__module__": original.__module__}
    module.__class__ = type(original.__name__, (original,), members)
    return None


def _traced(module: nn.Module, training: bool) -> fx.Graph:
    before = module.training
    module.training = training  # of this module alone: its children are leaves
    try:
        return _ChildrenAsLeaves().trace(module)
    finally:
        module.training = before


class _Call:
    """A submodule, and the arguments that it is called with."""

    def __init__(self, module: nn.Module, *args: Any) -> None:
        self.module, self.args = module, args


def _replace_calls(module: nn.Module, graph: fx.Graph) -> dict[str, nn.Module]:
    """Replace every known operation in the graph; returns the submodules that it then calls, by name."""
    added: dict[str, nn.Module] = {}
    earlier: set[fx.Node] = set()
    for node in list(graph.nodes):
        earlier.add(node)
        call = None if _disturbs(node, earlier) else _call(node)
        if call is None:
            continue
        base = _BASE_NAMES.get(type(call.module), type(call.module).__name__.lower())
        name, count = base, 0
        while hasattr(module, name) or name in added:
            count += 1
            name = f"{base}_{count}"
        added[name] = call.module
        with graph.inserting_before(node):
            new = graph.create_node("call_module", name, call.args, {}, name)
        earlier.add(new)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if _is_number(node) and not node.users:
            graph.erase_node(node)
    return added


def _disturbs(node: fx.Node, earlier: set[fx.Node]) -> bool:
    """Whether a node works in place on what others may read after it."""
    name = str(getattr(node.target, "__name__", node.target))
    if not (name.endswith("_") or node.kwargs.get("inplace") or node.target is operator.iadd):
        return False
    changed = node.all_input_nodes[0]
    return changed.op == "placeholder" or not earlier.issuperset(changed.users)


_BASE_NAMES: dict[type[nn.Module], str] = {
    Concat: "cat",
    nn.MaxPool1d: "max_pool",
    nn.MaxPool2d: "max_pool",
    nn.AdaptiveMaxPool1d: "max_pool",
    nn.AdaptiveMaxPool2d: "max_pool",
    nn.AvgPool1d: "avg_pool",
    nn.AvgPool2d: "avg_pool",
    nn.AdaptiveAvgPool1d: "avg_pool",
    nn.AdaptiveAvgPool2d: "avg_pool",
    GlobalAvgPool: "mean",
    nn.Dropout2d: "dropout",
}


# --- which operations are known ----------------------------------------------------------------------


def _call(node: fx.Node) -> _Call | None:
    """The submodule that computes what a functional node does; None where it is unknown."""
    if node.op == "call_function":
        read = _FUNCTIONS.get(node.target)
    elif node.op == "call_method":
        read = _METHODS.get(str(node.target))
    else:
        return None
    if read is None or not node.all_input_nodes or _is_number(node.all_input_nodes[0]):
        return None
    try:
        return read(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # arguments that the module does not have
        return None


def _is_number(node: fx.Node) -> bool:
    """Whether a node is a size and no tensor."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel")
    if node.target is operator.getitem or node.target in _ARITHMETIC:
        return any(_is_number(n) for n in node.all_input_nodes)
    return node.target is getattr and str(node.args[1]) in ("shape", "ndim")


_ARITHMETIC = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv)


def _add(input: Any, other: Any, *, alpha: float = 1) -> _Call | None:  # noqa: A002 - torch's name
    both = all(isinstance(x, fx.Node) and not _is_number(x) for x in (input, other))
    return _Call(Add(), input, other) if both and alpha == 1 else None


def _cat(tensors: Any, dim: int = 0, axis: int | None = None) -> _Call | None:
    same = dim if axis is None else axis
    return _Call(Concat(), list(tensors)) if isinstance(tensors, list | tuple) and same == 1 else None


def _relu(input: Any, inplace: bool = False) -> _Call:  # noqa: A002
    return _Call(nn.ReLU(), input)


def _relu6(input: Any, inplace: bool = False) -> _Call:  # noqa: A002
    return _Call(nn.ReLU6(), input)


def _hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Call:  # noqa: A002
    return _Call(nn.Hardtanh(min_val, max_val), input)


def _clamp(input: Any, min: float | None = None, max: float | None = None) -> _Call | None:  # noqa: A002
    if min == 0 and max is None:
        return _relu(input)
    numbers = isinstance(min, int | float) and isinstance(max, int | float)
    return _Call(nn.Hardtanh(float(min), float(max)), input) if numbers and min < max else None  # type: ignore[arg-type,operator]


def _max_pool(kind: type[nn.Module]) -> Callable[..., _Call | None]:
    def read(
        input: Any,  # noqa: A002
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> _Call | None:
        if return_indices:
            return None
        if _any_size(kernel_size, stride, padding):
            line = kind is nn.MaxPool1d
            adaptive = nn.AdaptiveMaxPool1d(1) if line else nn.AdaptiveMaxPool2d(1)
            whole = stride is None and padding == 0 and _is_whole(kernel_size, input, line)
            return _Call(adaptive, input) if whole else None
        module = kind(kernel_size, stride or None, padding, dilation, ceil_mode=ceil_mode)
        return _Call(module, input)

    return read


def _any_size(*settings: Any) -> bool:
    """Whether a pool's settings are sizes of a tensor, which a module cannot hold."""
    found: list[fx.Node] = []
    fx.node.map_arg(settings, found.append)
    return bool(found)


def _is_whole(kernel: Any, x: fx.Node, line: bool) -> bool:
    """Whether a pool's kernel is the size of all positions of x: x.shape[2:], or x.size(2) of a `line`."""
    if not isinstance(kernel, fx.Node):
        return False
    if kernel.target == "size":
        return line and kernel.args[0] is x and kernel.args[1:] in ((2,), (-1,))
    if kernel.target is not operator.getitem:
        return False
    shape, index = kernel.args
    if not isinstance(shape, fx.Node) or shape.args[0] is not x:
        return False
    full = shape.args[1:] == (() if shape.target == "size" else ("shape",))
    known = (2, -1, slice(2, None), slice(-1, None)) if line else (slice(2, None), slice(-2, None))
    return full and index in known


def _avg_pool(kind: type[nn.Module]) -> Callable[..., _Call | None]:
    def read(
        input: Any,  # noqa: A002
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        *args: Any,
        **kwargs: Any,
    ) -> _Call | None:
        if _any_size(kernel_size, stride, padding):
            return None
        return _Call(kind(kernel_size, stride or None, padding, *args, **kwargs), input)

    return read


def _adaptive(kind: type[nn.Module]) -> Callable[..., _Call | None]:
    def read(input: Any, output_size: Any, return_indices: bool = False) -> _Call | None:  # noqa: A002
        return None if return_indices or _any_size(output_size) else _Call(kind(output_size), input)

    return read


def _mean(input: Any, dim: Any = None, keepdim: bool = False) -> _Call | None:  # noqa: A002
    dims = tuple(dim) if isinstance(dim, list | tuple) else (dim,)
    if not all(isinstance(d, int) for d in dims):
        return None
    known: tuple[set[int], ...] = ({2, 3}, {-1, -2}, {2}, {-1})
    if not keepdim:  # with the channels last
        known = (*known, {1}, {1, 2}, {-2})
    return _Call(GlobalAvgPool(dims, keepdim), input) if set(dims) in known else None


def _transpose(input: Any, dim0: int, dim1: int) -> _Call | None:  # noqa: A002
    return _Call(Transpose(), input) if {dim0, dim1} == {1, 2} else None


def _permute(input: Any, *dims: Any) -> _Call | None:  # noqa: A002
    given = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return _Call(Transpose(), input) if tuple(given) == (0, 2, 1) else None


def _flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> _Call | None:  # noqa: A002
    return _Call(nn.Flatten(), input) if (start_dim, end_dim) == (1, -1) else None


def _view(input: Any, *shape: Any) -> _Call | None:  # noqa: A002
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
    if len(sizes) != 2 or sizes[1] != -1 or not isinstance(sizes[0], fx.Node):
        return None
    return _Call(nn.Flatten(), input) if _is_batch(sizes[0]) else None


def _is_batch(node: fx.Node) -> bool:
    """Whether a node is the size of a tensor's first axis: the batch."""
    if node.op == "call_method" and node.target == "size":
        return tuple(node.args[1:]) == (0,) or bool(node.kwargs.get("dim", 1) == 0)
    return node.target is operator.getitem and bool(node.args[1] == 0) and _is_number(node)


def _dropout(kind: type[nn.Module]) -> Callable[..., _Call]:
    def read(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> _Call:  # noqa: A002
        return _Call(kind(p), input)

    return read


_FUNCTIONS: dict[Any, Callable[..., _Call | None]] = {
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    torch.cat: _cat,
    torch.concat: _cat,
    torch.concatenate: _cat,
    F.relu: _relu,
    F.relu_: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    torch.clamp: _clamp,
    F.max_pool1d: _max_pool(nn.MaxPool1d),
    F.max_pool2d: _max_pool(nn.MaxPool2d),
    torch.max_pool1d: _max_pool(nn.MaxPool1d),
    torch.max_pool2d: _max_pool(nn.MaxPool2d),
    F.avg_pool1d: _avg_pool(nn.AvgPool1d),
    F.avg_pool2d: _avg_pool(nn.AvgPool2d),
    F.adaptive_avg_pool1d: _adaptive(nn.AdaptiveAvgPool1d),
    F.adaptive_avg_pool2d: _adaptive(nn.AdaptiveAvgPool2d),
    F.adaptive_max_pool1d: _adaptive(nn.AdaptiveMaxPool1d),
    F.adaptive_max_pool2d: _adaptive(nn.AdaptiveMaxPool2d),
    torch.mean: _mean,
    torch.flatten: _flatten,
    torch.transpose: _transpose,
    torch.permute: _permute,
    F.dropout: _dropout(nn.Dropout),
    F.dropout2d: _dropout(nn.Dropout2d),
}
_METHODS: dict[str, Callable[..., _Call | None]] = {
    "add": _add,
    "add_": _add,
    "relu": _relu,
    "relu_": _relu,
    "clamp": _clamp,
    "clamp_": _clamp,
    "clip": _clamp,
    "mean": _mean,
    "flatten": _flatten,
    "transpose": _transpose,
    "permute": _permute,
    "view": _view,
    "reshape": _view,
}
