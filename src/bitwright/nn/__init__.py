"""nn: layers with quantiser slots, the seam for products, and eval as integers."""

from bitwright.nn.arithmetic import Exact
from bitwright.nn.fold import Accumulator, Affine, Fold, eval_rounding
from bitwright.nn.graph import (
    Link,
    UntraceableError,
    describe,
    is_flatten,
    link_folds,
    links,
    trace,
)
from bitwright.nn.integer_norm import IntegerBatchNorm1d, IntegerBatchNorm2d, IntegerNorm, check_normalised
from bitwright.nn.layers import ComputeLayer, Conv2d, Linear, conv_padding
from bitwright.nn.norm import BatchNorm1d, BatchNorm2d
from bitwright.nn.shift_norm import ShiftBatchNorm1d, ShiftBatchNorm2d
from bitwright.nn.slots import (
    CONV_AXES,
    LINEAR_AXES,
    OPERANDS,
    SHORT_NAMES,
    Slots,
    check_reduction,
    operands_of,
    tensor_of,
)

__all__ = [
    "CONV_AXES",
    "LINEAR_AXES",
    "OPERANDS",
    "SHORT_NAMES",
    "Accumulator",
    "Affine",
    "BatchNorm1d",
    "BatchNorm2d",
    "ComputeLayer",
    "Conv2d",
    "Exact",
    "Fold",
    "IntegerBatchNorm1d",
    "IntegerBatchNorm2d",
    "IntegerNorm",
    "Linear",
    "Link",
    "ShiftBatchNorm1d",
    "ShiftBatchNorm2d",
    "Slots",
    "UntraceableError",
    "check_normalised",
    "check_reduction",
    "conv_padding",
    "describe",
    "eval_rounding",
    "is_flatten",
    "link_folds",
    "links",
    "operands_of",
    "tensor_of",
    "trace",
]
