"""Weights rounded together: the grid point whose products come closest to those of the float weight.

A layer's outputs are y = W p + b in the float network, and W' q + b' in the quantised one, whose inputs q
differ from p. Over N calibration columns (p, q), with the means taken out, which the bias
b' = b + W mean(p) - W' mean(q) makes up for,

    E |y - y'|^2 = tr(W' H W'^T) - 2 tr(W C W'^T) + const        H = cov(q, q), C = cov(p, q)

Rounding to nearest minimises |W - W'| instead. Here coordinates take turns: each weight goes to the grid
point next to the minimum over it alone, which no other point of the grid beats,

    w'_k  <-  nearest(w'_k + (W C - W' H)_k / H_kk)

in the order of falling H_kk, from the float weight on, so that the first round feeds each column's error to
those behind it (the idea of GPTQ, Frantar et al. 2022, arXiv 2210.17323), and later rounds repair the early
ones (QuantEase, Behdin et al. 2023, arXiv 2309.01885). It needs no labels, no gradient and no step size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

SWEEPS = 8
"""Rounds over all columns; most layers settle before."""

Nearest = Callable[[torch.Tensor], torch.Tensor]
"""[O] values of one column of weights -> the nearest of the grid."""


class Moments:
    """Sums over columns of inputs, in float64.

    Args:
        weight: the float weight [O, K].
        centred: whether a bias can make up for means.
    """

    def __init__(self, weight: torch.Tensor, centred: bool) -> None:
        rows, columns = weight.shape
        self.weight = weight.double()
        self.centred = centred
        self.count = 0
        self._h = self.weight.new_zeros(columns, columns)
        self._c = self.weight.new_zeros(columns, columns)
        self._p = self.weight.new_zeros(columns)
        self._q = self.weight.new_zeros(columns)
        self._y = self.weight.new_zeros(rows)
        self._weight32 = weight.float()

    def add(self, p: torch.Tensor, q: torch.Tensor) -> None:
        """Columns [K, N] of the float network's inputs and of the quantised one's."""
        self.count += p.shape[1]
        self._h += q @ q.T
        self._c += p @ q.T
        self._p += p.sum(1, dtype=torch.float64)
        self._q += q.sum(1, dtype=torch.float64)
        self._y += (self._weight32 @ p).square().sum(1, dtype=torch.float64)

    @property
    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of p and q: [K] each; zeros unless centred."""
        factor = 1.0 / self.count if self.centred else 0.0
        return self._p * factor, self._q * factor

    @property
    def hessian(self) -> torch.Tensor:
        """H: [K, K]."""
        q = self.means[1]
        return self._h / self.count - torch.outer(q, q)

    @property
    def target(self) -> torch.Tensor:
        """W C: [O, K]."""
        p, q = self.means
        return self.weight @ (self._c / self.count - torch.outer(p, q))

    @property
    def power(self) -> torch.Tensor:
        """E y^2 of each output, with the mean taken out where centred: [O]."""
        return self._y / self.count - (self.weight @ self.means[0]).square()

    def errors(self, rounded: torch.Tensor) -> torch.Tensor:
        """E |y - y'|^2 of each output, [O], for a weight W' [O, K]."""
        return ((rounded @ self.hessian - 2 * self.target) * rounded).sum(1) + self.power

    def bias_shift(self, rounded: torch.Tensor) -> torch.Tensor:
        """b' - b: [O]."""
        p, q = self.means
        return self.weight @ p - rounded @ q


def round_together(moments: Moments, nearest: Nearest, sweeps: int = SWEEPS) -> torch.Tensor:
    """W' [O, K] in float64, on the grid, with no output worse than with each weight rounded to nearest.

    Args:
        moments: of the inputs that calibration saw.
        nearest: the grid, column by column.
        sweeps: rounds over all columns, at most.
    """
    weight, hessian = moments.weight, moments.hessian
    plain = torch.stack([nearest(column) for column in weight.unbind(1)], 1)
    diagonal = hessian.diagonal().tolist()
    order = sorted((k for k, d in enumerate(diagonal) if d > 0), key=lambda k: -diagonal[k])
    found = weight.clone()
    for k, d in enumerate(diagonal):
        if not d > 0:  # an input that never moves: the bias has its share
            found[:, k] = plain[:, k]
    residual = moments.target - found @ hessian
    for _ in range(sweeps):
        moved = False
        for k in order:
            best = nearest(found[:, k] + residual[:, k] / diagonal[k])
            step = best - found[:, k]
            if bool(step.any()):
                residual -= torch.outer(step, hessian[k])
                found[:, k] = best
                moved = True
        if not moved:
            break
    better = moments.errors(found) < moments.errors(plain)
    return torch.where(better[:, None], found, plain)
