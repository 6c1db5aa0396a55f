"""Functional operations become submodules: the same numbers, names, hooks and classes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.nn import Add, Concat, GlobalAvgPool, restore, rewrite


class Net(nn.Module):
    """Around one layer, whatever `call` does with the module and its input."""

    def __init__(self, call=None):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.call = call

    def forward(self, x):
        return self.call(self, self.conv(x))


KNOWN = {
    "operator": (lambda m, x: x + m.conv(x), ["Add"]),
    "add": (lambda m, x: torch.add(x, x), ["Add"]),
    "method add_": (lambda m, x: m.conv(x).add_(x), ["Add"]),
    "cat": (lambda m, x: torch.cat((x, x, m.conv(x)), dim=1), ["Concat"]),
    "relus": (lambda m, x: torch.relu(F.relu(x, inplace=True)).relu().relu_(), ["ReLU"] * 4),
    "relu6": (lambda m, x: F.relu6(x), ["ReLU6"]),
    "hardtanh": (lambda m, x: F.hardtanh(x, -2, 0.5), ["Hardtanh"]),
    "clamps": (lambda m, x: x.clamp(-1, 1).clamp(min=0).clip(0.1, 0.5), ["Hardtanh", "ReLU", "Hardtanh"]),
    "max_pool": (lambda m, x: F.max_pool2d(x, 3, 2, padding=1), ["MaxPool2d"]),
    "avg_pool": (lambda m, x: F.avg_pool2d(x, (2, 3), stride=1, padding=(1, 0)), ["AvgPool2d"]),
    "adaptive": (lambda m, x: F.adaptive_avg_pool2d(x, 1), ["AdaptiveAvgPool2d"]),
    "adaptive max": (lambda m, x: F.adaptive_max_pool2d(x, (1, 1)), ["AdaptiveMaxPool2d"]),
    "transposes": (
        lambda m, x: x.transpose(1, 2).transpose(-1, 2).flatten(2).permute(0, 2, 1).mean(1),
        ["Transpose", "Transpose", "GlobalAvgPool"],
    ),
    "windows of everything": (
        lambda m, x: F.max_pool2d(x, x.shape[2:]) + F.max_pool2d(x, x.size()[-2:]),
        ["AdaptiveMaxPool2d", "AdaptiveMaxPool2d", "Add"],
    ),
    "windows of a line": (
        lambda m, x: F.max_pool1d(y := x.flatten(2), y.size(2)) + F.max_pool1d(y, y.shape[-1]),
        ["AdaptiveMaxPool1d", "AdaptiveMaxPool1d", "Add"],
    ),
    "mean": (lambda m, x: x.mean((2, 3)) + torch.mean(x, [-1, -2]), ["GlobalAvgPool"] * 2 + ["Add"]),
    "flatten": (lambda m, x: torch.flatten(x, 1) + x.flatten(start_dim=1), ["Flatten", "Flatten", "Add"]),
    "view": (lambda m, x: x.view(x.size(0), -1) + x.reshape(x.shape[0], -1), ["Flatten", "Flatten", "Add"]),
    "dropout": (lambda m, x: F.dropout(x, 0.5, m.training), ["Dropout"]),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_operations_become_modules_that_compute_the_same(name):
    call, kinds = KNOWN[name]
    model, x = Net(call), torch.randn(2, 4, 6, 5)
    plain = copy.deepcopy(model)
    seen = []
    model.register_forward_hook(lambda *_: seen.append("root"))
    model.conv.register_forward_hook(lambda *_: seen.append("conv"))
    assert rewrite(model) == []
    children = [(n, m) for n, m in model.named_children() if n != "conv"]
    assert [type(m).__name__ for _, m in children] == kinds
    assert isinstance(model, Net)
    for training in (False, True):
        torch.manual_seed(0)
        expected = plain.train(training)(x)
        torch.manual_seed(0)
        assert torch.equal(model.train(training)(x), expected)
    assert seen[-1] == "root"
    assert "conv" in seen
    again = copy.deepcopy(model)
    assert torch.equal(again.eval()(x), plain.eval()(x))
    restore(model)
    assert type(model) is Net
    assert list(model.state_dict()) == list(plain.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert list(again.state_dict()) == list(plain.state_dict())


def used_later(m, x):
    y = F.relu(x, inplace=True)
    return m.conv(y) * x


UNKNOWN = {
    "in place on what is read later": used_later,
    "product": lambda m, x: x * m.conv(x),
    "a number": lambda m, x: (x + 1) * x.size(0),
    "sizes": lambda m, x: x * (x.size(0) + x.size(1)),
    "scaled": lambda m, x: torch.add(x, x, alpha=2),
    "cat of rows": lambda m, x: torch.cat([x, x], 2),
    "max with indices": lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0],
    "windows of a tensor's size": lambda m, x: F.avg_pool2d(
        F.max_pool2d(x, (1, x.shape[-1])), (x.size(2), 1)
    ),
    "windows of another's size": lambda m, x: F.max_pool2d(x, m.conv(x).shape[2:]) * 1.0,
    "windows of half": lambda m, x: F.max_pool2d(x, x.shape[2:], 1),
    "other transposes": lambda m, x: x.permute(0, 2, 1, 3).transpose(1, 3),
    "mean of everything": lambda m, x: x.mean(),
    "mean of the batch": lambda m, x: x.mean((0, 2)),
    "other shape": lambda m, x: x.view(-1, 4),
    "half clamp": lambda m, x: x.clamp(max=3),
    "adaptive keeps": lambda m, x: x.flatten(2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_operations_are_left_alone(name):
    model, x = Net(UNKNOWN[name]), torch.randn(2, 4, 6, 4)
    expected = model(x)
    assert rewrite(model) == []
    assert type(model) is Net
    assert torch.equal(model(x), expected)


class InPlace(nn.Module):
    def forward(self, x):
        return F.relu_(x) * 2


def test_an_input_is_not_changed_behind_the_callers_back():
    model = nn.Sequential(InPlace())
    rewrite(model)
    assert type(model[0]) is InPlace


class Modes(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        y = F.relu(self.fc(x))
        return y + x if self.training else y


def test_modes_that_differ_are_left_alone_and_named():
    model = nn.Sequential(Modes(), nn.Linear(3, 2))
    report = bw.quantize_(model, bw.recipe("float", weight="fixed8.5"), verbose=False)
    assert type(model[0]) is Modes
    assert "0 computes something else in training than in eval" in report.notes[0]
    x = torch.randn(4, 3)
    assert not torch.equal(model.train()(x), model.eval()(x))


def test_names_that_are_taken_are_counted_past():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.add, self.relu = nn.Linear(3, 3), 5

        def forward(self, x):
            return F.relu(self.add(x) + x) + x

    model = Named()
    rewrite(model)
    assert {n: type(m) for n, m in model.named_children()} == {
        "add": nn.Linear, "add_1": Add, "relu_1": nn.ReLU, "add_2": Add,
    }  # fmt: skip
    assert model.relu == 5


def test_children_and_twice_used_modules_are_rewritten_once():
    class Child(nn.Module):
        def forward(self, x):
            return torch.cat([x, x.mean((2, 3), keepdim=True).relu() + x], 1)

    child = Child()
    model = nn.Sequential(child, child)
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    rewrite(model)
    assert model[0] is model[1]
    assert [type(m) for m in child.children()] == [GlobalAvgPool, nn.ReLU, Add, Concat]
    assert torch.equal(model(x), expected)
    rewrite(model)
    assert len(list(child.children())) == 4


def test_what_cannot_be_traced_is_left_alone():
    class Flow(nn.Module):
        def forward(self, x):
            return F.relu(x) if x.sum() > 0 else x + x

    model = nn.Sequential(Flow())
    assert rewrite(model) == []
    assert type(model[0]) is Flow
    model(torch.ones(2))


def test_an_error_undoes_the_rewriting():
    model = Net(KNOWN["operator"][0])
    bad = bw.recipe("float", weight="int8", activation="int8")
    from dataclasses import replace

    from bitwright.recipes import LayerRule

    with pytest.raises(bw.errors.InvalidValueError, match="matches none"):
        bw.quantize_(model, replace(bad, layers=(LayerRule("nobody", {}),)), verbose=False)
    assert type(model) is Net
    assert [n for n, _ in model.named_children()] == ["conv"]
