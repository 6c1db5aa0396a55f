"""Data parallelism: what the ranks of a training run measured, merged before any scale moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from bitwright.quantize.statistics import Measured, Statistic


def count() -> int:
    """How many ranks there are; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """This rank; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def merge(measured: Sequence[tuple[Statistic, torch.Tensor]]) -> list[torch.Tensor]:
    """Each statistic over all ranks: one all_gather of one flat float64 tensor, then a fold in rank order.

    float64 holds every count up to 2^53 and every float32. All ranks fold the same numbers in the same
    order, so all get the same bits. Every rank must bring the same statistics in the same shapes.
    """
    if count() == 1 or not measured:
        return [tensor for _, tensor in measured]
    flat = torch.cat([tensor.detach().double().flatten() for _, tensor in measured])
    gathered = [torch.empty_like(flat) for _ in range(count())]
    dist.all_gather(gathered, flat)
    sizes = [tensor.numel() for _, tensor in measured]
    columns = torch.split(torch.stack(gathered), sizes, dim=1)
    merged = []
    for (statistic, tensor), column in zip(measured, columns, strict=True):
        folded = column[0]
        for part in column[1:]:
            folded = statistic.merge(folded, part)
        merged.append(folded.to(tensor.dtype).view(tensor.shape))
    return merged


def merge_one(measured: Measured) -> Measured:
    """The statistics of one tensor over all ranks."""
    return dict(zip(measured, merge(list(measured.items())), strict=True))
