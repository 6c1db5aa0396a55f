"""Every instruction set computes what the NumPy reference computes, stage by stage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kernels_reference import (
    INT32_MAX,
    INT32_MIN,
    Input,
    Network,
    Output,
    Pool,
    Product,
    Threshold,
    add_layer,
    check,
    finish,
    random_input,
    samples,
    signs,
)

from bitwright.kernels import available_isas

pytestmark = pytest.mark.parametrize("isa", available_isas())

AROUND_TILES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]
LINEAR_INPUTS = {
    "binary": {"scale": None},
    "signed": {"scale": 0.25, "low": -128, "high": 127},
    "unsigned": {"scale": 0.25, "low": 0, "high": 255},
}


def linear(rng, given: Input, channels: int, last: int, batch: int) -> tuple[Network, np.ndarray]:
    """Two Linear layers: the first makes bits, the second sums."""
    x = samples(rng, given, batch)
    network = Network(given)
    bits = add_layer(rng, network, given.encode(x), channels, (1, 1))
    network.stages += [Product(signs(rng, (last, bits.shape[1], 1, 1))), finish(rng, last)]
    return network, x


@pytest.mark.parametrize("kind", LINEAR_INPUTS)
@pytest.mark.parametrize("k", [*AROUND_TILES, 191, 193, 257])
def test_linear_sizes(isa, kind, k):
    rng = np.random.default_rng(k)
    for i, channels in enumerate(AROUND_TILES):
        batch = AROUND_TILES[(i + k) % len(AROUND_TILES)] % 40 + 1
        last = AROUND_TILES[(5 * i + k) % len(AROUND_TILES)]
        check(*swap(isa, linear(rng, Input((k, 1, 1), **LINEAR_INPUTS[kind]), channels, last, batch)))


@pytest.mark.parametrize("k", [65792, 65796])
def test_one_row_of_the_largest_bytes(isa, k):
    """At 65793 taps 128 times the sum of the bytes exceeds int32."""
    weight = signs(np.random.default_rng(k), (33, k, 1, 1))
    weight[:16] = 1
    network = Network(Input((k, 1, 1), 1.0, 0, 255), [Product(weight), finish(np.random.default_rng(1), 33)])
    check(network, isa, np.full((1, k, 1, 1), 255, np.float32))


def swap(isa, case):
    network, x = case
    return network, isa, x


@pytest.mark.parametrize("kind", LINEAR_INPUTS)
def test_batch_sizes(isa, kind):
    rng = np.random.default_rng(1)
    given = Input((67, 1, 1), **LINEAR_INPUTS[kind])
    network, x = linear(rng, given, 53, 11, 300)
    program = network.program(isa)
    expected = network.trace(x)[-1]
    for batch in [*range(1, 36), *AROUND_TILES, 255, 256, 257, 300]:
        np.testing.assert_array_equal(program.run(x[:batch]), expected[:batch])


@pytest.mark.parametrize("kind", LINEAR_INPUTS)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (5, 5), (1, 3), (3, 2), (5, 1)])
def test_convolutions(isa, kind, kernel):
    rng = np.random.default_rng(sum(kernel))
    for padding in [(0, 0), (1, 1), (2, 2), (0, 2), (2, 1)]:
        for stride in [(1, 1), (2, 2), (1, 3), (3, 2)]:
            shape = (int(rng.integers(1, 6)), int(rng.integers(5, 10)), int(rng.integers(5, 12)))
            given = Input(shape, **LINEAR_INPUTS[kind])
            x = samples(rng, given, 3)
            network = Network(given)
            channels = int(rng.choice([3, 16, 33, 70]))
            bits = add_layer(rng, network, given.encode(x), channels, kernel, stride=stride, padding=padding)
            size = bits.shape[2:]
            second = tuple(min(k, s + 2) for k, s in zip(kernel, size, strict=True))
            weight = signs(rng, (19, channels, *second))
            network.stages += [Product(weight, (1, 1), (1, 1)), finish(rng, 19)]
            check(network, isa, x)


@pytest.mark.parametrize("kind", LINEAR_INPUTS)
@pytest.mark.parametrize("shape", [(33, 3, 4), (64, 4, 3), (70, 5, 6), (130, 1, 3)])
def test_many_input_channels(isa, kind, shape):
    """Several words of bits per pixel already in the input."""
    rng = np.random.default_rng(10)
    given = Input(shape, **LINEAR_INPUTS[kind])
    for x in (samples(rng, given, 3), given.encode(samples(rng, given, 3))):
        network = Network(given)
        bits = add_layer(rng, network, given.encode(x), 21, (3, 3), padding=(1, 1))
        network.stages += [Product(signs(rng, (6, 21, *bits.shape[2:]))), finish(rng, 6)]
        check(network, isa, x)


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(isa, seed):
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 20)), int(rng.integers(1, 14)), int(rng.integers(1, 14)))
    given = random_input(rng, shape)
    x = samples(rng, given, int(rng.integers(1, 12)))
    network = Network(given)
    value = given.encode(x)
    for _ in range(rng.integers(0, 4)):
        height, width = value.shape[2:]
        padding = (int(rng.integers(0, 3)), int(rng.integers(0, 3)))
        kernel = (
            int(rng.integers(1, min(5, height + 2 * padding[0]) + 1)),
            int(rng.integers(1, min(5, width + 2 * padding[1]) + 1)),
        )
        stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        channels = int(rng.choice([1, 5, 8, 17, 40, 64, 72, 130]))
        value = add_layer(rng, network, value, channels, kernel, stride=stride, padding=padding)
        if rng.random() < 0.6:
            kernel = tuple(int(rng.integers(1, min(4, size) + 1)) for size in value.shape[2:])
            padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
            flip = rng.integers(0, 2, channels).astype(bool) if rng.random() < 0.5 else None
            pool = Pool(kernel, (int(rng.integers(1, 4)), int(rng.integers(1, 4))), padding, flip)
            network.stages.append(pool)
            value = pool(value)
    last = int(rng.integers(1, 20))
    kernel = value.shape[2:] if rng.random() < 0.7 else (1, 1)  # a Linear over (C, H, W), or 1x1
    network.stages += [Product(signs(rng, (last, value.shape[1], *kernel))), finish(rng, last)]
    check(network, isa, x, threads=int(rng.integers(1, 4)))


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (2, 3), (1, 1), (4, 4)])
@pytest.mark.parametrize("flipped", [False, True])
def test_pools(isa, kernel, flipped):
    rng = np.random.default_rng(3)
    given = Input((2, 9, 11), 1.0, -128, 127)
    x = samples(rng, given, 2)
    for padding in {(0, 0), (kernel[0] // 2, kernel[1] // 2), (0, kernel[1] // 2)}:
        for stride in [(1, 1), (2, 2), (3, 1)]:
            network = Network(given)
            bits = add_layer(rng, network, given.encode(x), 70, (3, 3), padding=(1, 1))
            flip = rng.integers(0, 2, 70).astype(bool) if flipped else None
            pool = Pool(kernel, stride, padding, flip)
            twice = Pool((2, 2), (1, 1), (1, 1), flip)
            value = twice(pool(bits))
            weight = signs(rng, (5, 70, *value.shape[2:]))
            network.stages += [pool, twice, Product(weight), finish(rng, 5)]
            check(network, isa, x)


@pytest.mark.parametrize("kind", LINEAR_INPUTS)
@pytest.mark.parametrize("k", [1, 2, 63, 64, 65, 200])
def test_thresholds_at_extremes(isa, kind, k):
    """All accumulators a channel can have, against every threshold that could go wrong."""
    given = Input((k, 1, 1), **LINEAR_INPUTS[kind])
    top = 1 if given.scale is None else given.high
    low = -1 if given.scale is None else given.low
    x = np.array([[low] * k, [top] * k, [low] * (k // 2) + [top] * (k - k // 2)]).astype(given.dtype)
    reach = k * max(abs(low), top)
    near = [sign * reach + d for sign in (-1, 1) for d in (-2, -1, 0, 1, 2)]
    special = [INT32_MIN, INT32_MIN + 1, -(2**30), -1, 0, 1, 2**30, INT32_MAX - 1, INT32_MAX]
    thresholds = np.array([*near, *special] * 4, np.int32)
    channels = len(thresholds)
    weight = np.repeat([1, -1], channels // 2)[:, None, None, None] * np.ones((1, k, 1, 1), np.int64)
    flip = np.tile(np.repeat([0, 1], channels // 4), 2).astype(np.uint8)
    identity = np.where(np.eye(channels, dtype=bool), 1, -1)[:, :, None, None]
    ones = np.ones(channels, np.int64)
    stages = [
        Product(weight),
        Threshold(thresholds, flip),
        Product(identity),
        Output(ones, 0 * ones, 0),
    ]
    check(Network(given, stages), isa, x)


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 255), (-3, 2), (-128, -100), (5, 200)])
def test_quantisation_of_the_input(isa, low, high):
    """Ties, both clips, infinities, huge and tiny values, -0.0; every length of a vector's tail."""
    scale = float(np.float32(0.1))
    ties = (np.arange(low - 3, high + 4) + 0.5).astype(np.float32) * np.float32(0.1)
    special = np.float32([0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45])
    values = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), special])
    for size in [1, 2, 15, 16, 17, 33, len(values)]:
        given = Input((size, 1, 1), scale, low, high)
        x = np.resize(values, (-(-len(values) // size), size))
        stages = [
            Product(np.ones((1, size, 1, 1), np.int64)),
            Output(np.ones(1, int), np.zeros(1, int), 0),
        ]
        check(Network(given, stages), isa, x)


@pytest.mark.parametrize("kind", LINEAR_INPUTS)
def test_codes_and_floats_agree(isa, kind):
    rng = np.random.default_rng(4)
    given = Input((3, 5, 7), **LINEAR_INPUTS[kind])
    x = samples(rng, given, 6)
    codes = given.encode(x)
    network = Network(given)
    add_layer(rng, network, codes, 24, (3, 3), padding=(1, 1))
    network.stages += [Product(signs(rng, (4, 24, 5, 7))), finish(rng, 4)]
    program = network.program(isa)
    expected = program.run(x)
    for same in (
        codes,
        codes.reshape(6, -1),
        x.reshape(6, -1),
        np.asfortranarray(codes),
        codes[::1],
    ):
        np.testing.assert_array_equal(program.run(same), expected)
    check(network, isa, codes)


def test_threads_and_chunks_change_nothing(isa):
    rng = np.random.default_rng(5)
    given = Input((3, 16, 16), 0.5, -128, 127)
    network = Network(given)
    x = samples(rng, given, 41)
    bits = add_layer(rng, network, given.encode(x), 64, (3, 3), padding=(1, 1))
    network.stages.append(Pool((2, 2), (2, 2)))
    network.stages += [Product(signs(rng, (10, 64, 8, 8))), finish(rng, 10)]
    del bits
    program = network.program(isa)
    whole = program.run(x)
    for threads in (2, 3, 7, 41, 64):
        np.testing.assert_array_equal(program.run(x, threads=threads), whole)
    np.testing.assert_array_equal(np.concatenate([program.run(x[i : i + 1]) for i in range(41)]), whole)


def test_concurrent_callers(isa):
    rng = np.random.default_rng(6)
    network, x = linear(rng, Input((130, 1, 1)), 200, 10, 64)
    program = network.program(isa)
    expected = network.trace(x)[-1]

    def call(i):
        size = i % 64 + 1
        got = program.run(x[:size], threads=i % 3 + 1)
        return np.array_equal(got, expected[:size])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(300)))


def test_empty_batch(isa):
    rng = np.random.default_rng(7)
    given = Input((2, 4, 4), 1.0, -8, 7)
    network = Network(given, [Product(signs(rng, (6, 2, 3, 3))), finish(rng, 6)])
    program = network.program(isa)
    assert program.run(np.empty((0, 2, 4, 4), np.float32)).shape == (0, 6, 2, 2)
    assert program.run(np.empty((0, 32), np.int8), threads=3).shape == (0, 6, 2, 2)
    assert [a.shape[0] for a in program.trace(np.empty((0, 32), np.float32)) if a is not None] == [0] * 3


def test_the_layers_of_a_large_network(isa):
    """Sizes at which every tile, run and group is used; one image on the slow kernels."""
    rng = np.random.default_rng(8)
    given = Input((3, 12, 12), 1 / 64, -128, 127)
    x = samples(rng, given, 2)
    network = Network(given)
    bits = add_layer(rng, network, given.encode(x), 128, (3, 3), padding=(1, 1))
    bits = add_layer(rng, network, bits, 136, (3, 3), padding=(1, 1))
    network.stages.append(Pool((2, 2), (2, 2)))
    bits = network.stages[-1](bits)
    bits = add_layer(rng, network, bits, 200, (6, 6))
    bits = add_layer(rng, network, bits, 1000, (1, 1))
    network.stages += [Product(signs(rng, (10, 1000, 1, 1))), finish(rng, 10)]
    check(network, isa, x)


def test_padding_larger_than_the_kernel(isa):
    rng = np.random.default_rng(9)
    for kind in LINEAR_INPUTS.values():
        given = Input((5, 2, 3), **kind)
        x = samples(rng, given, 2)
        network = Network(given)
        add_layer(rng, network, given.encode(x), 9, (2, 3), padding=(4, 5))
        network.stages += [Product(signs(rng, (3, 9, 3, 3)), (2, 3), (3, 4)), finish(rng, 3)]
        check(network, isa, x)
