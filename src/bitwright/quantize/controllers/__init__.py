"""Controllers: the rules that set a scale. Frozen values; their state lives in the quantiser's buffers."""

from bitwright.quantize.controllers.autoflex import Autoflex
from bitwright.quantize.controllers.base import Controller, State
from bitwright.quantize.controllers.dorefa import DoReFa
from bitwright.quantize.controllers.learnt import Learnt, LearntClip, LearntStep
from bitwright.quantize.controllers.maxabs import MaxAbs, MinMax
from bitwright.quantize.controllers.optimal import MinMSE, SqnrOptimal
from bitwright.quantize.controllers.overflow import OverflowRate
from bitwright.quantize.controllers.percentile import Percentile
from bitwright.quantize.controllers.static import Static

CONTROLLERS: dict[str, type[Controller]] = {
    "static": Static,
    "max-abs": MaxAbs,
    "min-max": MinMax,
    "percentile": Percentile,
    "min-mse": MinMSE,
    "sqnr": SqnrOptimal,
    "overflow-rate": OverflowRate,
    "autoflex": Autoflex,
    "lsq": LearntStep,
    "pact": LearntClip,
    "dorefa": DoReFa,
}
"""Name in a recipe -> controller; a recipe's keys are the parameters."""

__all__ = [
    "CONTROLLERS",
    "Autoflex",
    "Controller",
    "DoReFa",
    "Learnt",
    "LearntClip",
    "LearntStep",
    "MaxAbs",
    "MinMSE",
    "MinMax",
    "OverflowRate",
    "Percentile",
    "SqnrOptimal",
    "State",
    "Static",
]
