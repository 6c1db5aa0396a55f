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

__all__ = [
    "FloatTwin",
    "Timing",
    "describe_operations",
    "float_bytes",
    "float_operations",
    "float_twin",
    "integer_operations",
    "time_network",
    "weight_bits",
]
