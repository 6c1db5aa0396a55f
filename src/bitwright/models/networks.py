"""The networks that the papers train, as plain torch modules: float layers, ReLU, batch norm."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import nn

from bitwright.errors import InvalidValueError, unknown_name
from bitwright.models.alexnet import alexnet
from bitwright.models.googlenet import googlenet
from bitwright.models.resnet import resnet, resnet8

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


def convnet(width: int, shape: tuple[int, int, int], classes: int, units: int | None = None) -> nn.Module:
    """2 x W C3, MP2, 2 x 2W C3, MP2, 2 x 4W C3, MP2, 8W FC, 8W FC, classes; or `units` FC in place of 8W.

    QNN, section 6: W = 128 for CIFAR-10, W = 64 with 1024 units for SVHN. Each block is convolution,
    (max-pool), norm, activation.
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
    units = units or 8 * width
    _add_linear(layers, channels * height * side, (units, units, classes))
    return nn.Sequential(layers)


def convnet3(width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """W C5 at every second pixel, W C3, MP2, 2W C3, MP2, 4W FC, classes.

    For short trainings on a CPU: at W = 128 it has two fifths of the ConvNet's operations at W = 64. Each
    block is convolution, (max-pool), norm, activation.
    """
    channels, height, side = shape
    if height < 7 or side < 7:
        raise InvalidValueError("the ConvNet halves its images three times", got=shape, fix="use mlp")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for n, (out, kernel, stride) in enumerate(((width, 5, 2), (width, 3, 1), (2 * width, 3, 1)), start=1):
        layers[f"conv{n}"] = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        height, side = -(-height // stride), -(-side // stride)
        if n > 1:
            layers[f"pool{n}"] = nn.MaxPool2d(2)
            height, side = height // 2, side // 2
        layers[f"norm{n}"] = nn.BatchNorm2d(out, eps=EPSILON)
        layers[f"act{n}"] = nn.ReLU()
        channels = out
    _add_linear(layers, channels * height * side, (4 * width, classes))
    return nn.Sequential(layers)


def _add_linear(layers: OrderedDict[str, nn.Module], features: int, sizes: tuple[int, ...]) -> None:
    """Ends a network of convolutions: flatten, then linear layers of these sizes, each with its norm."""
    layers["flatten"] = nn.Flatten()
    for n, out in enumerate(sizes, start=1):
        layers[f"fc{n}"] = nn.Linear(features, out, bias=False)
        layers[f"fc_norm{n}"] = nn.BatchNorm1d(out, eps=EPSILON)
        if n < len(sizes):
            layers[f"fc_act{n}"] = nn.ReLU()
        features = out


def dscnn(width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A depthwise-separable network in the manner of MobileNet (Howard et al. 2017, section 3).

    W C3, then five blocks, each a depthwise C3 and a C1: 2W (every second pixel), 2W, 4W (every second),
    4W, 8W (every second), then classes. Each layer is convolution, norm, ReLU.
    """
    channels, *size = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def block(name: str, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2
        layers[name] = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
        layers[f"{name}_norm"] = nn.BatchNorm2d(out, eps=EPSILON)
        layers[f"{name}_act"] = nn.ReLU()

    block("stem", width, 3)
    channels = width
    for n, (factor, stride) in enumerate(((2, 2), (2, 1), (4, 2), (4, 1), (8, 2)), start=1):
        block(f"depthwise{n}", channels, 3, stride, groups=channels)
        block(f"pointwise{n}", factor * width, 1)
        channels = factor * width
        size = [-(-side // stride) for side in size]
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * size[0] * size[1], classes, bias=False)
    layers["fc_norm"] = nn.BatchNorm1d(classes, eps=EPSILON)
    return nn.Sequential(layers)


def convnet1d(width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """W C5, MP2, 2W C3, MP2, 4W C3, MP2, 8W FC, classes, over the columns of an image: its rows are channels.

    For sequences [C, L] give the shape (C, 1, L). Each block is convolution, (max-pool), norm, activation.
    """
    if shape[2] < 8:
        raise InvalidValueError("the 1-d ConvNet halves its sequences three times", got=shape, fix="use mlp")
    layers: OrderedDict[str, nn.Module] = OrderedDict(rows=nn.Flatten(1, 2))
    channels, length = shape[0] * shape[1], shape[2]
    for n, (out, kernel) in enumerate(((width, 5), (2 * width, 3), (4 * width, 3)), start=1):
        layers[f"conv{n}"] = nn.Conv1d(channels, out, kernel, padding=kernel // 2, bias=False)
        layers[f"pool{n}"] = nn.MaxPool1d(2)
        layers[f"norm{n}"] = nn.BatchNorm1d(out, eps=EPSILON)
        layers[f"act{n}"] = nn.ReLU()
        channels, length = out, length // 2
    _add_linear(layers, channels * length, (8 * width, classes))
    return nn.Sequential(layers)


_MODELS: dict[str, Callable[[int, tuple[int, int, int], int], nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
    "convnet-fc1024": partial(convnet, units=1024),
    "convnet3": convnet3,
    "dscnn": dscnn,
    "convnet1d": convnet1d,
    "alexnet": alexnet,
    "googlenet": googlenet,
    "resnet8": resnet8,
    "resnet20": partial(resnet, 20),
    "resnet56": partial(resnet, 56),
}
DEFAULT_WIDTHS = {
    "mlp": 1024,
    "convnet": 64,
    "convnet-fc1024": 64,
    "convnet3": 128,
    "dscnn": 32,
    "convnet1d": 64,
    "alexnet": 64,
    "googlenet": 64,
    "resnet8": 16,
    "resnet20": 16,
    "resnet56": 16,
}


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
