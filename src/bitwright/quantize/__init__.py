"""quantize: how a tensor meets a format. Controllers, estimators, and the Quantizer module."""

from bitwright.quantize.calibration import calibrate
from bitwright.quantize.controllers import Controller, MaxAbs, MinMax, Static
from bitwright.quantize.estimators import Estimator
from bitwright.quantize.quantizer import Quantizer, quantizers, state_names, tick
from bitwright.quantize.spec import Quantized, QuantizerSpec
from bitwright.quantize.statistics import Merge, Statistic, measure

__all__ = [
    "Controller",
    "Estimator",
    "MaxAbs",
    "Merge",
    "MinMax",
    "Quantized",
    "Quantizer",
    "QuantizerSpec",
    "Static",
    "Statistic",
    "calibrate",
    "measure",
    "quantizers",
    "state_names",
    "tick",
]
