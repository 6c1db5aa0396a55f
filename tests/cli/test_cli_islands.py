"""A file that is one part of a chain with float islands says so wherever it is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import bitwright as bw
from bitwright.cli import app
from bitwright.errors import FileFormatError


def test_a_part_of_a_chain_is_shown_as_one_and_does_not_run_alone(tmp_path):
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    report = bw.quantize_(model, bw.recipe("float", weight="int4", activation="fixed8.4"), verbose=False)
    assert [(item.name, item.reason) for item in report.skipped] == [
        ("1", "no quantised twin: a float island")
    ]
    x = torch.randn(2, 4)
    _, second = bw.lower(model, x, float_islands=["1"]).networks
    part = tmp_path / "part.bw"
    second.save(part)
    np.save(tmp_path / "x.npy", np.zeros((1, 5), np.float32))
    shown = CliRunner().invoke(app, ["inspect", str(part)]).output
    assert '"chain": ["network", "float island 1", "network"]' in shown
    shown = CliRunner().invoke(app, ["run", str(part), "--explain"]).output
    assert "one part of a chain with float islands" in shown
    assert "float island 1" in shown
    with pytest.raises(FileFormatError, match="a whole network; got one part of a chain"):
        CliRunner().invoke(app, ["run", str(part), str(tmp_path / "x.npy")], catch_exceptions=False)
