"""integer: the integer network, its file, its reference interpreter and its engine. Imports no torch."""

from bitwright.integer.codes import Codes
from bitwright.integer.engine import Engine, UnsupportedError
from bitwright.integer.file import load, save, write_atomic
from bitwright.integer.interpreter import round_shift
from bitwright.integer.network import Network
from bitwright.integer.operations import (
    OPERATIONS,
    Affine,
    Clip,
    Conv,
    Input,
    Linear,
    MaxPool,
    Operation,
    Output,
    Reshape,
    TensorType,
    Threshold,
)

__all__ = [
    "OPERATIONS",
    "Affine",
    "Clip",
    "Codes",
    "Conv",
    "Engine",
    "Input",
    "Linear",
    "MaxPool",
    "Network",
    "Operation",
    "Output",
    "Reshape",
    "TensorType",
    "Threshold",
    "UnsupportedError",
    "load",
    "round_shift",
    "save",
    "write_atomic",
]
