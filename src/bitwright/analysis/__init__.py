"""analysis: what a network costs and how fast it runs."""

from bitwright.analysis.bench import Timing, time_network
from bitwright.analysis.cost import (
    describe_operations,
    float_bytes,
    float_operations,
    integer_operations,
    weight_bits,
)
from bitwright.analysis.float_layers import FloatTwin, float_twin
from bitwright.analysis.kernel_repetition import Repetition, kernel_repetition, kernel_repetitions
from bitwright.analysis.step_operations import Operations, step_operations

__all__ = [
    "FloatTwin",
    "Operations",
    "Repetition",
    "Timing",
    "describe_operations",
    "float_bytes",
    "float_operations",
    "float_twin",
    "integer_operations",
    "kernel_repetition",
    "kernel_repetitions",
    "step_operations",
    "time_network",
    "weight_bits",
]
