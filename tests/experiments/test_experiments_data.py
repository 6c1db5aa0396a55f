"""Experiments as data: what files say, grids, seeds, claims, and every mistake by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitwright.errors import BitwrightError, InvalidValueError
from bitwright.experiments import experiment, names
from bitwright.experiments.records import whole_grid

SMALL = """
title = "t"
paper = "p"
kind = "train"
[settings]
data = "digits"
model = "mlp"
[scales.small]
width = 8
epochs = 2
[[runs]]
name = "qnn"
recipe = "qnn"
paper = 3
[[runs]]
name = "float"
recipe = "float"
"""

# what FxpNet's table needs: formats for what is stored and for every gradient, seeds only at the corners
GRID = """
title = "t"
paper = "p"
kind = "train"
[settings]
data = "digits"
recipe = "qnn"
[scales.small]
width = 8
epochs = 2
seeds = { "fixed12-fixed12" = [0, 1, 2], "float-*" = [0, 1], "*" = [5] }
batch = { "fixed6-*" = 50 }
[grid]
name = "{primal}-{gradient}"
label = "{primal} / {gradient}"
[grid.axes]
primal = ["fixed6", "fixed8", "fixed12", "float"]
gradient = ["fixed6", "fixed8", "fixed12", "float"]
[grid.settings.roles]
primal = { format = "{primal}", controller = "overflow-rate" }
state = { format = "{primal}", controller = "max-abs" }
error = { format = "{gradient}", controller = "overflow-rate" }
weight_grad = { format = "{gradient}", controller = "overflow-rate" }
[grid.paper]
"fixed12-fixed12" = 11.5
[[claims]]
run = "fixed12-fixed12"
minus = "float-float"
at_most = 1.5
"""


def write(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", names())
def test_every_experiment_states_its_scales_and_its_runs(name):
    found = experiment(name)
    assert {"small", "paper"} <= set(found.scales)
    for title, scale in found.scales.items():
        assert scale.note
        jobs = found.jobs(scale)
        assert jobs
        assert len(jobs) >= len(found.runs) or title not in ("small", "paper")
    # what is claimed names runs: a claim that names none is an error of the file
    assert found.claims


def test_the_scale_wins_over_the_run_and_the_run_over_what_is_common(tmp_path):
    text = SMALL.replace('name = "float"', 'name = "float"\nwidth = 99\nbatch = 20\nepochs = 7')
    found = experiment(write(tmp_path, text))
    assert found.name == "mine"
    qnn, plain = (job.settings for job in found.jobs(found.scale("small")))
    assert (qnn.recipe, qnn.width, qnn.epochs, qnn.batch) == ("qnn", 8, 2, 100)
    assert (plain.recipe, plain.width, plain.epochs, plain.batch) == ("float", 8, 2, 20)


def test_a_grid_is_whole_or_not_drawn():
    lines = [{"run": a + b, "axes": {"down": a, "across": b}} for a in "xy" for b in "uvw"]
    single = {"run": "float", "axes": {}}
    assert whole_grid([single, *lines]) == lines
    assert whole_grid(lines[:-1]) == whole_grid(lines[:1]) == whole_grid([single]) == []


def test_a_grid_of_stored_and_gradient_bits_with_seeds_at_the_corners(tmp_path):
    found = experiment(write(tmp_path, GRID))
    assert len(found.runs) == 16
    jobs = found.jobs(found.scale("small"))
    seeds = {run.name: [j.settings.seed for j in jobs if j.run.name == run.name] for run in found.runs}
    assert seeds["fixed12-fixed12"] == [0, 1, 2]
    assert seeds["float-fixed6"] == seeds["float-float"] == [0, 1]
    assert seeds["fixed6-fixed12"] == seeds["fixed12-fixed8"] == [5]
    corners = GRID.replace('"float-*" = [0, 1], "*" = [5]', '"*" = []')
    found = experiment(write(tmp_path, corners))
    assert {job.run.name for job in found.jobs(found.scale("small"))} == {"fixed12-fixed12"}
    with pytest.raises(InvalidValueError, match="some run is part of a scale; got fixed6-\\* without a seed"):
        found.jobs(found.scale("small"), only="fixed6-*")
    with pytest.raises(InvalidValueError, match="some run is part of a scale"):
        experiment(
            write(
                tmp_path,
                GRID.replace('"fixed12-fixed12" = [0, 1, 2], "float-*" = [0, 1], "*" = [5]', '"*" = []'),
            )
        )
    corner = next(job for job in jobs if job.name == "fixed6-fixed12-seed5")
    assert corner.settings.batch == 50
    assert next(job for job in jobs if job.name == "fixed8-fixed12-seed5").settings.batch == 100
    roles = corner.settings.find_recipe().roles
    assert [str(roles[role].format) for role in ("primal", "state", "error", "weight_grad")] == [
        "fixed6",
        "fixed6",
        "fixed12",
        "fixed12",
    ]
    assert str(roles["weight"].format) == "binary"  # the recipe's own
    assert {run.name: run.paper for run in found.runs if run.paper is not None} == {"fixed12-fixed12": 11.5}
    plain = next(job for job in jobs if job.name == "float-float-seed0").settings.find_recipe().roles
    assert [plain[role] for role in ("primal", "state", "error", "weight_grad")] == [None] * 4


def test_smoke_is_one_seed_and_one_epoch(tmp_path):
    found = experiment(write(tmp_path, GRID))
    smoke = found.scale("small", smoke=True)
    assert smoke.title == "small-smoke"
    assert {(job.settings.seed, job.settings.epochs) for job in found.jobs(smoke)} == {(5, 1), (0, 1)}
    assert len(found.jobs(smoke)) == 16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('recipe = "qnn"', 'recipe = "qn"', r"did you mean 'qnn'.*run qnn of experiment mine"),
        ('kind = "train"', 'kind = "trian"', "did you mean 'train'"),
        ('title = "t"', "title = 3", "title is a string"),
        ('title = "t"', 'title = "t"\ncolour = "red"', "unknown key 'colour'"),
        ("epochs = 2", "epochs = 0", "epochs is at least 1"),
        ("epochs = 2", 'epochs = "two"', "small"),
        ("epochs = 2", "epoch = 2", "did you mean 'epochs'"),
        ("epochs = 2", "epochs = 2\nseed = 2", "did you mean 'seeds'"),
        ("epochs = 2", "epochs = 2\nseeds = []", "seeds are a list"),
        ("epochs = 2", "epochs = 2\nseeds = [1, 1]", "different integers"),
        ("epochs = 2", "epochs = 2\nseeds = { qnn = [1] }", "seeds are a list"),
        ("epochs = 2", "epochs = 2\nbatch = { qn = 3 }", "did you mean 'qnn'"),
        ("epochs = 2", "epochs = 2\ntest_examples = 0", "number of images"),
        ("paper = 3", 'paper = "three"', "a figure is a number"),
        ("paper = 3", 'roles = { wieght = "int8" }', "did you mean 'weight'"),
        ('name = "float"', 'name = "qnn"', "different names"),
        ('name = "float"', 'name = "a/b"', "a run's name is letters"),
        ("[[runs]]", "[[ruins]]", "did you mean 'runs'"),
        ("[scales.small]", "[scales]\n[scale.small]", "did you mean 'scales'"),
        ("title", "[title", "TOML"),
    ],
)
def test_mistakes_are_named(tmp_path, old, new, message):
    assert old in SMALL
    with pytest.raises(BitwrightError, match=message):
        experiment(write(tmp_path, SMALL.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{primal} / {gradient}", "{primals}", "braces hold an axis: primal, gradient"),
        ('"fixed12-fixed12" = 11.5', '"fixed12-fixed13" = 11.5', "did you mean 'fixed12-fixed12'"),
        ('primal = ["fixed6"', "primal = [6", "an axis is a list of strings"),
        ('run = "fixed12-fixed12"', 'run = "fixed13-*"', "unknown run"),
        ('minus = "float-float"', 'minus = "float-floot"', "did you mean 'float-float'"),
        ("at_most = 1.5", 'at_most = 1.5\nscales = ["smal"]', "did you mean 'small'"),
        ('"{primal}", controller = "overflow-rate"', '"fx{primal}"', "run fixed6-fixed6"),
    ],
)
def test_mistakes_in_a_grid_and_in_claims_are_named(tmp_path, old, new, message):
    assert old in GRID
    with pytest.raises(BitwrightError, match=message):
        experiment(write(tmp_path, GRID.replace(old, new)))


def test_the_experiment_of_the_docs_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    (text,) = re.findall(r"```toml experiment\n(.*?)```", page, re.S)
    found = experiment(write(tmp_path, text))
    assert len(found.runs) == 1 + 9
    assert len(found.jobs(found.scale("small"))) == 10 + 2 * 2


def test_unknown_names(tmp_path):
    with pytest.raises(InvalidValueError, match="did you mean 'qnn-mnist'"):
        experiment("qnn-minst")
    with pytest.raises(BitwrightError, match="readable TOML file"):
        experiment(tmp_path / "nothing.toml")
    found = experiment(write(tmp_path, SMALL))
    with pytest.raises(InvalidValueError, match="did you mean 'small'"):
        found.scale("smal")
    with pytest.raises(InvalidValueError, match="did you mean 'float'"):
        found.jobs(found.scale("small"), only="flot")
    assert [job.name for job in found.jobs(found.scale("small"), only="f*")] == ["float-seed0"]
