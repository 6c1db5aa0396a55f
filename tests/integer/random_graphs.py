"""Random integer networks for Hypothesis: any operations that fit, any weights, branches included."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from integer_networks import DETERMINISTIC, WEIGHTS, codes

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Ternary, UInt
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
    Reshape,
    Table,
    Threshold,
    Transpose,
)

ACTIVATIONS = [Int(8), UInt(8), Int(4), UInt(3), Ternary(), Fixed(12, 7), Int(16), Int(3)]
KINDS = [
    "linear",
    "conv",
    "up",
    "affine",
    "threshold",
    "clip",
    "add",
    "concat",
    "pool",
    "shape",
    "table",
    "embedding",
]
MAX_ELEMENTS = 120
"""Of a tensor: brute force takes microseconds for each product."""


class _Graph:
    """Operations and the types of their tensors, as they grow."""

    def __init__(self, draw, first):
        self.draw = draw
        self.operations = [first]
        self.types = {first.name: first.infer()}
        self.generator = np.random.default_rng(draw(st.integers(0, 2**16)))

    def add(self, operation):
        """Append an operation unless it does not fit, or makes too much."""
        try:
            made = operation.infer(*(self.types[name] for name in operation.inputs))
        except InvalidValueError:
            return
        if made.elements <= MAX_ELEMENTS:
            self.operations.append(operation)
            self.types[operation.name] = made

    def numbers(self, count, low, high):
        return tuple(self.draw(st.integers(low, high)) for _ in range(count))

    def weight(self, *shape):
        return codes(self.draw(st.sampled_from(WEIGHTS)), shape, self.draw(st.integers(0, 99)))

    def ints(self, low, high, *shape):
        return self.generator.integers(low, high + 1, shape, dtype=np.int64)

    def zero_point(self, form):
        if not isinstance(form, Int | UInt) or self.draw(st.booleans()):
            return 0
        return self.draw(st.integers(form.code_min, form.code_max))

    def rounded(self, bound):
        """Shift, format, rounding, zero point for sums of about `bound`."""
        form = self.draw(st.sampled_from(ACTIVATIONS))
        shift = max(0, bound.bit_length() - self.draw(st.integers(0, 9)))
        return shift, form, self.draw(st.sampled_from(DETERMINISTIC)), self.zero_point(form)

    def step(self, index):
        """One more operation, drawn."""
        name, x = f"op{index}", self.draw(st.sampled_from(list(self.types)))
        source = self.types[x]
        channels, rank = source.shape[0], len(source.shape) - 1
        kinds = [k for k in KINDS if k != "embedding" or source.low >= 0]
        getattr(self, f"_{self.draw(st.sampled_from(kinds))}")(name, x, source, channels, rank)

    def _linear(self, name, x, source, channels, rank):
        self.add(Linear(name, x, self.weight(self.draw(st.integers(1, 4)), channels)))

    def _conv(self, name, x, source, channels, rank, transposed=False):
        if rank not in (1, 2):
            return
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
        outs = groups * self.draw(st.integers(1, 2))
        weight = self.weight(outs, channels // groups, *self.numbers(rank, 1, 3))
        padding = self.numbers(rank * self.draw(st.integers(1, 2)), 0, 2)
        stride, dilation = (
            self.numbers(rank, 1, 3),
            self.draw(st.sampled_from([(), self.numbers(rank, 1, 2)])),
        )
        if transposed:
            more = self.draw(st.sampled_from([(), self.numbers(rank, 0, 1)]))
            self.add(ConvTranspose(name, x, weight, stride, padding, dilation, groups, more))
        else:
            self.add(Conv(name, x, weight, stride, padding, dilation, groups))

    def _up(self, *place):
        self._conv(*place, transposed=True)

    def _affine(self, name, x, source, channels, rank):
        m, b = self.ints(-9, 9, channels), self.ints(-source.bound, source.bound, channels)
        self.add(Affine(name, x, m, b, *self.rounded(source.bound * 9)))

    def _threshold(self, name, x, source, channels, rank):
        form = self.draw(st.sampled_from([Binary(), Ternary(), UInt(2), Int(3)]))
        limits = self.ints(-source.bound // 2, source.bound // 2, channels, len(form.codes()) - 1)
        direction = self.generator.choice(np.array([-1, 1], np.int8), channels)
        self.add(Threshold(name, x, np.sort(limits), direction, form, self.zero_point(form)))

    def _clip(self, name, x, source, channels, rank):
        low, high = sorted(self.numbers(2, source.low - 1, source.high + 1))
        self.add(Clip(name, x, low, high))

    def _like(self, x, source, same):
        others = [n for n, t in self.types.items() if same(t, source)]
        return (x, *self.draw(st.lists(st.sampled_from(others), max_size=2)))

    def _add(self, name, x, source, channels, rank):
        inputs = self._like(x, source, lambda a, b: a.shape == b.shape)
        bound = sum(self.types[n].bound for n in inputs) * 5
        m, b = self.ints(-5, 5, len(inputs), channels), self.ints(-bound, bound, channels)
        self.add(Add(name, inputs, m, b, *self.rounded(bound)))

    def _concat(self, name, x, source, channels, rank):
        def same(a, b):
            return (a.shape[1:], a.format, a.zero_point) == (b.shape[1:], b.format, b.zero_point)

        self.add(Concat(name, self._like(x, source, same)))

    def _pool(self, name, x, source, channels, rank):
        if rank not in (1, 2):
            return
        kernel = self.draw(st.sampled_from([source.shape[1:], self.numbers(rank, 1, 3)]))
        kind = self.draw(st.sampled_from([MaxPool, AvgPool]))
        padding = self.numbers(rank * self.draw(st.integers(1, 2)), 0, 1)
        self.add(kind(name, x, kernel, self.numbers(rank, 1, 3), padding))

    def _shape(self, name, x, source, channels, rank):
        if self.draw(st.booleans()):
            self.add(Transpose(name, x, tuple(self.draw(st.permutations(range(rank + 1))))))
        else:
            first = self.draw(st.sampled_from([n for n in range(1, 9) if source.elements % n == 0]))
            self.add(Reshape(name, x, (first, source.elements // first)))

    def _table(self, name, x, source, channels, rank):
        form = self.draw(st.sampled_from([Int(8), UInt(4), Ternary()]))
        span = source.high - source.low + 1
        if span <= 256:
            rows = self.draw(st.sampled_from([1, channels]))
            entries = self.ints(form.code_min, form.code_max, rows, span)
            self.add(Table(name, x, source.low, entries, form, self.zero_point(form)))

    def _embedding(self, name, x, source, channels, rank):
        if source.high < 300:
            self.add(Embedding(name, x, self.weight(source.high + 1, self.draw(st.integers(1, 3)))))


@st.composite
def graphs(draw):
    """A network of up to a dozen operations, and a batch for it."""
    form = draw(st.sampled_from([Int(8), UInt(4), Binary(), Ternary(), Int(12)]))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    zero = draw(st.sampled_from([0, form.code_min, form.code_max - 1])) if isinstance(form, Int | UInt) else 0
    graph = _Graph(draw, Input("in", "", shape, form, 2.0 ** -draw(st.integers(0, 3)), zero))
    for index in range(draw(st.integers(1, 11))):
        graph.step(index)
    last = list(graph.types)[-1]
    channels, bound = graph.types[last].shape[0], graph.types[last].bound
    end = draw(st.sampled_from(["argmax", "scores", "both"]))
    name = "scores" if end == "both" else "out"
    if end == "argmax":
        graph.add(Argmax("out", last))
    elif bound < 1 << 40:
        m, b = graph.ints(-99, 99, channels), graph.ints(-bound, bound, channels)
        graph.add(Output(name, last, m, b, draw(st.integers(0, 45))))
    else:
        graph.add(Output(name, last, graph.ints(1, 1, channels), graph.ints(0, 0, channels), 0))
    if end == "both":
        graph.add(Argmax("out", "scores"))
    assume(isinstance(graph.operations[-1], Output | Argmax))
    return Network(graph.operations)
