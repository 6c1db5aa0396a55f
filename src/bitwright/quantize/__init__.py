"""quantize: how a tensor meets a format. Controllers, estimators, and the Quantizer module."""

from bitwright.quantize.calibration import calibrate, evaluating
from bitwright.quantize.controllers import (
    CONTROLLERS,
    Autoflex,
    Controller,
    DoReFa,
    LearntClip,
    LearntStep,
    MaxAbs,
    MinMax,
    MinMSE,
    OverflowRate,
    Percentile,
    SqnrOptimal,
    Static,
)
from bitwright.quantize.densities import Density, Optimum, grid_table, mid_rise_table
from bitwright.quantize.estimators import Estimator
from bitwright.quantize.least_squares import SWEEPS, Moments, round_together
from bitwright.quantize.quantizer import Quantizer
from bitwright.quantize.spec import Quantized, QuantizerSpec
from bitwright.quantize.statistics import Merge, Statistic, measure
from bitwright.quantize.together import clip_parameters, quantizers, state_names, tick
from bitwright.quantize.transforms import Transform

__all__ = [
    "CONTROLLERS",
    "SWEEPS",
    "Autoflex",
    "Controller",
    "Density",
    "DoReFa",
    "Estimator",
    "LearntClip",
    "LearntStep",
    "MaxAbs",
    "Merge",
    "MinMSE",
    "MinMax",
    "Moments",
    "Optimum",
    "OverflowRate",
    "Percentile",
    "Quantized",
    "Quantizer",
    "QuantizerSpec",
    "SqnrOptimal",
    "Static",
    "Statistic",
    "Transform",
    "calibrate",
    "clip_parameters",
    "evaluating",
    "grid_table",
    "measure",
    "mid_rise_table",
    "quantizers",
    "round_together",
    "state_names",
    "tick",
]
