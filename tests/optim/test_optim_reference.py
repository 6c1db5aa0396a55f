"""Formats on the optimiser's side against a plain optimiser and three quantisations by hand, step by step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.formats import Binary, Fixed, Int, Key, Rounding, tensor_id
from bitwright.optim import STEP_BUFFER, ParameterRule, wrap
from bitwright.quantize import MaxAbs, QuantizerSpec
from bitwright.recipes import Recipe, recipe
from bitwright.recipes.optimizer import step_scale

FORMS = {"weight_grad": Fixed(8, 6), "primal": Fixed(10, 7), "state": Fixed(12, 9)}
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "AMSGrad": lambda p: torch.optim.AdamW(p, lr=0.02, amsgrad=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.02),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.02, foreach=True),
}
SETS = [("weight_grad",), ("primal",), ("state",), ("weight_grad", "primal", "state")]


def gradients(step, shapes):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("roles", SETS, ids="+".join)
@pytest.mark.parametrize("clip", [None, (-0.6, 0.6)])
def test_every_optimiser_equals_its_plain_self_between_quantisations(make, roles, clip):
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    twin = copy.deepcopy(model)
    rule = ParameterRule("weight", model.weight, clip=clip, **{r: QuantizerSpec(FORMS[r]) for r in roles})
    optimizer = wrap(make(model.parameters()), model, [rule])
    plain = make(twin.parameters())
    with torch.no_grad():
        if clip:
            twin.weight.clamp_(*clip)
        if "primal" in roles:
            twin.weight.copy_(FORMS["primal"].quantize(twin.weight))
    assert torch.equal(model.weight, twin.weight)
    for step in range(5):
        for parameter, other, grad in zip(
            model.parameters(), twin.parameters(), gradients(step, [(4, 5), (4,)]), strict=True
        ):
            parameter.grad, other.grad = grad.clone(), grad.clone()
        if "weight_grad" in roles:
            twin.weight.grad = FORMS["weight_grad"].quantize(twin.weight.grad)
        optimizer.step()
        plain.step()
        state = plain.state[twin.weight]
        with torch.no_grad():
            if clip:
                twin.weight.clamp_(*clip)
            if "primal" in roles:
                twin.weight.copy_(FORMS["primal"].quantize(twin.weight))
            for value in state.values():
                if "state" in roles and isinstance(value, torch.Tensor) and value.shape == (4, 5):
                    value.copy_(FORMS["state"].quantize(value))
        assert torch.equal(model.weight, twin.weight)
        assert torch.equal(model.bias, twin.bias)  # no rule: plain
        assert torch.equal(model.weight.grad, twin.weight.grad)
        ours = optimizer.state[model.weight]
        assert ours.keys() == state.keys()
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name
        for name, value in plain.state[twin.bias].items():
            assert torch.equal(torch.as_tensor(optimizer.state[model.bias][name]), torch.as_tensor(value))


def test_the_formats_act_on_the_accumulated_gradient():
    """After accumulation, unscaling and clipping: what `step` finds in `.grad`."""
    model = nn.Linear(3, 2, bias=False)
    spec = QuantizerSpec(Fixed(6, 3))
    optimizer = wrap(
        torch.optim.SGD(model.parameters(), lr=1.0),
        model,
        [ParameterRule("w", model.weight, weight_grad=spec)],
    )
    before = model.weight.detach().clone()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for part in x:
        (model(part).sum() * 16).backward()
    model.weight.grad /= 16
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.5)
    expected = before - Fixed(6, 3).quantize(model.weight.grad)
    optimizer.step()
    assert torch.equal(model.weight, expected)


def test_stochastic_primal_draws_by_name_and_step():
    form = Fixed(6, 3)
    spec = QuantizerSpec(form, rounding=Rounding.STOCHASTIC)
    model = nn.Linear(3, 2, bias=False)
    model.register_buffer(STEP_BUFFER, torch.tensor(9))
    optimizer = wrap(
        torch.optim.SGD(model.parameters(), lr=1.0),
        model,
        [ParameterRule("w", model.weight, primal=spec)],
        seed=4,
    )
    for step in (9, 10):
        getattr(model, STEP_BUFFER).fill_(step)
        model.weight.grad = torch.full((2, 3), 0.03)
        moved = model.weight.detach() - 0.03
        optimizer.step()
        key = Key(4, tensor_id("w.primal"), step)
        assert torch.equal(model.weight, form.quantize(moved, rounding="stochastic", key=key))


def test_moving_scales_follow_the_step_before():
    spec = QuantizerSpec(Int(8), MaxAbs())
    model = nn.Linear(2, 1, bias=False)
    optimizer = wrap(
        torch.optim.SGD(model.parameters(), lr=1.0),
        model,
        [ParameterRule("w", model.weight, weight_grad=spec)],
    )
    used = []
    for largest in (2.0, 8.0, 1.0):
        model.weight.grad = torch.tensor([[largest, 0.1]])
        optimizer.step()
        used.append(model.weight.grad[0, 0].item())
    # saturated by the scale of the step before
    step = [torch.tensor(m) / 127 for m in (2.0, 2.0, 8.0)]
    assert used == [
        (127 * step[0]).item(),
        (127 * step[1]).item(),
        (torch.round(1 / step[2]) * step[2]).item(),
    ]
    state = optimizer.state_dict()["state"][0]
    assert set(state) == {"weight_grad.scale", "weight_grad.max_abs"}


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "SGD", "RMSprop"])
def test_every_optimiser_of_recipes_trains_with_moving_scales(name):
    """State that we keep beside an optimiser's own must not look like its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Hardtanh(), nn.Linear(4, 2))
    moving = {"format": "int12", "controller": "max-abs", "per": "tensor"}
    found = recipe(
        "float", weight="int8", activation="fixed8.4", weight_grad=moving, primal=moving, state=moving
    )
    from dataclasses import replace

    found = replace(found, optimizer_rule=replace(found.optimizer_rule, name=name, lr=0.05))
    bw.quantize_(
        model, replace(found, roles={**found.roles, "weight": QuantizerSpec(Int(8), MaxAbs())}), verbose=False
    )
    optimizer = found.optimizer(model)
    x, y = torch.randn(32, 3), torch.randn(32, 2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(math.isfinite(v) for v in losses)


def test_step_scales_of_the_papers_layers():
    """c_l = 1 / sqrt(1.5 / (fan_in + fan_out)); fans carry the k x k factor (QNN, section 1)."""
    assert step_scale(nn.Linear(784, 4096)) == math.sqrt((784 + 4096) / 1.5)
    assert step_scale(nn.Conv2d(128, 256, 3)) == math.sqrt((128 * 9 + 256 * 9) / 1.5)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    bw.quantize_(model, "qnn", verbose=False)
    optimizer = recipe("qnn").optimizer(model, lr=0.01)
    by_scale = {group["step_scale"]: group for group in optimizer.param_groups}
    conv, linear = math.sqrt((9 + 18) / 1.5), math.sqrt(11 / 1.5)
    assert set(by_scale) == {1.0, conv, linear}
    assert all(group["lr"] == 0.01 * scale for scale, group in by_scale.items())
    assert by_scale[conv]["params"] == [model[0].weight]
    assert by_scale[linear]["params"] == [model[4].weight]
    assert len(by_scale[1.0]["params"]) == 4


def test_qnn_clips_stored_weights_and_nothing_else():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        model[0].weight.fill_(1.5)
        model[0].bias.fill_(7.0)
        model[1].weight.fill_(3.0)
    bw.quantize_(model, "qnn", verbose=False)
    optimizer = recipe("qnn").optimizer(model, lr=10.0)
    assert (model[0].weight == 1).all()
    model(torch.randn(8, 3)).square().sum().backward()
    optimizer.step()
    assert model[0].weight.abs().max() <= 1
    assert model[0].bias.abs().max() > 1
    assert model[1].weight.abs().max() > 1


def test_primal_also_stores_the_norms_on_its_grid():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    found = Recipe("p", roles={"weight": QuantizerSpec(Binary()), "primal": QuantizerSpec(Fixed(12, 8))})
    bw.quantize_(model, found, verbose=False)
    optimizer = found.optimizer(model)
    bias = model[0].bias.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        for parameter in (model[0].weight, model[1].weight, model[1].bias):
            assert torch.equal(parameter, Fixed(12, 8).quantize(parameter.detach()))
    assert not torch.equal(model[0].bias, Fixed(12, 8).quantize(model[0].bias.detach()))
    assert not torch.equal(model[0].bias, bias)


def test_a_frozen_parameter_is_only_put_on_its_grid_once():
    model = nn.Linear(2, 2, bias=False).requires_grad_(False)
    rule = ParameterRule(
        "w",
        model.weight,
        weight_grad=QuantizerSpec(Int(8)),
        primal=QuantizerSpec(Fixed(8, 4)),
        state=QuantizerSpec(Int(8)),
    )
    optimizer = wrap(torch.optim.Adam([model.weight]), model, [rule])
    stored = model.weight.clone()
    assert torch.equal(stored, Fixed(8, 4).quantize(stored))
    optimizer.step()
    assert torch.equal(model.weight, stored)
    assert not optimizer.state[model.weight]
