"""Gradients through quantisers, against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Rounding, Ternary, UInt
from bitwright.quantize import Estimator, MaxAbs, Quantizer, QuantizerSpec, Static

INF = math.inf
POINTS = [
    -INF,
    -9.0,
    -1.0,
    -1.0000001,
    -0.9999999,
    -0.5,
    -0.0,
    0.0,
    0.5,
    0.9999999,
    1.0,
    1.0000001,
    3.0,
    INF,
    math.nan,
]


def gradient(spec, x, grad):
    x = torch.tensor(x).requires_grad_()
    quantised = Quantizer(spec)(x)
    quantised.levels.backward(grad)
    return x.grad


@pytest.mark.parametrize("form", [Binary(), Ternary(), Int(4), UInt(3), Fixed(6, 2)], ids=str)
@pytest.mark.parametrize("rounding", ["nearest-even", "floor", "stochastic"])
def test_gradients_follow_the_table(form, rounding):
    step = form.default_scale
    edges = [e * step for c in (form.code_min, form.code_max) for e in (c, c + 0.01, c - 0.01)]
    x = POINTS + edges
    grad = torch.randn(len(x), generator=torch.Generator().manual_seed(0))
    kind = Rounding.of(rounding)

    def spec(estimator):
        return QuantizerSpec(form, rounding=kind, estimator=estimator)

    assert torch.equal(gradient(spec(Estimator.STRAIGHT_THROUGH), x, grad), grad)
    assert torch.equal(gradient(spec(Estimator.NONE), x, grad), torch.zeros_like(grad))
    inside = [form.code_min <= v / step <= form.code_max for v in torch.tensor(x).tolist()]
    expected = torch.where(torch.tensor(inside), grad, torch.zeros_like(grad))
    assert torch.equal(gradient(spec(Estimator.CLIPPED), x, grad), expected)


def test_clipped_binary_is_the_derivative_of_the_hard_tanh_with_its_ends():
    """QNN, section 1: 1 where |x| <= 1."""
    got = gradient(QuantizerSpec(Binary(), estimator=Estimator.CLIPPED), POINTS, torch.ones(len(POINTS)))
    assert got.tolist() == [0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]


def test_a_masked_gradient_is_zero_also_where_infinity_arrives():
    got = gradient(QuantizerSpec(Binary(), estimator=Estimator.CLIPPED), [5.0, 0.5], torch.tensor([INF, INF]))
    assert got.tolist() == [0.0, INF]


def test_the_clip_lies_in_units_of_the_scale():
    spec = QuantizerSpec(Int(4), controller=Static(0.5), estimator=Estimator.CLIPPED)
    assert gradient(spec, [-4.5, -4.0, 3.5, 3.6], torch.ones(4)).tolist() == [0, 1, 1, 0]
    moving = QuantizerSpec(Int(4), controller=MaxAbs(), estimator=Estimator.CLIPPED)
    assert gradient(moving, [-7.0, 7.0], torch.ones(2)).tolist() == [1, 1]


def test_quantised_values_are_those_of_the_format():
    x = torch.randn(50, generator=torch.Generator().manual_seed(1)) * 4
    for form in (Binary(), Ternary(), Int(4), Fixed(8, 4)):
        quantised = Quantizer(QuantizerSpec(form))(x)
        assert torch.equal(quantised.value(), form.quantize(x))
        assert torch.equal(quantised.levels.to(torch.int64), form.encode(x).to(torch.int64))


def test_unknown_estimators_list_the_valid_ones():
    with pytest.raises(InvalidValueError, match="unknown estimator 'cliped': the valid ones are clipped"):
        Estimator.of("cliped")
    with pytest.raises(InvalidValueError, match="unknown rounding"):
        Rounding.of(3)
