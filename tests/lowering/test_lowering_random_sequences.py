"""Random networks over tokens, with channels first, last and turned, and float islands: nothing differs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError

REFUSED = (
    "is not directly behind it",  # a norm of an embedding
    "no result of arithmetic",  # a concat in front of an island
    "a norm behind a linear layer",
)
KINDS = ("linear", "conv", "pool", "add", "concat", "norm", "turn", "plain", "island")
PLAIN = (nn.ReLU(), nn.Hardtanh(-0.5, 0.7), nn.Dropout(0.0))


class Drawn(nn.Module):
    """Layers in a row over [N, A, B], which torch's layers read as [N, L, C] or as [N, C, L]."""

    def __init__(self, draw):
        super().__init__()
        self.tokens, self.length = draw(st.sampled_from([1, 3, 16, 300])), draw(st.integers(2, 6))
        a, b = self.length, draw(st.integers(2, 6))
        self.words, self.calls = nn.Embedding(self.tokens, b), []
        for index in range(draw(st.integers(1, 6))):
            a, b = self._draw(draw, draw(st.sampled_from(KINDS)), f"m{index}", a, b)
        self.end = draw(st.sampled_from(["flatten", "mean(1)", "mean(-1)", "max", "turned"]))
        inputs = {"flatten": a * b, "mean(1)": b, "turned": b}.get(self.end, a)
        self.fc = nn.Linear(inputs, 3)

    def _draw(self, draw, kind, name, a, b):
        out, made = draw(st.integers(1, 5)), None
        if kind in ("linear", "add", "concat"):
            made, b = nn.Linear(b, out if kind == "linear" else b), out if kind == "linear" else b
        elif kind == "conv":
            kernel = draw(st.integers(1, min(3, b)))
            made, a, b = nn.Conv1d(a, out, kernel), out, b - kernel + 1
        elif kind == "pool" and b > 1:
            made, b = draw(st.sampled_from([nn.MaxPool1d(2), nn.AvgPool1d(2)])), b // 2
        elif kind == "norm":
            made = nn.BatchNorm1d(a)
        elif kind == "plain":
            made = draw(st.sampled_from(PLAIN))
        elif kind == "island":
            made = draw(st.sampled_from([nn.Tanh(), nn.LayerNorm(b), nn.Softmax(-1)]))
        if made is not None:
            self.add_module(name, made)
        if kind == "turn":
            a, b = b, a
        self.calls.append((kind, name if made is not None else None))
        return (2 * a if kind == "concat" else a), b

    def forward(self, x):
        x = self.words(x)
        for kind, name in self.calls:
            if kind == "turn":
                x = x.transpose(1, 2)
            elif name is not None:
                y = self.get_submodule(name)(x)
                x = y + x if kind == "add" else torch.cat([x, y], 1) if kind == "concat" else y
        if self.end == "flatten":
            return self.fc(x.flatten(1))
        if self.end == "turned":
            return self.fc(x).transpose(1, 2)
        if self.end == "max":
            return self.fc(torch.nn.functional.adaptive_max_pool1d(x, 1).flatten(1))
        return self.fc(x.mean(1) if self.end == "mean(1)" else x.mean(-1))

    @property
    def islands(self):
        return [name for kind, name in self.calls if kind == "island"]


@st.composite
def cases(draw):
    weight = {"format": draw(st.sampled_from(["int8", "int4", "ternary", "log4"])), "controller": "max-abs"}
    weight["per"] = draw(st.sampled_from(["tensor", "channel"]))
    form = draw(st.sampled_from(["int8", "uint8", "int4", "int12"]))
    affine = form.endswith("8") and draw(st.booleans())
    activation = {"format": form, "controller": "min-max" if affine else "max-abs"}
    torch.manual_seed(draw(st.integers(0, 2**16)))
    return Drawn(draw), bw.recipe("float", weight=weight, activation=activation)


def check(case):
    """Whether it was lowered; then nothing differs."""
    model, recipe = case
    bw.quantize_(model, recipe, verbose=False)
    x = torch.randint(0, model.tokens, (5, model.length))
    model(x), model(x)
    try:
        network = bw.lower(model, x, float_islands=model.islands)
    except InvalidValueError as error:
        if not any(reason in str(error) for reason in REFUSED):
            raise
        return False
    for backend in ("interpreter", "engine"):
        result = bw.verify(model, network, [x, x[:1]], backend=backend)
        assert result.differing == 0, (result, model)
    return True


common = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@settings(common, max_examples=20)
@given(cases())
def test_random_networks_over_tokens_have_no_differing_codes(case):
    check(case)


@pytest.mark.slow
@settings(common, max_examples=400)
@given(cases())
def test_many_random_networks_over_tokens_have_none(case):
    check(case)
