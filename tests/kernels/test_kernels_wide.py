"""The wide stages: levels of 12 to 32 bits, any order, tables; engine = interpreter on every machine."""

from __future__ import annotations

import numpy as np
import pytest
from graph_networks import Builder, codes_of, samples
from test_kernels_graph import check

from bitwright.formats import Binary, Fixed, Int, Log, Rounding, Ternary, UInt
from bitwright.integer import (
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Codes,
    Concat,
    Conv,
    ConvTranspose,
    Embedding,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Reshape,
    Table,
    Threshold,
    Transpose,
)

AROUND = [1, 2, 15, 17, 33, 127, 128, 129, 257]
"""Around a tile of 16 outputs and a stretch of 128 channels."""
FORMS = [(Int(12), Int(12)), (Int(16), Int(16)), (UInt(16), Int(8)), (Int(8), Int(12)), (Int(20), Int(16)),
         (Int(32), Int(8)), (UInt(32), UInt(12)), (Int(4), Log(5)), (Binary(), Int(16))]  # fmt: skip


def started(form, shape, seed=0, scale=0.25):
    return Builder(seed, Input("input", "", shape, form, scale))


def ended(build):
    """An output of the newest tensor, whatever its width."""
    c, bound = build.type.shape[0], max(1, build.type.bound)
    reach = max(1, min(1 << 20, (1 << 52) // bound))
    multiplier = build.rng.integers(-reach // 2, reach // 2 + 1, c)
    build.add(Output("output", build.newest, multiplier, build.rng.integers(-99, 99, c), build.pick(0, 9)))
    return Network(build.operations)


def rounded(build, form, zero=0):
    """An affine map of the newest tensor that fills about the range of a format."""
    c, bound = build.type.shape[0], max(1, build.type.bound)
    shift = max(0, bound.bit_length() - form.bits + 2)
    multiplier = build.rng.integers(-7, 8, c)
    build.add(Affine(build.name(), build.newest, multiplier, build.rng.integers(-9, 9, c), shift, form,
                     build.choose([r for r in Rounding if r is not Rounding.STOCHASTIC]), zero))  # fmt: skip


def kernels_of(network):
    return [row["kernel"] for row in network.engine().explain()]


def both(network, batch=3, seed=0, threads=2):
    """Codes and floats, a batch and a single image, several threads."""
    form, rng = network.input.format, np.random.default_rng(seed)
    dtype = f"{'int' if form.code_min < 0 else 'uint'}{8 * -(-form.bits // 8) if form.bits <= 16 else 32}"
    x = rng.integers(form.code_min, form.code_max + 1, (batch, *network.input.shape), dtype=np.int64)
    x[rng.random(x.shape) < 0.1] = form.code_max
    x[rng.random(x.shape) < 0.1] = form.code_min
    x = np.where(x == 0, form.code_max, x) if isinstance(form, Binary) else x
    check(network, x.astype(dtype), threads)
    check(network, x[:1].astype(dtype), 1)
    y = network(x[:1].astype(dtype), backend="interpreter")
    np.testing.assert_array_equal(network(x[:1].astype(dtype), backend="engine", threads=3), y)
    check(network, samples(network, 2, seed) * np.float32(2.0 ** rng.integers(0, form.bits)))


@pytest.mark.parametrize("forms", FORMS, ids=str)
def test_products_around_tiles(forms):
    taken, weight = forms
    for i, k in enumerate(AROUND):
        n = AROUND[(4 * i + 3) % len(AROUND)]
        build = started(taken, (k,), seed=i)
        build.add(Linear("fc", "input", build.weight((n, k), weight)))
        network = ended(build)
        assert kernels_of(network) == ["quantise", "wide"]
        both(network, 1 + i % 5, i)


@pytest.mark.parametrize("groups", [1, 3, 129])
def test_convolutions(groups):
    """Padding, stride, dilation, groups, one weight a channel; from 12 and 16 bits to 16 bits and on."""
    for kind in (Conv, ConvTranspose):
        build = started(Int(12), (129, 4, 5), seed=groups)
        weight = build.weight((groups * (2 if groups > 1 else 20), 129 // groups, 2, 3), Int(10))
        build.add(kind("c", "input", weight, (2, 1), (1, 0, 0, 2), (1, 2), groups))
        rounded(build, Int(16))
        build.add(MaxPool("pool", build.newest, (2, 2), (1, 2), (1, 0)))
        build.add(AvgPool("mean", "pool", (2, 1), (1, 1), (1, 0)))
        network = ended(build)
        assert "wide" in kernels_of(network)
        both(network, 2, groups)


@pytest.mark.parametrize("form", [Int(8), Binary(), UInt(4), Int(12)], ids=str)
def test_transposed_convolutions(form):
    """Every stride with every padding: some cut the canvas, some leave gaps; and with a shallow dilation."""
    for i, (stride, pads, dilation, more) in enumerate(
        [
            ((1, 1), (0, 0), (1, 1), ()),
            ((2, 3), (1, 0), (1, 2), (1, 0)),
            ((3, 2), (2, 1, 0, 2), (2, 1), (1, 1)),
            ((4, 1), (1, 1), (1, 1), (3, 0)),
        ]
    ):
        for groups in (1, 2, 6):
            build = started(form, (6, 4, 3), seed=i)
            weight = build.weight((12, 6 // groups, 3, 2), Int(4))
            build.add(ConvTranspose("up", "input", weight, stride, pads, dilation, groups, more))
            build.codes()
            both(ended(build), 2, i)


def test_numbers_from_every_storage():
    """Add, clip, concat, threshold, table over every element; more terms than a stage takes."""
    for i, form in enumerate([Binary(), Int(8), Int(16), UInt(16), Int(32), UInt(32)]):
        build = started(form, (130, 2, 3), seed=i)
        build.add(Clip("few", "input", -100, 90))
        m, b = build.rng.integers(-99, 99, (70, 130)), build.rng.integers(-99, 99, 130)
        many = ("input", "few") * 35
        build.add(Add("sum", many, m, b, 3, Fixed(24, 3), Rounding.NEAREST_EVEN))
        build.add(Concat("join", ("sum", "sum")))
        limits = np.sort(build.rng.integers(-(2**23), 2**23, (260, 3)), axis=1)
        direction = build.rng.choice(np.array([-1, 1], np.int8), 260)
        build.add(Threshold("steps", "join", limits, direction, UInt(2), 1))
        build.add(Table("curve", "steps", -1, build.rng.integers(-9, 9, (260, 4)), Int(5), 2))
        build.add(Table("same", "few", -100, build.rng.integers(0, 40000, (1, 191)), UInt(16)))
        build.add(Concat("wide", ("same", "same")))
        one, none = np.ones((2, 260), np.int64), np.zeros(260, np.int64)
        build.add(Add("end", ("curve", "wide"), one, none, 0, Int(20), Rounding.FLOOR))
        both(ended(build), 2, i)


def test_tokens():
    """Codes, embedded, transposed, through a linear layer over the sequence."""
    for form, rows in ((UInt(4), Int(8)), (UInt(12), Int(3)), (UInt(9), Ternary()), (UInt(8), Int(16))):
        build = started(form, (7,), seed=form.bits, scale=1.0)
        build.add(Embedding("rows", "input", build.weight((1 << form.bits, 33), rows)))
        build.add(Linear("mix", "rows", build.weight((17, 33), Int(4))))
        build.add(Transpose("turned", "mix", (1, 0)))
        build.add(Argmax("best", "turned"))
        both(Network(build.operations), 3, form.bits)


@pytest.mark.parametrize("form", [Binary(), Int(8), Int(12), Int(20), UInt(32)], ids=str)
def test_orders_and_axes(form):
    """Reshapes and transposes of up to eight axes, one after another, then numbers and a product."""
    build = started(form, (2, 3, 2, 2, 3), seed=3)
    build.add(Transpose("a", "input", (4, 0, 3, 1, 2)))
    build.add(Reshape("b", "a", (72,)))
    build.add(Reshape("c", "b", (2, 2, 2, 1, 3, 1, 3, 1)))
    build.add(Transpose("d", "c", (6, 7, 0, 4, 2, 5, 1, 3)))
    build.add(Add("e", ("d", "d"), np.array([[3, -2, 1], [1, 1, 5]]), np.array([0, 4, 9]), 1, Int(12),
                  Rounding.CEIL))  # fmt: skip
    build.add(Reshape("f", "e", (4, 18)))
    build.add(Linear("g", "f", build.weight((5, 4), Int(12))))
    build.add(Reshape("h", "g", (90,)))
    build.add(Linear("i", "h", build.weight((3, 90), Int(3))))
    both(ended(build), 3, 1)


def test_lazy_vectors_meet_every_reader():
    """A reshaped image that a product takes as it lies, and that everything else takes in its new order."""
    build = started(Int(8), (3, 4, 5), seed=9)
    build.add(Conv("image", "input", build.weight((8, 3, 3, 3), Int(4)), (1, 1), (1, 1)))
    rounded(build, Int(6))
    build.add(Reshape("flat", build.newest, (160,)))
    build.add(Linear("one", "flat", build.weight((160, 160), Ternary())))
    rounded(build, Int(6))
    m, b = build.rng.integers(-9, 9, (2, 160)), np.zeros(160, np.int64)
    build.add(Add("two", ("flat", build.newest), m, b, 2, Int(8), Rounding.NEAREST_AWAY))
    build.add(Reshape("back", "flat", (160, 1)))
    build.add(Reshape("rows", "two", (20, 8)))
    build.add(Transpose("columns", "rows", (1, 0)))
    build.add(Reshape("last", "columns", (160,)))
    build.add(Linear("end", "last", build.weight((10, 160), Int(8))))
    both(ended(build), 4, 2)


def test_codes_of_the_input_are_checked():
    network = ended(started(Int(12), (3,)))
    with pytest.raises(ValueError, match="codes of int12"):
        network(np.array([[1, 2, 2048]], np.int16), backend="engine")
    graph = network.engine().graph
    with pytest.raises(ValueError, match=r"-2048 to 2047; got 2048; at image 0, element 2"):
        graph.run(np.array([1, 2, 2048], np.int16).reshape(1, 3, 1, 1))
    with pytest.raises(ValueError, match="NaN"):
        graph.run(np.array([1, np.nan, 0], np.float32).reshape(1, 3, 1, 1))
    assert codes_of(ended(started(Int(8), (3,))), 1).dtype == np.int8


def test_the_plan_names_wide_stages():
    build = started(Int(12), (4, 6, 6))
    build.add(ConvTranspose("up", "input", build.weight((8, 4, 2, 2), Int(8)), (2, 2), (0, 0)))
    rounded(build, Int(8))
    build.add(Conv("c", build.newest, build.weight((8, 8, 3, 3), Int(8)), (1, 1), (1, 1)))
    plan = ended(build).engine().explain()
    assert [(row["operation"], row["kernel"], row["layout"]) for row in plan] == [
        ("input", "quantise", "shorts"), ("up", "copy", "shorts"), ("up", "wide", "sums"),
        ("t2", "combine", "bytes"), ("c", "dot", "sums"),
    ]  # fmt: skip
    assert plan[2]["macs"] == 8 * 4 * 2 * 2 * 36
    assert plan[2]["reason"] == "an input beyond bytes"


def test_packed_codes_are_taken_by_the_wide_product():
    """Weights of 32 bits: the largest and the smallest."""
    build = started(Int(8), (2,))
    weight = Codes.pack(Int(32), np.array([[2**31 - 1, -(2**31)], [-(2**31), 1]]))
    build.add(Linear("fc", "input", weight))
    build.add(Output("out", "fc", np.ones(2, np.int64), np.zeros(2, np.int64), 0))
    network = Network(build.operations)
    check(network, np.array([[127, -128], [-128, -128]], np.int8))


def test_limits_at_the_ends_of_int32():
    """Levels of 32 bits reach the limits that no accumulator of the fast kernels does."""
    ends = np.array([[-(2**31), -(2**31) + 1, 2**31 - 1], [-(2**40), 2**31 - 1, 2**31]])
    for direction in ([1, 1], [-1, -1], [1, -1]):
        build = started(Int(32), (2,), scale=1.0)
        build.add(Threshold("steps", "input", ends, np.array(direction, np.int8), UInt(2)))
        build.add(Clip("clip", "input", -5, 5))
        build.add(Add("sum", ("steps", "clip"), np.ones((2, 2), np.int64), np.zeros(2, np.int64), 0, Int(8),
                      Rounding.FLOOR))  # fmt: skip
        build.add(Output("out", "sum", np.ones(2, np.int64), np.zeros(2, np.int64), 0))
        rows = [-(2**31), -(2**31) + 1, -(2**31) + 2, -1, 0, 1, 2**31 - 2, 2**31 - 1]
        check(Network(build.operations), np.array([[a, b] for a in rows for b in rows], np.int32))
