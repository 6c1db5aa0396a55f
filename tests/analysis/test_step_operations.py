"""Operations of a training step, counted by hand on a small network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import models
from bitwright.analysis import Operations, step_operations
from bitwright.recipes import recipe

N, CHANNELS, SIDE = 6, 4, 5


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.Hardtanh(),
        nn.Flatten(),
        nn.Linear(CHANNELS * SIDE * SIDE, 3, bias=False),
        nn.BatchNorm1d(3),
    )


CONV = 2 * N * CHANNELS * SIDE * SIDE * 2 * 9
LINEAR = 2 * N * 3 * CHANNELS * SIDE * SIDE
NORMED = N * CHANNELS * SIDE * SIDE + N * 3
PARAMETERS = CHANNELS * 2 * 9 + 3 * CHANNELS * SIDE * SIDE + 2 * (CHANNELS + 3)

WANTED = {
    "float": {
        "forward products": Operations(float=CONV + LINEAR),
        "dgrad products": Operations(float=LINEAR),
        "wgrad products": Operations(float=CONV + LINEAR),
        "norms": Operations(float=14 * NORMED),
        "optimiser": Operations(float=12 * PARAMETERS),
    },
    "qnn-shift": {
        "forward products": Operations(integer=CONV + LINEAR),
        "dgrad products": Operations(float=LINEAR),
        "wgrad products": Operations(float=CONV + LINEAR),
        "norms": Operations(float=8 * NORMED, shift=5 * NORMED),
        "optimiser": Operations(float=6 * PARAMETERS, shift=5 * PARAMETERS),
    },
    "fxpnet": {
        "forward products": Operations(integer=CONV + LINEAR),
        "dgrad products": Operations(integer=LINEAR),
        "wgrad products": Operations(integer=CONV + LINEAR),
        "norms": Operations(integer=14 * NORMED, float=3 * (CHANNELS + 3)),
        "optimiser": Operations(integer=10 * PARAMETERS, shift=2 * PARAMETERS),
    },
}


@pytest.mark.parametrize("name", WANTED)
def test_counts_are_those_made_by_hand(name):
    model, chosen = network(), recipe(name)
    bw.quantize_(model, chosen, verbose=False)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    found = step_operations(model, chosen, torch.rand(N, 2, SIDE, SIDE) * 2 - 1)
    assert found == WANTED[name]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_tensor_left_in_float_counts_as_float():
    model, chosen = network(), recipe("fxpnet", state="float", error="float")
    bw.quantize_(model, chosen, verbose=False)
    found = step_operations(model, chosen, torch.rand(N, 2, SIDE, SIDE) * 2 - 1)
    assert found["optimiser"] == Operations(float=10 * PARAMETERS, shift=2 * PARAMETERS)
    assert found["wgrad products"] == Operations(float=CONV + LINEAR)


def total(model, chosen, batch):
    shape = (batch, 3, 32, 32)
    parts = step_operations(model, chosen, torch.zeros(shape)).values()
    return sum(parts, start=Operations())


def test_the_pages_table_is_what_is_counted():
    page = Path(__file__).parents[2] / "docs" / "fxpnet.md"
    rows = re.findall(r"\| `([\w-]+)` \| (.+) \| (.+) \| (.+) \|", page.read_text())
    assert [name for name, *_ in rows] == ["float", "qnn", "qnn-shift", "qnn-gradients", "fxpnet"]
    units = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
    for name, *shown in rows:
        model, chosen = models.build("convnet", 64, (3, 32, 32), 10), recipe(name)
        bw.quantize_(model, chosen, verbose=False)
        two, three = (total(model, chosen, batch) for batch in (2, 3))
        for kind, text in zip(("float", "shift", "integer"), shown, strict=True):
            # linear in the batch, and the optimiser is not
            small, large = getattr(two, kind), getattr(three, kind)
            counted = small + 62 * (large - small)
            number, _, unit = text.partition(" ")
            digits = len(number.partition(".")[2])
            assert f"{counted / units[unit]:.{digits}f}" == number, (name, kind)
