"""DoReFa's gradients (Zhou et al. 2016): linear, stochastic, scaled by the largest of each example."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Format, Rounding, UInt, operators
from bitwright.quantize.controllers.base import TINY, Controller, State


@dataclass(frozen=True)
class DoReFa(Controller):
    """With M the largest |g| of an example (all axes but the first) and k the bits of a `uint` format:

        f(g) = 2M [quantize_k(clip(g / 2M + 1/2 + N, 0, 1)) - 1/2]
        quantize_k(x) = round((2^k - 1) x) / (2^k - 1)

    N is uniform noise of one step, so that round(x + N) is stochastic rounding: name `rounding =
    "stochastic"` with it. The scale is that of the very tensor, at once; 0 is no value of the grid. For
    errors, whose values the products then take in float32: scales of examples vary along wgrad's sum.
    """

    moves = False
    present = True

    def check(self, form: Format) -> None:
        if not isinstance(form, UInt):
            raise InvalidValueError("DoReFa's gradients are numbered from 0", got=form, fix='such as "uint6"')

    def state(self, form: Format) -> State:
        return {}

    def initial(self, measured: State, form: Format) -> State:
        return {}

    def values(
        self, x: torch.Tensor, form: Format, rounding: Rounding, key: torch.Tensor | None, bits: int
    ) -> torch.Tensor:
        """f(x), float32 of the shape of x."""
        axes = list(range(1, x.dim()))
        largest = x.abs()
        if axes and x.numel():
            largest = largest.amax(axes, keepdim=True)
        scale = (largest * (2 / form.code_max)).clamp_(min=TINY)
        shifted = x + largest
        operators.quantize(form, shifted, scale, rounding, key=key, bits=bits, out=shifted)
        return shifted.sub_(largest)

    def __str__(self) -> str:
        return "DoReFa, per example"
