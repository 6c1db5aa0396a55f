"""lowering: from a quantised module to an integer network, and the proof that both agree."""

from bitwright.lowering.check import NotLowerableError
from bitwright.lowering.emit import stored_weight
from bitwright.lowering.lower import lower
from bitwright.lowering.thresholds import find_thresholds
from bitwright.lowering.verify import Difference, Verification, verify
from bitwright.quantize import evaluating

__all__ = [
    "Difference",
    "NotLowerableError",
    "Verification",
    "evaluating",
    "find_thresholds",
    "lower",
    "stored_weight",
    "verify",
]
