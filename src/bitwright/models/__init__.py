"""models: the networks that the papers train, and trained ones that others published."""

from bitwright.models.alexnet import alexnet
from bitwright.models.googlenet import googlenet
from bitwright.models.networks import DEFAULT_WIDTHS, build, convnet, mlp, names
from bitwright.models.pretrained import Pretrained, pretrained, pretrained_names
from bitwright.models.resnet import resnet, resnet8

__all__ = [
    "DEFAULT_WIDTHS",
    "Pretrained",
    "alexnet",
    "build",
    "convnet",
    "googlenet",
    "mlp",
    "names",
    "pretrained",
    "pretrained_names",
    "resnet",
    "resnet8",
]
