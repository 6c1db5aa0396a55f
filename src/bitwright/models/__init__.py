"""models: the networks that the papers train."""

from bitwright.models.alexnet import alexnet
from bitwright.models.googlenet import googlenet
from bitwright.models.networks import DEFAULT_WIDTHS, build, convnet, mlp, names

__all__ = ["DEFAULT_WIDTHS", "alexnet", "build", "convnet", "googlenet", "mlp", "names"]
