"""The kernels: a whole network of few bits in one native call, and quantisers for emulation.

`Program` is a list of stages over packed bits; `bitwright.kernels.quantize` rounds float32 onto a
format's grid. `available_isas`, `default_isa` and `describe` tell what this machine executes,
`quantize_isas` the same of the quantisers. Knows NumPy and no torch.
"""

from bitwright.kernels.dispatch import ISA_VARIABLE, available_isas, default_isa, describe, quantize_isas
from bitwright.kernels.program import Program

__all__ = ["ISA_VARIABLE", "Program", "available_isas", "default_isa", "describe", "quantize_isas"]
