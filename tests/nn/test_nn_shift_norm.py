"""Shift-based batch norm against the paper's formulas in float64, on numbers whose sums are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.nn import ShiftBatchNorm1d, ShiftBatchNorm2d
from bitwright.recipes import recipe

SHAPES = [(64, 5), (16, 5, 4), (8, 5, 4, 2)]


def power(x):
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore"):
        return np.where(x == 0, 0.0, np.sign(x) * 2.0 ** np.round(np.log2(np.abs(x))))


def norm_of(shape):
    torch.manual_seed(0)
    norm = (ShiftBatchNorm2d if len(shape) == 4 else ShiftBatchNorm1d)(5, eps=2**-10)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.3, -2.9, 1.41, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 0.5, -1.25, 2.0, 1.0]))
    return norm


def drawn(shape, seed):
    return torch.randint(-20, 21, shape, generator=torch.Generator().manual_seed(seed)).float()


def columns(t):
    """[N, C, ...] -> [C, n] in float64."""
    return np.moveaxis(t.detach().double().numpy(), 1, 0).reshape(t.shape[1], -1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_are_the_papers(shape):
    norm = norm_of(shape)
    x, g = drawn(shape, 1).requires_grad_(), drawn(shape, 2)
    y = norm(x)
    y.backward(g)
    s, grad = columns(x), columns(g)
    gamma, beta = (p.detach().double().numpy()[:, None] for p in (norm.weight, norm.bias))
    c = s - s.mean(1, keepdims=True)
    p = power(c)
    var = (c * p).mean(1, keepdims=True)
    r = power(1 / np.sqrt(var + norm.eps))
    assert np.array_equal(columns(y), power(gamma) * (c * r) + beta)
    mean = lambda t: t.mean(1, keepdims=True)  # noqa: E731
    dx = power(gamma) * r * (grad - mean(grad) - p * r**2 * mean(p * grad))
    assert np.array_equal(columns(x.grad), dx)
    assert np.array_equal(norm.weight.grad.double().numpy(), (power(c * r) * grad).sum(1))
    assert np.array_equal(norm.bias.grad.double().numpy(), grad.sum(1))


def test_running_averages_are_of_the_mean_and_the_inverse_deviation():
    norm = norm_of((64, 5))
    f = np.float32
    mean, var = np.zeros(5, f), np.ones(5, f)
    for step in range(4):
        x = drawn((64, 5), step) * (step + 1)
        norm(x)
        c = columns(x) - columns(x).mean(1, keepdims=True)
        now = f(1) / np.sqrt((c * power(c)).mean(1).astype(f) + f(2**-10))
        held = f(1) / np.sqrt(var + f(2**-10))
        held = held + (now - held) * f(0.125)  # AP2(0.1)
        mean = mean + (columns(x).mean(1).astype(f) - mean) * f(0.125)
        var = f(1) / held**2 - f(2**-10)
        assert np.array_equal(norm.running_mean.numpy(), mean)
        assert np.array_equal(norm.running_var.numpy(), var)
    assert int(norm.num_batches_tracked) == 4
    _, gain, beta = norm.statistics()
    exact = power(norm.weight.detach().numpy()) * power(1 / np.sqrt(var.astype(float) + 2**-10))
    assert np.array_equal(gain.numpy(), exact)
    assert all(np.log2(abs(v)) == round(np.log2(abs(v))) for v in gain.tolist() if v)
    # eval on values is that map
    x = drawn((64, 5), 9)
    wanted = (x - norm.running_mean) * gain.float() + beta.float()
    assert torch.equal(norm.eval()(x), wanted)


def test_a_recipe_puts_it_and_dequantize_takes_it_away():
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.Hardtanh(), nn.Linear(5, 3))

    model, plain = network(), network()
    report = bw.quantize_(model, recipe("qnn", norm="shift", optimizer="ShiftAdaMax"), verbose=False)
    assert type(model[1]) is ShiftBatchNorm1d
    assert [(r.tensor, r.format) for r in report.rows if r.role == "norm"] == [("1:norm", "shift")]
    model.load_state_dict(plain.state_dict())  # a float checkpoint, strictly
    model(torch.randn(16, 6))
    bw.dequantize_(model)
    assert type(model[1]) is nn.BatchNorm1d
    plain.load_state_dict(model.state_dict())
