"""Shift-based batch norm (QNN, section 2): every multiplication of a value is a shift.

    C = x - mean(x);  P = AP2(C);  var = mean(C P);  r = AP2(1 / sqrt(var + eps))
    y = AP2(gamma) (C r) + beta
    dx = AP2(gamma) r [G - mean(G) - P r^2 mean(P G)];  dgamma = sum(AP2(C r) G);  dbeta = sum(G)

Means run over all axes but the channels'. Backward is the authors' code's, not the derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from bitwright.formats.ap2 import ap2, ap2_number
from bitwright.nn.norm import BatchNorm1d, BatchNorm2d, require_statistics

MOMENTUM = 0.125


class _ShiftNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(y, mean [C], 1 / sqrt(var + eps) [C])."""
        axes, shape = _axes(x)
        mean = x.mean(axes)
        centred = x - mean.view(shape)
        power = ap2(centred)
        inverse = torch.rsqrt((centred * power).mean(axes) + eps)
        r, gain = ap2(inverse), ap2(gamma)
        ctx.save_for_backward(power, r, gain)
        ctx.mark_non_differentiable(mean, inverse)
        y = centred.mul_((gain * r).view(shape)).add_(beta.view(shape))
        return y, mean, inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad = grads[0]
        power, r, gain = ctx.saved_tensors
        axes, shape = _axes(grad)
        count = grad.numel() // grad.shape[1]
        total, crossed = grad.sum(axes), (grad * power).sum(axes)
        dx = power * (r * r * (crossed / count)).view(shape)
        torch.sub(grad, dx, out=dx).sub_((total / count).view(shape)).mul_((gain * r).view(shape))
        # AP2(C r) = P r
        return dx, r * crossed, total, None


def _axes(x: torch.Tensor) -> tuple[list[int], list[int]]:
    """(the axes that a channel sums over, the shape in which [C] broadcasts)."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    return axes, [1, -1, *([1] * (x.dim() - 2))]


def _forward(norm: BatchNorm1d | BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    if norm.training:
        ones = torch.ones(norm.num_features, device=x.device)
        gamma, beta = (norm.weight, norm.bias) if norm.affine else (ones, torch.zeros_like(ones))
        y, mean, inverse = _ShiftNorm.apply(x, gamma, beta, norm.eps)  # type: ignore[no-untyped-call]
        _remember(norm, mean, inverse)
        result: torch.Tensor = y
        return result
    mean, gain, beta = (t.to(x.device, torch.float32) for t in _statistics(norm))
    shape = _axes(x)[1]
    return (x - mean.view(shape)) * gain.view(shape) + beta.view(shape)


@torch.no_grad()
def _remember(norm: BatchNorm1d | BatchNorm2d, mean: torch.Tensor, inverse: torch.Tensor) -> None:
    """Running averages of the mean and of the *inverse* deviation; `running_var` holds the variance
    that the latter means, so that state_dict keeps torch's names and their meaning."""
    if norm.running_mean is None or norm.running_var is None:
        return
    momentum = MOMENTUM if norm.momentum is None else ap2_number(norm.momentum)
    held = torch.rsqrt(norm.running_var + norm.eps)
    held += (inverse - held) * momentum
    norm.running_mean += (mean - norm.running_mean) * momentum
    norm.running_var.copy_((held**-2 - norm.eps).clamp_(min=0))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1


def _statistics(norm: BatchNorm1d | BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    running_mean, running_var = require_statistics(norm)
    inverse = ap2(torch.rsqrt(running_var.detach().cpu().float() + norm.eps))
    gamma = norm.weight.detach().cpu().float() if norm.affine else torch.ones_like(inverse)
    beta = norm.bias.detach().cpu().double() if norm.affine else torch.zeros_like(inverse).double()
    return running_mean.detach().cpu().double(), (ap2(gamma) * inverse).double(), beta


class ShiftBatchNorm1d(BatchNorm1d):
    """Shift-based batch norm over [N, C] or [N, C, L]."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """Training, and eval on values; the running averages move by AP2(momentum)."""
        return _forward(self, x)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, AP2(gamma) AP2(1 / sqrt(var + eps)) and beta: float64 [C] on the CPU."""
        return _statistics(self)


class ShiftBatchNorm2d(BatchNorm2d):
    """Shift-based batch norm over [N, C, H, W]."""

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """Training, and eval on values; the running averages move by AP2(momentum)."""
        return _forward(self, x)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, AP2(gamma) AP2(1 / sqrt(var + eps)) and beta: float64 [C] on the CPU."""
        return _statistics(self)
