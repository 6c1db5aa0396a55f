"""Repeated binary kernels (QNN, section 8): a k x k filter of signs has 2^(k k) patterns, so many repeat.

Filters of one input channel with the same pattern, or with its inverse, need one pass of xor and popcount
over that channel's map; what each output channel then adds is a copy of it, or its negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary
from bitwright.integer import Network

MOST_TAPS = 64
"""A pattern is one 64-bit word."""


@dataclass(frozen=True)
class Repetition:
    """The 2-D filters of one layer.

    Args:
        filters: how many there are: output channels times input channels.
        unique: how many differ from all others of their input channel, counted once each.
        unique_with_inverses: the same where a filter and its inverse count as one.
    """

    filters: int
    unique: int
    unique_with_inverses: int

    @property
    def saving(self) -> float:
        """How many times fewer passes of xor and popcount suffice, inverses used."""
        return self.filters / self.unique_with_inverses


def kernel_repetition(weight: npt.NDArray[np.integer]) -> Repetition:
    """Count the repeated filters of a layer.

    Args:
        weight: -1 and +1, [output channels, input channels, kernel height, kernel width].
    """
    if weight.ndim != 4 or not bool(np.isin(weight, (-1, 1)).all()):
        raise InvalidValueError("binary filters are -1 and +1, [O, I, k, k]", got=f"shape {weight.shape}")
    outputs, inputs = weight.shape[:2]
    taps = weight.shape[2] * weight.shape[3]
    if taps > MOST_TAPS:
        raise InvalidValueError(f"a filter has at most {MOST_TAPS} taps", got=taps)
    bits = (weight.reshape(outputs, inputs, taps) > 0).astype(np.uint64)
    patterns = (bits << np.arange(taps, dtype=np.uint64)).sum(2, dtype=np.uint64)
    mask = np.uint64((1 << taps) - 1)
    folded = np.minimum(patterns, patterns ^ mask)
    counts = [sum(len(np.unique(column)) for column in table.T) for table in (patterns, folded)]
    return Repetition(outputs * inputs, *counts)


def kernel_repetitions(network: Network) -> dict[str, Repetition]:
    """The repetition in each binary convolution of more than one tap, by the operation's name."""
    found = {}
    for name, weight in network.weights().items():
        taps = weight.shape[2] * weight.shape[3] if len(weight.shape) == 4 else 1
        if isinstance(weight.format, Binary) and 1 < taps <= MOST_TAPS:
            found[name] = kernel_repetition(weight.array)
    return found
