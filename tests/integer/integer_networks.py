"""Small integer networks built by hand, and random ones."""

from __future__ import annotations

import numpy as np

from bitwright.formats import Binary, Fixed, Flex, Int, Log, Rounding, Ternary, UInt
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

EVEN, AWAY = Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY
DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]
WEIGHTS = [
    Binary(), Ternary(), Int(2), Int(3), Int(4), Int(7), Int(8), Int(12), Int(16), UInt(3), Fixed(6, 9),
    Log(2), Log(4), Log(3, root=True), Flex(16, 5),
]  # fmt: skip


def codes(form, shape, seed):
    generator = np.random.default_rng(seed)
    return Codes.pack(form, generator.choice(np.array(form.codes()), size=shape))


def ints(*values):
    return np.array(values, dtype=np.int64)


def every_operation():
    """Each operation of version 1 once, with ties, both directions and padding."""
    return Network(
        [
            Input("input", "", (2, 5, 4), Int(8), 0.5),
            Conv("conv", "input", codes(Ternary(), (3, 2, 3, 2), 1), (2, 1), (1, 1)),
            Threshold(
                "codes",
                "conv",
                np.array([[-20, 9], [0, 0], [-4, 30]], np.int64),
                np.array([1, -1, 1], np.int8),
                Ternary(),
            ),
            MaxPool("pool", "codes", (2, 2), (1, 2), (1, 0)),
            Reshape("flat", "pool", (24,)),
            Linear("fc1", "flat", codes(Int(4), (4, 24), 2)),
            Affine("half", "fc1", ints(1, -3, 2, 0), ints(0, 5, -1, 7), 1, Int(6), Rounding.NEAREST_EVEN),
            Clip("relu", "half", 0, 20),
            Linear("fc2", "relu", codes(Binary(), (3, 4), 3)),
            Output("output", "fc2", ints(3, -1, 10), ints(1, 0, -7), 2),
        ],
        {"classes": ["a", "b", "c"]},
    )


def binary_network(shape=(2, 4, 4), seed=0):
    """What the engine runs: an 8-bit input, binary convolution, pool, threshold, binary linear."""
    channels = shape[0]
    return Network(
        [
            Input("input", "", shape, Int(8), 2.0**-7),
            Conv("conv", "input", codes(Binary(), (5, channels, 3, 3), seed), (1, 1), (1, 1)),
            Threshold(
                "sign",
                "conv",
                ints(10, -30, 0, 200, -5)[:, None],
                np.array([1, 1, -1, 1, -1], np.int8),
                Binary(),
            ),
            MaxPool("pool", "sign", (2, 2), (2, 2), (0, 0)),
            Reshape("flat", "pool", (5 * (shape[1] // 2) * (shape[2] // 2),)),
            Linear("fc", "flat", codes(Binary(), (3, 5 * (shape[1] // 2) * (shape[2] // 2)), seed + 1)),
            Output("output", "fc", ints(5, -3, 1), ints(0, 2, 1), 3),
        ]
    )


def residual_network():
    """Branches, zero points, groups, dilation, sums, tables: every operation that version 1 had not."""
    terms = np.array([[3] * 4, [-7, 2, 40, 1], [1] * 4])
    up = codes(Ternary(), (2, 4, 2, 3), 3)
    return Network(
        [
            Input("input", "", (2, 6, 5), UInt(8), 0.25, 37),
            Conv("stem", "input", codes(Int(4), (4, 2, 3, 3), 1), (1, 1), (1, 1)),
            Affine("a", "stem", ints(3, -2, 1, 5), ints(9, 0, -4, 1), 5, Int(8), EVEN, -3),
            Conv("depthwise", "a", codes(Log(4), (4, 1, 3, 2), 2), (1, 1), (2, 2, 0, 1), (2, 1), 4),
            Threshold(
                "b",
                "depthwise",
                np.array([[-90, -3, 40], [0, 0, 0], [-4, 30, 99], [-200, 5, 7]], np.int64),
                np.array([1, -1, 1, -1], np.int8),
                UInt(2),
                1,
            ),
            Add("sum", ("a", "b", "a"), terms, ints(1, 2, 3, 4), 2, Int(8), AWAY, 5),
            Concat("both", ("sum", "sum")),
            AvgPool("mean", "both", (3, 2), (2, 1), (1, 0, 1, 1)),
            Affine("c", "mean", ints(*[43] * 8), ints(*range(-4, 4)), 8, Int(4), Rounding.FLOOR, 2),
            Table("sigmoid", "c", -10, np.array([[(7 * i) % 15 - 7 for i in range(18)]]), Int(4)),
            ConvTranspose("up", "sigmoid", up, (2, 3), (1, 0), (1, 2), 2, (1, 1)),
            Clip("relu", "up", 0, 200),
            MaxPool("top", "relu", (4, 3), (3, 3), (0, 0)),
            Transpose("turned", "top", (2, 0, 1)),
            Reshape("rows", "turned", (7, 2)),
            Linear("fc", "rows", codes(Int(12), (5, 7), 4)),
            Argmax("class", "fc"),
        ]
    )  # fmt: skip


def token_network():
    """A 1-d convolutional network over tokens."""
    limits = np.sort(codes(Int(6), (4, 2), 7).array).astype(np.int64)
    return Network(
        [
            Input("tokens", "", (9,), UInt(4), 1.0),
            Clip("known", "tokens", 0, 10),
            Embedding("rows", "known", codes(UInt(5), (11, 6), 5), 16),
            Conv("conv", "rows", codes(Int(2), (4, 3, 3), 6), (2,), (0, 2), (1,), 2),
            Threshold("t", "conv", limits, np.ones(4, np.int8), Ternary()),
            AvgPool("global", "t", (5,), (5,), (0,)),
            Output("out", "global", ints(1, -2, 3, 4), ints(0, 1, 5, -9), 3),
        ]
    )  # fmt: skip


def levels_for(network, batch, seed):
    """A float batch that reaches beyond the input's codes, with ties; or tokens."""
    first = network.input
    form = first.format
    low, high = form.code_min - first.zero_point, form.code_max - first.zero_point
    span = high - low + 1
    generator = np.random.default_rng(seed)
    x = generator.integers(2 * low - span // 4 - 1, 2 * high + span // 4 + 2, (batch, *first.shape)) / 2
    return (x * first.scale).astype(np.float32)
