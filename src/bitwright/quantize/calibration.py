"""Set every moving scale from some batches, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.quantize.together import exchange, quantizers


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module is as it was."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


def calibrate(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    forward: Callable[[nn.Module, torch.Tensor], Any] = lambda model, batch: model(batch),
) -> int:
    """Set every moving scale from `batches`, in eval mode and without training; returns their number.

    While it lasts, a quantiser that has seen no data uses the scale of its first batch. At the end each
    takes what its controller makes of the statistics of all batches (of all ranks, where there are several:
    each calls this, with batches of its own), and forgets its history. A quantiser that no batch reaches,
    such as that of an error, is left as it was.

    Raises:
        InvalidValueError: no batch came.
    """
    found = list(quantizers(model))
    count, done = 0, False
    try:
        for quantizer in found:
            quantizer.begin_calibration()
        with evaluating(model), torch.no_grad():
            for batch in batches:
                forward(model, batch)
                count += 1
        if not count:
            raise InvalidValueError("calibration needs at least one batch", got="none")
        exchange(quantizer for quantizer in found if quantizer.calibrated)
        done = True
    finally:
        for quantizer in found:
            quantizer.end_calibration(settle=done)
    return count
