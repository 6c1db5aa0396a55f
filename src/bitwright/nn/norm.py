"""Norms: in training torch's own batch norm; in eval the integers of `Fold`."""

from __future__ import annotations

import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.nn.fold import Fold


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`; in eval, where its input has codes or sums of them, y = (x M + B) 2^-s."""

    fold: Fold | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C] or [N, C, L]."""
        folded = _folded(self.fold, input)
        return self.compute(input) if folded is None else folded

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """What the norm does where nothing is folded: torch's own, and other norms' place to differ."""
        return super().forward(_plain(self, x))

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, gamma / sqrt(var + eps) and beta: float64 [C] on the CPU."""
        return _statistics(self)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`; in eval, where its input has codes or sums of them, y = (x M + B) 2^-s."""

    fold: Fold | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """[N, C, H, W]."""
        folded = _folded(self.fold, input)
        return self.compute(input) if folded is None else folded

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """What the norm does where nothing is folded: torch's own, and other norms' place to differ."""
        return super().forward(_plain(self, x))

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, gamma / sqrt(var + eps) and beta: float64 [C] on the CPU."""
        return _statistics(self)


def _plain(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """Exact values on a grid, in float64, as torch's norm takes them: it then computes nothing of ours."""
    mean = norm.running_mean
    return x if mean is None or x.dtype != torch.float64 else x.to(mean.dtype)


def _folded(fold: Fold | None, x: torch.Tensor) -> torch.Tensor | None:
    if fold is None or not fold.active(x.dim()):
        return None
    if not fold.by_norm:
        return x  # the add or pool in front of it has evaluated it
    source = fold.source
    return fold.apply(source.numbers(x), source.line(), x.dim() - 2)


def _statistics(
    norm: nn.BatchNorm1d | nn.BatchNorm2d,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mean, var = (t.detach().cpu().double() for t in require_statistics(norm))
    ones = torch.ones_like(mean)
    gamma = norm.weight.detach().cpu().double() if norm.affine else ones
    beta = norm.bias.detach().cpu().double() if norm.affine else torch.zeros_like(mean)
    return mean, gamma / torch.sqrt(var + norm.eps), beta


def require_statistics(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """The running mean and variance, which eval cannot do without."""
    if norm.running_mean is None or norm.running_var is None:
        raise InvalidValueError(
            "eval needs running statistics",
            got="track_running_stats=False",
            where=repr(norm),
            fix="train with track_running_stats=True",
        )
    return norm.running_mean, norm.running_var
