"""bitwright export: the files it writes, what it says, its errors."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from compiled import case, compile_and_run, differing
from integer_networks import levels_for, residual_network, token_network
from test_export_cortex_m import needs_tools

from bitwright.cli import main
from bitwright.data import load
from bitwright.export import to_c
from bitwright.formats import Int
from bitwright.integer import Codes, Input, Linear, Network, Output, Reshape


@pytest.fixture
def export(capsys, monkeypatch):
    def command(*args):
        monkeypatch.setattr(sys, "argv", ["bitwright", "export", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return command


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "my-model.bw"
    residual_network().save(path)
    return path


def test_it_writes_a_source_and_its_header(export, model, tmp_path):
    code, out, err = export(model, "--to", "c")
    assert (code, err) == (0, "")
    c = to_c(residual_network(), "my_model")
    assert (tmp_path / "my-model.c").read_text() == c.source
    assert (tmp_path / "my-model.h").read_text() == c.header
    assert f"{c.constants} B of constants" in out
    code, _, err = export(model, "--to", "c")
    assert code == 1
    assert "--force" in err
    assert export(model, "--to", "c", "--force", "--name", "other")[0] == 0
    assert "other_run(" in (tmp_path / "my-model.c").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "c", "--out", "{}/net.py"], "ends in .c"),
        (["--to", "c", "--out", "/proc/nowhere/net.c"], "can be written to"),
        (["--to", "c", "--out", "{}/1.c"], "identifier"),
        (["--to", "c", "--name", "a b"], "identifier"),
    ],
)
def test_errors_say_what_to_do(export, model, tmp_path, arguments, said):
    code, out, err = export(model, *(a.format(tmp_path) for a in arguments))
    assert (code, out) == (1, "")
    assert said in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my-model.bw"]


@pytest.mark.parametrize("arguments", [[], ["--to", "fortran"], ["--to", "c", "--measure", "z80"]])
def test_usage(export, model, arguments):
    code, _, err = export(model, *arguments)
    assert code == 2
    assert "Usage" in err or "Error" in err


def test_help_names_every_option(export):
    code, out, _ = export("--help")
    assert code == 0
    assert all(f"--{o}" in out for o in ("to", "out", "name", "force", "measure", "data", "json"))


def test_what_is_no_model_is_refused(export, tmp_path):
    path = tmp_path / "text.bw"
    path.write_text("not a model, whatever its name says")
    for file in (path, tmp_path / "missing.bw"):
        code, _, err = export(file, "--to", "c")
        assert code == 1
        assert file.name in err


def test_the_written_file_computes(export, tmp_path):
    network = token_network()
    network.save(tmp_path / "net.bw")
    assert export(tmp_path / "net.bw", "--to", "c", "--out", tmp_path / "net.c")[0] == 0
    one = case(network, levels_for(network, 2, 0))
    assert one.c.source == (tmp_path / "net.c").read_text()
    assert differing([one], compile_and_run(tmp_path, [one]))[1] == 0


@needs_tools
def test_measuring_on_images_is_recorded(export, tmp_path):
    digits = load("digits", "test")
    elements = int(np.prod(digits.images.shape[1:]))
    weight = Codes.pack(Int(4), np.random.default_rng(0).integers(-8, 8, (10, elements)))
    operations = [
        Input("in", "", digits.images.shape[1:], Int(8), 2.0**-6),
        Reshape("flat", "in", (elements,)),
        Linear("fc", "flat", weight),
        Output("out", "fc", np.ones(10, np.int64), np.zeros(10, np.int64), 4),
    ]
    meta = {"preprocessing": digits.preprocessing.to_json()}
    Network(operations, meta).save(tmp_path / "net.bw")
    options = ["--data", "digits", "--examples", 7, "--json", tmp_path / "r.json", "--measure", "cortex-m4"]
    code, out, err = export(tmp_path / "net.bw", "--to", "c", *options)
    assert (code, err) == (0, "")
    assert "cortex-m4" in out
    record = json.loads((tmp_path / "r.json").read_text())
    (measured,) = record["measured"]
    assert (measured["examples"], measured["numbers"], measured["differing"]) == (7, 70, 0)
    assert record["machine"]["bitwright"]
