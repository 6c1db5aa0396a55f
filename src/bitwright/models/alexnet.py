"""AlexNet as QNN's authors trained it: the "one weird trick" widths, batch norm, no dropout."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bitwright.errors import InvalidValueError

CONVOLUTIONS = ((1, 11, 4, 2), (3, 5, 1, 2), (6, 3, 1, 1), (4, 3, 1, 1), (4, 3, 1, 1))
"""Channels in units of the width, kernel, stride, padding."""
POOLED = (1, 2, 5)
"""The convolutions behind which a max-pool of 3 by 3, stride 2, stands."""
LINEAR = 64
"""Units of the two hidden linear layers, in units of the width."""


def alexnet(width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Five convolutions and three linear layers; W = 64, [3, 224, 224] and 1000 classes for ImageNet.

    Each block is convolution, (max-pool), norm, activation; the last linear layer has a norm behind it.
    Names are conv1 to conv5 and fc1 to fc3.
    """
    channels, *sides = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for n, (times, kernel, stride, padding) in enumerate(CONVOLUTIONS, start=1):
        out = times * width
        layers[f"conv{n}"] = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
        if n in POOLED:
            layers[f"pool{n}"] = nn.MaxPool2d(3, 2)
            sides = [(side - 3) // 2 + 1 for side in sides]
        layers[f"norm{n}"] = nn.BatchNorm2d(out)
        layers[f"act{n}"] = nn.ReLU()
        channels = out
    if min(sides) < 1:
        raise InvalidValueError(
            "AlexNet takes images of at least 63 x 63 pixels", got=shape, fix="use convnet"
        )
    layers["flatten"] = nn.Flatten()
    features = channels * sides[0] * sides[1]
    for n, out in enumerate((LINEAR * width, LINEAR * width, classes), start=1):
        layers[f"fc{n}"] = nn.Linear(features, out, bias=False)
        layers[f"fc_norm{n}"] = nn.BatchNorm1d(out)
        if n < 3:
            layers[f"fc_act{n}"] = nn.ReLU()
        features = out
    return nn.Sequential(layers)
