"""ShiftAdaMax against algorithm 4 in numpy float32, one operation at a time; AP2 against its definition."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import nn

from bitwright.formats.ap2 import ap2, ap2_number
from bitwright.optim import ShiftAdaMax


def power(x):
    """AP2 by the logarithm of a float64."""
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore"):
        return np.where(x == 0, 0.0, np.sign(x) * 2.0 ** np.round(np.log2(np.abs(x)))).astype(np.float32)


def test_ap2_is_the_nearest_power_in_the_logarithm():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=generator) * torch.exp(10 * torch.randn(20_000, generator=generator))
    assert np.array_equal(ap2(x).numpy(), power(x.numpy()))
    assert [ap2_number(abs(v)) for v in x[:500].tolist()] == np.abs(power(x[:500].numpy())).tolist()
    # the turn is at sqrt(2): the float32 neighbours on both sides
    below, above = np.float32(math.sqrt(2)), np.nextafter(np.float32(math.sqrt(2)), np.float32(2))
    assert float(below) < math.sqrt(2) < float(above)
    assert ap2(torch.tensor([float(below), float(above), -float(above), 0.0])).tolist() == [1, 2, -2, 0]
    y = x.clone()
    assert ap2(y, out=y) is y
    assert torch.equal(y, ap2(x))


def test_every_step_is_that_of_the_algorithm():
    f = np.float32
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 50))
    w = weight.detach().numpy().copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    optimizer = ShiftAdaMax([weight], lr=0.003)
    for t in range(1, 30):
        g = torch.randn(6, 50) * 0.01
        g[0, :5] = 0.0
        weight.grad = g.clone()
        optimizer.step()
        g = g.numpy()
        m = m + (g - m) * f(2**-3)
        v = np.maximum(v - v * f(2**-10), np.abs(g))
        with np.errstate(divide="ignore"):
            shift = np.where(v == 0, f(2**63), power(f(1) / v))
        size = f(power(0.003) * power(1 / (1 - 0.875**t)))
        w = w - size * (m * shift)
        assert np.array_equal(weight.detach().numpy(), w), t
    state = optimizer.state[weight]
    assert np.array_equal(state["exp_avg"].numpy(), m)
    assert np.array_equal(state["exp_inf"].numpy(), v)
    assert (w[0, :5] == weight.detach().numpy()[0, :5]).all()


def test_a_copied_optimiser_goes_on_alike():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = ShiftAdaMax(model.parameters())
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    other, twin = copy.deepcopy((model, optimizer))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        q.grad = p.grad.clone()  # a copy of a Parameter leaves its gradient behind
    optimizer.step()
    twin.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_closures_and_parameters_without_gradients():
    weight, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = ShiftAdaMax([weight, idle], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert torch.equal(idle, torch.ones(2))
    # g = 2, m = 1/4, AP2(1 / (1 - 7/8)) = 8, AP2(1/2) = 1/2: the step is 1/4
    assert weight.tolist() == [0.75, 0.75]
