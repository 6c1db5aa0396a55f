"""bitwright train with recipes that leave in float what an integer network needs in integers."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import bitwright as bw
from bitwright import data
from bitwright.cli import main
from bitwright.experiments import kinds
from bitwright.lowering import NotLowerableError
from bitwright.training import load_run

LEFT = {
    "dorefa": ["fc1: the recipe leaves it in float", "fc4: the recipe leaves it in float"],
    "binaryconnect": [f"fc{i}: its forward.activation has no format" for i in (1, 2, 3, 4)],
    "mxfp4": [
        f"fc{i}: its forward.activation is {form}, whose numbers are no integers"
        for i, form in enumerate(("mxfp8e4m3", "mxfp4", "mxfp4", "mxfp8e4m3"), 1)
    ],
}


@pytest.fixture
def bitwright(capsys, monkeypatch):
    """The command, run in this process: (exit code, output, errors)."""

    def command(*args):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["bitwright", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return command


def options(recipe, out):
    return "--recipe", recipe, "--width", 8, "--epochs", 1, "--examples", 200, "--out", out


@pytest.mark.parametrize("recipe", LEFT)
def test_a_complete_training_without_integer_network_is_no_error(recipe, tmp_path, bitwright):
    out = tmp_path / recipe
    code, output, _ = bitwright("train", *options(recipe, out))
    assert code == 0
    lines = output.splitlines()
    note = lines.index("note: the training is complete, but there is no integer network:")
    problems = [line.strip() for line in lines[note + 1 :] if line.startswith("  ")]
    assert problems == LEFT[recipe]
    assert lines[-1].startswith("in the recipe, give weight and activation of these layers")
    assert not (out / "model.bw").exists()
    record = json.loads((out / "result.json").read_text())
    assert record["not_lowered"]["problems"] == LEFT[recipe]
    assert "weight_bits" not in record
    # the trained model is there; lowering and verifying it stay errors
    test = data.load("digits", "test")
    model, _ = load_run(out, test)
    with pytest.raises(NotLowerableError) as caught:
        bw.lower(model, torch.from_numpy(test.inputs(0, 1)))
    assert list(caught.value.problems) == LEFT[recipe]
    code, _, errors = bitwright("verify", out / "model.bw")
    assert code == 1
    assert "the model file exists" in errors


def test_what_the_note_says_to_change_is_enough(tmp_path, bitwright):
    """dorefa whose ends have formats, and binaryconnect with activations, lower."""
    texts = {
        "dorefa": '[layers.first]\nweight = "int8"\nactivation = "fixed8.6"\n'
        '[layers.last]\nweight = "int8"\nactivation = "int8"\n',
        "binaryconnect": '[roles]\nactivation = { format = "int8", controller = "max-abs" }\n',
    }
    for base, text in texts.items():
        path = tmp_path / f"{base}8.toml"
        path.write_text(f'base = "{base}"\n{text}')
        code, output, _ = bitwright("train", *options(path, tmp_path / base))
        assert code == 0
        assert "integer network" in output
        assert "there is no integer network" not in output
        assert (tmp_path / base / "model.bw").exists()


def test_other_problems_than_formats_are_listed_together():
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4),
        torch.nn.Sigmoid(),
        torch.nn.Linear(4, 4),
        torch.nn.GELU(),
        torch.nn.Linear(4, 2),
    )
    bw.quantize_(model, bw.recipe("float", weight="int8", activation="int8"), verbose=False)
    with pytest.raises(NotLowerableError, match=r"1 \(Sigmoid\) is not supported") as caught:
        bw.lower(model, torch.zeros(1, 4))
    assert len(caught.value.problems) > 1
    assert caught.value.fix.startswith("supported: Linear")


def test_an_experiment_keeps_the_row_and_says_why():
    result = {"examples": {}, "history": [{"seconds": 1.25}], "machine": {}}
    lowered = {"weight_bits": 1.0}
    left = {"not_lowered": {"problems": ["fc1: the recipe leaves it in float"], "fix": "change it"}}
    assert kinds._kept(result | lowered)["weight_bits"] == 1.0
    kept = kinds._kept(result | left)
    assert kept["not_lowered"] == left["not_lowered"]
    assert "weight_bits" not in kept
    assert kept["seconds"] == 1.2
