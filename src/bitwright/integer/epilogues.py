"""What becomes of 32-bit accumulators on the fast kernels: codes of a byte, or bits."""

from __future__ import annotations

import numpy as np

from bitwright.integer.operations import Add, Affine, Clip, TensorType, Threshold
from bitwright.kernels.tensors import Bits, Codes, Element, Epilogue, Levels, Tensor, zero_of

INT32 = np.iinfo(np.int32)


def known(tensor: Tensor, kind: TensorType) -> bool:
    """Whether the fast kernels take it as an accumulator: bytes, or int32 without the two ends."""
    return tensor.element in (Element.BYTES, Element.SUMS) and kind.bound < INT32.max


def epilogue_of(operation: Affine | Threshold | Clip | Add, made: TensorType, bits: bool) -> Epilogue | None:
    """From an accumulator (of an Add: from their sum) to what `made` says; None where that is no byte.

    Args:
        made: of the operation, or of a clip behind it.
        bits: whether +1 and -1 may be bits.
    """
    if zero_of(made.low, made.high) is None:
        return None
    match operation:
        case Threshold():
            return _thresholds(operation, made, bits)
        case Clip():
            one = np.ones(made.shape[0], np.int64)
            return Codes(one, 0 * one, 0, "floor", made.low, made.high)
    multiplier = operation.multiplier.reshape(-1, made.shape[0])
    alone = multiplier[0].copy() if len(multiplier) == 1 else np.zeros_like(operation.offset)
    rounding = operation.rounding.value
    return Codes(alone, operation.offset, operation.shift, rounding, made.low, made.high)


def _thresholds(operation: Threshold, made: TensorType, bits: bool) -> Epilogue:
    """-acc >= t is not (acc >= 1 - t). A limit beyond int32 compares like one at its end, as no
    accumulator gets there."""
    codes = operation.format.codes()
    spacing = codes[1] - codes[0]  # even in every format of activations
    down = operation.direction < 0
    t = np.clip(operation.thresholds, INT32.min + 2, INT32.max)
    limits = np.where(down[:, None], 1 - t, t).T.astype(np.int32)
    if bits:
        return Bits(limits[0].copy(), down)
    step = np.where(down, -spacing, spacing).astype(np.int32)
    first = np.where(down, made.high, made.low).astype(np.int32)
    return Levels(limits, first, step, made.low, made.high)
