"""LSQ and PACT: gradients against float64 autograd of the papers' formulas, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Int, UInt, parse
from bitwright.quantize import (
    Estimator,
    LearntClip,
    LearntStep,
    Quantizer,
    QuantizerSpec,
    clip_parameters,
)


def quantizer(form, controller, replicated=True):
    return Quantizer(QuantizerSpec(form, controller, estimator=Estimator.CLIPPED), "t", replicated=replicated)


def data(form, size=200, seed=0):
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2
    return x.abs() if form.code_min == 0 else x


class _Round(torch.autograd.Function):
    """Straight-through rounding, in float64."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize("form", [Int(2), Int(4), Int(8), UInt(2), UInt(8), parse("ternary")], ids=str)
@pytest.mark.parametrize("replicated", [True, False])
def test_lsq_gradients_are_autograds_of_the_formula(form, replicated):
    x = data(form).view(10, 20)
    grad = torch.randn(10, 20, generator=torch.Generator().manual_seed(1))
    q = quantizer(form, LearntStep(), replicated)
    q(x)
    with torch.no_grad():
        q.scale.mul_(0.7)
    x.requires_grad_()
    result = q(x)
    result.value().backward(grad)

    step = q.scale.detach().double().requires_grad_()
    v = x.detach().double().requires_grad_()
    low, high = form.min_number, form.max_number
    value = _Round.apply((v / step).clamp(low, high)) * step
    value.backward(grad.double())
    features = 200 if replicated else 20
    factor = 1 / math.sqrt(features * high)
    assert torch.allclose(result.value().double(), value.detach(), rtol=1e-6)
    assert torch.equal(x.grad.double(), v.grad)
    assert q.scale.grad.item() == pytest.approx(step.grad.item() * factor, rel=1e-4, abs=1e-5)


def test_lsq_gradient_where_all_saturates_is_the_finite_difference():
    """Outside, v^ = Qp s or -Qn s, which is differentiable in s."""
    q = quantizer(Int(4), LearntStep())
    q(torch.ones(3))
    with torch.no_grad():
        q.scale.fill_(0.25)
    x = torch.tensor([50.0, -70.0, 90.0])
    weight = torch.tensor([1.0, 2.0, 0.5])

    def loss(step):
        return float((Int(4).quantize(x, scale=step) * weight).sum())

    (q(x).value() * weight).sum().backward()
    difference = (loss(0.251) - loss(0.249)) / 0.002
    assert q.scale.grad.item() == pytest.approx(difference / math.sqrt(3 * 7), rel=1e-4)


def test_lsq_starts_at_the_papers_step():
    x = data(Int(4))
    q = quantizer(Int(4), LearntStep())
    q(x)
    assert q.scale.item() == pytest.approx(2 * x.abs().mean().item() / math.sqrt(7), rel=1e-6)
    assert isinstance(q.scale, nn.Parameter)
    before = q.scale.detach().clone()
    q.tick(1)
    q(x * 100)
    q.tick(2)
    assert torch.equal(q.scale, before)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_pact_gradients_are_the_papers(bits):
    form = UInt(bits)
    x = torch.tensor([-1.0, 0.0, 0.3, 1.49, 1.5, 2.0, 9.0])
    grad = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    q = quantizer(form, LearntClip())
    q(torch.tensor([1.5]))
    assert q.alpha.item() == 1.5
    x.requires_grad_()
    result = q(x)
    result.value().backward(grad)
    assert q.alpha.grad.item() == 5 + 6 + 7
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 0, 0]
    # y_q = round(clip(x, 0, alpha) (2^k - 1) / alpha) alpha / (2^k - 1)
    n = 2**bits - 1
    y = (x.detach().double().clamp(0, 1.5) * n / 1.5).round() * 1.5 / n
    assert torch.allclose(result.value().double(), y, atol=1e-6)


def test_pact_clip_is_the_float64_gradient_of_its_clip():
    x = data(Int(4), 500)
    q = quantizer(UInt(4), LearntClip())
    q(torch.tensor([1.1]))
    q(x).value().square().sum().backward()
    value = q(x).value().detach()
    alpha = q.alpha.detach().double().requires_grad_()
    # the paper's identity 0.5 (|x| - |x - a| + a), whose gradient is that of the clip
    y = 0.5 * (x.double().abs() - (x.double() - alpha).abs() + alpha)
    y.backward(2 * value.double() * (x >= 0))
    # at the identity's kinks sign(0) = 0; negative x are cut off by the ReLU in front
    assert q.alpha.grad.item() == pytest.approx(alpha.grad.item(), rel=1e-6)


def test_a_negative_parameter_counts_by_its_magnitude():
    for controller, form, name in ((LearntStep(), Int(4), "scale"), (LearntClip(), UInt(4), "alpha")):
        grads = []
        for sign in (1, -1):
            q = quantizer(form, controller)
            q(torch.ones(4))
            parameter = q.get_parameter(name)
            with torch.no_grad():
                parameter.fill_(0.3 * sign)
            q(data(form)).value().sum().backward()
            assert q.current_scale() > 0
            grads.append(parameter.grad.item())
        assert grads[0] == -grads[1] != 0


def test_learnt_scales_train_in_a_model_and_pact_decays_by_the_optimiser():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    learnt = {"controller": "lsq", "estimator": "clipped"}
    recipe = bw.recipe(
        "float",
        weight={"format": "int4", **learnt},
        activation={"format": "uint4", "controller": "pact", "estimator": "clipped"},
    )
    bw.quantize_(model, recipe, verbose=False)
    x = torch.rand(32, 6)
    target = torch.randn(32, 3)
    optimizer = recipe.optimizer(model, lr=0.02)
    held = sum(len(group["params"]) for group in optimizer.param_groups)
    assert held == 4 + 4
    losses = []
    before = {}
    for step in range(40):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        if not step:
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = [n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])]
    assert "0.slots.weight.scale" in moved
    assert "2.slots.activation.alpha" in moved

    # the L2 penalty: weight decay of a group
    alphas = clip_parameters(model)
    assert len(alphas) == 2
    sgd = torch.optim.SGD([{"params": alphas, "weight_decay": 0.5}], lr=0.1)
    for alpha in alphas:
        alpha.grad = torch.zeros_like(alpha)
    old = [a.item() for a in alphas]
    sgd.step()
    assert [a.item() for a in alphas] == pytest.approx([0.95 * a for a in old])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QuantizerSpec(Int(4), LearntStep()), 'clipped gradient.*estimator="clipped"'),
        (lambda: quantizer(Int(4), LearntClip()), "pact clips at 0, for an unsigned format"),
        (lambda: quantizer(parse("e4m3fn"), LearntStep()), "equally spaced"),
        (lambda: quantizer(parse("binary"), LearntStep()), "equally spaced"),
        (
            lambda: bw.recipe("float", error={"format": "int8", "controller": "lsq", "estimator": "clipped"}),
            "needs a gradient",
        ),
        (
            lambda: bw.recipe(
                "float", primal={"format": "int8", "controller": "lsq", "estimator": "clipped"}
            ),
            "needs a gradient",
        ),
    ],
)
def test_what_cannot_be_learnt_is_refused(build, message):
    with pytest.raises(InvalidValueError, match=message):
        build()
