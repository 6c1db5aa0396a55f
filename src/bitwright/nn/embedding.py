"""Embeddings with a quantised table: rows of levels, and in eval codes of whatever reads them.

y[..., d] = round(level[token, d] M[d] 2^-s)        M: the table's scale, in steps of what follows
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from bitwright.nn.fold import Fold, Levels, Line
from bitwright.nn.slots import Slots
from bitwright.quantize import Quantized, Quantizer


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` whose table is quantised. Built by `quantize_`.

    A scale per channel is one for each number of a row. Its channels are the last axis of what it makes.
    """

    slots: Slots
    fold: Fold | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """Tokens [N, ...], integers -> [N, ..., D]."""
        weight: Quantized = self.slots("forward.weight", self.weight)
        if self.fold is not None and self.fold.active(input.dim() + 1):
            assert isinstance(self.fold.source, Rows)
            rows = F.embedding(input, weight.levels.detach()) / self.fold.source.unit
            return self.fold.apply((rows,), self.fold.source.line(), 0)
        return F.embedding(
            input, weight.value(), self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq
        )


class Rows(Levels):
    """Raw numbers of an embedding, levels of its table: value[d] = level[d] scale[d]."""

    def __init__(self, layer: Embedding) -> None:
        super().__init__(layer.slots.layer, [layer.slots.of("forward.weight")])
        self.layer = layer

    @property
    def operands(self) -> Mapping[str, Quantizer | None]:
        """The table's alone."""
        return {"forward.weight": self.quantizers[0]}

    @property
    def unit(self) -> float:
        """The number that one level stands for, a power of two."""
        (quantizer,) = self.quantizers
        return 1.0 if quantizer is None else quantizer.format.unit

    def line(self, terms: int = 1, divisor: float = 1.0) -> Line:
        """From the present scale, one a channel."""
        (quantizer,) = self.quantizers
        assert quantizer is not None
        slope = torch.full((self.layer.embedding_dim,), self.unit * terms / divisor, dtype=torch.float64)
        scale = quantizer.current_scale()
        if scale is not None:
            slope = slope * scale.detach().cpu().double().flatten()
        return Line(slope[None], torch.zeros_like(slope), (quantizer.level_max * terms,))


def embedding_problem(module: nn.Module) -> str | None:
    """Why an embedding of torch's stays as it is; None where it has a quantised twin."""
    if not isinstance(module, nn.Embedding):
        return None
    if module.max_norm is not None:
        return f"max_norm = {module.max_norm}; it changes the stored weight in the forward pass"
    return "sparse = True; gradients that pass a quantiser are dense" if module.sparse else None
