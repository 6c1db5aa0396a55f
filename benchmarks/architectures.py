"""The networks that the benchmarks time: ours in integers, and the same in float32 for the peers.

The float twins have their batch norm folded into the layers, which is what every runtime likes best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

import bitwright as bw
from bitwright import models
from bitwright.formats import Int, Rounding, UInt
from bitwright.integer import Add, Affine, AvgPool, Codes, Conv, Input, Linear, Network, Operation, Output

Shape = tuple[int, int, int]
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One network.

    Args:
        name: as tables show it.
        shape: (C, H, W) of an example.
        batches: examples a call.
        network: ours, with random weights.
        twin: the architecture in float32.
        binary: every product but the first has weights and activations of one bit.
    """

    name: str
    shape: Shape
    batches: tuple[int, int]
    network: Network
    twin: nn.Module
    binary: bool = False


def mlp(width: int = 4096) -> Case:
    """QNN's MLP: 784-4096-4096-4096-10, binary."""
    shape = (1, 28, 28)
    sizes = [784, width, width, width, 10]
    layers: list[nn.Module] = [nn.Flatten()]
    for taken, made in pairwise(sizes):
        layers += [nn.Linear(taken, made), nn.ReLU()]
    network = lowered(models.build("mlp", width, shape, 10), shape, bw.recipe("qnn"))
    return Case("binary MLP 3x4096", shape, (1, 100), network, nn.Sequential(*layers[:-1]).eval(), True)


def vgg(name: str, recipe: bw.recipes.Recipe, binary: bool, width: int = 128) -> Case:
    """QNN's ConvNet, VGG-small: 2x128C3-MP2-2x256C3-MP2-2x512C3-MP2-1024FC-1024FC-10."""
    shape = (3, 32, 32)
    layers: list[nn.Module] = []
    taken = 3
    for n, made in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width)):
        layers += [nn.Conv2d(taken, made, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if n % 2 else []
        taken = made
    layers.append(nn.Flatten())
    taken *= 16
    for made in (8 * width, 8 * width, 10):
        layers += [nn.Linear(taken, made), nn.ReLU()]
        taken = made
    network = lowered(models.build("convnet", width, shape, 10), shape, recipe)
    return Case(name, shape, (1, 64), network, nn.Sequential(*layers[:-1]).eval(), binary)


def lowered(model: nn.Module, shape: Shape, recipe: bw.recipes.Recipe) -> Network:
    """A fresh model's integer network, its scales from one random batch."""
    batch = torch.rand((16, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    bw.quantize_(model, recipe, verbose=False)
    model.train()
    model(batch)  # running statistics and first scales
    model.eval()
    return bw.lower(model, batch)


class Block(nn.Module):
    """Two 3x3 convolutions and the shortcut; a 1x1 convolution where the shape changes."""

    def __init__(self, taken: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(taken, made, 3, stride, 1)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1)
        self.shortcut = nn.Conv2d(taken, made, 1, stride) if taken != made else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(y + self.shortcut(x))


def resnet20() -> Case:
    """CIFAR's ResNet-20 in int8: 3 x 3 blocks of 16, 32, 64 channels."""
    shape = (3, 32, 32)
    sizes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    blocks = [Block(*size) for size in sizes]
    twin = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10)
    )
    return Case("int8 ResNet-20", shape, (1, 64), _resnet_network(sizes, shape), twin.eval())


def _resnet_network(sizes: list[tuple[int, int, int]], shape: Shape) -> Network:
    operations: list[Operation] = [Input("image", "", shape, UInt(8), 1 / 64, 128)]
    shift = 24

    def conv(name: str, source: str, taken: int, made: int, kernel: int, stride: int) -> str:
        codes = RNG.integers(-127, 128, (made, taken, kernel, kernel), np.int8)
        pad = kernel // 2
        operations.append(Conv(name, source, Codes.pack(Int(8), codes), (stride, stride), (pad, pad)))
        return name

    def multiplier(taps: int, channels: int) -> np.ndarray:
        """So that codes spread: levels of 8 bits times weights of 8 bits, `taps` of them."""
        typical = 2.0**shift / (60 * np.sqrt(taps))
        return (typical * RNG.uniform(0.8, 1.2, channels)).astype(np.int64)

    def affine(name: str, source: str, taps: int, channels: int, form: Int | UInt) -> str:
        zeros = np.zeros(channels, np.int64)
        even = Rounding.NEAREST_EVEN
        operations.append(Affine(name, source, multiplier(taps, channels), zeros, shift, form, even))
        return name

    x = affine("relu", conv("stem", "image", 3, 16, 3, 1), 27, 16, UInt(8))
    for n, (taken, made, stride) in enumerate(sizes):
        y = affine(f"relu{n}a", conv(f"conv{n}a", x, taken, made, 3, stride), 9 * taken, made, UInt(8))
        y = affine(f"codes{n}b", conv(f"conv{n}b", y, made, made, 3, 1), 9 * made, made, Int(8))
        if taken != made:
            x = affine(f"codes{n}s", conv(f"conv{n}s", x, taken, made, 1, stride), taken, made, Int(8))
        terms = np.stack([np.full(made, 1 << 23), np.full(made, 3 << 21)]).astype(np.int64)
        zeros = np.zeros(made, np.int64)
        operations.append(
            Add(f"relu{n}", (y, x), terms, zeros, shift, UInt(8), Rounding.NEAREST_EVEN)  # unsigned: a ReLU
        )
        x = f"relu{n}"
    operations.append(AvgPool("pool", x, (8, 8), (8, 8), (0, 0)))
    mean = affine("mean", "pool", 64 * 64, 64, UInt(8))
    flat = bw.integer.Reshape("flat", mean, (64,))
    fc = Linear("fc", "flat", Codes.pack(Int(8), RNG.integers(-127, 128, (10, 64), np.int8)))
    operations += [flat, fc, Output("scores", "fc", np.ones(10, np.int64), np.zeros(10, np.int64), 12)]
    return Network(operations)


def two_bits() -> bw.recipes.Recipe:
    """The qnn recipe with 2-bit weights and 2-bit activations behind their ReLUs."""
    return bw.recipe("qnn", weight="int2", activation="uint2")


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "vgg": lambda: vgg("binary VGG-small", bw.recipe("qnn"), True),
    "vgg2": lambda: vgg("2-bit VGG-small", two_bits(), False),
    "resnet20": resnet20,
}
