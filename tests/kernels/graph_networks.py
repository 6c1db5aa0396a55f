"""Random networks of what the engine runs: any mix of widths, windows, branches and epilogues."""

from __future__ import annotations

import numpy as np

from bitwright.formats import Binary, Int, Rounding, Ternary, UInt
from bitwright.integer import (
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Codes,
    Concat,
    Conv,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Reshape,
    Threshold,
)

WEIGHTS = [Binary(), Ternary(), Int(2), Int(3), Int(4), Int(5), Int(8), UInt(1), UInt(2), UInt(7)]
ACTIVATIONS = [Int(8), UInt(8), Int(4), UInt(4), Int(2), UInt(2), UInt(1), Ternary(), Int(7)]
FEW_CODES = [Binary(), Binary(), Ternary(), UInt(2), Int(2), UInt(3), Int(3), UInt(4), Int(4)]
ROUNDINGS = [r for r in Rounding if r is not Rounding.STOCHASTIC]


class Builder:
    """Operations and their types, as a random network grows; `newest` is the last tensor's name."""

    def __init__(self, seed: int, first: Input | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        if first is None:
            shape = (self.pick(1, 2, 3, 5, 16, 20), self.pick(1, 4, 7, 9), self.pick(1, 3, 6, 8))
            form = self.choose([Int(8), UInt(8), Int(4), UInt(2), Binary(), Binary()])
            zero = 0 if isinstance(form, Binary) else int(self.rng.choice([0, form.code_max // 3]))
            first = Input("input", "", shape, form, float(np.float32(self.pick(1, 3) / 7)), zero)
        self.operations = [first]
        self.types = {first.name: first.infer()}
        self.newest = first.name

    def pick(self, *values):
        return int(self.rng.choice(values))

    def choose(self, values):
        return values[int(self.rng.integers(len(values)))]

    def add(self, operation):
        self.types[operation.name] = operation.infer(*(self.types[n] for n in operation.inputs))
        self.operations.append(operation)
        self.newest = operation.name
        return operation.name

    @property
    def type(self):
        return self.types[self.newest]

    def name(self):
        return f"t{len(self.operations)}"

    def weight(self, shape, form=None):
        form = form or self.choose(WEIGHTS)
        return Codes.pack(form, self.rng.choice(np.array(form.codes()), size=shape))

    def conv(self, channels=None, form=None):
        c, h, w = self.type.shape
        groups = self.choose([1, 1, 1, c, self.choose([g for g in range(1, c + 1) if c % g == 0])])
        channels = groups * (
            channels or self.pick(1, 2, 3, 7, 16, 17, 33) if groups == 1 else self.pick(1, 1, 2)
        )
        pads = tuple(self.pick(0, 1, 2) for _ in range(4))
        dilation = (self.pick(1, 1, 2), self.pick(1, 1, 2))
        kernel = tuple(
            max(1, min(self.pick(1, 2, 3), (n + sum(p) - 1) // d + 1))
            for n, p, d in zip((h, w), (pads[:2], pads[2:]), dilation, strict=True)
        )
        weight = self.weight((channels, c // groups, *kernel), form)
        stride = (self.pick(1, 1, 2), self.pick(1, 1, 3))
        return self.add(Conv(self.name(), self.newest, weight, stride, pads, dilation, groups))

    def affine(self):
        c, bound = self.type.shape[0], max(1, self.type.bound)
        form = self.choose(ACTIVATIONS)
        shift = self.pick(0, 1, 5, 20)
        reach = max(1, (form.code_max << shift) // bound)
        multiplier = self.rng.integers(-2 * reach - 1, 2 * reach + 2, c)
        if self.rng.random() < 0.5:
            multiplier = np.abs(multiplier)
        offset = self.rng.integers(-(3 << shift), (3 << shift) + 1, c)
        zero = self.pick(0, form.code_max // 2) if isinstance(form, Int | UInt) else 0
        rounding = self.choose(ROUNDINGS)
        return self.add(Affine(self.name(), self.newest, multiplier, offset, shift, form, rounding, zero))

    def threshold(self):
        form, c = self.choose(FEW_CODES), self.type.shape[0]
        bound = min(self.type.bound, self.pick(10, 1000))
        limits = np.sort(self.rng.integers(-bound - 1, bound + 2, (c, len(form.codes()) - 1)), axis=1)
        limits[self.rng.random(c) < 0.1] = self.choose([-(2**40), 2**40, 2**31 - 1, -(2**31)])
        direction = self.rng.choice(np.array([-1, 1], np.int8), c)
        if self.rng.random() < 0.4:
            direction = np.ones(c, np.int8)
        return self.add(Threshold(self.name(), self.newest, limits.astype(np.int64), direction, form))

    def pool(self, kind):
        _, h, w = self.type.shape
        kernel = (min(h, self.pick(1, 2, 3)), min(w, self.pick(1, 2, 3)))
        pads = tuple(self.pick(0, k // 2) for k in kernel for _ in range(2))
        return self.add(kind(self.name(), self.newest, kernel, (self.pick(1, 2), self.pick(1, 2)), pads))

    def join(self):
        c, h, w = self.type.shape
        coded = {n: t for n, t in self.types.items() if t.format is not None and t.bound > 1}
        same = [n for n, t in coded.items() if t.shape == (c, h, w)]
        if self.newest not in same:
            return
        others = [self.choose(same) for _ in range(self.pick(1, 2))]
        alike = [
            n
            for n in same
            if (coded[n].format, coded[n].zero_point) == (self.type.format, self.type.zero_point)
        ]
        if self.rng.random() < 0.4:
            self.add(Concat(self.name(), (self.newest, self.choose(alike))))
            return
        names = (self.newest, *others)
        form = self.choose([Int(8), UInt(4), UInt(8)])
        self.add(
            Add(
                self.name(),
                names,
                self.rng.integers(-40, 60, (len(names), c)),
                self.rng.integers(-99, 99, c),
                self.pick(0, 3, 6),
                form,
                self.choose(ROUNDINGS),
                self.pick(0, 5),
            )
        )

    def codes(self):
        """From sums to codes, perhaps with a pool before and a clip behind."""
        if self.rng.random() < 0.2 and len(self.type.shape) == 3:
            self.pool(MaxPool)
        if self.rng.random() < 0.5:
            self.threshold()
        else:
            self.affine()
            if self.rng.random() < 0.4:
                self.add(Clip(self.name(), self.newest, self.pick(-3, 0), self.pick(2, 90)))

    def finish(self):
        if self.rng.random() < 0.6 and self.type.format is not None:
            size = self.type.elements
            self.add(Reshape(self.name(), self.newest, (size,)))
            self.add(Linear(self.name(), self.newest, self.weight((self.pick(1, 5, 10, 16, 19), size))))
        if self.rng.random() < 0.2:
            self.add(Argmax(self.name(), self.newest))
        else:
            c = self.type.shape[0]
            multiplier, offset = self.rng.integers(-(2**20), 2**20, c), self.rng.integers(-(2**30), 2**30, c)
            self.add(Output(self.name(), self.newest, multiplier, offset, self.pick(0, 9)))
        return Network(self.operations)


def random_network(seed: int) -> Network:
    """Two to six layers with branches."""
    build = Builder(seed)
    for _ in range(build.pick(1, 2, 3, 5)):
        build.conv()
        build.codes()
        if build.rng.random() < 0.3:
            build.pool(MaxPool)
        if build.rng.random() < 0.15 and build.type.bound > 1:
            build.pool(AvgPool)
            build.codes()
        for _ in range(build.pick(0, 1)):
            build.join()
    return build.finish()


def samples(network: Network, batch: int, seed: int = 0) -> np.ndarray:
    """Floats around the input's range, with ties and infinities."""
    rng, first = np.random.default_rng(seed), network.input
    x = rng.integers(-300, 600, (batch, *first.shape)).astype(np.float32) * np.float32(first.scale / 2)
    x[rng.random(x.shape) < 0.01] = np.inf
    return x


def codes_of(network: Network, batch: int, seed: int = 0) -> np.ndarray:
    """Random codes of the input's format."""
    form = network.input.format
    dtype = np.int8 if form.code_min < 0 else np.uint8
    rng = np.random.default_rng(seed)
    return rng.choice(np.array(form.codes()), (batch, *network.input.shape)).astype(dtype)
