"""The operations of an integer network: a closed list of frozen values.

docs/integer-network.md gives each its MUST semantics; `interpreter.py` is their executable definition.
Recurrent layers get a file of their own here, `recurrent.py`: an operation over the last axis whose state
is a tensor of a stated format, level 0 before the first step.
"""

from __future__ import annotations

from bitwright.integer.operations.base import (
    MAX_AXES,
    SUM_LIMIT,
    Join,
    Operation,
    TensorType,
    Unary,
    check_fields,
)
from bitwright.integer.operations.ends import Argmax, Input, Output
from bitwright.integer.operations.pointwise import Add, Affine, Clip, Embedding, Table, Threshold
from bitwright.integer.operations.pooling import AvgPool, MaxPool
from bitwright.integer.operations.products import Conv, ConvTranspose, Linear, Product
from bitwright.integer.operations.shape import Concat, Reshape, Transpose

__all__ = [
    "MAX_AXES",
    "OPERATIONS",
    "SUM_LIMIT",
    "Add",
    "Affine",
    "Argmax",
    "AvgPool",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Embedding",
    "Input",
    "Join",
    "Linear",
    "MaxPool",
    "Operation",
    "Output",
    "Product",
    "Reshape",
    "Table",
    "TensorType",
    "Threshold",
    "Transpose",
    "Unary",
    "check_fields",
]

OPERATIONS: dict[str, type[Operation]] = {
    op.kind: op
    for op in (
        Input, Linear, Conv, ConvTranspose, Affine, Threshold, Clip, Add, Concat, MaxPool, AvgPool, Reshape,
        Transpose, Embedding, Table, Argmax, Output,
    )
}  # fmt: skip
