"""optim: formats for gradients, stored weights and state of any torch optimiser."""

from bitwright.optim.formats import STEP_BUFFER, ParameterRule, wrap

__all__ = ["STEP_BUFFER", "ParameterRule", "wrap"]
