"""integer: the integer network, its file, its reference interpreter and its engine. Imports no torch."""

from bitwright.integer.codes import Codes
from bitwright.integer.engine import Engine, UnsupportedError
from bitwright.integer.file import Identity, identify, load, save, write_atomic
from bitwright.integer.interpreter import round_shift
from bitwright.integer.network import Network
from bitwright.integer.operations import (
    OPERATIONS,
    SUM_LIMIT,
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Embedding,
    Input,
    Linear,
    MaxPool,
    Operation,
    Output,
    Reshape,
    Table,
    TensorType,
    Threshold,
    Transpose,
)

__all__ = [
    "OPERATIONS",
    "SUM_LIMIT",
    "Add",
    "Affine",
    "Argmax",
    "AvgPool",
    "Clip",
    "Codes",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Embedding",
    "Engine",
    "Identity",
    "Input",
    "Linear",
    "MaxPool",
    "Network",
    "Operation",
    "Output",
    "Reshape",
    "Table",
    "TensorType",
    "Threshold",
    "Transpose",
    "UnsupportedError",
    "identify",
    "load",
    "round_shift",
    "save",
    "write_atomic",
]
