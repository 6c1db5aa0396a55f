"""Losses by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from bitwright.errors import unknown_name


def squared_hinge(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """mean(max(0, 1 - t y)^2) with t = +1 at the label and -1 elsewhere (QNN, Algorithm 1)."""
    target = torch.full_like(output, -1.0).scatter_(1, labels[:, None], 1.0)
    return torch.relu(1 - target * output).square().mean()


_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross-entropy": F.cross_entropy,
    "squared-hinge": squared_hinge,
}


def loss(name: str, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of that name for output [N, classes] and labels int64 [N]."""
    if name not in _LOSSES:
        raise unknown_name("loss", name, _LOSSES)
    return _LOSSES[name](output, labels)
