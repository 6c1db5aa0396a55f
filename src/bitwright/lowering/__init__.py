"""lowering: from a quantised module to an integer network, and the proof that both agree."""

from bitwright.lowering.lower import evaluating, find_thresholds, lower, stored_weight
from bitwright.lowering.verify import Difference, Verification, verify

__all__ = [
    "Difference",
    "Verification",
    "evaluating",
    "find_thresholds",
    "lower",
    "stored_weight",
    "verify",
]
