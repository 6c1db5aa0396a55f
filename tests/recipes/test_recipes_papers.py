"""What the papers behind the recipe files state of the tensors of training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw


def trained(name, steps=25, **roles):
    """A small network after some steps on noise: the model, its optimiser, and every gradient seen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5))
    recipe = bw.recipe(name, **roles)
    bw.quantize_(model, recipe, verbose=False)
    optimizer = recipe.optimizer(model, lr=0.05)
    x, labels = torch.randn(64, 20), torch.arange(64) % 5
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, optimizer, losses


def on_grid(values, name, scale=None):
    return torch.equal(bw.format(name).quantize(values, scale=scale), values)


def test_gupta_stores_every_weight_on_the_grid_of_its_updates():
    model, _, losses = trained("gupta2015")
    for layer in (model[0], model[3]):
        assert on_grid(layer.weight.detach(), "fixed16.14")
        assert on_grid(layer.weight.grad, "fixed16.14")
    assert losses[-1] < losses[0]


def test_gupta_with_nearest_rounding_loses_small_updates():
    """Section 4.1: below half a step every update is lost; stochastic rounding keeps it in the mean."""
    weight = torch.zeros(100_000)
    update = torch.full_like(weight, 2.0**-14 / 8)
    form = bw.format("fixed16.14")
    assert not form.quantize(weight + update).any()
    kept = form.quantize(weight + update, rounding="stochastic", key=bw.Key(seed=0))
    assert kept.mean() == pytest.approx(float(update[0]), rel=0.03)


def test_binaryconnect_multiplies_by_signs_and_keeps_floats_that_are_clipped():
    model, _, _ = trained("binaryconnect")
    for layer in (model[0], model[3]):
        quantised = layer.slots.of("forward.weight")(layer.weight.detach())
        assert set(quantised.levels.unique().tolist()) == {-1.0, 1.0}
        assert layer.slots.of("forward.activation") is None
        assert float(layer.weight.detach().abs().max()) <= 1.0
        assert len(layer.weight.detach().abs().unique()) > 100


def test_binaryconnect_draws_signs_with_the_hard_sigmoid():
    """Section 2.2: P(+1) = clip((w + 1) / 2, 0, 1)."""
    form = bw.format("binary")
    for w in (-1.5, -1.0, -0.4, 0.0, 0.7, 1.0):
        drawn = form.quantize(torch.full((100_000,), w), rounding="stochastic", key=bw.Key(seed=3))
        assert set(drawn.unique().tolist()) <= {-1.0, 1.0}
        share = float((drawn > 0).float().mean())
        assert share == pytest.approx(min(max((w + 1) / 2, 0), 1), abs=0.006)


def test_courbariaux_moves_one_point_for_each_tensor():
    """Section 6; the scale of every tensor is a power of two of its own."""
    model, optimizer, _ = trained("courbariaux2014", steps=120)
    scales = {}
    for index in (0, 3):
        for role in ("weight", "activation", "error"):
            scales[index, role] = float(
                model[index]
                .slots.of(f"dgrad.{role}" if role == "error" else f"forward.{role}")
                .current_scale()
            )
        state = optimizer.state[model[index].weight]
        scales[index, "weight_grad"] = float(state["weight_grad.scale"])
        scales[index, "primal"] = float(state["primal.scale"])
        assert on_grid(model[index].weight.detach(), "fixed13", scale=state["primal.scale"])
    mantissas = {torch.frexp(torch.tensor(s))[0].item() for s in scales.values()}
    assert mantissas == {0.5}
    assert scales[0, "error"] < scales[0, "weight"]  # errors are small, and so is their step
    assert len(set(scales.values())) > 3
