"""Weights rounded together: against every point of a small grid, and against the definition of the error."""

from __future__ import annotations

import itertools

import pytest
import torch

from bitwright.quantize import Moments, round_together

GRID = torch.arange(-2, 2, dtype=torch.float64)


def nearest(column):
    return GRID[(column[:, None] - GRID).abs().argmin(1)]


def problem(seed, rows=3, columns=4, count=50, centred=True):
    """Weights in sixteenths and integer inputs: every sum is exact."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-32, 32, (rows, columns), generator=generator) / 16
    p = torch.randint(-4, 5, (columns, count), generator=generator).float()
    p[1] = p[0] + torch.randint(-1, 2, (count,), generator=generator)  # correlated inputs
    q = p + torch.randint(-1, 2, p.shape, generator=generator)
    moments = Moments(weight, centred)
    moments.add(p[:, :20], q[:, :20])
    moments.add(p[:, 20:], q[:, 20:])
    return moments, weight, p, q


def outputs_error(weight, rounded, p, q, centred):
    """E |y - y'|^2 by its definition, in rational arithmetic scaled to integers: N^2 16^2 times the error."""
    y = (16 * weight).round().long() @ p.long() - 16 * rounded.long() @ q.long()
    n = y.shape[1]
    total = n * y.square().sum(1)
    return total - y.sum(1).square() if centred else total


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_errors_are_those_of_the_outputs(seed, centred):
    moments, weight, p, q = problem(seed, centred=centred)
    rounded = nearest(weight.double().flatten()).view_as(weight)
    wanted = outputs_error(weight, rounded, p, q, centred)
    assert torch.equal((moments.errors(rounded) * 256 * 50**2).round().long(), wanted)


@pytest.mark.parametrize("seed", range(20))
def test_no_single_weight_can_be_improved_and_nothing_is_worse_than_nearest(seed):
    moments, weight, p, q = problem(seed)
    found = round_together(moments, nearest, sweeps=100)
    assert torch.isin(found, GRID).all()
    error = outputs_error(weight, found, p, q, True)
    plain = nearest(weight.double().flatten()).view_as(weight)
    assert (error <= outputs_error(weight, plain, p, q, True)).all()
    for column, value in itertools.product(range(4), GRID.tolist()):
        moved = found.clone()
        moved[:, column] = value
        assert (error <= outputs_error(weight, moved, p, q, True)).all()


def test_it_finds_the_best_grid_point_of_most_small_problems():
    points = torch.tensor(list(itertools.product(GRID.tolist(), repeat=4)), dtype=torch.float64)
    best = nearest_best = 0
    for seed in range(10):
        moments, weight, p, q = problem(seed)
        found = outputs_error(weight, round_together(moments, nearest, 100), p, q, True)
        plain = nearest(weight.double().flatten()).view_as(weight)
        every = [outputs_error(weight, point.expand(3, 4), p, q, True) for point in points]
        least = torch.stack(every).amin(0)
        best += int((found == least).sum())
        nearest_best += int((outputs_error(weight, plain, p, q, True) == least).sum())
    assert (best, nearest_best) == (21, 8)  # of 30 rows


def test_an_input_that_never_moves_keeps_its_nearest_weight_and_goes_to_the_bias():
    moments = Moments(torch.tensor([[0.6, 0.3]]), centred=True)
    p = torch.tensor([[1.0, -1.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0]])
    moments.add(p, p)
    found = round_together(moments, nearest)
    assert found.tolist() == [[1.0, 0.0]]
    # y = 0.6 p0 + 0.9, y' = p0 + shift, mean p0 = 0.5
    assert moments.bias_shift(found).item() == pytest.approx(0.3 + 0.9 - 0.5, abs=1e-6)


def test_without_a_bias_the_means_count():
    moments = Moments(torch.tensor([[0.4]]), centred=False)
    x = torch.full((1, 8), 3.0)
    moments.add(x, x / 2)  # the quantised network's input is half of what it should be
    assert round_together(moments, nearest).tolist() == [[1.0]]
    assert moments.bias_shift(torch.tensor([[1.0]], dtype=torch.float64)).item() == 0
