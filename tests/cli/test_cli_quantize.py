"""bitwright quantize, and the commands that take what it leaves."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from bitwright import models
from bitwright.cli import app
from bitwright.errors import FileFormatError, InvalidValueError
from bitwright.training import PostTraining, load_run, post_training


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    save_file(models.build("resnet8", 4, (1, 8, 8), 10).state_dict(), path)
    return path


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_journey_of_a_float_network(tmp_path, weights):
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    quantize = ("quantize", "--model", "resnet8", "--width", 4, "--weights", weights, "--data", "digits")
    done = run(*quantize, "--recipe", "w4a8", "--images", 64, "--out", out)
    assert done.exit_code == 0, done.output
    assert "64 images, refined" in done.output
    assert " 0 differing codes" in done.output
    result = json.loads((out / "result.json").read_text())
    assert result["verified"]["differing"] == 0
    assert result["verified"]["examples"] == 64
    assert result["test_examples"] == 360
    assert len(result["refined"]) == 10
    checked = run("verify", out / "model.bw", "--examples", 20, "--slow-examples", 5)
    assert checked.exit_code == 0, checked.output
    assert checked.output.count(" 0 differing codes") >= 2
    assert run("inspect", out / "model.bw").exit_code == 0
    assert run("bench", out / "model.bw", "--batch", 1, "--rounds", 3).exit_code == 0
    again = run(*quantize, "--out", out)
    assert again.exit_code == 2
    assert "holds another run" in again.output


def test_the_checkpoint_is_the_emulation(tmp_path, weights):
    pytest.importorskip("sklearn")
    settings = PostTraining("resnet8", "int8", "digits", str(weights), 4, images=32, refine=False)
    result = post_training(settings, tmp_path, test_examples=50, verify_examples=0)
    assert result["verified"] is None
    assert result["refined"] == []
    test = settings.load("test").subset(50)
    model, held = load_run(tmp_path, test)
    assert held == settings
    wrong = (model(torch.from_numpy(test.inputs())).argmax(1).numpy() != test.labels).mean() * 100
    assert wrong == pytest.approx(result["test_error"], abs=1e-12)


def test_a_known_float_error_is_not_taken_again(weights):
    pytest.importorskip("sklearn")
    settings = PostTraining("resnet8", "int8", "digits", str(weights), 4, images=8, refine=False)
    stages = []
    result = post_training(
        settings,
        test_examples=8,
        verify_examples=2,
        float_error=12.5,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert result["float_error"] == 12.5
    assert list(dict.fromkeys(stages)) == ["calibrate", "test", "verify"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet2"}, "unknown pretrained network"),
        ({"model": "mlp"}, "--weights FILE"),
        ({"model": "resnet", "weights": "x"}, "unknown model"),
        ({"recipe": "int3"}, "unknown recipe"),
        ({"data": "cifar"}, "did you mean 'cifar10'"),
        ({"images": 0}, "at least 1 image"),
    ],
)
def test_settings_are_checked(arguments, message):
    with pytest.raises(InvalidValueError, match=message):
        PostTraining(**arguments)


def test_weights_that_do_not_fit_are_named(tmp_path, weights):
    pytest.importorskip("sklearn")
    test = PostTraining("resnet8", "int8", "digits", str(weights), 4).load("test")
    for settings, message in (
        (PostTraining("resnet8", "int8", "digits", str(weights), 8), "weights fit the network"),
        (PostTraining("resnet8", "int8", "digits", str(tmp_path / "none"), 4), "safetensors file; got none"),
    ):
        with pytest.raises(FileFormatError, match=message):
            settings.float_model(test)
    (tmp_path / "cut").write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="complete safetensors"):
        PostTraining("resnet8", "int8", "digits", str(tmp_path / "cut"), 4).float_model(test)
    with pytest.raises(InvalidValueError, match="within the"):
        post_training(PostTraining("resnet8", "int8", "digits", str(weights), 4, images=9999))


def test_help_answers():
    shown = run("quantize", "--help").output
    for word in ("--model", "--weights", "--recipe", "--images", "--no-refine", "resnet20", "w4a8"):
        assert word in shown
    assert "--width is for a network" in run("quantize", "--width", 3).output
