"""optim: the papers' optimisers, and formats for gradients, weights and state of any torch optimiser."""

from bitwright.optim.formats import (
    STEP_BUFFER,
    ParameterRule,
    StoredTensor,
    stored_quantizers,
    stored_tensors,
    wrap,
)
from bitwright.optim.fxp_adam import FxpAdam
from bitwright.optim.shift_adamax import ShiftAdaMax

__all__ = [
    "STEP_BUFFER",
    "FxpAdam",
    "ParameterRule",
    "ShiftAdaMax",
    "StoredTensor",
    "stored_quantizers",
    "stored_tensors",
    "wrap",
]
