"""The command line, run as its users run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner

from bitwright.cli import app, main


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def bitwright(capsys, monkeypatch):
    """The command, run in this process: exit code, stdout, stderr."""

    def command(*args, **environment):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["bitwright", *map(str, args)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code, *capsys.readouterr())

    return command


def process(*args, cwd=None, **environment):
    """A process of its own: exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "bitwright", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env=os.environ | environment,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def call(*args):
    """In this process, for what cannot fail."""
    result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    done = process(
        "train", "--recipe", "qnn", "--model", "mlp", "--data", "digits",
        "--width", 128, "--epochs", 20, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ReLU -> Hardtanh" in done.stdout
    assert "test error" in done.stdout
    return out


def test_train_leaves_a_run_folder(run):
    names = {p.name for p in run.iterdir()}
    assert names == {"checkpoint.safetensors", "run.json", "result.json", "model.bw", "picture.png"}
    result = json.loads((run / "result.json").read_text())
    assert result["test_error"] < 12
    assert len(result["history"]) == 20
    assert result["machine"]["torch"]


def test_verify_compares_on_every_backend(bitwright, run):
    done = bitwright("verify", run / "model.bw")
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"(\d+) examples x (\d+) tensors .*: 0 differing codes \((\w+)\)", done.stdout)
    assert {backend for _, _, backend in lines} >= {"scalar", "interpreter"}
    assert {examples for examples, _, _ in lines} == {"360"}


def test_run_explains_the_engines_plan(bitwright, run):
    done = bitwright("run", run / "model.bw", "--explain")
    assert done.returncode == 0, done.stderr
    assert re.search(r"fc2\.threshold +planes +bits +16,384", done.stdout)
    done = bitwright("run", run / "model.bw")
    assert done.returncode == 2
    assert "--explain" in done.stderr


def test_a_flipped_bit_is_refused_and_then_named(bitwright, run, tmp_path):
    for name in ("run.json", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    data = bytearray((run / "model.bw").read_bytes())
    weight = flip_weight_bit(data, "fc2.weight", row=3, column=17)
    (tmp_path / "model.bw").write_bytes(data)
    done = bitwright("verify", tmp_path / "model.bw")
    assert done.returncode == 1
    assert "SHA-256" in done.stderr
    done = bitwright("verify", tmp_path / "model.bw", "--no-check")
    assert done.returncode == 1
    assert f"fc2.weight[3, 17] is {weight}, expected {-weight}" in done.stdout


def flip_weight_bit(data, tensor, row, column):
    """Flip one bit of a binary weight in a model file's bytes; returns the new code."""
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])[tensor]
    at = 8 + length + entry["data_offsets"][0] + row * entry["shape"][1] + column // 8
    data[at] ^= 1 << column % 8
    return 1 if data[at] >> column % 8 & 1 else -1


def test_resume_goes_on(bitwright, tmp_path):
    common = ("--width", 16, "--epochs", 3, "--recipe", "qnn")
    bitwright("train", *common, "--out", tmp_path / "parts", "--stop-after", 1)
    again = bitwright("train", *common, "--out", tmp_path / "parts")
    assert again.returncode == 1
    assert "--resume" in again.stderr
    done = bitwright("train", "--resume", "--out", tmp_path / "parts")
    assert done.returncode == 0, done.stderr
    bitwright("train", *common, "--out", tmp_path / "whole")
    whole, parts = ((tmp_path / name / "model.bw").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


@pytest.mark.parametrize(
    "option", [("--epochs", 9), ("--recipe", "float"), ("--lr", 0.1), ("--data", "mnist")]
)
def test_resume_refuses_settings_that_it_would_ignore(bitwright, run, option):
    done = bitwright("train", "--resume", "--out", run, *option)
    assert done.returncode == 2
    assert option[0] in done.stderr


def test_class_names_that_are_no_list(bitwright, run, tmp_path):
    import bitwright as bw

    network = bw.load(run / "model.bw")
    network.meta["classes"] = 5
    network.save(tmp_path / "odd.bw")
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8), np.uint8))
    done = bitwright("run", tmp_path / "odd.bw", tmp_path / "x.npy")
    assert done.returncode == 1
    assert "class names" in done.stderr


def test_the_demo_spares_what_is_no_demo(bitwright, run, tmp_path):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    done = bitwright("demo", "--out", run)
    assert done.returncode == 1
    assert "only an earlier demo" in done.stderr
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    (tmp_path / "float32").mkdir()
    (tmp_path / "float32" / "notes.txt").write_text("mine")
    done = bitwright("demo", "--out", tmp_path, "--width", 8, "--epochs", 1, "--rounds", 3)
    assert done.returncode == 0
    assert (tmp_path / "float32" / "notes.txt").read_text() == "mine"


def test_interrupt_ends_with_one_message(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "bitwright", "train", "--width", "256", "--epochs", "100000",
         "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "--resume" in stdout
    assert "Traceback" not in stderr
    assert {p.name for p in out.iterdir()} == {"checkpoint.safetensors", "run.json"}


def test_run_names_classes(run, tmp_path):
    from bitwright import data

    test = data.load("digits", "test")
    np.save(tmp_path / "batch.npy", test.images[:5])
    output = call("run", run / "model.bw", tmp_path / "batch.npy", "--top", 2)
    import bitwright as bw

    scores = bw.load(run / "model.bw")(test.inputs(0, 5))
    named = re.findall(r"batch\.npy\[\d\]\s+(\d)", output)
    assert [int(n) for n in named] == scores.argmax(1).tolist()


def test_run_reads_pictures(run, tmp_path):
    from PIL import Image

    from bitwright import data

    pixels = data.load("digits", "test").images[0, 0].astype(float) / 16 * 255
    picture = Image.fromarray(pixels.round().astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
    picture.save(tmp_path / "digit.png")
    assert "digit.png" in call("run", run / "model.bw", tmp_path / "digit.png")


def test_bench_prints_ratios(run, tmp_path):
    output = call("bench", run / "model.bw", "--rounds", 3, "--json", tmp_path / "b.json")
    assert "torch float32" in output
    assert "1.0x" in output
    assert {t["batch"] for t in json.loads((tmp_path / "b.json").read_text())["timings"]} == {
        1,
        100,
    }


def test_demo_runs_the_whole_journey(bitwright, tmp_path):
    done = process("demo", "--out", tmp_path / "demo", "--width", 32, "--epochs", 3, "--rounds", 3)
    assert done.returncode == 0, done.stderr
    assert "0 differing codes" in done.stdout
    for row in ("test error", "weights", "model", "work per image", "batch 1", "batch 100", "next"):
        assert row in done.stdout
    assert (tmp_path / "demo" / "picture.png").exists()
    assert len(json.loads((tmp_path / "demo" / "demo.json").read_text())["verified"]) >= 2
    again = bitwright("demo", "--out", tmp_path / "demo", "--width", 32, "--epochs", 1, "--rounds", 3)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("name", ["int8", "uint4", "fixed8.4", "fixed8.-2", "ufixed8.8", "binary", "ternary"])
def test_formats_explains(name):
    output = call("formats", name, "--value", "0.3")
    assert name in output
    for word in ("scale", "code", "value", "error"):
        assert word in output


def test_formats_without_a_point_asks_for_a_scale(bitwright):
    done = bitwright("formats", "fixed12")
    assert done.returncode == 1
    assert "needs a scale" in done.stderr
    assert "3.14" in call("formats", "fixed12", "--scale", "0.01", "--value", "3.14")


def test_lists_and_doctor():
    assert "fixed8.4" in call("formats")
    assert "qnn" in call("recipes")
    assert "replaces" in call("recipes", "qnn")
    assert "float32" in call("recipes", "float")
    doctor = call("doctor")
    for word in ("bitwright", "torch", "engine", "digits", "complete", "mnist", "threads"):
        assert word in doctor
    assert "demo" in call("--help")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("trian",), "did you mean 'train'"),
        (("formats", "fixd8.4"), "did you mean 'fixed8.4'"),
        (("formats", "int64"), "between 1 and 32"),
        (("recipes", "qn"), "did you mean 'qnn'"),
        (("train", "--recipe", "qmn"), "did you mean 'qnn'"),
        (("train", "--model", "convent"), "did you mean 'convnet'"),
        (("train", "--data", "minst"), "did you mean 'mnist'"),
        (("train", "--width", "0"), "width"),
        (("train", "--resume"), "--out"),
        (("verify", "nothing.bw"), "no such file"),
        (("run", "nothing.bw", "x.png"), "no such file"),
        (("bench", "--data", "imagenet"), "digits"),
    ],
)
def test_mistakes_end_with_one_message(bitwright, args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = bitwright(*args)
    assert done.returncode != 0
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_model(bitwright, tmp_path, run):
    path = tmp_path / "model.bw"
    whole = (run / "model.bw").read_bytes()
    for content in (b"", b"hello", whole[:50], whole[: len(whole) // 2]):
        path.write_bytes(content)
        done = bitwright("run", path, "x.png")
        assert done.returncode == 1
        assert "model file" in done.stderr


def test_data_that_is_missing(tmp_path):
    done = process(
        "train", "--data", "cifar10", "--out", tmp_path / "run",
        BITWRIGHT_DATA=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"),
        HTTPS_PROXY="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 1
    assert "data_batch_1" in done.stderr
    assert "BITWRIGHT_DATA" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_unwritable_run_folder(bitwright, tmp_path):
    (tmp_path / "taken").write_text("")
    done = bitwright("train", "--width", 8, "--epochs", 1, "--out", tmp_path / "taken" / "run")
    assert done.returncode == 1
    assert "written" in done.stderr


def test_a_forced_instruction_set_is_used_and_a_wrong_one_named(bitwright, run, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8), np.uint8))
    doctor = bitwright("doctor", BITWRIGHT_ISA="scalar")
    assert "scalar (forced by BITWRIGHT_ISA)" in doctor.stdout
    wrong = bitwright("run", run / "model.bw", tmp_path / "x.npy", BITWRIGHT_ISA="avx9")
    assert wrong.returncode == 1
    assert "scalar" in wrong.stderr
