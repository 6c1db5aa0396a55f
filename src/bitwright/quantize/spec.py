"""What a recipe says of one tensor, and what its quantiser hands on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import RANDOM_BITS, Block, Format, Overflow, Rounding
from bitwright.quantize.controllers import Controller, Static
from bitwright.quantize.estimators import Estimator
from bitwright.quantize.transforms import Transform


@dataclass(frozen=True)
class QuantizerSpec:
    """What a recipe says of one tensor.

    Args:
        format: its numbers.
        controller: what moves its scale.
        rounding: see `Rounding`; stochastic in training only.
        estimator: its gradient.
        overflow: what a number beyond the largest one becomes.
        random_bits: bits that each stochastic rounding draws, 1 to 16.
        transform: what the tensor becomes first.
    """

    format: Format
    controller: Controller = field(default_factory=Static)
    rounding: Rounding = Rounding.NEAREST_EVEN
    estimator: Estimator = Estimator.STRAIGHT_THROUGH
    overflow: Overflow = Overflow.SATURATE
    random_bits: int = RANDOM_BITS
    transform: Transform = Transform.NONE

    def __post_init__(self) -> None:
        self.controller.check(self.format)
        if self.transform is not Transform.NONE:
            if not isinstance(self.controller, Static):
                raise InvalidValueError(
                    "a transform brings a tensor to a range that stands, so its scale is static",
                    got=self.controller,
                    where=f"transform {self.transform.value}",
                )
            self.transform.check(self.format, self.controller.scale)
        self.format.check_overflow(self.overflow)
        if isinstance(self.format, Block) and self.estimator is Estimator.CLIPPED:
            raise InvalidValueError(
                "blocks take their scale from the tensor, so there is nothing to clip",
                got=self.estimator.value,
                where=str(self.format),
                fix='use estimator="straight-through"',
            )
        if not 1 <= self.random_bits <= RANDOM_BITS:
            raise InvalidValueError(f"random bits lie in 1 to {RANDOM_BITS}", got=self.random_bits)
        if self.controller.learns and self.estimator is not Estimator.CLIPPED:
            raise InvalidValueError(
                f"a {self.controller} scale is learnt with the clipped gradient",
                got=self.estimator.value,
                fix='use estimator="clipped"',
            )

    def transformed(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as it comes to be rounded."""
        if self.transform is Transform.NONE:
            return x
        assert isinstance(self.controller, Static)
        return self.transform(x, self.format, self.format.scale_or_default(self.controller.scale))

    def __str__(self) -> str:
        parts = [str(self.controller)] if self.controller != Static() else []
        if self.transform is not Transform.NONE:
            parts.append(f"{self.transform.value} first")
        if self.rounding is not Rounding.NEAREST_EVEN:
            parts.append(self.rounding.value)
        if self.random_bits != RANDOM_BITS:
            parts.append(f"{self.random_bits} random bits")
        if self.overflow is not Overflow.SATURATE:
            parts.append(self.overflow.value)
        return str(self.format) + (f" ({', '.join(parts)})" if parts else "")


class Quantized(NamedTuple):
    """A tensor on its way to a product: value = levels * scale.

    `levels` are integer-valued floats (or plain values where nothing quantises them); `scale` broadcasts
    to them, and None stands for 1. Gradients are those of the value. With a zero point the code is
    levels + zero_point: the zero point is taken off already, and products need not know it.
    """

    levels: torch.Tensor
    scale: torch.Tensor | None = None
    zero_point: torch.Tensor | None = None

    def value(self) -> torch.Tensor:
        """levels * scale, through which gradients of the value pass as they are."""
        if self.scale is None:
            return self.levels
        value: torch.Tensor = _Value.apply(self.levels, self.scale)  # type: ignore[no-untyped-call]
        return value

    def codes(self) -> torch.Tensor:
        """The codes of an integer format, as int64."""
        codes = self.levels.to(torch.int64)
        return codes if self.zero_point is None else codes + self.zero_point


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, levels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return levels * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None
