"""nn: layers with quantiser slots, the seam for products, and eval as integers."""

from bitwright.nn.arithmetic import Exact
from bitwright.nn.fold import Accumulator, Affine, Fold, eval_rounding
from bitwright.nn.geometry import ConvGeometry, LinearGeometry, TransposedGeometry
from bitwright.nn.graph import (
    Link,
    UntraceableError,
    describe,
    is_flatten,
    link_folds,
    links,
    trace,
)
from bitwright.nn.layers import (
    ComputeLayer,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    FloatLayer,
    Linear,
    block_axes,
    weight_axis,
)
from bitwright.nn.norm import BatchNorm1d, BatchNorm2d
from bitwright.nn.slots import (
    OPERANDS,
    SHORT_NAMES,
    Slots,
    check_reduction,
    operands_of,
    tensor_of,
)

__all__ = [
    "OPERANDS",
    "SHORT_NAMES",
    "Accumulator",
    "Affine",
    "BatchNorm1d",
    "BatchNorm2d",
    "ComputeLayer",
    "Conv1d",
    "Conv2d",
    "ConvGeometry",
    "ConvTranspose2d",
    "Exact",
    "FloatLayer",
    "Fold",
    "Linear",
    "LinearGeometry",
    "Link",
    "Slots",
    "TransposedGeometry",
    "UntraceableError",
    "block_axes",
    "check_reduction",
    "describe",
    "eval_rounding",
    "is_flatten",
    "link_folds",
    "links",
    "operands_of",
    "tensor_of",
    "trace",
    "weight_axis",
]
