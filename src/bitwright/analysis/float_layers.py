"""The float network with the layers of an integer one: what it is timed against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.integer import Conv, Linear, MaxPool, Network, Operation, Output, Reshape
from bitwright.integer.operations import Add, Affine, AvgPool, Clip, Concat, Input, Threshold
from bitwright.nn import Shortcut


class FloatTwin(nn.Module):
    """Layers in the order of a network's operations; each reads the tensors of its inputs.

    Args:
        layers: (name, names of the inputs, module), in execution order.
    """

    def __init__(self, layers: Sequence[tuple[str, tuple[str, ...], nn.Module]]) -> None:
        super().__init__()
        self.inputs = [inputs for _, inputs, _ in layers]
        self.names = [name for name, _, _ in layers]
        self.layers = nn.ModuleList(module for _, _, module in layers)
        last = {name: index for index, inputs in enumerate(self.inputs) for name in inputs}
        self._dead = [tuple(n for n in last if last[n] == index) for index in range(len(layers))]

    @property
    def chain(self) -> nn.Sequential | None:
        """The layers one after the other, where each reads the one before; else None."""
        before = [("",), *((name,) for name in self.names)]
        if any(inputs != name for inputs, name in zip(self.inputs, before, strict=False)):
            return None
        flat = [m for layer in self.layers for m in (layer if isinstance(layer, nn.Sequential) else [layer])]
        return nn.Sequential(*(m for m in flat if not isinstance(m, nn.Identity)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A batch -> what the last layer makes of it."""
        held = {"": x}
        for name, inputs, layer, dead in zip(self.names, self.inputs, self.layers, self._dead, strict=True):
            held[name] = layer(*(held[i] for i in inputs))
            for done in dead:
                del held[done]
        return held[self.names[-1]]


class _Sum(nn.Module):
    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        """Of two tensors or more, then ReLU, as in a residual block."""
        total = x[0] + x[1]
        for other in x[2:]:
            total += other
        return total.relu_()


class _Join(nn.Module):
    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        """Channels behind each other."""
        return torch.cat(x, 1)


def float_twin(network: Network) -> FloatTwin:
    """The same layers in torch float32: products, batch norm, ReLU, adds, concats, pools.

    A map from codes to codes that treats all channels alike only changes the grid, one behind an average pool
    only divides, and a clip is part of its ReLU: float networks have none of them.

    Raises:
        InvalidValueError: an operation has no float layer; the message names it.
    """
    layers = [(o.name, o.inputs or ("",), _layer(network, o)) for o in network.operations]
    return FloatTwin(layers).eval()


def _layer(network: Network, operation: Operation) -> nn.Module:
    shape = network.types[operation.name].shape
    layer: nn.Module
    if isinstance(operation, Input | Clip):
        layer = nn.Identity()
    elif isinstance(operation, Linear):
        weight = torch.from_numpy(operation.weight.array.astype(np.float32))
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.load_state_dict({"weight": weight})
    elif isinstance(operation, Conv) and operation.rank == 2:
        layer = _convolution(operation)
    elif isinstance(operation, MaxPool):
        layer = nn.MaxPool2d(operation.kernel, operation.stride, operation.padding)
    elif isinstance(operation, AvgPool) and len(operation.kernel) == 2:
        (top, _), (left, _) = operation.pads
        (high, wide), (down, right) = operation.kernel, operation.stride
        layer = nn.AvgPool2d((high, wide), (down, right), (top, left))
    elif isinstance(operation, Reshape):
        layer = nn.Flatten() if len(shape) == 1 else nn.Unflatten(1, shape)
    elif isinstance(operation, Add):
        layer = _Sum()
    elif isinstance(operation, Concat):
        layer = _Join()
    elif isinstance(operation, Affine | Threshold | Output):
        layer = _norm(network, operation, shape)
    else:
        raise InvalidValueError(
            "a float network to compare with is built of layers that torch has",
            got=operation.kind,
            where=operation.name,
        )
    return layer


def _norm(network: Network, operation: Affine | Threshold | Output, shape: tuple[int, ...]) -> nn.Module:
    codes = network.types[operation.input].format is not None
    pooled = any(isinstance(o, AvgPool) and o.name == operation.input for o in network.operations)
    if (codes or pooled) and _alike(operation):
        return nn.Identity()
    norm = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0])
    return norm if isinstance(operation, Output) else nn.Sequential(norm, nn.ReLU())


def _alike(operation: Affine | Threshold | Output) -> bool:
    """Whether all channels are mapped alike, and nothing is added."""
    if isinstance(operation, Threshold):
        rows, directions = operation.thresholds, operation.direction
        return bool((rows == rows[0]).all() and (directions == directions[0]).all())
    return bool((operation.multiplier == operation.multiplier[0]).all()) and not operation.offset.any()


def _convolution(operation: Conv) -> nn.Module:
    weight = torch.from_numpy(operation.weight.array.astype(np.float32))
    out, taken = weight.shape[:2]
    rows = weight.flatten(1).sum(1).nonzero().flatten()
    if weight.shape[2:] == (1, 1) and len(rows):
        before = int(rows[0])
        if np.array_equal(weight[:, :, 0, 0].numpy(), np.eye(out, taken, -before)):
            return Shortcut(operation.stride[0], before, out - taken - before)
    (top, bottom), (left, right) = operation.pads
    even = (top, left) == (bottom, right)
    layer = nn.Conv2d(
        taken * operation.groups,
        out,
        (weight.shape[2], weight.shape[3]),
        (operation.stride[0], operation.stride[1]),
        (top, left) if even else (0, 0),
        (operation.dilations[0], operation.dilations[1]),
        operation.groups,
        bias=False,
    )
    layer.load_state_dict({"weight": weight})
    return layer if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), layer)
