"""FxpAdam against its formulas on exact fractions, with the formats of a recipe around each step."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from registers import fractions, grid, root, rounded
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed
from bitwright.optim import FxpAdam, ParameterRule, pieces, wrap
from bitwright.quantize import QuantizerSpec

WEIGHT, GRAD, STATE = (12, 11), (12, 14), (16, 17)
LR = 2**-7 * 1.25


def drawn(step, shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(step)) * 0.02
    g.view(-1)[step % g.numel()] = 0.0
    g[0] = 0.0  # a weight that never moves
    return g


def reference(weights, grads):
    """The class's formulas, number by number."""
    result = []
    for index, start in enumerate(fractions(weights)):
        w, m, r = grid(start, *WEIGHT), Fraction(0), Fraction(0)
        for t, gs in enumerate(grads, start=1):
            g = grid(Fraction(gs[index]), *GRAD)
            a, b = ((min(shift, (t - 1).bit_length())) for shift in (3, 10))
            m = rounded(m + rounded(g - m) / 2**a)
            square = rounded(r * r)
            r = root(rounded(square + rounded(rounded(g * g) - square) / 2**b))
            w = rounded(w - rounded((rounded(m / r) if r else Fraction(0)) * Fraction(LR)))
            w, m, r = grid(w, *WEIGHT), grid(m, *STATE), grid(r, *STATE)
        result.append((w, m, r))
    return result


def trained(shape, steps):
    torch.manual_seed(3)
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.rand(shape) * 2 - 1))
    start = model.weight.detach().clone()
    specs = {"primal": WEIGHT, "weight_grad": GRAD, "state": STATE}
    rule = ParameterRule("w", model.weight, **{r: QuantizerSpec(Fixed(*f)) for r, f in specs.items()})
    optimizer = wrap(FxpAdam(model.parameters(), lr=LR), model, [rule])
    grads = [drawn(step, shape) for step in range(steps)]
    for g in grads:
        model.weight.grad = g.clone()
        optimizer.step()
    return start, grads, model.weight.detach(), optimizer.state[model.weight]


def test_every_number_of_the_step_is_that_of_the_formulas():
    start, grads, weight, state = trained((20,), 40)
    wanted = reference(start.tolist(), [g.tolist() for g in grads])
    for got, column in ((weight, 0), (state["exp_avg"], 1), (state["exp_avg_root"], 2)):
        assert fractions(got.tolist()) == [row[column] for row in wanted]
    # it did something: weights moved, the root of the resting weight is 0
    assert len({float(row[2]) for row in wanted}) > 10
    assert wanted[0][2] == 0


def test_pieces_change_nothing(monkeypatch):
    shape = (7, 11)
    whole = trained(shape, 5)
    monkeypatch.setattr(pieces, "PIECE", 8)
    parts = trained(shape, 5)
    assert torch.equal(whole[2], parts[2])
    assert torch.equal(whole[3]["exp_avg_root"], parts[3]["exp_avg_root"])


def test_tensors_in_another_order_of_memory():
    results = []
    for order in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(3, 4, 2, 2).contiguous(memory_format=order))
        optimizer = FxpAdam([weight], lr=0.1)
        for step in range(3):
            weight.grad = drawn(step, weight.shape)
            optimizer.step()
        results.append(weight.detach().contiguous())
    assert torch.equal(*results)


def test_the_first_step_has_the_size_of_the_learning_rate():
    # t = 1 averages nothing: m / r = g / |g|
    weight = nn.Parameter(torch.zeros(5))
    optimizer = FxpAdam([weight], lr=0.25)
    weight.grad = torch.tensor([3.0, -0.5, 0.0, 1e-3, -7.0])
    optimizer.step()
    assert weight.tolist() == [-0.25, 0.25, 0.0, -0.25, 0.25]


def test_a_root_that_underflows_lets_the_weight_rest():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = FxpAdam([weight], lr=0.5)
    weight.grad = torch.tensor([1e-30, 1.0])
    optimizer.step()
    assert weight.tolist() == [0.0, -0.5]


@pytest.mark.parametrize("shifts", [(0, 10), (3, 25), (3,), (0.1, 10)])
def test_shifts_are_checked(shifts):
    with pytest.raises(InvalidValueError, match="two integers from 1 to 24"):
        FxpAdam([nn.Parameter(torch.zeros(1))], shifts=shifts)
