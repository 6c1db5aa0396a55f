"""Controllers: the rules that set a scale. Frozen values; their state lives in the quantiser's buffers."""

from bitwright.quantize.controllers.base import Controller, State
from bitwright.quantize.controllers.maxabs import MaxAbs, MinMax
from bitwright.quantize.controllers.static import Static

__all__ = ["Controller", "MaxAbs", "MinMax", "State", "Static"]
