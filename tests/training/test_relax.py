"""Relaxing the hard tanh: gradients reach further, answers stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import data
from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.recipes import recipe
from bitwright.training import Settings, relax_, train


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Hardtanh(), nn.Linear(8, 4), nn.BatchNorm1d(4)
    )
    bw.quantize_(model, "qnn", verbose=False)
    return model


def test_gradients_pass_up_to_the_bound_and_answers_stay():
    model, wide = network(), network()
    assert relax_(wide, 2.0) == 2  # the hard tanh and the slot behind it
    x = torch.randn(50, 6)
    grads = []
    for one in (model, wide):
        seen = {}

        def keep(_, __, y, seen=seen):
            y.retain_grad()
            seen["y"] = y

        handle = one[1].register_forward_hook(keep)
        one(x).square().sum().backward()
        handle.remove()
        grads.append((seen["y"].detach(), seen["y"].grad != 0))
    (y, narrow), (same, passed) = grads
    assert torch.equal(y, same)
    assert torch.equal(narrow, y.abs() < 1)
    assert torch.equal(passed, y.abs() < 2)
    assert (passed & ~narrow).any()
    for one in (model, wide):
        one.eval()
    assert torch.equal(model(x), wide(x))
    assert bw.verify(wide, bw.lower(wide, x), [x]).differing == 0


RECIPE = """
name = "relaxed"
[roles]
weight = "binary"
activation = { format = "binary", estimator = "clipped" }
[layers.first]
activation = "fixed8.7"
[replace]
ReLU = "Hardtanh"
[training]
relax = { after = 0.5, bound = 1.5 }
"""


def test_a_recipe_relaxes_the_last_part_of_a_run(tmp_path):
    path = tmp_path / "relaxed.toml"
    path.write_text(RECIPE)
    digits = data.load("digits", "train").subset(200), data.load("digits", "test").subset(50)
    settings = Settings(recipe=str(path), width=16, epochs=4, batch=50)

    whole, _ = train(settings, *digits, tmp_path / "whole")
    assert [m.max_val for m in whole.modules() if isinstance(m, nn.Hardtanh)] == [1.5] * 3
    half, _ = train(settings, *digits, tmp_path / "parts", stop_after=2)
    assert [m.max_val for m in half.modules() if isinstance(m, nn.Hardtanh)] == [1.0] * 3
    parts, _ = train(settings, *digits, tmp_path / "parts", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    path.write_text(RECIPE.replace("after = 0.5", "after = 1.0"))
    never, _ = train(settings, *digits, tmp_path / "never")
    assert not torch.equal(next(never.parameters()), next(whole.parameters()))


def test_what_is_wrong_says_so(tmp_path):
    with pytest.raises(InvalidValueError, match="needs a hard tanh"):
        relax_(nn.Linear(2, 2), 2.0)
    with pytest.raises(InvalidValueError, match="above 0"):
        relax_(network(), 0.0)
    path = tmp_path / "bad.toml"
    for old, new, kind, message in (
        ("bound = 1.5", "bound = 0", InvalidValueError, "bound above 0"),
        ("after = 0.5", "after = 2", InvalidValueError, "share of the run"),
        ("after = 0.5, ", "", InvalidValueError, "keys after and bound"),
        ("after = 0.5", "after = true", InvalidTypeError, "after is a number"),
    ):
        path.write_text(RECIPE.replace(old, new))
        with pytest.raises(kind, match=message):
            recipe(str(path))
