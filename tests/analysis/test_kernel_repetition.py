"""Repeated binary filters, counted one pair at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import bitwright as bw
from bitwright import models
from bitwright.analysis import Repetition, kernel_repetition, kernel_repetitions
from bitwright.cli import app
from bitwright.errors import InvalidValueError


def by_pairs(weight):
    """Every filter against the ones before it in its input channel."""
    unique = folded = 0
    outputs, inputs = weight.shape[:2]
    for i in range(inputs):
        for o in range(outputs):
            before = [weight[p, i] for p in range(o)]
            same = any((b == weight[o, i]).all() for b in before)
            unique += not same
            folded += not (same or any((b == -weight[o, i]).all() for b in before))
    return Repetition(outputs * inputs, unique, folded)


@pytest.mark.parametrize("shape", [(9, 2, 3, 3), (40, 3, 2, 2), (5, 1, 1, 2), (3, 2, 8, 8), (30, 2, 1, 1)])
def test_counts_are_those_of_every_pair(shape):
    weight = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), shape)
    weight[1::3] = -weight[0]  # some inverses
    assert kernel_repetition(weight) == by_pairs(weight)


def test_every_pattern_once_and_all_alike():
    patterns = np.arange(512)[:, None] >> np.arange(9) & 1
    every = (2 * patterns - 1).reshape(512, 1, 3, 3)
    assert kernel_repetition(every) == Repetition(512, 512, 256)
    assert kernel_repetition(every).saving == 2
    assert kernel_repetition(np.ones((7, 4, 3, 3), np.int8)) == Repetition(28, 4, 4)


def test_what_is_no_binary_filter_is_refused():
    with pytest.raises(InvalidValueError, match="-1 and \\+1"):
        kernel_repetition(np.zeros((2, 2, 3, 3), np.int8))
    with pytest.raises(InvalidValueError, match="at most 64 taps; got 81"):
        kernel_repetition(np.ones((2, 2, 9, 9), np.int8))


def test_networks_and_the_command_show_it(tmp_path):
    torch.manual_seed(0)
    model = models.build("convnet", 8, (3, 8, 8), 10)
    bw.quantize_(model, "qnn", verbose=False)
    network = bw.lower(model.eval(), torch.zeros(1, 3, 8, 8))
    found = kernel_repetitions(network)
    assert list(found) == [f"conv{n}" for n in range(1, 7)]  # linear layers have no filters
    signs = np.where(model.conv2.weight.detach().numpy() < 0, -1, 1)
    assert found["conv2"] == by_pairs(signs)
    network.save(tmp_path / "m.bw")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.bw"), "--json"])
    shown = {o["name"]: o["repetition"] for o in json.loads(done.output)["operations"]}
    assert shown["fc1"] is None
    assert shown["conv2"] == {
        "filters": 64,
        "unique": found["conv2"].unique,
        "unique_with_inverses": found["conv2"].unique_with_inverses,
    }
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.bw")])
    assert "repeated binary filters" in done.output
    assert f"{found['conv2'].saving:.1f}x" in done.output
