"""models: the networks that the papers train."""

from bitwright.models.networks import DEFAULT_WIDTHS, build, convnet, mlp, names

__all__ = ["DEFAULT_WIDTHS", "build", "convnet", "mlp", "names"]
