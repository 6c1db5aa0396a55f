"""Training: it learns, it resumes bit for bit, and what goes wrong says so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright import data
from bitwright.errors import BitwrightError, FileFormatError, InvalidValueError
from bitwright.recipes import names
from bitwright.training import (
    CHECKPOINT,
    MODEL,
    PICTURE,
    RESULT,
    RUN,
    Settings,
    Watcher,
    batches,
    error_rate,
    finish,
    load_run,
    squared_hinge,
    train,
)

SMALL = {"width": 32, "data": "digits", "epochs": 4, "batch": 50}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train").subset(400), data.load("digits", "test").subset(100)


def bits(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stochastic_recipe(tmp_path):
    path = tmp_path / "stochastic.toml"
    path.write_text(
        """
name = "stochastic"
[roles]
weight = { format = "int4", controller = "max-abs", per = "channel" }
activation = { format = "int6", controller = "max-abs", rounding = "stochastic" }
error = { format = "int8", controller = "max-abs", rounding = "stochastic" }
weight_grad = { format = "int12", controller = "max-abs" }
primal = { format = "int16", controller = "max-abs", rounding = "stochastic" }
state = { format = "int16", controller = "max-abs" }
"""
    )
    return str(path)


@pytest.mark.parametrize("kind", [*names(), "stochastic"])
def test_resume_is_exact(kind, digits, tmp_path):
    recipe = stochastic_recipe(tmp_path) if kind == "stochastic" else kind
    settings = Settings(recipe=recipe, **SMALL)
    whole, result = train(settings, *digits, tmp_path / "whole")
    train(settings, *digits, tmp_path / "parts", stop_after=1)
    train(settings, *digits, tmp_path / "parts", resume=True, stop_after=3)
    parts, resumed = train(settings, *digits, tmp_path / "parts", resume=True)
    assert same(bits(whole), bits(parts))
    errors = [[row["test_error"] for row in r["history"]] for r in (result, resumed)]
    assert errors[0] == errors[1]
    assert len(errors[0]) == 4


def test_resume_also_restores_the_optimiser(digits, tmp_path):
    # a run whose moments were lost would differ
    settings = Settings(recipe="qnn", **SMALL)
    train(settings, *digits, tmp_path / "a", stop_after=2)
    checkpoint = tmp_path / "a" / CHECKPOINT
    from safetensors.torch import load_file

    tensors = load_file(checkpoint)
    assert any(name.endswith("exp_avg_sq") for name in tensors)
    assert int(tensors["model.bitwright_step"]) == 2 * (400 // 50)


def test_seeds_differ_and_repeat(digits, tmp_path):
    runs = [
        bits(train(Settings(recipe="qnn", seed=seed, **SMALL), *digits, tmp_path / name)[0])
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_it_leaves_the_callers_random_state_alone(digits, tmp_path):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(Settings(recipe="qnn", **SMALL | {"epochs": 1}), *digits, tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_one_bit_network_learns_the_digits(tmp_path):
    settings = Settings(recipe="qnn", width=128, data="digits", epochs=15)
    training, test = data.load("digits", "train"), data.load("digits", "test")
    model, result = train(settings, training, test, tmp_path)
    assert result["test_error"] < 8
    # the stored weights are clipped, the codes are signs
    for name, parameter in model.named_parameters():
        if name.startswith("fc"):
            assert parameter.abs().max() <= 1
    result = finish(settings, model, test, tmp_path, result)
    assert result["weight_bits"] == 1
    assert json.loads((tmp_path / RESULT).read_text())["test_error"] == result["test_error"]
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    network = bw.load(tmp_path / MODEL)
    assert network.meta["classes"] == [str(n) for n in range(10)]
    assert (tmp_path / MODEL).stat().st_size == result["file_bytes"]
    answers = network(test.inputs()).argmax(1)
    assert float((answers != test.labels).mean() * 100) == pytest.approx(result["test_error"])
    reloaded, _ = load_run(tmp_path, test)
    checked = bw.verify(reloaded, network, batches(test))
    assert checked.differing == 0
    assert checked.examples == 360


def test_squared_hinge_by_hand():
    output = torch.tensor([[0.5, -2.0, 1.5]])
    # t = (-1, +1, -1): 1 - t y = 1.5, 3, 2.5
    assert squared_hinge(output, torch.tensor([1])).item() == pytest.approx((2.25 + 9 + 6.25) / 3)


def test_error_rate_counts_wrong_answers(digits):
    class Constant(torch.nn.Module):
        def forward(self, x):
            scores = torch.zeros(len(x), 10)
            scores[:, 3] = 1
            return scores

    _, test = digits
    assert error_rate(Constant(), test) == pytest.approx(float((test.labels != 3).mean()) * 100)


def test_learning_rate_decays_from_first_to_last():
    settings = Settings(recipe="qnn", lr=0.01, lr_final=0.0001)
    rates = [settings.learning_rate(p) for p in (0, 0.5, 1)]
    assert rates == pytest.approx([0.01, 0.001, 0.0001])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "qn"}, "did you mean 'qnn'"),
        ({"model": "convnt"}, "did you mean 'convnet'"),
        ({"data": "minst"}, "did you mean 'mnist'"),
        ({"epochs": 0}, "epochs"),
        ({"batch": 1}, "batch norm"),
        ({"lr": -1.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(InvalidValueError, match=message):
        Settings(**change)


def test_diverging_loss_ends_with_a_message_and_keeps_the_checkpoint(digits, tmp_path):
    training, test = digits
    settings = Settings(recipe="float", **SMALL)
    train(settings, training, test, tmp_path, stop_after=1)
    kept = (tmp_path / CHECKPOINT).read_bytes()

    class Poison:
        shape = training.preprocessing.shape

        def __call__(self, pixels):
            return np.full(pixels.shape, np.nan, np.float32)

    import dataclasses

    poisoned = dataclasses.replace(training, preprocessing=Poison())
    with pytest.raises(InvalidValueError, match=r"loss stays finite.*nan.*epoch 2"):
        train(settings, poisoned, test, tmp_path, resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == kept


def test_a_second_run_in_one_folder_is_refused(digits, tmp_path):
    settings = Settings(recipe="qnn", **SMALL)
    train(settings, *digits, tmp_path, stop_after=1)
    with pytest.raises(InvalidValueError, match="--resume"):
        train(settings, *digits, tmp_path)


def test_interrupt_leaves_whole_files(digits, tmp_path):
    class Interrupt(Watcher):
        steps = 0

        def step_ends(self, loss):
            self.steps += 1
            if self.steps == 11:  # in the second epoch of 8 steps
                raise KeyboardInterrupt

    settings = Settings(recipe="qnn", **SMALL)
    with pytest.raises(KeyboardInterrupt):
        train(settings, *digits, tmp_path / "cut", watchers=(Interrupt(),))
    assert {p.name for p in (tmp_path / "cut").iterdir()} == {CHECKPOINT, RUN}
    resumed, _ = train(settings, *digits, tmp_path / "cut", resume=True)
    whole, _ = train(settings, *digits, tmp_path / "whole")
    assert same(bits(resumed), bits(whole))


def test_damaged_checkpoints_are_refused(digits, tmp_path):
    settings = Settings(recipe="qnn", **SMALL)
    train(settings, *digits, tmp_path, stop_after=1)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    for cut in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileFormatError, match="checkpoint"):
            load_run(tmp_path, digits[1])
    path.write_bytes(whole)
    (tmp_path / RUN).write_text(json.dumps({"settings": Settings(**SMALL | {"width": 33}).to_json()}))
    with pytest.raises(FileFormatError, match="fits the model"):
        load_run(tmp_path, digits[1])
    (tmp_path / RUN).write_text("{")
    with pytest.raises(FileFormatError, match=r"run\.json"):
        load_run(tmp_path, digits[1])


@pytest.mark.parametrize(
    ("progress", "extra", "message"),
    [
        ({}, {}, "history"),
        ({"history": 3}, {}, "history"),
        (None, {}, "history"),
        ({"history": []}, {"optimizer.one.exp_avg": torch.zeros(1)}, "numbered"),
        ({"history": []}, {"optimizer.": torch.zeros(1)}, "numbered"),
    ],
)
def test_odd_checkpoints_are_refused(digits, tmp_path, progress, extra, message):
    from safetensors.torch import load_file, save_file

    settings = Settings(recipe="qnn", **SMALL)
    train(settings, *digits, tmp_path, stop_after=1)
    path = tmp_path / CHECKPOINT
    header = {"format": "bitwright-checkpoint", "version": 1, "progress": progress}
    save_file(load_file(path) | extra, path, metadata={"bitwright": json.dumps(header)})
    with pytest.raises(FileFormatError, match=message):
        train(settings, *digits, tmp_path, resume=True)


def test_an_unwritable_folder_is_an_error_before_training(digits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BitwrightError, match="written"):
        train(Settings(recipe="qnn", **SMALL), *digits, tmp_path / "file" / "run")


def test_tensorboard_writes_curves(digits, tmp_path):
    from bitwright.training.tensorboard import TensorBoard

    train(
        Settings(recipe="qnn", **SMALL | {"epochs": 1}),
        *digits,
        tmp_path / "run",
        watchers=(TensorBoard(tmp_path / "curves"),),
    )
    assert any(p.name.startswith("events.out.tfevents") for p in (tmp_path / "curves").iterdir())
