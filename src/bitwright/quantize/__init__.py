"""quantize: how a tensor meets a format. Controllers, estimators, and the Quantizer module."""

from bitwright.quantize.controllers import Controller, MaxAbs, Static
from bitwright.quantize.estimators import Estimator
from bitwright.quantize.quantizer import (
    Quantized,
    Quantizer,
    QuantizerSpec,
    calibrate,
    quantizers,
)

__all__ = [
    "Controller",
    "Estimator",
    "MaxAbs",
    "Quantized",
    "Quantizer",
    "QuantizerSpec",
    "Static",
    "calibrate",
    "quantizers",
]
