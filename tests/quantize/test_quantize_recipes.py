"""Controllers, overflow and random bits in recipes, by name and with their parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Int, Key, Overflow, Rounding, parse, tensor_id
from bitwright.quantize import (
    CONTROLLERS,
    Autoflex,
    Density,
    LearntClip,
    LearntStep,
    MaxAbs,
    MinMax,
    MinMSE,
    OverflowRate,
    Percentile,
    Quantizer,
    QuantizerSpec,
    SqnrOptimal,
    Static,
    quantizers,
)

TABLES = {
    'format = "int8", scale = 0.5': Static(0.5),
    'format = "int8", controller = "max-abs", per = "channel", power_of_two = true': MaxAbs("channel", True),
    'format = "int8", controller = "percentile", percent = 99.9, hold = true': Percentile(99.9, hold=True),
    'format = "int8", controller = "min-mse", octaves = 4, per_octave = 8': MinMSE(octaves=4, per_octave=8),
    'format = "int8", controller = "sqnr", density = "laplacian"': SqnrOptimal(Density.LAPLACIAN),
    'format = "fixed8", controller = "overflow-rate", rate = 1e-3, window = 50': OverflowRate(1e-3, 50),
    'format = "flex16+5", controller = "autoflex", alpha = 2, window = 8': Autoflex(2, window=8),
    'format = "int4", controller = "lsq", estimator = "clipped"': LearntStep(),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_recipe_names_a_controller_and_its_parameters(table, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f"[roles]\nweight = {{ {table} }}\n")
    assert bw.recipe(path).roles["weight"].controller == TABLES[table]


def test_activations_have_their_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[roles]\n"
        '"forward.activation" = { format = "uint8", controller = "min-max", overflow = "symmetric" }\n'
        '"wgrad.activation" = { format = "int4", rounding = "stochastic", random_bits = 8 }\n'
        "[layers.first]\n"
        'activation = { format = "uint4", controller = "pact", estimator = "clipped" }\n'
    )
    recipe = bw.recipe(path)
    assert recipe.roles["forward.activation"].controller == MinMax()
    assert recipe.roles["forward.activation"].overflow is Overflow.SYMMETRIC
    assert recipe.roles["wgrad.activation"].random_bits == 8
    assert recipe.layers[0].roles["activation"].controller == LearntClip()
    assert set(CONTROLLERS) >= {"static", "max-abs", "min-max", "pact", "lsq", "autoflex"}


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"controller": "percentil"}, InvalidValueError, "did you mean 'percentile'"),
        ({"controller": "percentile", "percnt": 99}, InvalidValueError, "unknown key 'percnt'.*'percent'"),
        ({"controller": "max-abs", "percent": 99}, InvalidValueError, "unknown key 'percent'"),
        ({"controller": "percentile", "percent": "99"}, InvalidTypeError, "percent is a number; got '99'"),
        ({"controller": "percentile", "percent": True}, InvalidTypeError, "percent is a number; got True"),
        ({"controller": "percentile", "hold": 1}, InvalidTypeError, "hold is true or false; got 1"),
        ({"controller": "percentile", "per": 1}, InvalidTypeError, "per is a string; got 1"),
        ({"controller": "autoflex", "window": 2.5}, InvalidTypeError, "window is an int; got 2.5"),
        ({"controller": "sqnr", "density": "normal"}, InvalidValueError, "unknown density 'normal'"),
        ({"controller": "autoflex", "scale": 1.0}, InvalidValueError, "sets its scale itself"),
        ({"random_bits": 17}, InvalidValueError, "random bits lie in 1 to 16; got 17"),
        ({"random_bits": "8"}, InvalidTypeError, "random_bits is an int"),
        ({"overflow": "wrp"}, InvalidValueError, "unknown overflow 'wrp'"),
        ({"overflow": "infinite"}, InvalidValueError, "no infinity to overflow to"),
        ({"controller": "min-max"}, InvalidValueError, "zero point is for activations only"),
    ],
)
def test_mistakes_are_named(table, error, message):
    with pytest.raises(error, match=message) as raised:
        bw.recipe("float", weight={"format": "int8", **table})
    assert "role weight of recipe float" in str(raised.value)


@pytest.mark.parametrize("controller", ["percentile", "min-mse", "sqnr", "max-abs"])
def test_a_scale_per_channel_of_an_activation_is_refused(controller):
    with pytest.raises(InvalidValueError, match="reduction axis"):
        bw.recipe("float", activation={"format": "int8", "controller": controller, "per": "channel"})


@pytest.mark.parametrize("overflow", list(Overflow)[:3])
def test_overflow_and_random_bits_are_the_formats(overflow):
    x = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 12
    spec = QuantizerSpec(Int(4), rounding=Rounding.STOCHASTIC, overflow=overflow, random_bits=3)
    quantizer = Quantizer(spec, "t", seed=2)
    quantizer.tick(torch.tensor(5))
    key = Key(2, tensor_id("t"), 5, bits=3)
    expected = Int(4).encode(x, rounding="stochastic", overflow=overflow, key=key)
    assert torch.equal(quantizer(x).levels, expected.float())
    words = (
        f"int4 (stochastic, 3 random bits{'' if overflow is Overflow.SATURATE else ', ' + overflow.value})"
    )
    assert str(spec) == words


def test_a_network_with_many_controllers_trains_and_answers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    recipe = bw.recipe(
        "float",
        weight={"format": "int6", "controller": "min-mse", "per": "channel"},
        forward_activation={"format": "uint8", "controller": "min-max"},
        wgrad_activation={"format": "int8", "controller": "percentile", "percent": 99},
        error={"format": "flex16+5", "controller": "autoflex"},
        weight_grad={"format": "fixed16", "controller": "overflow-rate", "window": 5},
        primal={"format": "fixed16", "controller": "sqnr", "density": "uniform"},
    )
    bw.quantize_(model, recipe, verbose=False)
    optimizer = recipe.optimizer(model, lr=0.01)
    x, target = torch.randn(64, 8), torch.randn(64, 4)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    # every quantiser moved at every step, by the same counter
    assert all(q.initialized for q in quantizers(model))
    assert parse("flex16+5") == model[0].slots.of("dgrad.error").format
    report = {str(q) for q in quantizers(model)}
    assert any("autoflex" in line for line in report)
