"""Formats that lose a bit where half their range is unused, and take it back."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed, parse
from bitwright.quantize import OverflowRate, Quantizer, QuantizerSpec
from bitwright.recipes import recipe
from bitwright.training import load_checkpoint, save_checkpoint

RULE = OverflowRate(rate=0.1, window=2, patience=1, shrink=True)


def feed(quantizer, step, largest, count=1):
    for _ in range(count):
        x = torch.linspace(-largest, largest, 64)
        quantizer.quantize_(x)
        step += 1
        quantizer.tick(step)
    return step, x


def test_a_bit_goes_at_the_same_scale_and_comes_back_before_the_scale_doubles():
    quantizer = Quantizer(QuantizerSpec(Fixed(8), RULE), "t")
    step, _ = feed(quantizer, 0, 0.99, 2)
    scale = float(quantizer.current_scale())
    assert (quantizer.format, scale) == (Fixed(8), 2.0**-7)
    # a quarter of the range: a bit a window, twice
    step, _ = feed(quantizer, step, 0.2, 4)
    assert (quantizer.format, float(quantizer.current_scale())) == (Fixed(6), scale)
    # 0.2 is 25.6 steps, and 6 bits end at 31: it stays
    step, x = feed(quantizer, step, 0.2, 4)
    assert quantizer.format == Fixed(6)
    assert torch.equal(x, Fixed(6).quantize(torch.linspace(-0.2, 0.2, 64), scale=scale))
    # saturation is that of the narrow format, and brings the bits back one by one
    step, x = feed(quantizer, step, 0.9, 1)
    assert x.max() == 31 * scale
    step, _ = feed(quantizer, step, 0.9, 1)
    assert quantizer.format == Fixed(7)
    step, _ = feed(quantizer, step, 0.9, 2)
    assert (quantizer.format, float(quantizer.current_scale())) == (Fixed(8), scale)
    step, _ = feed(quantizer, step, 1.9, 2)
    assert (quantizer.format, float(quantizer.current_scale())) == (Fixed(8), 2 * scale)


def test_two_bits_are_the_least():
    quantizer = Quantizer(QuantizerSpec(Fixed(4), RULE), "t")
    step, _ = feed(quantizer, 0, 0.9, 1)
    feed(quantizer, step, 1e-6, 40)
    assert quantizer.format == Fixed(2)


def test_the_width_is_state():
    quantizer = Quantizer(QuantizerSpec(Fixed(8), RULE), "t")
    feed(quantizer, feed(quantizer, 0, 0.99, 2)[0], 0.2, 4)
    other = Quantizer(QuantizerSpec(Fixed(8), RULE), "t")
    other.load_state_dict(quantizer.state_dict())
    assert other.format == Fixed(6)


def built():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.Hardtanh(), nn.Linear(6, 3))
    spec = {"format": "fixed12", "controller": "overflow-rate", "window": 2, "patience": 1, "shrink": True}
    chosen = recipe("qnn", primal=spec | {"clipped": "before"}, state=spec, error=spec)
    bw.quantize_(model, chosen, verbose=False)
    return model, chosen.optimizer(model, lr=1e-3)


def steps(model, optimizer, first, last):
    for step in range(first, last):
        x = torch.randn(20, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        # gradients that shrink: their state needs fewer bits
        (model(x) * torch.arange(3.0) * 0.5**step).sum().backward()
        optimizer.step()


def test_a_run_whose_formats_shrink_resumes_through_its_codes(tmp_path):
    whole, optimizer = built()
    steps(whole, optimizer, 0, 16)
    half, half_optimizer = built()
    steps(half, half_optimizer, 0, 12)
    save_checkpoint(tmp_path / "c", half, half_optimizer, {"history": []})
    with safe_open(tmp_path / "c", framework="pt") as file:
        codes = json.loads(file.metadata()["bitwright"])["codes"]
    widths = {parse(what["format"]).width for what in codes.values()}
    assert min(widths) < 12
    again, again_optimizer = built()
    load_checkpoint(tmp_path / "c", again, again_optimizer)
    steps(again, again_optimizer, 12, 16)
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        for key, value in optimizer.state[p].items():
            assert torch.equal(value, again_optimizer.state[q][key]), key


def test_what_cannot_shrink_is_refused():
    with pytest.raises(InvalidValueError, match="can lose a bit"):
        QuantizerSpec(parse("flex16+5"), OverflowRate(shrink=True))
    spec = {"format": "fixed12", "controller": "overflow-rate", "shrink": True}
    for role in ("weight", "forward.activation"):
        with pytest.raises(InvalidValueError, match="width of what is lowered stays"):
            recipe("qnn", **{role: spec})
