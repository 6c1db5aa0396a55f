"""QNN's quantisers (section 5) as formats: LinearQuant, LogQuant, and both binarisations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.formats import Key, Rounding, parse
from bitwright.formats.random import draw
from bitwright.quantize import Estimator, Quantizer, QuantizerSpec, Static

X = torch.cat([torch.linspace(-2, 2, 4001), torch.randn(2000, generator=torch.Generator().manual_seed(0))])


def through(spec):
    x = X.clone().requires_grad_()
    quantizer = Quantizer(spec, "t")
    y = quantizer(x).value()
    y.backward(torch.ones_like(y))
    return y.detach().numpy(), x.grad.numpy()


@pytest.mark.parametrize("bits", range(2, 9))
def test_linear_quant(bits):
    # clip(round(x / bw) bw, minV, maxV) with bw = 2^-(bits - 1); the gradient passes inside the range
    y, grad = through(QuantizerSpec(parse(f"fixed{bits}.{bits - 1}"), estimator=Estimator.CLIPPED))
    bw = 2.0 ** -(bits - 1)
    x = X.double().numpy()
    assert np.array_equal(y, np.clip(np.round(x / bw) * bw, -1, 1 - bw).astype(np.float32))
    assert np.array_equal(grad, ((x >= -1) & (x <= 1 - bw)).astype(np.float32))


@pytest.mark.parametrize("bits", range(3, 7))
def test_log_quant(bits):
    # clip(AP2(x), minV, maxV): powers of two up to 1, and 0 below the smallest
    fields = 2 ** (bits - 1) - 1
    y, _ = through(QuantizerSpec(parse(f"log{bits}"), Static(2.0 ** -(fields - 1))))
    x = X.double().numpy()
    with np.errstate(divide="ignore"):
        exponent = np.minimum(np.round(np.log2(np.abs(x))), 0)
    wanted = np.where(exponent < -(fields - 1), 0.0, np.sign(x) * 2.0**exponent)
    assert np.array_equal(y, wanted.astype(np.float32))


def test_deterministic_binarisation_and_its_gradient():
    y, grad = through(QuantizerSpec(parse("binary"), estimator=Estimator.CLIPPED))
    assert np.array_equal(y, np.where(X.numpy() >= 0, 1, -1))
    assert np.array_equal(grad, (np.abs(X.numpy()) <= 1).astype(np.float32))


def test_stochastic_binarisation_has_the_hard_sigmoids_probability():
    form = parse("binary")
    key = Key(seed=3, tensor="t")
    y = form.quantize(X, rounding=Rounding.STOCHASTIC, key=key)
    # +1 where a 16-bit draw lies below 2^16 clip((x + 1) / 2, 0, 1)
    sigma = np.clip((X.numpy().astype(np.float32) + np.float32(1)) / 2, 0, 1)
    draws = draw(key, X.shape, X.device).numpy()
    assert np.array_equal(y.numpy(), np.where(draws < sigma * 65536, 1, -1))
    assert (y[X >= 1] == 1).all()
    assert (y[X <= -1] == -1).all()
