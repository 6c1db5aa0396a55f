"""Slots: the six operands of a compute layer's three products, a join's inputs, and who quantises each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from bitwright.formats import Block
from bitwright.nn.fold import requantize
from bitwright.quantize import Quantized, Quantizer, QuantizerSpec

OPERANDS = (
    "forward.activation",
    "forward.weight",
    "dgrad.error",
    "dgrad.weight",
    "wgrad.error",
    "wgrad.activation",
)
SHORT_NAMES = ("activation", "weight", "error")
"""Each sets both of its operands: the tensor is quantised once and reused."""

_CHANNEL_AXIS = {"activation": 1, "weight": 0, "error": 1}

LINEAR_AXES = dict(zip(OPERANDS, (-1, 1, -1, 0, -2, -2), strict=True))
"""Reduction axis of each operand of a linear layer: activations [..., I], weight [O, I], errors [..., O]."""

CONV_AXES = dict(zip(OPERANDS, (1, 1, 1, 0, 0, 0), strict=True))
"""The same of a convolution, of its several reduction axes one: channels, and the batch for wgrad."""


class Slots(nn.Module):
    """The quantisers of one module's operands, by role. Called with an operand, it quantises a tensor.

    The operands of a compute layer are those of its three products; those of an add, concat or pool are its
    inputs, "0.activation", "1.activation" and so on.

    Args:
        specs: role (an operand or a short name) -> spec. An operand's own name wins over the short one.
        layer: qualified name of the layer; with the role it keys random bits.
        seed: of the random bits.
        axes: operand -> its product's reduction axis, along which blocks run: a block format that a short
            name gives to a tensor quantises it once for each of its operands.
    """

    def __init__(
        self,
        specs: Mapping[str, QuantizerSpec],
        layer: str,
        seed: int = 0,
        axes: Mapping[str, int] = LINEAR_AXES,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.primaries: dict[str, Quantizer] = {}
        """Operand -> the quantiser on whose grid its tensor comes in eval, where that is not its own."""
        for role, spec in specs.items():
            roles: tuple[str, ...] = (role,)
            if role in SHORT_NAMES and isinstance(spec.format, Block):
                roles = tuple(operand for operand in operands_of(role) if operand not in specs)
            for one in roles:
                tensor = tensor_of(one)
                quantizer = Quantizer(
                    spec,
                    f"{layer}.{one}",
                    _CHANNEL_AXIS[tensor],
                    seed,
                    replicated=tensor == "weight",
                    block_axis=axes.get(one, -1),
                )
                self.add_module(_attribute(one), quantizer)

    def forward(self, operand: str, x: torch.Tensor) -> Quantized:
        """`x` as that operand: its levels and scale, or the values where it stays float.

        In eval the tensor may come on another quantiser's grid, because something else reads it in more bits:
        then that one's codes become this one's, in integers.
        """
        quantizer, primary = self.of(operand), self.primaries.get(operand)
        if quantizer is None:
            return Quantized(x)
        if primary is None or self.training or quantizer.calibrating or primary.calibrating:
            quantized: Quantized = quantizer(x)
            return quantized
        return requantize(primary, quantizer, x, f"{self.layer}.{operand}")

    def merge(self, shared: Callable[[Quantizer], Quantizer]) -> None:
        """Let the quantiser that `shared` names take the place of each."""
        for name, quantizer in list(self._modules.items()):
            assert isinstance(quantizer, Quantizer)
            self._modules[name] = shared(quantizer)

    def of(self, operand: str) -> Quantizer | None:
        """The quantiser of an operand; None where it stays float."""
        own = self._modules.get(_attribute(operand))
        quantizer = own if own is not None else self._modules.get(tensor_of(operand))
        return quantizer if isinstance(quantizer, Quantizer) else None


def tensor_of(role: str) -> str:
    """ "forward.weight" -> "weight"."""
    return role.rpartition(".")[2]


def operands_of(short: str) -> tuple[str, ...]:
    """ "weight" -> ("forward.weight", "dgrad.weight")."""
    return tuple(operand for operand in OPERANDS if tensor_of(operand) == short)


def _attribute(role: str) -> str:
    return role.replace(".", "_")


def check_reduction(role: str, spec: QuantizerSpec) -> str | None:
    """Why `spec` cannot serve an operand `role`, or None: no scale may vary along a reduction axis."""
    if spec.controller.per == "channel" and tensor_of(role) != "weight":
        return f"a scale per channel of {role} would vary along a product's reduction axis"
    return None
