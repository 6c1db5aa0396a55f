"""AlexNet and GoogLeNet: the published numbers of weights, a training step in bits, integers after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import models, training
from bitwright.errors import InvalidValueError
from bitwright.recipes import recipe


def weights(model):
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))


def test_alexnet_has_the_published_number_of_weights():
    # 61,100,840 parameters with 10,344 biases, which batch norm makes needless
    with torch.device("meta"):
        model = models.build("alexnet", 64, (3, 224, 224), 1000)
    assert weights(model) == 61_100_840 - 10_344
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_googlenet_has_the_published_number_of_weights():
    # table 1 of the paper gives them in units of 1024, cut; the Caffe model has 6,998,552 with 8,280 biases
    with torch.device("meta"):
        model = models.build("googlenet", 64, (3, 224, 224), 1000)
    assert weights(model) == 6_998_552 - 8_280
    blocks = {n: weights(m) // 1024 for n, m in model.named_children() if n.startswith("inception")}
    assert list(blocks.values()) == [159, 379, 366, 438, 497, 590, 847, 1018, 1409]
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


SMALL = {"alexnet": (2, (3, 67, 67)), "googlenet": (8, (3, 64, 64))}
RECIPES = {
    "binary": recipe("qnn"),
    "2 bits": recipe(
        "qnn",
        weight={"format": "fixed2.1", "estimator": "clipped"},
        activation={"format": "fixed2.1", "estimator": "clipped"},
    ),
    "4 bits": recipe(
        "qnn",
        weight={"format": "fixed4.3", "estimator": "clipped"},
        activation={"format": "fixed4.3", "estimator": "clipped"},
    ),
}


@pytest.mark.parametrize("bits", RECIPES)
def test_alexnet_takes_a_training_step_and_lowers(bits):
    check("alexnet", RECIPES[bits])


@pytest.mark.parametrize("bits", RECIPES)
def test_googlenet_takes_a_training_step_and_lowers(bits):
    check("googlenet", RECIPES[bits])


def check(name, chosen):
    torch.manual_seed(0)
    width, shape = SMALL[name]
    model = models.build(name, width, shape, 5)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.uniform_(module.weight, -1, 1)  # as the recipe says
    bw.quantize_(model, chosen, verbose=False)
    optimizer = chosen.optimizer(model)
    x, t = torch.rand(6, *shape) * 2 - 1, torch.arange(6) % 5
    before = [m.weight.detach().clone() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    training.loss(chosen.loss, model(x), t).backward()
    optimizer.step()
    after = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert all(not torch.equal(p, q) for p, q in zip(after, before, strict=True))
    model.eval()
    assert bw.verify(model, bw.lower(model, x[:1]), [x]).differing == 0


def test_images_that_are_too_small():
    for name, side in (("alexnet", 62), ("googlenet", 31)):
        with pytest.raises(InvalidValueError, match="at least"):
            models.build(name, 4, (3, side, side), 10)
