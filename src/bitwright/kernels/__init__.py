"""The kernels: a whole network of few bits in one native call, on the best instruction set.

`Program` is a list of stages over packed bits; `available_isas`, `default_isa` and `describe`
tell what this machine executes. Knows NumPy and no torch.
"""

from bitwright.kernels.dispatch import ISA_VARIABLE, available_isas, default_isa, describe
from bitwright.kernels.program import Program

__all__ = ["ISA_VARIABLE", "Program", "available_isas", "default_isa", "describe"]
