"""Residual networks for images of CIFAR-10, as plain torch modules.

`resnet` is He et al. (2015), section 4.2, with shortcuts of option A; names of parameters are those of
akamaster/pytorch_resnet_cifar10. `resnet8` is the image classifier of MLPerf Tiny.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.nn import Shortcut

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        same, before = stride == 1 and channels == out, (out - channels) // 2
        self.shortcut = nn.Identity() if same else Shortcut(stride, before, out - channels - before)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, O, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A convolution, three stages of n blocks with W, 2W and 4W channels, a global pool, classes."""

    def __init__(self, blocks: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, width, width, 1)
        self.layer2 = _stage(blocks, width, 2 * width, 2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, classes]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        return self.linear(self.flatten(self.pool(y)))  # type: ignore[no-any-return]


def resnet(depth: int, width: int, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The CIFAR ResNet of 6n + 2 layers: W = 16 channels at first in the paper."""
    if depth < 8 or (depth - 2) % 6:
        raise InvalidValueError("a CIFAR ResNet has 6n + 2 layers, n at least 1", got=depth)
    return ResNet((depth - 2) // 6, width, shape[0], classes)


def _stage(blocks: int, channels: int, out: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels, out, stride)
    return nn.Sequential(first, *(BasicBlock(out, out, 1) for _ in range(blocks - 1)))


class TinyBlock(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 one where the shape changes; padding as TensorFlow's "same"."""

    def __init__(self, channels: int, out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        # "same" at stride 2 on even sides: nothing before, one row and column after
        self.pad = nn.Identity() if stride == 1 else nn.ZeroPad2d((0, 1, 0, 1))
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1 if stride == 1 else 0)
        self.bn1 = norm(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.bn2 = norm(out)
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, O, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(self.pad(x))))))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet8(nn.Module):
    """A convolution, three blocks with W, 2W and 4W channels, the mean of each channel, classes."""

    def __init__(self, width: int, channels: int, classes: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.bn1 = norm(width)
        self.relu = nn.ReLU()
        self.block1 = TinyBlock(width, width, 1, norm)
        self.block2 = TinyBlock(width, 2 * width, 2, norm)
        self.block3 = TinyBlock(2 * width, 4 * width, 2, norm)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, classes]."""
        y = self.block3(self.block2(self.block1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(self.flatten(self.pool(y)))  # type: ignore[no-any-return]


def resnet8(width: int, shape: tuple[int, int, int], classes: int, *, folded: bool = False) -> nn.Module:
    """MLPerf Tiny's image classifier; W = 16 channels at first in the benchmark.

    Args:
        width: channels of the first layer.
        shape: (channels, height, width) of an image; both sides multiples of 4.
        classes: outputs.
        folded: norms are folded into the convolutions, and identities stand in their places.
    """
    if shape[1] % 4 or shape[2] % 4:
        raise InvalidValueError("sides of resnet8's images are multiples of 4", got=shape)
    norm: Norm = (lambda _: nn.Identity()) if folded else (lambda c: nn.BatchNorm2d(c, eps=1e-3))
    return ResNet8(width, shape[0], classes, norm)
