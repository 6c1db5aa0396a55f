"""weight_grad, primal and state: each on its grid after a step, all else as in float."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.formats import Fixed
from bitwright.recipes.optimizer import step_scale

FORMAT = Fixed(10, 8)
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


def on_grid(t):
    return torch.equal(FORMAT.quantize(t), t)


def build(roles, kind, steps=3):
    """Train a step by hand and with formats; returns (model, optimizer)."""
    from bitwright.optim import ParameterRule, wrap
    from bitwright.quantize import QuantizerSpec

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = OPTIMIZERS[kind](model.parameters())
    specs = {role: QuantizerSpec(FORMAT) for role in roles}
    wrap(optimizer, model, [ParameterRule("0.weight", model[0].weight, **specs)])
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, optimizer


def by_hand(roles, kind, steps=3):
    """The same with quantisation written out around the plain optimiser."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = OPTIMIZERS[kind](model.parameters())
    weight = model[0].weight
    if "primal" in roles:
        weight.data = FORMAT.quantize(weight.data)
    for step in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if "weight_grad" in roles:
            weight.grad = FORMAT.quantize(weight.grad)
        optimizer.step()
        if "primal" in roles:
            weight.data = FORMAT.quantize(weight.data)
        if "state" in roles:
            for key, value in optimizer.state[weight].items():
                if value.shape == weight.shape:
                    optimizer.state[weight][key] = FORMAT.quantize(value)
    return model, optimizer


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    "roles", [(), ("weight_grad",), ("primal",), ("state",), ("weight_grad", "primal", "state")]
)
def test_each_role_acts_where_it_should(roles, kind):
    (model, optimizer), (plain, reference) = build(roles, kind), by_hand(roles, kind)
    for got, wanted in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(got, wanted)
        for key, value in reference.state[wanted].items():
            assert torch.equal(optimizer.state[got][key], value)
    weight = model[0].weight
    state = [v for v in optimizer.state[weight].values() if v.shape == weight.shape]
    assert on_grid(weight) == ("primal" in roles)
    assert on_grid(weight.grad) == ("weight_grad" in roles)
    assert all(on_grid(v) for v in state) == ("state" in roles)
    assert not on_grid(model[0].bias)


def test_what_is_stored_is_on_the_grid_before_the_first_step():
    model, _ = build(("primal",), "SGD", steps=0)
    assert on_grid(model[0].weight)


def test_recipes_reach_weights_and_norms_and_leave_biases_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    recipe = bw.recipe("float", primal=FORMAT, weight="int8")
    bw.quantize_(model, recipe, verbose=False)
    optimizer = recipe.optimizer(model, lr=0.01)
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        bias_of_layer = name in ("0.bias", "2.bias")
        assert on_grid(p) != bias_of_layer, name


def test_moving_scales_live_in_the_optimisers_state_and_resume():
    spec = {"format": "int8", "controller": "max-abs"}
    recipe = bw.recipe("float", weight_grad=spec, primal=spec, state=spec)

    def fresh():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(4, 3))
        bw.quantize_(model, recipe, verbose=False)
        return model, recipe.optimizer(model, lr=0.05)

    def steps(model, optimizer, first, last):
        for step in range(first, last):
            optimizer.zero_grad()
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            model(x).square().mean().backward()
            optimizer.step()

    whole, optimizer = fresh()
    steps(whole, optimizer, 0, 6)
    keys = optimizer.state[whole[0].weight]
    assert {"weight_grad.scale", "primal.scale", "state.exp_avg.scale"} <= set(keys)
    assert not any("scale" in k for k in whole.state_dict())

    half, optimizer = fresh()
    steps(half, optimizer, 0, 3)
    saved, saved_optimizer = half.state_dict(), optimizer.state_dict()
    again, optimizer = fresh()
    again.load_state_dict(saved)
    optimizer.load_state_dict(saved_optimizer)
    steps(again, optimizer, 3, 6)
    assert torch.equal(again[0].weight, whole[0].weight)


def test_layerwise_step_scale_is_the_papers():
    # QNN, section 1: c_l = 1 / sqrt(1.5 / (fan_in + fan_out)), conv fans include k x k
    assert step_scale(nn.Linear(784, 1024)) == pytest.approx(1 / math.sqrt(1.5 / (784 + 1024)))
    assert step_scale(nn.Conv2d(128, 256, 3)) == pytest.approx(1 / math.sqrt(1.5 / ((128 + 256) * 9)))


def test_qnn_scales_the_step_and_clips_the_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8))
    bw.quantize_(model, "qnn", verbose=False)
    optimizer = bw.recipe("qnn").optimizer(model, lr=1e-3)
    rates = sorted((g["step_scale"], g["lr"]) for g in optimizer.param_groups)
    assert rates == [(1.0, 1e-3), (pytest.approx(4.0), pytest.approx(4e-3))]
    before = model[0].weight.detach().clone()
    (model(torch.randn(32, 16)) * torch.randn(32, 8)).sum().backward()
    grad = model[0].weight.grad.clone()
    optimizer.step()
    # Adam's first step is lr sign(g), up to eps
    moved = model[0].weight.detach() - before
    assert torch.allclose(moved, -4e-3 * grad.sign(), atol=1e-4)
    for _ in range(400):
        optimizer.zero_grad()
        model(torch.randn(32, 16)).mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        optimizer.step()
        assert model[0].weight.abs().max() <= 1
    assert (model[0].weight.abs() == 1).any()


def test_a_parameter_without_gradient_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    recipe = bw.recipe("float", primal=FORMAT, weight_grad=FORMAT, weight="int8")
    bw.quantize_(model, recipe, verbose=False)
    optimizer = recipe.optimizer(model, lr=0.1)
    frozen = model[1].weight.detach().clone()
    model[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(model[1].weight, frozen)
