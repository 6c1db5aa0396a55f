"""refine: what it changes and what it leaves alone, on networks with branches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import models
from bitwright.errors import InvalidValueError
from bitwright.quantize import Quantizer
from bitwright.recipes import plain_copy


@pytest.fixture
def batches():
    torch.manual_seed(5)
    return [torch.randn(16, 3, 8, 8) for _ in range(3)]


NETWORKS = {
    "option A": lambda: models.resnet(8, 4, (3, 8, 8), 10),
    "tiny": lambda: models.resnet8(4, (3, 8, 8), 10),
}


def network(name, recipe, batches):
    torch.manual_seed(1)
    plain = NETWORKS[name]()
    plain.train()
    with torch.no_grad():
        for _ in range(5):  # norms with statistics of their own
            plain(torch.cat(batches))
    plain.eval()
    model = copy.deepcopy(plain)
    bw.quantize_(model, recipe, verbose=False)
    bw.calibrate(model, batches)
    return plain, model


def scales(model):
    return {
        f"{name}.{key}": value.clone()
        for name, module in model.named_modules()
        if isinstance(module, Quantizer)
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_come_closer_and_only_weights_and_biases_change(name, batches):
    plain, model = network(name, "w4a8", batches)
    before, kept = copy.deepcopy(model), scales(model)
    told = []
    done = bw.refine(model, batches, progress=lambda *counts: told.append(counts))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sorted(step.layer for step in done) == sorted(layers)
    assert told == [(n + 1, len(layers)) for n in range(len(layers))]
    assert all(step.refined <= step.nearest for step in done)
    assert str(done[0]).startswith("conv1: ")
    after = scales(model)
    assert all(torch.equal(after[key], value) for key, value in kept.items())
    changed = {
        key.rpartition(".")[2]
        for key, value in model.state_dict().items()
        if not torch.equal(value, before.state_dict()[key])
    }
    assert changed <= {"weight", "bias", "running_mean"}
    for layer in layers:
        module = model.get_submodule(layer)
        quantizer = module.slots.of("forward.weight")
        assert torch.equal(quantizer.quantize(module.weight), module.weight)  # on the grid

    x = torch.cat(batches)
    with torch.no_grad():
        wanted = plain(x)
        errors = [(m.eval()(x) - wanted).square().mean() for m in (before, model)]
    assert errors[1] < errors[0]
    lowered = bw.lower(model, x)
    assert bw.verify(model, lowered, batches).differing == 0


def test_the_mean_of_every_output_is_that_of_the_float_network(batches):
    plain, model = network("option A", "int8", batches)
    bw.refine(model, batches)
    with torch.no_grad():
        x = torch.cat(batches)
        difference = (model(x) - plain(x)).mean(0)
    # the last layer's bias makes up for everything in front of it, up to float32
    assert difference.abs().max() < 1e-5


def test_weights_on_a_coarse_grid_stay_within_it(batches):
    _, model = network("tiny", bw.recipe("w4a8", weight="ternary"), batches)
    bw.refine(model, batches, sweeps=2)
    weight = model.block1.conv1.weight
    assert set(weight.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_layers_without_a_format_are_left_alone(batches):
    _, model = network("tiny", bw.recipe("int8", weight="float"), batches)
    assert bw.refine(model, batches) == []
    assert plain_copy(model.conv1).weight is model.conv1.weight


def test_what_cannot_be_refined_is_named(batches):
    plain = models.build("resnet8", 4, (3, 8, 8), 10)
    with pytest.raises(InvalidValueError, match="refine takes a quantised model"):
        bw.refine(plain, batches)
    bw.quantize_(plain, "int8", verbose=False)
    with pytest.raises(InvalidValueError, match="calibrate"):
        bw.refine(plain, batches)
    bw.calibrate(plain, batches)
    with pytest.raises(InvalidValueError, match="at least one batch"):
        bw.refine(plain, [])
