"""The monitor reads what quantisers do, changes none of it, and keeps to its share of the time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import data
from bitwright.errors import FileFormatError
from bitwright.training import MONITOR, Monitor, Settings, read_monitor, train

SMALL = {"width": 32, "data": "digits", "epochs": 2, "batch": 50}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train").subset(400), data.load("digits", "test").subset(100)


def every_role(path):
    path.write_text(
        """
name = "all"
[roles]
weight = { format = "int4", controller = "max-abs", per = "channel" }
activation = { format = "int8", controller = "max-abs", rounding = "stochastic" }
error = { format = "fixed8", controller = "overflow-rate", window = 2 }
weight_grad = { format = "int12", controller = "max-abs" }
primal = { format = "int16", controller = "max-abs", rounding = "stochastic" }
state = { format = "int16", controller = "max-abs" }
"""
    )
    return str(path)


def test_a_monitored_run_has_the_same_bits(digits, tmp_path):
    settings = Settings(recipe=every_role(tmp_path / "all.toml"), **SMALL)
    plain, _ = train(settings, *digits, tmp_path / "plain")
    seen, _ = train(settings, *digits, tmp_path / "seen", watchers=(Monitor(tmp_path / "seen", every=1),))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, seen.state_dict()[name]), name


def test_it_reads_every_tensor_and_resumes(digits, tmp_path):
    settings = Settings(recipe=every_role(tmp_path / "all.toml"), **SMALL)
    out = tmp_path / "run"
    train(settings, *digits, out, watchers=(Monitor(out, every=1),), stop_after=1)
    train(settings, *digits, out, watchers=(Monitor(out, every=1),), resume=True)
    samples = read_monitor(out / MONITOR)
    assert samples[0][0] == 2
    assert any(step > 8 for step, _ in samples)  # 8 steps an epoch
    roles = {"activation", "weight", "error", "weight.weight_grad", "weight.primal"}
    roles |= {"weight.state.exp_avg", "weight.state.exp_avg_sq"}
    assert {f"fc{n}.{role}" for n in (1, 2, 3, 4) for role in roles} <= set(samples[-1][1])


def one_layer(**roles):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False))
    bw.quantize_(model, bw.recipe("float", **roles), verbose=False)
    return model


def step(monitor, model, x):
    model(x).sum().backward()
    monitor.step_ends(0.0)


def sampled(monitor, model, x):
    """A step that is looked at."""
    monitor._next = 0
    monitor._arm()
    step(monitor, model, x)


def test_a_reading_is_what_the_tensor_shows():
    model = one_layer(activation={"format": "int4", "scale": 0.5}, weight="ternary")
    monitor = Monitor(every=1)
    monitor.run_begins(model, torch.optim.SGD(model.parameters(), lr=1.0))
    monitor.epoch_begins(0, 10)
    x = torch.linspace(-5, 5, 64).view(4, 16)
    sampled(monitor, model, x)
    reading = monitor.last["0.activation"]
    y = (x / 0.5).round().clamp(-8, 7) * 0.5
    sqnr = 10 * math.log10(float(x.double().square().sum() / (x.double() - y).square().sum()))
    assert reading.format == "int4"
    assert reading.scale == 0.5
    assert reading.sqnr == pytest.approx(sqnr)
    q = x / 0.5
    assert reading.overflow == float(((q < -8) | (q > 7)).double().mean())
    assert (reading.codes, reading.dead) == (16, 0)
    assert reading.flipped is None  # another batch is another tensor
    weight = monitor.last["0.weight"]
    assert (weight.codes, weight.flipped) == (3, None)

    with torch.no_grad():
        before = model[0].weight.round().clamp(-1, 1)
        model[0].weight[:4] += 1.0
        after = model[0].weight.round().clamp(-1, 1)
    sampled(monitor, model, x)
    assert monitor.last["0.weight"].flipped == float((before != after).double().mean()) > 0.4


def test_scales_per_channel_and_blocks_are_read_on_the_leading_rows():
    model = one_layer(
        weight={"format": "int8", "controller": "max-abs", "per": "channel"}, activation="mxfp4"
    )
    monitor = Monitor(every=1)
    monitor.run_begins(model, torch.optim.SGD(model.parameters(), lr=1.0))
    monitor.epoch_begins(0, 10)
    sampled(monitor, model, torch.randn(5000, 16))
    assert set(monitor.last) == {"0.weight", "0.forward.activation", "0.wgrad.activation"}
    weight = monitor.last["0.weight"]
    expected = model[0].slots.of("forward.weight").current_scale().mean()
    assert weight.scale == pytest.approx(float(expected))
    assert weight.overflow == 0
    assert monitor.last["0.forward.activation"].sqnr > 10


def test_it_keeps_to_its_share_of_the_time():
    model = one_layer(activation="int8")
    monitor = Monitor(every=1)
    monitor.run_begins(model, torch.optim.SGD(model.parameters(), lr=1.0))
    monitor.epoch_begins(0, 1000)
    seen = 0
    for _ in range(300):
        last = monitor.last
        step(monitor, model, torch.randn(2, 16))  # a step takes less time than a sample
        seen += monitor.last is not last
    assert 1 <= seen < 60
    assert model[0].slots.of("forward.activation").witness is None


def test_the_picture_and_the_command(digits, tmp_path):
    from click.testing import CliRunner

    from bitwright.cli import app

    out = tmp_path / "run"
    arguments = ["train", "--recipe", every_role(tmp_path / "all.toml"), "--width", "16", "--epochs", "1"]
    result = CliRunner().invoke(app, [*arguments, "--examples", "200", "--watch", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "flipped" in result.output
    assert "fc1.weight.primal" in result.output
    assert (out / "monitor.png").stat().st_size > 10_000


def test_a_damaged_file_says_so(tmp_path):
    (tmp_path / MONITOR).write_text('{"step": 1}\n')
    with pytest.raises(FileFormatError, match="one sample a line"):
        read_monitor(tmp_path / MONITOR)
