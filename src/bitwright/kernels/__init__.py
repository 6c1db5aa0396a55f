"""The kernels: a whole network of few bits in one native call, and quantisers for emulation.

`Graph` is tensors of packed codes with stages between them; `bitwright.kernels.quantize` rounds float32
onto a format's grid. `available_isas`, `default_isa` and `describe` tell what this machine executes,
`quantize_isas` the same of the quantisers. Knows NumPy and no torch.
"""

from bitwright.kernels.dispatch import ISA_VARIABLE, available_isas, default_isa, describe, quantize_isas
from bitwright.kernels.graph import Graph

__all__ = ["ISA_VARIABLE", "Graph", "available_isas", "default_isa", "describe", "quantize_isas"]
