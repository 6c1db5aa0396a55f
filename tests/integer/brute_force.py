"""What an integer network computes, in plain Python integers, from the words of docs/integer-network.md."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from bitwright.formats import Binary, Log, Rounding


def brute_force(network, x):
    """Every tensor of one example as {index: int}."""
    tensors = {}
    for operation in network.operations:
        shape = network.types[operation.name].shape
        sources = [tensors[name] for name in operation.inputs] or [x]
        tensors[operation.name] = RULES[operation.kind](operation, shape, *sources)
    return tensors


def indices(shape):
    return itertools.product(*map(range, shape))


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


def level(form, code):
    """The integer that a stored code multiplies."""
    if not isinstance(form, Log):
        return int(code)
    sign, field = divmod(int(code), 1 << form.width - 1)
    if field == 0:
        return 0
    magnitude = 2 ** (field - 1)
    if form.root:  # multiples of 2^-23; float32(sqrt(2)) is 11863283 of them
        half, odd = divmod(field - 1, 2)
        magnitude = 2**half * (11863283 if odd else 2**23)
        magnitude = magnitude if form.fields > 1 else 1
    return -magnitude if sign else magnitude


def to_level(op, code):
    """clip(code) - z, for an operation with a format and a zero point."""
    return min(max(code, op.format.code_min), op.format.code_max) - op.zero_point


def _input(op, shape, x):
    result = {}
    for i in indices(shape):
        q = Fraction(float(x[i])) / Fraction(op.scale)  # exact: the scales here are powers of two
        code = round_fraction(q, Rounding.NEAREST_EVEN) + op.zero_point
        if isinstance(op.format, Binary):
            code = 1 if q >= 0 else -1
        result[i] = to_level(op, code)
    return result


def _window(op, rank):
    """Stride, padding in front, dilation."""
    before = op.padding if len(op.padding) == rank else op.padding[::2]
    dilation = getattr(op, "dilation", ()) or (1,) * rank
    return list(zip(op.stride, before, dilation, strict=True))


def _conv(op, shape, a):
    w, form = op.weight.array, op.weight.format
    rank, outs = w.ndim - 2, w.shape[0] // op.groups
    windows = _window(op, rank)
    result = {}
    for o, *at in indices(shape):
        first = o // outs * w.shape[1]
        total = 0
        for c, *tap in indices(w.shape[1:]):
            place = tuple(y * s + i * d - p for y, i, (s, p, d) in zip(at, tap, windows, strict=True))
            total += a.get((first + c, *place), 0) * level(form, w[(o, c, *tap)])
        result[(o, *at)] = total
    return result


def _conv_transpose(op, shape, a):
    w, form = op.weight.array, op.weight.format
    outs = w.shape[0] // op.groups
    windows = _window(op, w.ndim - 2)
    result = dict.fromkeys(indices(shape), 0)
    for (channel, *at), value in a.items():
        group, c = divmod(channel, w.shape[1])
        for o in range(group * outs, (group + 1) * outs):
            for tap in indices(w.shape[2:]):
                place = tuple(y * s + i * d - p for y, i, (s, p, d) in zip(at, tap, windows, strict=True))
                if (o, *place) in result:
                    result[(o, *place)] += value * level(form, w[(o, c, *tap)])
    return result


def _linear(op, shape, a):
    w, form = op.weight.array, op.weight.format
    return {
        (o, *rest): sum(a[(i, *rest)] * level(form, w[o, i]) for i in range(w.shape[1]))
        for o, *rest in indices(shape)
    }


def _requantise(op, y):
    return to_level(op, round_fraction(Fraction(y, 2**op.shift), op.rounding) + op.zero_point)


def _affine(op, shape, a):
    return {i: _requantise(op, _sum(op, i, [a], [op.multiplier])) for i in indices(shape)}


def _add(op, shape, *terms):
    return {i: _requantise(op, _sum(op, i, terms, op.multiplier)) for i in indices(shape)}


def _sum(op, i, terms, multipliers):
    products = (a[i] * int(m[i[0]]) for a, m in zip(terms, multipliers, strict=True))
    return sum(products) + int(op.offset[i[0]])


def _threshold(op, shape, a):
    names = list(op.format.codes())
    return {
        i: names[sum(a[i] * int(op.direction[i[0]]) >= int(t) for t in op.thresholds[i[0]])] - op.zero_point
        for i in indices(shape)
    }


def _clip(op, shape, a):
    return {i: min(max(a[i], op.low), op.high) for i in indices(shape)}


def _table(op, shape, a):
    rows = op.entries if len(op.entries) > 1 else np.repeat(op.entries, shape[0], axis=0)
    return {i: int(rows[i[0], a[i] - op.first]) - op.zero_point for i in indices(shape)}


def _embedding(op, shape, a):
    w, form = op.weight.array, op.weight.format
    return {(d, *i): level(form, w[a[tuple(i)], d]) - op.zero_point for d, *i in indices(shape)}


def _pool(op, shape, a):
    windows = _window(op, len(op.kernel))
    combine = max if op.kind == "max_pool" else sum
    result = {}
    for c, *at in indices(shape):
        places = [
            (c, *(y * s + i - p for y, i, (s, p, _) in zip(at, tap, windows, strict=True)))
            for tap in indices(op.kernel)
        ]
        result[(c, *at)] = combine(a[place] for place in places if place in a)
    return result


def _reshape(op, shape, a):
    return dict(zip(indices(shape), (a[i] for i in sorted(a)), strict=True))


def _transpose(op, shape, a):
    return {tuple(i[axis] for axis in op.axes): value for i, value in a.items()}


def _concat(op, shape, *sources):
    result, start = {}, 0
    for a in sources:
        result |= {(i[0] + start, *i[1:]): value for i, value in a.items()}
        start += 1 + max(i[0] for i in a)
    return result


def _argmax(op, shape, a):
    channels = 1 + max(i[0] for i in a)
    return {i: max(range(channels), key=lambda c: (a[(c, *i)], -c)) for i in indices(shape)}


def _output(op, shape, a):
    return {
        i: np.float32(float(Fraction(a[i] * int(op.multiplier[i[0]]) + int(op.offset[i[0]]), 2**op.shift)))
        for i in indices(shape)
    }


RULES = {
    "input": _input,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "affine": _affine,
    "threshold": _threshold,
    "clip": _clip,
    "add": _add,
    "concat": _concat,
    "max_pool": _pool,
    "avg_pool": _pool,
    "reshape": _reshape,
    "transpose": _transpose,
    "embedding": _embedding,
    "table": _table,
    "argmax": _argmax,
    "output": _output,
}
