"""An independent reference for binary chains in the native graph: NumPy, int64, one stage at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bitwright.kernels import Graph
from bitwright.kernels.tensors import Bits, Sums, Window

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


@dataclass
class Input:
    """8-bit codes from low to high, or binary where scale is None."""

    shape: tuple[int, int, int]
    scale: float | None = None
    low: int = -128
    high: int = 127

    @property
    def dtype(self):
        return np.dtype(np.int8 if self.scale is None or self.low < 0 else np.uint8)

    def encode(self, x):
        if x.dtype == np.float32:
            x = x.reshape(-1, *self.shape)
            if self.scale is None:
                return np.where(x >= 0, 1, -1).astype(np.int8)
            with np.errstate(over="ignore"):
                levels = np.rint(x / np.float32(self.scale))
            return np.clip(levels, self.low, self.high).astype(self.dtype)
        return x.reshape(-1, *self.shape)


@dataclass
class Product:
    weight: np.ndarray  # [N, C, kh, kw], int64 -1 or 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def __call__(self, codes):
        (ph, pw), (sh, sw) = self.padding, self.stride
        kh, kw = self.weight.shape[2:]
        x = np.pad(codes.astype(np.int64), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
        height = (x.shape[2] - kh) // sh + 1
        width = (x.shape[3] - kw) // sw + 1
        acc = np.zeros((x.shape[0], self.weight.shape[0], height, width), np.int64)
        for i in range(kh):
            for j in range(kw):
                taps = x[:, :, i : i + sh * (height - 1) + 1 : sh, j : j + sw * (width - 1) + 1 : sw]
                sums = taps.transpose(0, 2, 3, 1) @ self.weight[:, :, i, j].T
                acc += sums.transpose(0, 3, 1, 2)
        return acc


@dataclass
class Threshold:
    thresholds: np.ndarray
    flip: np.ndarray

    def __call__(self, acc):
        raw = acc >= self.thresholds.astype(np.int64)[:, None, None]
        return np.where(raw ^ self.flip.astype(bool)[:, None, None], 1, -1).astype(np.int8)


@dataclass
class Pool:
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    flip: np.ndarray | None = None

    def __call__(self, codes):
        (ph, pw), (sh, sw), (kh, kw) = self.padding, self.stride, self.kernel
        x = np.pad(codes, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=-1)
        windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))
        top = windows[:, :, ::sh, ::sw].max(axis=(4, 5))
        if self.flip is None:
            return top
        return np.where(self.flip.astype(bool)[:, None, None], -top, top)


@dataclass
class Output:
    multiplier: np.ndarray
    offset: np.ndarray
    shift: int

    def __call__(self, acc):
        level = acc * self.multiplier[:, None, None] + self.offset[:, None, None]
        y = (level.astype(np.float64) * 2.0**-self.shift).astype(np.float32)
        return y[:, :, 0, 0] if y.shape[2:] == (1, 1) else y


@dataclass
class Network:
    input: Input
    stages: list = field(default_factory=list)

    def program(self, isa: str) -> Chain:
        return Chain(self, isa)

    def trace(self, x) -> list:
        """What Chain.trace must return."""
        value = self.input.encode(x)
        seen = [value]
        for stage in self.stages:
            value = stage(value)
            seen.append(value.astype(np.int32) if isinstance(stage, Product) else value)
        for i, stage in enumerate(self.stages):
            if isinstance(stage, Threshold):
                seen[i] = None  # the product before it
        return seen


class Chain:
    """The network as a native graph that shows its input, bits and last sums."""

    def __init__(self, network: Network, isa: str) -> None:
        self.graph = Graph(isa)
        self.input, self.output = network.input, network.stages[-1]
        self.shown = []
        given, x = network.input, None
        if given.scale is None:
            x = self.graph.input_binary(given.shape)
        else:
            x = self.graph.input(given.shape, scale=given.scale, low=given.low, high=given.high)
        self.shown.append(x)
        for stage, following in zip(network.stages, [*network.stages[1:], None], strict=True):
            match stage:
                case Product(weight, stride, padding):
                    epilogue = Sums()
                    if isinstance(following, Threshold):
                        epilogue = Bits(following.thresholds, following.flip)
                    pads = tuple((p, p) for p in padding)
                    window = Window(weight.shape[2:], stride, pads)
                    x = self.graph.product(x, weight.astype(np.int8), epilogue, window)
                    self.shown += [None, x] if isinstance(following, Threshold) else [x]
                case Pool(kernel, stride, padding, flip):
                    window = Window(kernel, stride, tuple((p, p) for p in padding))
                    x = self.graph.max_pool(x, window, flip)
                    self.shown.append(x)
        self.graph.output(x, self.output.multiplier, self.output.offset, self.output.shift)

    def run(self, x, threads: int = 1) -> np.ndarray:
        y, _ = self.graph.run(x.reshape(-1, *self.input.shape), threads)
        return y[:, :, 0, 0] if y.shape[2:] == (1, 1) else y

    def trace(self, x, threads: int = 1) -> list:
        captures = [tensor for tensor in self.shown if tensor is not None]
        y, kept = self.graph.run(x.reshape(-1, *self.input.shape), threads, captures)
        arrays = iter(kept)
        seen = [None if tensor is None else next(arrays) for tensor in self.shown]
        return [*seen, y[:, :, 0, 0] if y.shape[2:] == (1, 1) else y]


def signs(rng, shape) -> np.ndarray:
    return rng.integers(0, 2, shape) * 2 - 1


def samples(rng, given: Input, batch: int) -> np.ndarray:
    """Float samples that reach every code, ties, both ends and beyond."""
    shape = (batch, *given.shape)
    if given.scale is None:
        x = rng.standard_normal(shape).astype(np.float32)
        x[rng.random(shape) < 0.1] = rng.choice(np.float32([0.0, -0.0]))
    else:
        x = rng.integers(2 * given.low - 5, 2 * given.high + 6, shape).astype(np.float32)
        x *= np.float32(given.scale / 2)
    x[rng.random(shape) < 0.02] = np.inf
    x[rng.random(shape) < 0.02] = -np.inf
    return x


def near_thresholds(rng, acc) -> np.ndarray:
    """Thresholds at accumulators that occur, just above and below them, and at both extremes."""
    channels = acc.shape[1]
    flat = acc.transpose(1, 0, 2, 3).reshape(channels, -1)
    picked = flat[np.arange(channels), rng.integers(0, flat.shape[1], channels)]
    near = picked + rng.integers(-1, 2, channels)
    wild = rng.choice([INT32_MIN, INT32_MIN + 1, INT32_MAX - 1, INT32_MAX], channels)
    return np.where(rng.random(channels) < 0.08, wild, near).astype(np.int32)


def finish(rng, channels: int) -> Output:
    multiplier = rng.integers(-(2**20), 2**20, channels)
    offset = rng.integers(-(2**40), 2**40, channels)
    return Output(multiplier, offset, int(rng.integers(-3, 30)))


def random_input(rng, shape) -> Input:
    kind = rng.integers(0, 4)
    if kind == 0:
        return Input(shape)
    scale = float(np.float32(rng.choice([1.0, 0.5, 1 / 127, 0.3])))
    if kind == 1:
        return Input(shape, scale, -128, 127)
    if kind == 2:
        return Input(shape, scale, 0, 255)
    return Input(shape, scale, -7, 7) if rng.random() < 0.5 else Input(shape, scale, 0, 15)


def add_layer(rng, network: Network, value, channels, kernel, **window):
    """Appends a product with thresholds near what `value` gives; returns the bits."""
    product = Product(signs(rng, (channels, value.shape[1], *kernel)), **window)
    acc = product(value)
    flip = rng.integers(0, 2, channels).astype(rng.choice([np.uint8, np.bool_]))
    threshold = Threshold(near_thresholds(rng, acc), flip)
    network.stages += [product, threshold]
    return threshold(acc)


def check(network: Network, isa: str, x, threads: int = 1) -> None:
    """run and trace of the graph equal the reference, every stage."""
    program = network.program(isa)
    expected = network.trace(x)
    got = program.trace(x, threads=threads)
    names = ["input", *(type(stage).__name__ for stage in network.stages)]
    for name, mine, theirs in zip(names, got, expected, strict=True):
        if theirs is None:
            assert mine is None, name
            continue
        assert mine.dtype == (np.float32 if name == "Output" else np.int64), name
        np.testing.assert_array_equal(mine, theirs, err_msg=f"{name} on {isa}")
    np.testing.assert_array_equal(program.run(x, threads=threads), expected[-1])
