"""Each operation of the interpreter against torch, which sums and slides in its own ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from integer_networks import WEIGHTS, codes, ints
from torch.nn import functional

from bitwright.formats import Binary, Fixed, Int, Rounding, Ternary, UInt
from bitwright.integer import (
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Embedding,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Table,
    Threshold,
    Transpose,
)


def tensors(operations, x):
    """The interpreter's tensors; the last operation is made the input of an output."""
    last = operations[-1]
    if not isinstance(last, Output | Argmax):
        made = {}
        for o in operations:
            made[o.name] = o.infer(*(made[n] for n in o.inputs))
        channels = made[last.name].shape[0]
        zeros = np.zeros(channels, np.int64)
        operations = [*operations, Output("end", last.name, zeros, zeros, 0)]
    return {k: torch.from_numpy(v) for k, v in Network(operations).trace(x, backend="interpreter").items()}


def batch(*shape):
    return np.random.default_rng(5).integers(-128, 128, (3, *shape)).astype(np.int8)


def values(form, weight):
    """A weight as float64: what the format says, in units of its levels."""
    flat = [form.number(int(c)) / form.unit for c in weight.array.reshape(-1)]
    return torch.tensor(flat, dtype=torch.float64).reshape(weight.shape)


@pytest.mark.parametrize("form", WEIGHTS, ids=str)
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1), (0, 0), (), 1), ((2, 1), (1, 2), (1, 2), 2), ((3, 2), (0, 1, 2, 0), (2, 1), 4)],
)
def test_convolutions(form, stride, padding, dilation, groups):
    x = batch(4, 9, 8)
    weight = codes(form, (8, 4 // groups, 3, 2), 1)
    got = tensors(
        [Input("x", "", (4, 9, 8), Int(8), 1.0), Conv("c", "x", weight, stride, padding, dilation, groups)], x
    )
    top, bottom, left, right = padding if len(padding) == 4 else np.repeat(padding, 2).tolist()
    padded = functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    expected = functional.conv2d(padded, values(form, weight), None, stride, 0, dilation or 1, groups)
    assert torch.equal(got["c"].double(), expected)


@pytest.mark.parametrize("form", [Int(4), Ternary(), Int(16)], ids=str)
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "more"),
    [
        ((1, 1), (0, 0), (), 1, ()),
        ((2, 3), (1, 0), (1, 2), 2, (1, 2)),
        ((3, 2), (1, 1), (2, 1), 4, (0, 1)),
    ],
)
def test_transposed_convolutions(form, stride, padding, dilation, groups, more):
    x = batch(4, 4, 5)
    outs = 8 // groups
    weight = codes(form, (8, 4 // groups, 3, 2), 2)
    up = ConvTranspose("u", "x", weight, stride, padding, dilation, groups, more)
    got = tensors([Input("x", "", (4, 4, 5), Int(8), 1.0), up], x)
    # torch has [C, O / groups, ...]: the channels of each group, then its outputs
    theirs = values(form, weight).reshape(groups, outs, 4 // groups, 3, 2).transpose(1, 2)
    theirs = theirs.reshape(4, outs, 3, 2)
    expected = functional.conv_transpose2d(
        torch.from_numpy(x).double(), theirs, None, stride, padding, more or 0, groups, dilation or 1
    )
    assert torch.equal(got["u"].double(), expected)


def test_one_axis_and_sequences():
    x = batch(4, 11)
    kernel, dense = codes(Int(4), (6, 2, 3), 3), codes(Int(7), (5, 6), 4)
    up = codes(Int(3), (2, 5, 4), 5)
    got = tensors(
        [
            Input("x", "", (4, 11), Int(8), 1.0),
            Conv("c", "x", kernel, (2,), (2, 1), (2,), 2),
            Linear("l", "c", dense),
            ConvTranspose("u", "l", up, (2,), (1,), (), 1, (1,)),
            MaxPool("m", "u", (3,), (2,), (1,)),
            Transpose("t", "m", (1, 0)),
        ],
        x,
    )
    source = functional.pad(torch.from_numpy(x).double(), (2, 1))
    c = functional.conv1d(source, values(Int(4), kernel), None, 2, 0, 2, 2)
    rows = torch.einsum("nit,oi->not", c, values(Int(7), dense))
    u = functional.conv_transpose1d(rows, values(Int(3), up).transpose(0, 1), None, 2, 1, 1)
    m = functional.max_pool1d(u, 3, 2, 1)
    for name, expected in {"c": c, "l": rows, "u": u, "m": m, "t": m.transpose(1, 2)}.items():
        assert torch.equal(got[name].double(), expected), name


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (1, 0, 0, 1)])
def test_pools(padding):
    x = batch(3, 7, 6)
    kernel, stride = (3, 2), (2, 1)
    got = tensors(
        [
            Input("x", "", (3, 7, 6), Int(8), 1.0),
            AvgPool("a", "x", kernel, stride, padding),
            MaxPool("m", "x", kernel, stride, padding),
            AvgPool("g", "x", (7, 6), (1, 1), (0, 0)),
        ],
        x,
    )
    top, bottom, left, right = padding if len(padding) == 4 else np.repeat(padding, 2).tolist()
    source = torch.from_numpy(x).double()
    zeros = functional.pad(source, (left, right, top, bottom))
    lowest = functional.pad(source, (left, right, top, bottom), value=-1e9)
    assert torch.equal(got["a"].double(), functional.avg_pool2d(zeros, kernel, stride, divisor_override=1))
    assert torch.equal(got["m"].double(), functional.max_pool2d(lowest, kernel, stride))
    assert torch.equal(got["g"], source.sum((2, 3), keepdim=True).long())


ROUND = {
    Rounding.NEAREST_EVEN: torch.round,
    Rounding.FLOOR: torch.floor,
    Rounding.CEIL: torch.ceil,
    Rounding.TOWARD_ZERO: torch.trunc,
    Rounding.NEAREST_AWAY: lambda q: torch.sign(q) * torch.floor(q.abs() + 0.5),
}


@pytest.mark.parametrize("rounding", ROUND, ids=lambda r: r.value)
def test_sums_of_two_scales_with_zero_points(rounding):
    x = batch(4, 5)
    first, second = ints(5, -3, 700, 1), ints(-2, 9, 64, 0)
    a = Affine("a", "x", first, ints(8, 0, -3, 1), 4, UInt(4), rounding, 5)
    b = Add(
        "b", ("x", "a", "x"), np.stack([first, second, second]), ints(0, 4, 2, 1), 3, Int(12), rounding, -100
    )
    got = tensors([Input("x", "", (4, 5), Int(8), 1.0, 7), a, b], x)
    source = torch.from_numpy(x).double() - 7
    m = torch.from_numpy(first).double()[:, None]
    k = torch.from_numpy(second).double()[:, None]
    sums = source * m + torch.tensor([8.0, 0, -3, 1])[:, None]
    level = torch.clamp(ROUND[rounding](sums / 16) + 5, 0, 15) - 5
    assert torch.equal(got["a"].double(), level)
    sums = source * m + level * k + source * k + torch.tensor([0.0, 4, 2, 1])[:, None]
    assert torch.equal(got["b"].double(), torch.clamp(ROUND[rounding](sums / 8) - 100, -2048, 2047) + 100)


def test_float_inputs_with_a_zero_point_are_those_of_torch():
    x = np.linspace(-40, 40, 4001, dtype=np.float32)[:, None]
    for zero in (-128, -3, 0, 127):
        got = tensors([Input("x", "", (1,), Int(8), 0.25, zero)], x)["x"]
        theirs = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), 0.25, zero, -128, 127)
        assert torch.equal(got.double() * 0.25, theirs.double())
    got = tensors([Input("x", "", (1,), Fixed(12, 7), 2.0**-7)], x)["x"]
    assert torch.equal(got, torch.clamp(torch.round(torch.from_numpy(x) * 128), -2048, 2047).long())


def test_look_ups_thresholds_and_argmax():
    x = np.random.default_rng(1).integers(0, 8, (50, 6)).astype(np.uint8)
    rows, entries = codes(Int(5), (8, 3), 6), np.random.default_rng(2).integers(-8, 8, (3, 32))
    limits = np.sort(np.random.default_rng(3).integers(-6, 6, (3, 3)))
    got = tensors(
        [
            Input("x", "", (6,), UInt(3), 1.0),
            Embedding("e", "x", rows, -2),
            Table("s", "e", -14, entries, Int(4), 1),
            Threshold("t", "s", limits, np.array([1, -1, 1], np.int8), UInt(2), 3),
            Concat("both", ("t", "t")),
            Argmax("best", "both"),
        ],
        x,
    )
    e = (
        functional.embedding(torch.from_numpy(x).long(), torch.from_numpy(rows.array).long()).transpose(1, 2)
        + 2
    )
    assert torch.equal(got["e"], e)
    table = torch.from_numpy(entries)
    s = torch.stack([table[c][e[:, c] + 14] for c in range(3)], 1) - 1
    assert torch.equal(got["s"], s)
    sign = torch.tensor([1, -1, 1])[:, None]
    t = (s[..., None] * sign[..., None] >= torch.from_numpy(limits)[:, None, :]).sum(-1) - 3
    assert torch.equal(got["t"], t)
    assert torch.equal(got["both"], torch.cat([t, t], 1))
    first = [[column.tolist().index(column.max()) for column in example.T] for example in t]
    assert got["best"].tolist() == first
    assert got["best"].dtype == torch.int64


def test_types_follow_what_can_come():
    """Windows at an edge hold fewer numbers; a clip may leave the format."""
    first = Input("x", "", (1, 4), Int(8), 1.0)
    made = first.infer()
    inside = Clip("c", "x", 3, 9).infer(made)
    assert (inside.low, inside.high, inside.format) == (3, 9, Int(8))
    summed = AvgPool("a", "c", (2,), (2,), (1,)).infer(inside)
    assert (summed.low, summed.high, summed.format) == (3, 18, None)
    below = AvgPool("a", "c", (2,), (2,), (1,)).infer(Clip("c", "x", -9, -3).infer(made))
    assert (below.low, below.high) == (-18, -3)
    outside = Clip("c", "x", 200, 300).infer(made)
    assert (outside.low, outside.high, outside.format) == (200, 200, None)
    bits = Input("x", "", (1, 4), Binary(), 1.0).infer()
    assert Clip("c", "x", 0, 1).infer(bits).format is None
    assert Clip("c", "x", -1, 1).infer(bits) == bits
