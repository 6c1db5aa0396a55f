"""GoogLeNet (Szegedy et al. 2014, table 1) with batch norm and without auxiliary classifiers or dropout."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from bitwright.errors import InvalidValueError

WIDTH = 64
"""The published first layer; another width scales every layer."""
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of each Inception block: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection."""
LEAST_SIDE = 32


def block(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, activation, with padding that keeps the size."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
            norm=nn.BatchNorm2d(out),
            act=nn.ReLU(),
        )
    )


class Inception(nn.Module):
    """Four branches whose channels are concatenated.

    Args:
        channels: that come in.
        widths: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = widths
        self.one = block(channels, one, 1)
        self.three = nn.Sequential(block(channels, reduce3, 1), block(reduce3, three, 3))
        self.five = nn.Sequential(block(channels, reduce5, 1), block(reduce5, five, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), block(channels, pooled, 1))
        self.channels = one + three + five + pooled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] -> [N, self.channels, H, W]."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


def googlenet(width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """22 layers; W = 64, [3, 224, 224] and 1000 classes for ImageNet.

    Names are stem1 to stem3, inception3a to inception5b and fc.
    """
    if min(shape[1:]) < LEAST_SIDE:
        raise InvalidValueError(
            f"GoogLeNet takes images of at least {LEAST_SIDE} x {LEAST_SIDE} pixels",
            got=shape,
            fix="use convnet",
        )

    def scaled(channels: int) -> int:
        return max(1, channels * width // WIDTH)

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem1"] = block(shape[0], width, 7, 2)
    layers["pool1"] = nn.MaxPool2d(3, 2, 1)
    layers["stem2"] = block(width, width, 1)
    layers["stem3"] = block(width, scaled(192), 3)
    layers["pool2"] = nn.MaxPool2d(3, 2, 1)
    channels = scaled(192)
    for name, widths in BLOCKS.items():
        inception = Inception(channels, tuple(map(scaled, widths)))
        layers[f"inception{name}"] = inception
        channels = inception.channels
        if name in ("3b", "4e"):
            layers[f"pool{name[0]}"] = nn.MaxPool2d(3, 2, 1)
    layers["pool5"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)
