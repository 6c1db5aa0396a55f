"""Relaxing the bounds of the hard tanh late in training (QNN, section 6)."""

from __future__ import annotations

from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary
from bitwright.quantize import Estimator, quantizers


def relax_(model: nn.Module, bound: float) -> int:
    """Let gradients pass where |x| <= `bound`, in place: the network's answers stay what they are.

    Every symmetric `nn.Hardtanh` takes the bound, and so does every binary slot with the clipped estimator,
    whose gradient is that of the hard tanh.

    Returns:
        How many of both there are.

    Raises:
        InvalidValueError: the bound is not above 0, or the model has neither.
    """
    if not bound > 0:
        raise InvalidValueError("a bound is above 0", got=bound)
    changed = 0
    for module in model.modules():
        if isinstance(module, nn.Hardtanh) and module.min_val == -module.max_val:
            module.min_val, module.max_val = -bound, bound
            changed += 1
    for quantizer in quantizers(model):
        if isinstance(quantizer.format, Binary) and quantizer.spec.estimator is Estimator.CLIPPED:
            quantizer.relax(bound)
            changed += 1
    if not changed:
        raise InvalidValueError(
            "relaxing needs a hard tanh or a binary slot with the clipped estimator",
            got="none",
            where=type(model).__name__,
            fix="leave relax out of the recipe",
        )
    return changed
