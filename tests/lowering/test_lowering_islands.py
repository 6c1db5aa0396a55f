"""Float islands: what lower does not know is refused by name, or stays in float where it is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.export import to_c
from bitwright.lowering import Chain, FloatIsland
from bitwright.recipes import LayerRule

ACTIVATION = {"format": "int8", "controller": "max-abs"}
WEIGHT = {"format": "int6", "controller": "max-abs", "per": "channel"}
RECIPE = replace(
    bw.recipe("float", weight=WEIGHT, activation=ACTIVATION),
    layers=(LayerRule("head.norm.*", {"activation": None}, optional=True),),
)


class Custom(nn.Module):
    """Of the user's own: torch.fx could look into it."""

    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 2, channels))

    def forward(self, x):
        return torch.tanh(x) * self.gain + x.abs().sqrt()


class Head(nn.Module):
    def __init__(self, norm, inputs=6):
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(inputs, 8), norm, nn.Linear(8, 4)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.fc(x))))


class Functional(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.fc, self.out, self.call = nn.Linear(6, 8), nn.Linear(8, 4), call

    def forward(self, x):
        return self.out(self.call(self.fc(x)))


class Untraceable(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x / 2


def headed(norm):
    """A module that holds the head, so that names have dots."""
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
    model.add_module("head", Head(norm))
    return model


MODELS = {
    "layer norm": (lambda: headed(nn.LayerNorm(8)), ["head.norm"], (5,)),
    "custom": (lambda: headed(Custom(8)), ["head.norm"], (5,)),
    "several in a row": (
        lambda: nn.Sequential(
            nn.Linear(5, 6), nn.ReLU(), nn.GELU(), nn.Softmax(1), nn.ReLU(), nn.Linear(6, 3)
        ),
        ["2", "3"],
        (5,),
    ),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.GroupNorm(2, 4), nn.ReLU(),
            nn.Conv2d(4, 4, 2), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 3),
        ),
        ["3", "6"],
        (2, 9, 8),
    ),
    "what would be integers": (  # a float first layer as in DoReFa, with its norm and ReLU; a pool
        lambda: nn.Sequential(
            nn.Softmax(1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(24, 3),
        ),
        ["0", "1", "2", "5"],
        (3, 6, 8),
    ),
    "the ends": (
        lambda: nn.Sequential(
            nn.InstanceNorm1d(3), nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Softmax(1), nn.Unflatten(1, (4, 6))
        ),
        ["0", "3", "4"],
        (3, 8),
    ),
    "channels last": (
        lambda: nn.Sequential(
            nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.GELU(), nn.Flatten(), nn.Linear(30, 3)
        ),
        ["1", "3"],
        None,
    ),
}  # fmt: skip


def prepared(make, shape, seed=0):
    torch.manual_seed(seed)
    model = make()
    bw.quantize_(model, RECIPE, verbose=False)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    x = torch.randint(0, 20, (6, 5)) if shape is None else torch.randn(6, *shape)
    model(x)
    return model, x


@pytest.mark.parametrize("kind", MODELS)
def test_a_chain_computes_the_codes_of_the_model(kind):
    make, islands, shape = MODELS[kind]
    model, x = prepared(make, shape)
    with pytest.raises(InvalidValueError, match=r"is not supported.*float_islands"):
        bw.lower(model, x)
    chain = bw.lower(model, x, float_islands=islands)
    assert [island.name for island in chain.islands] == islands
    for backend in ("interpreter", "engine"):
        result = bw.verify(model, chain, [x[:4], x[4:]], backend=backend)
        assert result.differing == 0, result
        assert result.examples == 6
    assert np.array_equal(chain(x.numpy()), model.eval()(x).detach().numpy())
    rows = [row["operation"] for row in chain.explain() if row["kernel"] == "float island"]
    assert rows == islands
    assert all(name in repr(chain) for name in islands)


def test_dorefa_ends_in_float():
    """Its first and last layers are islands, the norm of the first one too."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Hardtanh(0, 1), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5),
        nn.MaxPool2d(2), nn.Hardtanh(0, 1), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip
    bw.quantize_(model, "dorefa", verbose=False)
    x = torch.rand(6, 2, 9, 8)
    model(x)
    chain = bw.lower(model, x, float_islands=["0", "1", "8"])
    assert [operation.kind for operation in chain.operations] == ["input", "conv", "output"]
    assert bw.verify(model, chain, [x]).differing == 0


def test_a_difference_in_an_island_is_found():
    model, x = prepared(MODELS["layer norm"][0], (5,))
    chain = bw.lower(model, x, float_islands=["head.norm"])
    with torch.no_grad():
        model.head.norm.weight *= 1.5  # the chain has its own copy
    result = bw.verify(model, chain, [x])
    assert result.differing > 0
    assert result.first.tensor == "head.out input"


def test_the_parts_are_saved_and_joined_again(tmp_path):
    model, x = prepared(MODELS["layer norm"][0], (5,))
    chain = bw.lower(model, x, {"classes": ["a", "b"]}, float_islands=["head.norm"])
    with pytest.raises(
        InvalidValueError, match=r"operations alone; got float island head.norm \(LayerNorm\)"
    ):
        chain.save(tmp_path / "model.bw")
    with pytest.raises(InvalidTypeError, match=r"one integer network; got Chain.*head\.norm"):
        to_c(chain)
    for place, network in enumerate(chain.networks):
        network.save(tmp_path / f"{place}.bw")
    first, second = (bw.load(tmp_path / f"{place}.bw") for place in (0, 1))
    note = {"chain": ["network", "float island head.norm", "network"], "this": 2}
    assert second.meta == {"classes": ["a", "b"], "float_islands": note}
    island = FloatIsland("head.norm", model.head.norm)
    again = Chain([first, island, second])
    assert np.array_equal(again(x.numpy()), chain(x.numpy()))
    assert bw.verify(model, again, [x]).differing == 0
    turned = FloatIsland("head.norm", model.head.norm, channels_last=True)
    for parts in (
        [first, turned, second],
        [second, island, first],
        [first, second],
        [first, FloatIsland("norm", F.relu), second],
        [island],
    ):
        with pytest.raises(InvalidValueError, match="in their order"):
            Chain(parts)


def refusal(model, shape=(6,), islands=None):
    bw.quantize_(model, RECIPE, verbose=False)
    with pytest.raises(InvalidValueError) as caught:
        bw.lower(model, torch.zeros(2, *shape), float_islands=islands)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "shape", "named"),
    [
        (lambda: Head(nn.Softmax(1)), (6,), "norm (Softmax) is not supported"),
        (lambda: Head(nn.LayerNorm(8)), (6,), "norm (LayerNorm) is not supported"),
        (lambda: Head(nn.GELU()), (6,), "norm (GELU) is not supported"),
        (lambda: Head(Custom(8)), (6,), "call_function tanh is not supported"),
        (lambda: Functional(lambda x: F.softmax(x, 1)), (6,), "function softmax is not supported"),
        (lambda: Functional(F.gelu), (6,), "function gelu is not supported"),
        (lambda: Functional(lambda x: x.exp()), (6,), "method exp is not supported"),
        (lambda: Functional(lambda x: F.layer_norm(x, (8,))), (6,), "function layer_norm is not supported"),
        (lambda: Functional(lambda x: x * 2), (6,), "function mul is not supported"),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)),
            (2, 5, 5),
            "1 (GroupNorm) is not supported",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 1)),
            (2, 5, 5),
            "1 (Upsample) is not supported",
        ),
    ],
)
def test_what_is_not_known_is_named_with_what_is(model, shape, named):
    message = refusal(model(), shape)
    assert named.replace("call_", "") in message
    assert "supported: Linear, Conv1d, Conv2d" in message
    assert "float_islands" in message


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.a(x)
        return x + self.b(self.norm(x))


def test_what_cannot_be_an_island_is_said():
    model = Head(nn.LayerNorm(8))
    assert "did you mean 'norm'" in refusal(model, islands=["nrm"])
    assert "has no quantisers; got fc (Linear)" in refusal(Head(nn.LayerNorm(8)), islands=["fc", "norm"])
    message = refusal(Skip(), islands=["norm"])
    assert "norm: everything goes through a float island, but add (Add) takes what a (Linear) made" in message
    assert "b (Softmax)" not in message


def test_a_chain_can_end_in_an_argmax():
    model, x = prepared(MODELS["layer norm"][0], (5,))
    chain = bw.lower(model, x, output="argmax", float_islands=["head.norm"])
    result = bw.verify(model, chain, [x])
    assert result.differing == 0
    assert result.elements["output"] == len(x)
    assert chain(x).tolist() == model.eval()(x).argmax(1).tolist()
    model, x = prepared(lambda: nn.Sequential(nn.Linear(5, 4), nn.Softmax(1)), (5,))
    with pytest.raises(InvalidValueError, match="an argmax takes the scores of integers"):
        bw.lower(model, x, output="argmax", float_islands=["1"])


def test_a_module_that_fx_cannot_follow_can_be_an_island():
    torch.manual_seed(0)
    model = Head(Untraceable())
    report = bw.quantize_(model, RECIPE, verbose=False)
    assert "cannot be lowered" in " ".join(report.notes)
    x = torch.randn(5, 6)
    model(x)
    chain = bw.lower(model, x, float_islands=["norm"])
    assert bw.verify(model, chain, [x]).differing == 0
    assert isinstance(bw.lower(Chainless.quantised(x), x, float_islands=[]), Chain)


class Chainless(nn.Sequential):
    @staticmethod
    def quantised(x):
        model = Chainless(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        bw.quantize_(model, RECIPE, verbose=False)
        model(x)
        return model
