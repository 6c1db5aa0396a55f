"""Zeros that a module pads in front of a convolution become the convolution's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError


def lowered(model, recipe="int8", size=8):
    torch.manual_seed(0)
    batches = [torch.randn(4, 2, size, size) for _ in range(2)]
    bw.quantize_(model, recipe, verbose=False)
    bw.calibrate(model, batches)
    return bw.lower(model, batches[0]), batches


@pytest.mark.parametrize("pad", [(0, 1, 0, 1), (2, 0, 1, 3), 1])
@pytest.mark.parametrize("backend", ["engine", "interpreter"])
def test_padding_on_each_side(pad, backend):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ZeroPad2d(pad), nn.Conv2d(4, 3, 3, stride=2), nn.ReLU(), nn.ZeroPad2d(pad),
        nn.Conv2d(3, 5, 2, padding=1),
    )  # fmt: skip
    network, batches = lowered(model)
    assert [o.kind for o in network.operations].count("conv") == 3
    assert bw.verify(model, network, batches, backend=backend).differing == 0


def test_what_cannot_be_padded_is_named():
    for model in (
        nn.Sequential(nn.Conv2d(2, 4, 1), nn.ZeroPad2d(1), nn.Flatten(), nn.Linear(400, 2)),
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ZeroPad2d(-1), nn.Conv2d(4, 2, 1)),
    ):
        with pytest.raises(InvalidValueError, match="1: zeros are padded in front of a Conv2d"):
            lowered(model)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Hardtanh(), nn.ZeroPad2d(1), nn.Conv2d(4, 2, 3))
    with pytest.raises(InvalidValueError, match="have no code in a binary slot"):
        lowered(model, "qnn")
