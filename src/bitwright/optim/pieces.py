"""Parameters in pieces that stay in the cache, and the scratch that every piece shares."""

from __future__ import annotations

from collections.abc import Iterator

import torch

PIECE = 1 << 16
"""Elements: five float32 tensors of it fit a core's second cache, so that a step of many operations moves
each stored number through memory once."""


class Scratch:
    """Tensors of a piece's size, made once in a step for each type and device."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, torch.device, int], torch.Tensor] = {}

    def like(self, piece: torch.Tensor, number: int) -> torch.Tensor:
        """Tensor `number` of the shape of `piece`; what it holds is anyone's guess."""
        key = (piece.dtype, piece.device, number)
        held = self._held.get(key)
        if held is None or held.numel() < piece.numel():
            held = self._held[key] = torch.empty_like(piece, memory_format=torch.contiguous_format).view(-1)
        return held[: piece.numel()].view(piece.shape)


def pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same stretch of each tensor (all of one shape), piece by piece; whole tensors on other devices."""
    if tensors[0].device.type != "cpu" or not all(t.is_contiguous() for t in tensors):
        yield tensors
        return
    yield from zip(*(torch.split(t.view(-1), PIECE) for t in tensors), strict=True)
