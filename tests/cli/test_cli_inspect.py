"""bitwright inspect: what it prints of a model file."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bitwright.cli import main
from bitwright.formats import Int, Rounding, Ternary, UInt
from bitwright.integer import Add, Argmax, Codes, Conv, Input, Network, Reshape

META = {"classes": [f"class {i}" for i in range(30)], "preprocessing": {"size": 6}, "note": "[bold]x" * 90}


@pytest.fixture
def model(tmp_path):
    weight = Codes.pack(Ternary(), np.resize([1, -1, 0, 1], (4, 2, 3, 3)))
    two, four = np.ones((2, 4), np.int64), np.zeros(4, np.int64)
    name = "layers.0.a_rather_long_name.of_a_convolution.inside_a_block.of_a_stage"
    path = tmp_path / "model.bw"
    Network(
        [
            Input("input", "", (2, 6, 6), UInt(8), 0.5, 9),
            Conv(name, "input", weight, (1, 1), (1, 1)),
            Add("sum", (name, name), two, four, 3, Int(8), Rounding.FLOOR, -4),
            Reshape("flat", "sum", (144,)),
            Argmax("class", "flat"),
        ],
        META,
    ).save(path)
    return path


@pytest.fixture
def inspect(capsys, monkeypatch):
    def command(*args):
        monkeypatch.setattr(sys, "argv", ["bitwright", "inspect", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return command


def test_the_tables_fit_and_say_everything(inspect, model):
    code, out, err = inspect(model)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "version 3" in out
    assert "intact" in out
    assert "class 0, class 1" in out
    assert "(30)" in out
    assert "[bold]x" in out
    (conv,) = (line for line in lines if "4 x 6 x 6" in line and "conv" in line)
    assert "sums" in conv
    assert "ternary, 20 B" in conv  # 4 rows of 18 codes of 2 bits
    largest = (255 - 9) * 14  # the largest level by the largest row
    assert f"{largest:,}" in conv
    assert "int8 zero -4" in out
    assert "5 operations, 72 weights in 20 B, 2,592 MACs" in out.replace("\n", " ")


def test_json_holds_the_same(inspect, model):
    code, out, err = inspect(model, "--json")
    assert (code, err) == (0, "")
    described = json.loads(out)
    assert described["meta"] == META
    assert described["intact"]
    assert described["bytes"] == model.stat().st_size
    kinds = [o["op"] for o in described["operations"]]
    assert kinds == ["input", "conv", "add", "reshape", "argmax"]
    conv = described["operations"][1]
    assert conv["weight"] == {"format": "ternary", "bits": 2, "shape": [4, 2, 3, 3], "count": 72, "bytes": 20}
    assert conv["macs"] == 4 * 36 * 18
    assert described["operations"][2]["inputs"] == [conv["name"]] * 2
    assert described["totals"] == {"operations": 5, "weights": 72, "weight_bytes": 20, "macs": 2592}


def test_damage_is_named(inspect, model, tmp_path):
    data = bytearray(model.read_bytes())
    data[-1] ^= 0x02  # the last byte is a weight's
    model.write_bytes(data)
    code, out, _ = inspect(model)
    assert code == 0
    assert "damaged" in out
    assert not json.loads(inspect(model, "--json")[1])["intact"]
    model.write_bytes(data[:100])
    code, _, err = inspect(model)
    assert code == 1
    assert "complete safetensors" in err
    code, _, err = inspect(tmp_path / "none.bw")
    assert code == 1
    assert "no such file" in err
