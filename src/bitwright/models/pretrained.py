"""Networks that others trained and published, with the preprocessing that goes with them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from bitwright.data import Preprocessing, load_weights
from bitwright.data.weights import WEIGHTS
from bitwright.models.resnet import resnet, resnet8
from bitwright.models.tflite import read_tflite

_CIFAR = (3, 32, 32)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Keras numbers the layers in the order of their making: the shortcut's comes last in its block
_KERAS = ("conv1", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2", "block2.shortcut",
          "block3.conv1", "block3.conv2", "block3.shortcut")  # fmt: skip


class Pretrained(NamedTuple):
    """A trained float network in eval mode, and how a pixel becomes its input."""

    model: nn.Module
    preprocessing: Preprocessing


def pretrained_names() -> tuple[str, ...]:
    """The networks that `pretrained` knows."""
    return tuple(WEIGHTS)


def pretrained(name: str, *, root: Path | None = None, download: bool = True) -> Pretrained:
    """A trained float network for CIFAR-10.

    | name     | what                                             | inputs                     | test error |
    |----------|--------------------------------------------------|----------------------------|------------|
    | resnet20 | He et al. (2015), trained by Y. Idelbayev        | (x / 255 - mean) / std     | 8.27 %     |
    | resnet56 | the same, deeper                                 | the same                   | 6.61 %     |
    | resnet8  | MLPerf Tiny's image classifier, its norms folded | x, from 0 to 255           | 12.79 %    |

    Args:
        name: one of `pretrained_names()`.
        root: a folder with its file; BITWRIGHT_DATA, the cache and a download follow, as for data sets.
        download: whether the network may be used.

    Raises:
        InvalidValueError: there is no such network.
        FileFormatError: the file is nowhere to be had, or is not the published one.
    """
    data = load_weights(name, root=root, download=download)
    if name == "resnet8":
        model = resnet8(16, _CIFAR, 10, folded=True)
        model.load_state_dict(_resnet8_state(data))
        return Pretrained(model.eval(), Preprocessing(_CIFAR, 1.0, 0.0))
    model = resnet(int(name.removeprefix("resnet")), 16, _CIFAR, 10)
    held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in held.items()})
    # (pixel / 255 - mean) / std = pixel / (255 std) - mean / std
    divisor = tuple(255 * std for std in _STD)
    offset = tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True))
    return Pretrained(model.eval(), Preprocessing(_CIFAR, divisor, offset))


def _resnet8_state(data: bytes) -> dict[str, torch.Tensor]:
    constants = read_tflite(data)
    layers = {f"conv2d_{index}" if index else "conv2d": name for index, name in enumerate(_KERAS)}
    state = {}
    for keras, name in {**layers, "dense": "linear"}.items():
        kind = "MatMul" if keras == "dense" else "Conv2D"
        weight = torch.from_numpy(constants[f"model/{keras}/{kind}"].copy())
        state[f"{name}.weight"] = weight if weight.dim() == 2 else weight.permute(0, 3, 1, 2).contiguous()
        # the file names a constant after all the operations that were folded into it
        (bias,) = (v for k, v in constants.items() if f"model/{keras}/BiasAdd/ReadVariableOp/resource" in k)
        state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    return state
