"""Small integer networks built by hand, and what they compute in plain Python integers."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from bitwright.formats import Binary, Int, Rounding, Ternary
from bitwright.integer import (
    Affine,
    Clip,
    Codes,
    Conv,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Reshape,
    Threshold,
)


def codes(form, shape, seed):
    generator = np.random.default_rng(seed)
    return Codes.pack(form, generator.choice(np.array(form.codes()), size=shape))


def ints(*values):
    return np.array(values, dtype=np.int64)


def every_operation():
    """Each of the nine operations once, with ties, both directions and padding."""
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


def round_fraction(q, rounding):
    """`q` to an integer, by each rounding's definition."""
    below = q.numerator // q.denominator
    rest = q - below
    up = {
        Rounding.NEAREST_EVEN: rest > Fraction(1, 2) or (rest == Fraction(1, 2) and below % 2),
        Rounding.NEAREST_AWAY: rest > Fraction(1, 2) or (rest == Fraction(1, 2) and q > 0),
        Rounding.FLOOR: False,
        Rounding.CEIL: rest > 0,
        Rounding.TOWARD_ZERO: rest > 0 and q < 0,
    }[rounding]
    return below + bool(up)


def brute_force(network, x):
    """Every tensor of one example as {index: int}, from the operations' words in docs/integer-network.md."""
    tensors = {}
    for operation in network.operations:
        shape = network.types[operation.name].shape
        source = tensors.get(operation.input)
        tensors[operation.name] = RULES[type(operation)](operation, source, shape, x)
    return tensors


def indices(shape):
    return itertools.product(*map(range, shape))


def _input(op, _, shape, x):
    scale = Fraction(op.scale)
    result = {}
    for i in indices(shape):
        q = Fraction(float(x[i])) / scale  # exact: the scales here are powers of two
        code = round_fraction(q, Rounding.NEAREST_EVEN)
        if isinstance(op.format, Binary):
            code = 1 if q >= 0 else -1
        result[i] = min(max(code, op.format.code_min), op.format.code_max)
    return result


def _conv(op, a, shape, _):
    w, (sh, sw), (ph, pw) = op.weight.array, op.stride, op.padding
    return {
        (o, y, x): sum(
            a.get((c, y * sh + i - ph, x * sw + j - pw), 0) * int(w[o, c, i, j])
            for c, i, j in indices(w.shape[1:])
        )
        for o, y, x in indices(shape)
    }


def _linear(op, a, shape, _):
    w = op.weight.array
    return {(o,): sum(a[(i,)] * int(w[o, i]) for i in range(w.shape[1])) for (o,) in indices(shape)}


def _affine(op, a, shape, _):
    form = op.format
    return {
        i: min(
            max(
                round_fraction(
                    Fraction(a[i] * int(op.multiplier[i[0]]) + int(op.offset[i[0]]), 2**op.shift), op.rounding
                ),
                form.code_min,
            ),
            form.code_max,
        )
        for i in indices(shape)
    }


def _threshold(op, a, shape, _):
    names = list(op.format.codes())
    return {
        i: names[sum(a[i] * int(op.direction[i[0]]) >= int(t) for t in op.thresholds[i[0]])]
        for i in indices(shape)
    }


def _clip(op, a, shape, _):
    return {i: min(max(a[i], op.low), op.high) for i in indices(shape)}


def _max_pool(op, a, shape, _):
    (kh, kw), (sh, sw), (ph, pw) = op.kernel, op.stride, op.padding
    return {
        (c, y, x): max(
            a[c, y * sh + i - ph, x * sw + j - pw]
            for i, j in indices((kh, kw))
            if (c, y * sh + i - ph, x * sw + j - pw) in a
        )
        for c, y, x in indices(shape)
    }


def _reshape(op, a, shape, _):
    return dict(zip(indices(shape), (a[i] for i in sorted(a)), strict=True))


def _output(op, a, shape, _):
    return {
        i: np.float32(float(Fraction(a[i] * int(op.multiplier[i[0]]) + int(op.offset[i[0]]), 2**op.shift)))
        for i in indices(shape)
    }


RULES = {
    Input: _input,
    Conv: _conv,
    Linear: _linear,
    Affine: _affine,
    Threshold: _threshold,
    Clip: _clip,
    MaxPool: _max_pool,
    Reshape: _reshape,
    Output: _output,
}
