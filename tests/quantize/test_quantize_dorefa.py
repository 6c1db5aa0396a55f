"""DoReFa's gradients against the formula in numpy, with the very noise that was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Key, Rounding, UInt, parse, tensor_id
from bitwright.formats.random import draw_scalar
from bitwright.quantize import DoReFa, Quantizer, QuantizerSpec
from bitwright.recipes import recipe

SPEC = {"format": "uint6", "controller": "dorefa", "rounding": "stochastic"}


def formula(g, k, draws):
    """f(g) = 2M [round(clip((2^k - 1)(g / 2M + 1/2) + N, 0, 2^k - 1)) / (2^k - 1) - 1/2], in float32."""
    f = np.float32
    top = f(2**k - 1)
    rows = []
    for row, draw in zip(g, draws, strict=True):
        m = np.abs(row).max()
        step = np.maximum(m * f(2 / float(top)), np.finfo(f).tiny)
        x = (row + m) / step
        # round(x + N) with N uniform in (-1/2, 1/2) is up with probability x - floor(x)
        up = draw < (x - np.floor(x)) * f(65536)
        rows.append(np.clip(np.floor(x) + up, 0, top) * step - m)
    return np.stack(rows)


@pytest.mark.parametrize("bits", [1, 2, 6, 8])
@pytest.mark.parametrize("shape", [(5, 40), (3, 4, 5, 6)], ids=str)
def test_every_value_is_the_formulas(bits, shape):
    spec = QuantizerSpec(UInt(bits), DoReFa(), Rounding.STOCHASTIC)
    quantizer = Quantizer(spec, "layer.error", seed=7).train()
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    g[1] = 0.0
    quantizer.tick(5)
    for call in range(2):
        values = quantizer(g).value()
        key = Key(7, tensor_id("layer.error"), 5, call)
        draws = np.array([draw_scalar(key, i).value for i in range(g.numel())]).reshape(shape)
        assert np.array_equal(values.numpy(), formula(g.numpy(), bits, draws))
    assert (values[1] == 0).all()
    levels = [len(np.unique(row)) for row in values.numpy()]
    assert max(levels) <= 2**bits
    assert quantizer.state_dict() == {}
    # the largest gradient of an example keeps its value, up to the rounding of its quotient
    flat = g[0].flatten()
    worst = int(flat.abs().argmax())
    assert abs(values[0].flatten()[worst] - flat[worst]) <= 2 * flat.abs().max() / (2**bits - 1)


def test_in_eval_nothing_is_drawn():
    quantizer = Quantizer(QuantizerSpec(UInt(4), DoReFa(), Rounding.STOCHASTIC), "e").eval()
    g = torch.randn(3, 20)
    assert torch.equal(quantizer(g).value(), quantizer(g).value())


def test_a_network_trains_with_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    chosen = recipe("qnn-gradients", error=SPEC)
    bw.quantize_(model, chosen, verbose=False)
    optimizer = chosen.optimizer(model)
    x, t = torch.randn(40, 20), torch.arange(40) % 4
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_what_it_does_not_serve_is_refused():
    with pytest.raises(InvalidValueError, match=r"numbered from 0; got int6"):
        QuantizerSpec(parse("int6"), DoReFa())
    for role in ("weight", "activation", "weight_grad", "primal"):
        with pytest.raises(InvalidValueError, match="for errors"):
            recipe("qnn", **{role: SPEC})
