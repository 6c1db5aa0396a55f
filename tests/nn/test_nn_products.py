"""Products: scales per channel, other shapes, and the bounds that choose the arithmetic."""

from __future__ import annotations

import torch
from torch import nn

import bitwright as bw
from bitwright.nn.arithmetic import accumulator_bound


def test_per_channel_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3, bias=False))
    weight = model[0].weight.detach().clone()
    recipe = bw.recipe("float", weight={"format": "int4", "controller": "max-abs", "per": "channel"})
    bw.quantize_(model, recipe, verbose=False)
    x = torch.randn(5, 6, requires_grad=True)
    g = torch.randn(5, 3)
    y = model(x)
    y.backward(g)
    scale = weight.abs().amax(1, keepdim=True) / 7
    values = torch.round(weight / scale).clamp(-8, 7) * scale
    assert torch.allclose(y, x @ values.T, atol=1e-5)
    assert torch.allclose(x.grad, g @ values, atol=1e-5)


def test_linear_takes_more_axes_and_none():
    model = nn.Sequential(nn.Linear(6, 3))
    bw.quantize_(model, bw.recipe("float", weight="fixed8.6", error="fixed8.4"), verbose=False)
    for shape in [(6,), (2, 6), (2, 3, 6)]:
        x = torch.randn(shape, requires_grad=True)
        y = model(x)
        assert y.shape == (*shape[:-1], 3)
        y.sum().backward()
        assert x.grad.shape == shape


def test_bounds():
    weight = torch.zeros(4, 1000)
    weight[2, :10] = 100
    assert accumulator_bound(weight, 128, 128) == 1000 * 128 * 128
    weight = torch.zeros(4, 4000)
    weight[2, :10] = 100  # the norm of the actual levels is tighter than the widths
    assert accumulator_bound(weight, 128, 128) == 1000 * 128
    assert accumulator_bound(torch.zeros(2, 3, 3, 3), 1, 1) == 27
