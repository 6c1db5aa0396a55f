"""Numbers of any width, one by one, on the graph's wide stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitwright.integer.operations import Add, Affine, Clip, TensorType, Threshold
from bitwright.integer.operations.base import SUM_LIMIT
from bitwright.kernels.graph import Graph
from bitwright.kernels.tensors import Tensor

MAX_TERMS = 64
"""Of one stage."""


def wide_numbers(
    graph: Graph, operation: Affine | Add | Clip | Threshold, xs: Sequence[Tensor], made: TensorType
) -> Tensor:
    """The operation's result, with the levels that `made` says (a clip behind it is in them)."""
    match operation:
        case Threshold():
            levels = np.array(operation.format.codes(), np.int64) - operation.zero_point
            return graph.wide_steps(xs[0], operation.thresholds, operation.direction, levels)
        case Clip():
            one = np.ones((1, made.shape[0]), np.int64)
            return graph.wide_affine(xs, one, 0 * one[0], 0, "floor", made.low, made.high)
    multiplier = operation.multiplier.reshape(len(xs), -1)
    while len(xs) > MAX_TERMS:  # the first terms as a sum of their own
        first, none = multiplier[:MAX_TERMS], np.zeros_like(operation.offset)
        part = graph.wide_affine(xs[:MAX_TERMS], first, none, 0, "floor", -SUM_LIMIT, SUM_LIMIT)
        xs = [part, *xs[MAX_TERMS:]]
        multiplier = np.concatenate([np.ones_like(multiplier[:1]), multiplier[MAX_TERMS:]])
    rounding = operation.rounding.value
    return graph.wide_affine(xs, multiplier, operation.offset, operation.shift, rounding, made.low, made.high)
