"""The networks that the papers train, as plain torch modules: float layers, ReLU, batch norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from bitwright.errors import InvalidValueError, unknown_name
from bitwright.models.alexnet import alexnet
from bitwright.models.googlenet import googlenet

EPSILON = 1e-4
"""Of batch norm, as in the QNN authors' code."""


def mlp(width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Three hidden layers: in-W-W-W-classes (QNN, section 6: W = 4096, or 2048 without dropout).

    Each block is linear, norm, activation; the last one has no activation.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    sizes = [shape[0] * shape[1] * shape[2], width, width, width, classes]
    for index in range(4):
        n = index + 1
        layers[f"fc{n}"] = nn.Linear(sizes[index], sizes[n], bias=False)
        layers[f"norm{n}"] = nn.BatchNorm1d(sizes[n], eps=EPSILON)
        if n < 4:
            layers[f"act{n}"] = nn.ReLU()
    return nn.Sequential(layers)


def convnet(width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """2 x W C3, MP2, 2 x 2W C3, MP2, 2 x 4W C3, MP2, 8W FC, 8W FC, classes.

    QNN, section 6, with W = 128. Each block is convolution, (max-pool), norm, activation.
    """
    channels, height, side = shape
    if height < 8 or side < 8:
        raise InvalidValueError("the ConvNet halves its images three times", got=shape, fix="use mlp")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for n, out in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width), start=1):
        layers[f"conv{n}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        if n % 2 == 0:
            layers[f"pool{n}"] = nn.MaxPool2d(2)
            height, side = height // 2, side // 2
        layers[f"norm{n}"] = nn.BatchNorm2d(out, eps=EPSILON)
        layers[f"act{n}"] = nn.ReLU()
        channels = out
    layers["flatten"] = nn.Flatten()
    features = channels * height * side
    for n, out in enumerate((8 * width, 8 * width, classes), start=1):
        layers[f"fc{n}"] = nn.Linear(features, out, bias=False)
        layers[f"fc_norm{n}"] = nn.BatchNorm1d(out, eps=EPSILON)
        if n < 3:
            layers[f"fc_act{n}"] = nn.ReLU()
        features = out
    return nn.Sequential(layers)


_MODELS: dict[str, Callable[[int, tuple[int, int, int], int], nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
    "alexnet": alexnet,
    "googlenet": googlenet,
}
DEFAULT_WIDTHS = {"mlp": 1024, "convnet": 64, "alexnet": 64, "googlenet": 64}


def names() -> tuple[str, ...]:
    """The networks that `build` knows."""
    return tuple(_MODELS)


def build(name: str, width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A network by name, for images of `shape` (channels, height, width)."""
    if name not in _MODELS:
        raise unknown_name("model", name, _MODELS)
    if not 1 <= width <= 1 << 16:
        raise InvalidValueError("a width lies between 1 and 65536", got=width)
    return _MODELS[name](width, shape, classes)
