"""The engine's graph computes what the interpreter computes, tensor by tensor, on every instruction set."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from graph_networks import Builder, codes_of, random_network, samples

from bitwright.formats import Binary, Int, Rounding, Ternary, UInt
from bitwright.integer import Add, Affine, Codes, Conv, Input, Linear, Network, Output, Reshape
from bitwright.kernels import available_isas

ISAS = available_isas()


def check(network: Network, x: np.ndarray, threads: int = 1) -> int:
    """Every tensor that the engine makes equals the interpreter's; how many there were."""
    expected, count = network.trace(x, backend="interpreter"), 0
    for isa in ISAS:
        got = network.trace(x, isa=isa, backend="engine", threads=threads)
        for name, tensor in got.items():
            np.testing.assert_array_equal(tensor, expected[name], err_msg=f"{name} on {isa}")
            count += 1
        y = network(x, isa=isa, backend="engine", threads=threads)
        np.testing.assert_array_equal(y, expected[network.operations[-1].name])
        assert y.dtype == expected[network.operations[-1].name].dtype
    return count


def test_random_networks():
    """Every random network is the engine's."""
    tensors = 0
    for seed in range(150):
        network = random_network(seed)
        assert network.engine_problem is None
        tensors += check(network, samples(network, 1 + seed % 4, seed), 1 + seed % 3)
        tensors += check(network, codes_of(network, 1 + seed % 3, seed))
    assert tensors > 2000


AROUND_TILES = [1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 129]
FORMS = [
    (Int(8), Int(8)), (UInt(8), Int(8)), (UInt(8), Binary()), (Int(4), Int(4)), (Binary(), Binary()),
    (UInt(2), Int(2)), (Int(2), Int(2)), (UInt(1), Ternary()), (Binary(), Ternary()), (UInt(2), Binary()),
    (Ternary(), Binary()), (Binary(), Int(3)),
]  # fmt: skip


def linear(taken, weight, k, n, last):
    """Input -> linear -> output or codes -> linear -> output, from codes of `taken`."""
    build = Builder(k * 1000 + n, Input("input", "", (k,), taken, 1.0))
    build.add(Linear("fc", "input", build.weight((n, k), weight)))
    if last == "output":
        ones = np.ones(n, np.int64)
        build.add(Output("output", "fc", ones, ones, 1))
        return Network(build.operations)
    build.codes()
    return build.finish()


@pytest.mark.parametrize("forms", FORMS, ids=str)
def test_sizes_around_tiles(forms):
    for i, k in enumerate([*AROUND_TILES, 191, 257]):
        for last in ("output", "codes"):
            n = AROUND_TILES[(7 * i + len(last)) % len(AROUND_TILES)]
            network = linear(*forms, k, n, last)
            assert network.engine_problem is None
            check(network, codes_of(network, AROUND_TILES[(3 * i) % len(AROUND_TILES)], i))


@pytest.mark.parametrize("forms", FORMS, ids=str)
def test_convolutions(forms):
    """Channels of one and several words, paddings that differ, dilation."""
    taken, weight = forms
    for seed, channels in enumerate([3, 16, 64, 70, 128]):
        build = Builder(seed, Input("input", "", (channels, 6, 7), taken, 0.5))
        for pads, dilation in (((1, 1, 1, 1), (1, 1)), ((0, 2, 1, 0), (2, 1))):
            wide = build.weight((33, build.type.shape[0], 3, 2), weight)
            build.add(Conv(build.name(), build.newest, wide, (1, 2), pads, dilation))
            build.codes()
        network = build.finish()
        assert network.engine_problem is None
        check(network, samples(network, 2, seed))


@pytest.mark.parametrize("rounding", [r for r in Rounding if r is not Rounding.STOCHASTIC])
def test_every_accumulator_is_rounded_alike(rounding):
    """Ties and both signs: acc over a whole range, several shifts, through the fused affine map."""
    values = np.arange(-128, 128, dtype=np.int8)[:, None]
    for shift, m in ((0, 1), (1, 1), (1, 3), (3, 1), (3, -7), (6, 127), (40, 2**39), (44, 2**44 - 1)):
        ones = np.ones(17, np.int64)
        operations = [
            Input("input", "", (1,), Int(8), 1.0),
            Linear("fc", "input", linear_ones(17)),
            Affine("codes", "fc", m * ones, np.arange(-8, 9) << max(0, shift - 2), shift, Int(8), rounding),
            Output("output", "codes", ones, 0 * ones, 0),
        ]
        check(Network(operations), values)


def linear_ones(n):
    return Builder(0).weight((n, 1), UInt(1)).pack(Int(8), np.ones((n, 1), np.int8))


def test_accumulators_near_31_bits():
    k = 65793  # the most: 255 * 128 * k is 127 below 2^31 - 1
    weight = Builder(0).weight((1, 1), Int(8)).pack(Int(8), np.full((3, k), -128, np.int8))
    one = np.ones(3, np.int64)
    network = Network(
        [
            Input("input", "", (k,), UInt(8), 1.0),
            Linear("fc", "input", weight),
            Output("output", "fc", one, one, 0),
        ]
    )
    assert network.engine_problem is None
    check(network, np.full((2, k), 255, np.uint8))


def test_accumulators_beyond_31_bits():
    k = 65800
    weight = Builder(0).weight((1, 1), Int(8)).pack(Int(8), np.full((3, k), -128, np.int8))
    one = np.ones(3, np.int64)
    network = Network(
        [
            Input("input", "", (k,), UInt(8), 1.0),
            Linear("wide", "input", weight),
            Output("output", "wide", one, one, 0),
        ]
    )
    assert network.types["wide"].bound > 2**31
    check(network, np.full((2, k), 255, np.uint8))


def test_threads_batches_and_callers_change_nothing():
    networks = [random_network(seed) for seed in range(8)]
    for network in networks:
        x = samples(network, 23)
        whole = network(x, threads=1)
        for threads in (2, 3, 30):
            np.testing.assert_array_equal(network(x, threads=threads), whole)
            one = [network(x[i : i + 1], threads=threads) for i in range(4)]
            np.testing.assert_array_equal(np.concatenate(one), whole[:4])
        with ThreadPoolExecutor(8) as pool:
            sizes = [i % 23 + 1 for i in range(64)]
            got = pool.map(lambda size, run=network, y=x: run(y[:size], threads=size % 2 + 1), sizes)
            assert all(np.array_equal(y, whole[:size]) for y, size in zip(got, sizes, strict=True))
        assert network(x[:0], threads=2).shape == (0, *whole.shape[1:])


def test_the_plan_says_what_runs():
    build = Builder(1, Input("input", "", (128, 8, 8), UInt(2), 1.0))
    build.add(Conv("planes", "input", build.weight((64, 128, 3, 3), Int(2)), (1, 1), (1, 1)))
    build.affine()
    build.add(Conv("dot", build.newest, build.weight((64, 64, 3, 3), Int(8)), (1, 1), (1, 1)))
    build.affine()
    build.add(Reshape("flat", build.newest, (64 * 64,)))
    build.add(Linear("last", "flat", build.weight((10, 64 * 64), Int(8))))
    build.add(Output("output", "last", np.ones(10, np.int64), np.ones(10, np.int64), 0))
    plan = Network(build.operations).engine().explain()
    kernels = [row["kernel"] for row in plan]
    assert kernels == ["quantise", "planes", "dot", "dot"]
    assert plan[1]["macs"] == 64 * 64 * 9 * 128
    assert all(set(row) == {"operation", "kernel", "layout", "macs", "reason"} for row in plan)


def test_codes_near_a_half():
    """M 2^-s = 2^-7 (1 + d 2^-29): every 128th sum is half a code but for what float32 cannot hold.

    Every third channel has a power of two or nothing; the sum of two tensors is as near to halves.
    """
    rng = np.random.default_rng(5)
    levels = rng.integers(-127, 128, (40, 12, 1, 1), np.int8)
    zeros, channel = np.zeros(40, np.int64), np.arange(40)
    even = Rounding.NEAREST_EVEN
    for d in (-1, 0, 1, 128):
        for b, form in ((0, UInt(8)), (1 << 35, Int(8)), (3 << 34, Int(4))):
            m = np.choose(channel % 3, [zeros + 2**29 + d, 2**29 * (channel % 2), zeros + 2**29 + d])
            terms = np.stack([m << 5, (m << 3) + d])
            network = Network(
                [
                    Input("input", "", (12, 16, 16), UInt(8), 1.0),
                    Conv("conv", "input", Codes.pack(Int(8), levels), (1, 1), (0, 0)),
                    Affine("codes", "conv", m, zeros + b, 36, form, even),
                    Conv("other", "input", Codes.pack(Int(8), levels[::-1]), (1, 1), (0, 0)),
                    Affine("more", "other", m, b - zeros, 36, UInt(8), even),
                    Add("sum", ("codes", "more"), terms, zeros + b, 36, Int(8), even),
                    Output("output", "sum", zeros + 1, zeros, 0),
                ]
            )
            assert network.engine_problem is None
            check(network, codes_of(network, 2, 1))
