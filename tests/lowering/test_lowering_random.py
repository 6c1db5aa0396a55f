"""Random directed acyclic graphs of layers: emulation, interpreter and engine compute the same codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.nn import Shortcut
from bitwright.recipes import LayerRule, Recipe, parse_spec

KINDS = ("conv", "norm conv", "norm", "add", "concat", "average", "max", "clip", "shortcut")


class Drawn(nn.Module):
    """Calls in order, each of earlier tensors; the last one is flattened and classified."""

    def __init__(self, draw, channels, size):
        super().__init__()
        self.steps = []
        shapes = [(channels, size, size)]
        for index in range(draw(st.integers(2, 9))):
            kind = draw(st.sampled_from(KINDS))
            source = draw(st.integers(max(0, len(shapes) - 3), len(shapes) - 1))
            step = self._step(draw, kind, f"m{index}", source, shapes)
            if step is not None:
                self.steps.append(step)
        self.pool = draw(st.sampled_from(["mean", "flatten", "adaptive"]))
        channels, height, width = shapes[-1]
        self.fc = nn.Linear(channels * (height * width if self.pool == "flatten" else 1), 3)

    def _step(self, draw, kind, name, source, shapes):
        channels, height, width = shapes[source]
        small = min(height, width)
        if kind in ("conv", "norm conv"):
            kernel, stride = draw(st.integers(1, min(3, small))), draw(st.integers(1, 2))
            padding, out = draw(st.integers(0, kernel - 1)), draw(st.integers(1, 6))
            layers = [nn.Conv2d(channels, out, kernel, stride, padding, bias=draw(st.booleans()))]
            if kind == "norm conv":
                layers.append(nn.BatchNorm2d(out))
            if draw(st.booleans()):
                layers.append(draw(st.sampled_from([nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.3, 0.8)])))
            self.add_module(name, nn.Sequential(*layers))
            shapes.append((out, *((n + 2 * padding - kernel) // stride + 1 for n in (height, width))))
            return lambda m, held: m.get_submodule(name)(held[source])
        if kind == "norm":  # of codes, where a slot takes them too
            self.add_module(name, nn.BatchNorm2d(channels))
            shapes.append(shapes[source])
            return lambda m, held: m.get_submodule(name)(held[source]) + held[source]
        if kind in ("add", "concat"):
            fits = (
                (lambda s: s == shapes[source]) if kind == "add" else (lambda s: s[1:] == shapes[source][1:])
            )
            other = draw(st.sampled_from([i for i, shape in enumerate(shapes) if fits(shape)]))
            if kind == "add":
                shapes.append(shapes[source])
                return lambda m, held: held[source] + held[other]
            shapes.append((channels + shapes[other][0], height, width))
            return lambda m, held: torch.cat([held[source], held[other]], 1)
        if kind == "shortcut":
            before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            stride = draw(st.integers(1, 2))
            self.add_module(name, Shortcut(stride, before, after))
            shapes.append((before + channels + after, -(-height // stride), -(-width // stride)))
            return lambda m, held: m.get_submodule(name)(held[source])
        if kind == "clip":
            shapes.append(shapes[source])
            low, high = draw(st.sampled_from([(-0.7, 0.9), (0.05, 2.0), (0.0, 1.0)]))
            return lambda m, held: F.hardtanh(held[source], low, high)
        if small < 2:
            return None
        stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 1))
        shapes.append((channels, *((n + 2 * padding - 2) // stride + 1 for n in (height, width))))
        pool = F.avg_pool2d if kind == "average" else F.max_pool2d
        return lambda m, held: pool(held[source], 2, stride, padding)

    def forward(self, x):
        held = [x]
        for step in self.steps:
            held.append(step(self, held))
        x = held[-1]
        if self.pool == "flatten":
            return self.fc(x.flatten(1))
        return self.fc(x.mean((2, 3)) if self.pool == "mean" else F.adaptive_avg_pool2d(x, 1).flatten(1))


@st.composite
def cases(draw):
    """A network, its recipe, its input's shape and a seed."""
    power = draw(st.booleans())

    def spec(form, affine=False):
        if form.startswith("fixed"):
            return parse_spec(form, "activation", "test")
        controller = {"controller": "min-max"} if affine else {"controller": "max-abs", "power_of_two": power}
        rounding = draw(st.sampled_from(["nearest-even", "nearest-even", "stochastic"]))
        return parse_spec({"format": form, "rounding": rounding, **controller}, "activation", "test")

    affine = draw(st.booleans())
    forms = (
        ["uint8", "int8", "uint4", "int5"]
        if affine
        else ["int8", "uint8", "int4", "ternary", "fixed8.5", "int12"]
    )
    weight = {"format": draw(st.sampled_from(["int8", "int4", "ternary", "int2"])), "controller": "max-abs"}
    weight["per"] = draw(st.sampled_from(["tensor", "channel"]))
    keys = ("Add", "Concat", "AvgPool2d", "Linear", "m1*", "m3*")
    rules = [
        LayerRule(key, {"activation": spec(draw(st.sampled_from(forms)), affine)}, optional=True)
        for key in draw(st.lists(st.sampled_from(keys), unique=True))
    ]
    recipe = Recipe(
        "random",
        roles={
            "weight": parse_spec(weight, "weight", "test"),
            "activation": spec(draw(st.sampled_from(forms)), affine),
        },
        layers=tuple(rules),
        replace=dict.fromkeys(["ReLU", "ReLU6"], "Hardtanh"),
    )
    channels, size, seed = draw(st.integers(1, 4)), draw(st.integers(4, 7)), draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    return Drawn(draw, channels, size), recipe, (channels, size, size), seed


def check(case):
    """Whether it was lowered; then nothing differs."""
    model, recipe, shape, seed = case
    torch.manual_seed(seed)
    try:
        bw.quantize_(model, recipe, verbose=False)
    except bw.errors.InvalidValueError as error:
        if "would be constant" not in str(error):  # a clip at 0 in front of a ternary slot
            raise
        return False
    x = torch.rand(4, *shape) * 3 - 1.4
    model(x), model(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.normal_()
                module.bias.normal_()
    try:
        network = bw.lower(model, x)
    except bw.errors.InvalidValueError as error:
        if "not directly behind it" not in str(error):  # a source that only norms read
            raise
        return False
    for backend in ["interpreter", *(["engine"] if network.engine_problem is None else [])]:
        result = bw.verify(model, network, [x, 2 * x[:1]], backend=backend)
        assert result.differing == 0, (result, model)
    return True


common = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@settings(common, max_examples=25)
@given(cases())
def test_random_graphs_have_no_differing_codes(case):
    check(case)


@pytest.mark.slow
@settings(common, max_examples=400)
@given(cases())
def test_many_random_graphs_have_none(case):
    check(case)
