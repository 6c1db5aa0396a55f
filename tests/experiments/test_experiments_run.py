"""Running experiments: the same codes everywhere, exact resume, honest tables."""

from __future__ import annotations

import json
import re

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import bitwright as bw
from bitwright import data
from bitwright.cli import app
from bitwright.errors import BitwrightError, InvalidValueError
from bitwright.experiments import (
    backends,
    estimate,
    experiment,
    finished,
    markdown,
    record,
    reproduce,
    unfinished,
    verify_everywhere,
    write_report,
)
from bitwright.experiments import exactness as exactness_module
from bitwright.experiments.compiled import find_compiler, verify_compiled
from bitwright.kernels import available_isas
from bitwright.training import CHECKPOINT, DivergedError

TRAIN = """
title = "Two networks"
paper = "A paper, table 1"
kind = "train"
[settings]
data = "digits"
model = "mlp"
width = 16
batch = 50
[scales.small]
note = "Small."
epochs = 3
examples = 300
test_examples = 100
seeds = { qnn = [0, 1], "*" = [0] }
[[runs]]
name = "qnn"
label = "one bit"
recipe = "qnn"
paper = 1.4
[[runs]]
name = "float"
recipe = "float"
[published]
"Maxout" = 0.94
[[claims]]
run = "qnn"
minus = "float"
at_most = 100
[[claims]]
run = "*"
at_most = -1
source = "nobody"
"""


@pytest.fixture
def trainings(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TRAIN)
    return experiment(path)


class Watch:
    """Notes what it is told; raises KeyboardInterrupt after so many steps."""

    def __init__(self, stop=None):
        self.jobs, self.work, self.total, self.stop = [], 0.0, 0.0, stop

    def job_begins(self, job, done, total):
        assert done == pytest.approx(self.work)
        self.total = total

    def advances(self, work):
        self.work += work
        if self.stop is not None and self.work >= self.stop:
            raise KeyboardInterrupt

    def job_ends(self, job, row):
        self.jobs.append(job.name)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    found = experiment("exactness")
    scale = found.scale("tiny")
    out = tmp_path_factory.mktemp("exactness")
    watch = Watch()
    rows = reproduce(found, scale, out, watcher=watch)
    assert len(watch.jobs) == len(found.runs)
    return record(found, scale, rows)


@pytest.mark.parametrize("run", [run.name for run in experiment("exactness").runs])
def test_64_images_of_every_network_have_the_same_codes_on_every_backend(exact, run):
    (row,) = [row for row in exact["rows"] if row["run"] == run]
    assert row["value"] == 0
    # a backend that cannot run a network is named, and its place in the list of what is known is here
    missing = set() if find_compiler() else {"c"}
    assert set(row["left_out"]) == missing
    assert [check["backend"] for check in row["verified"]] == [
        *reversed(available_isas()),
        "interpreter",
        *(() if "c" in missing else ["c"]),
    ]
    for check in row["verified"]:
        assert check["examples"] == 64
        assert check["differing"] == 0
        assert check["first"] is None
        assert check["compared"] >= 64 * (64 + 10 + 10)
    compared = {check["backend"]: check["compared"] for check in row["verified"]}
    pixels = compared.pop("c", 64 * (64 + 10 + 10)) - 64 * (10 + 10)  # beside integers and outputs
    assert pixels == 64 * 64
    assert set(compared.values()) == {row["verified"][0]["compared"]}


def test_exactness_knows_its_networks_apart(exact):
    """Each network is what its label says, not seven times the same."""
    found = experiment("exactness")
    (scale,) = [scale for scale in found.scales.values() if scale.name == "tiny"]
    formats = {}
    for job in found.jobs(scale):
        roles = job.settings.find_recipe().roles
        formats[job.run.name] = tuple(str(roles[r].format) for r in ("weight", "activation"))
    assert len(set(formats.values())) >= 6
    assert formats["convnet-2bit"] == ("fixed2.1", "ufixed2.2")
    claims = {claim["run"]: claim["holds"] for claim in exact["claims"]}
    assert claims == dict.fromkeys(formats, True)


def test_a_difference_is_counted_and_the_claim_fails(exact, tmp_path, monkeypatch):
    """One weight of the model moves after lowering: every backend must see it."""
    found = experiment("exactness")
    scale = found.scale("tiny")
    compare = exactness_module.verify

    def sabotaged(model, network, images, **keywords):
        with torch.no_grad():
            model.get_submodule("fc2").weight[0, 0] *= -1
        try:
            return compare(model, network, images, **keywords)
        finally:
            with torch.no_grad():
                model.get_submodule("fc2").weight[0, 0] *= -1

    monkeypatch.setattr(exactness_module, "verify", sabotaged)
    made = record(found, scale, reproduce(found, scale, tmp_path, only="qnn-mlp"))
    checks = [check for check in made["rows"][0]["verified"] if check["backend"] != "c"]
    assert all(check["differing"] >= 1 for check in checks)
    assert made["rows"][0]["value"] == sum(check["differing"] for check in made["rows"][0]["verified"])
    assert checks[0]["first"].startswith("fc2.weight[0, 0]")
    assert [claim["holds"] for claim in made["claims"]] == [False]
    assert "DOES NOT HOLD" in markdown(made)


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_compiled_c_is_compared_with_the_model_it_came_from():
    test = data.load("digits", "test").subset(30)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    bw.quantize_(model, bw.recipe("qnn"), verbose=False)
    network = bw.lower(model.eval(), torch.zeros(1, 1, 8, 8))
    same = verify_compiled(model, network, test)
    assert (same.differing, same.elements) == (0, {"input codes": 1920, "last integers": 300, "output": 300})
    with torch.no_grad():
        model[1].bias[3] += 1
    other = verify_compiled(model, network, test)
    assert other.differing == 30
    assert str(other.first).startswith("output[0, 3]")


def test_the_fastest_backend_takes_all_images_and_the_others_some():
    test = data.load("digits", "test").subset(60)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    bw.quantize_(model, bw.recipe("qnn"), verbose=False)
    network = bw.lower(model.eval(), torch.zeros(1, 1, 8, 8))
    seen = []
    checks = verify_everywhere(model, network, test, 20, seen.append)
    others = len(available_isas()) + (find_compiler() is not None)
    assert [check.examples for check in checks] == [60, *[20] * others]
    assert sum(seen) == sum(check.examples for check in checks)
    assert [backend.is_fast for backend in backends(network)] == [True, *[False] * len(available_isas())]


def test_rows_hold_every_epoch_and_the_integer_network(trainings, tmp_path):
    scale = trainings.scale("small")
    watch = Watch()
    rows = reproduce(trainings, scale, tmp_path, watcher=watch)
    assert watch.jobs == ["qnn-seed0", "qnn-seed1", "float-seed0"]
    assert watch.work == watch.total == 3 * 3 * (300 // 50)
    for row in rows:
        assert [epoch["epoch"] for epoch in row["history"]] == [1, 2, 3]
        assert row["value"] == row["history"][-1]["test_error"]  # the last epoch, not the best
        assert row["examples"] == {"training": 300, "test": 100}
        assert row["machine"]["torch"]
    assert [len(row.get("verified", [])) for row in rows] == [1, 1, 0]
    assert all(row["verified"][0]["differing"] == 0 for row in rows[:2])
    made = record(trainings, scale, rows)
    line = made["table"][0]
    values = [row["value"] for row in rows[:2]]
    assert line["mean"] == pytest.approx(sum(values) / 2)
    assert (line["low"], line["high"]) == (min(values), max(values))
    assert [claim["holds"] for claim in made["claims"]] == [True, False, False]
    page = markdown(made)
    assert f"| {line['mean']:.2f} ({line['low']:.2f} to {line['high']:.2f}) | 2 |" in page
    assert "| 1.40 |" in page
    assert "| Maxout | 0.94 |" in page
    assert "mlp 16, 3 epochs of 300 examples, digits" in page
    paths = write_report(made, tmp_path)
    assert [path.suffix for path in paths] == [".json", ".md", ".png"]
    assert paths[1].read_text() == markdown(json.loads(paths[0].read_text())) == page
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_experiment_goes_on_bit_for_bit(trainings, tmp_path):
    scale = trainings.scale("small")
    whole = reproduce(trainings, scale, tmp_path / "whole")
    # within the second epoch of the second training
    with pytest.raises(KeyboardInterrupt):
        reproduce(trainings, scale, tmp_path / "parts", watcher=Watch(stop=18 + 9))
    assert finished(trainings.jobs(scale)[0], scale, tmp_path / "parts")["seed"] == 0
    assert [job.name for job, _ in unfinished(trainings, scale, tmp_path / "parts")] == [
        "qnn-seed1",
        "float-seed0",
    ]
    first = (tmp_path / "parts" / "qnn-seed0.json").read_bytes()
    watch = Watch()
    parts = reproduce(trainings, scale, tmp_path / "parts", watcher=watch)
    assert watch.jobs == ["qnn-seed1", "float-seed0"]
    assert (tmp_path / "parts" / "qnn-seed0.json").read_bytes() == first
    assert [row["value"] for row in parts] == [row["value"] for row in whole]
    for name in ("qnn-seed1", "float-seed0"):
        a, b = (load_file(tmp_path / half / name / CHECKPOINT) for half in ("whole", "parts"))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    # a third time there is nothing left to do
    again = Watch()
    assert reproduce(trainings, scale, tmp_path / "parts", watcher=again) == parts
    assert again.jobs == []


def test_results_of_other_settings_are_refused(trainings, tmp_path):
    scale = trainings.scale("small")
    reproduce(trainings, scale, tmp_path / "out", only="float")
    edited = tmp_path / "mine.toml"
    edited.write_text(TRAIN.replace("epochs = 3", "epochs = 2"))
    other = experiment(edited)
    with pytest.raises(InvalidValueError, match=r"one state of an experiment.*float-seed0\.json"):
        reproduce(other, other.scale("small"), tmp_path / "out")
    # a half-done training, too
    (tmp_path / "out" / "float-seed0.json").unlink()
    with pytest.raises(InvalidValueError, match="its own settings"):
        reproduce(other, other.scale("small"), tmp_path / "out", only="float")
    (tmp_path / "out" / "float-seed0.json").write_text("{")
    with pytest.raises(BitwrightError, match="readable JSON"):
        reproduce(other, other.scale("small"), tmp_path / "out", only="float")


def test_a_training_that_diverges_is_a_result(trainings, tmp_path, monkeypatch):
    from bitwright.experiments import kinds

    def diverge(*args, **keywords):
        raise DivergedError("the loss stays finite", got="nan")

    monkeypatch.setattr(kinds, "train", diverge)
    scale = trainings.scale("small")
    made = record(trainings, scale, reproduce(trainings, scale, tmp_path))
    assert [line["mean"] for line in made["table"]] == [None, None]
    assert not any(claim["holds"] for claim in made["claims"])
    assert "| diverged (2 of 2) | 2 |" in markdown(made)
    write_report(made, tmp_path)


def test_smoke_takes_a_tenth_of_an_epoch(trainings, tmp_path):
    scale = trainings.scale("small", smoke=True)
    rows = reproduce(trainings, scale, tmp_path)
    assert [row["examples"] for row in rows] == [{"training": 50, "test": 10}] * 2  # at least one batch
    assert all(len(row["history"]) == 1 for row in rows)
    made = record(trainings, scale, rows)
    assert made["claims"] == []
    assert made["command"].endswith("--scale small --smoke")


def test_a_claim_is_met_at_its_bound(trainings):
    """0.3 points between 1.6 and 1.3, which floats miss by a hair."""
    from bitwright.experiments.definition import Claim
    from bitwright.experiments.records import check

    lines = [{"run": name, "mean": mean, "seeds": [0]} for name, mean in (("a", 1.6), ("b", 1.3))]
    assert 1.6 - 1.3 > 0.3
    (met,) = check(Claim("a", 0.3, "b"), lines)
    (missed,) = check(Claim("a", 0.299, "b"), lines)
    assert (met["value"], met["holds"], missed["holds"]) == (0.3, True, False)
    assert check(Claim("a", 1.0, "c"), lines) == []  # c has not run


def test_the_estimate_grows_with_the_epochs(trainings, tmp_path):
    scale = trainings.scale("small")
    ((job, splits), *_) = unfinished(trainings, scale, tmp_path)
    import dataclasses

    long = dataclasses.replace(job, settings=dataclasses.replace(job.settings, epochs=3000))
    assert estimate("train", long, splits, scale) > 10 * estimate("train", job, splits, scale) > 0
    assert not list(tmp_path.glob("*seed*"))


def run(*args, code=0):
    result = CliRunner().invoke(app, ["reproduce", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_lists_plans_runs_and_goes_on(trainings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("exactness", "qnn-mnist", "qnn-cifar10"):
        assert name in run("--list")
    listed = run("mine.toml", "--list", "--only", "qnn")
    assert listed.count("mlp 16, digits, 3 epochs of 300") == 2
    estimated = run("mine.toml", "--dry-run")
    assert re.search(r"qnn +2 +\d", estimated)
    assert "nothing was kept" in estimated
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]
    # a claim of -1 % cannot hold
    output = run("mine.toml", "--only", "float", "--out", "out", code=1)
    assert "DOES NOT HOLD" in output
    assert "not run" in output
    folder = tmp_path / "out" / "mine" / "small"
    assert {"float-seed0.json", "mine-small.json", "mine-small.md", "mine-small.png"} <= {
        path.name for path in folder.iterdir()
    }
    before = (folder / "float-seed0.json").read_bytes()
    run("mine.toml", "--out", "out", code=1)
    assert (folder / "float-seed0.json").read_bytes() == before
    assert json.loads((folder / "mine-small.json").read_text())["finished"] == 3
    assert "about 0 s" in run("mine.toml", "--dry-run", "--out", "out")
