"""optim: formats for gradients, stored weights and state of any torch optimiser."""

from bitwright.optim.formats import STEP_BUFFER, ParameterRule, stored_quantizers, wrap

__all__ = ["STEP_BUFFER", "ParameterRule", "stored_quantizers", "wrap"]
