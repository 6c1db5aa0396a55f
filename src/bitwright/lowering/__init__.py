"""lowering: from a quantised module to an integer network, and the proof that both agree."""

from bitwright.lowering.check import NotLowerableError
from bitwright.lowering.islands import Chain, FloatIsland
from bitwright.lowering.lower import lower
from bitwright.lowering.thresholds import find_thresholds
from bitwright.lowering.verify import Difference, Verification, verify
from bitwright.lowering.weights import stored_weight
from bitwright.quantize import evaluating

__all__ = [
    "Chain",
    "Difference",
    "FloatIsland",
    "NotLowerableError",
    "Verification",
    "evaluating",
    "find_thresholds",
    "lower",
    "stored_weight",
    "verify",
]
