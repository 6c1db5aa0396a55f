"""The interpreter against brute force in Python integers; the engine against the interpreter."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from brute_force import brute_force, indices, round_fraction
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_networks import (
    DETERMINISTIC,
    binary_network,
    codes,
    every_operation,
    ints,
    levels_for,
    residual_network,
    token_network,
)

from bitwright.formats import Binary, Fixed, Int, Ternary, UInt
from bitwright.integer import (
    OPERATIONS,
    Affine,
    Codes,
    Conv,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Reshape,
    Threshold,
    round_shift,
)
from bitwright.kernels import available_isas


@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
def test_round_shift_is_the_rounding_of_the_exact_fraction(rounding):
    for shift in (0, 1, 2, 3, 7):
        y = np.arange(-300, 301, dtype=np.int64)
        expected = [round_fraction(Fraction(int(v), 2**shift), rounding) for v in y]
        assert round_shift(y, shift, rounding).tolist() == expected
    edge = 2**53 - 1
    near = [s * v for s in (1, -1) for v in (edge, edge - 1, 2**52, 2**52 + 1, 2**51 - 1, 2**40, 3)]
    for shift in (1, 31, 51, 52, 53, 62):
        y = np.array([*near, 2 ** (min(shift, 53) - 1), -(2 ** (min(shift, 53) - 1))], dtype=np.int64)
        expected = [round_fraction(Fraction(int(v), 2**shift), rounding) for v in y]
        assert round_shift(y, shift, rounding).tolist() == expected


def compare(network, x):
    tensors = network.trace(x, backend="interpreter")
    assert list(tensors) == [o.name for o in network.operations]
    for n, example in enumerate(x):
        for name, expected in brute_force(network, example).items():
            got = tensors[name][n]
            assert got.shape == network.types[name].shape
            assert all(got[i] == v for i, v in expected.items()), name
            kind = network.types[name]
            assert all(kind.low <= v <= kind.high for v in expected.values()), name


def test_every_operation_equals_brute_force():
    network = every_operation()
    generator = np.random.default_rng(0)
    x = generator.integers(-90, 90, (4, 2, 5, 4)).astype(np.float32) / 4  # ties of the input's step
    x[0, 0, 0, :] = [1e30, -1e30, 63.75, -64.25]
    compare(network, x)
    np.testing.assert_array_equal(network(x, backend="engine"), network(x, backend="interpreter"))


@pytest.mark.parametrize("build", [residual_network, token_network])
def test_graphs_equal_brute_force(build):
    network = build()
    x = levels_for(network, 3, seed=1)
    compare(network, x)
    for isa in available_isas():
        for name, tensor in network.trace(x, backend="engine", isa=isa).items():
            np.testing.assert_array_equal(tensor, network.trace(x, backend="interpreter")[name])


def test_the_networks_of_these_tests_have_every_operation():
    networks = (every_operation(), residual_network(), token_network())
    assert {o.kind for n in networks for o in n.operations} == set(OPERATIONS)


@st.composite
def chains(draw):
    """A random chain with any weights and codes; multipliers of any sign."""
    seed = draw(st.integers(0, 2**16))
    generator = np.random.default_rng(seed)
    weights = st.sampled_from([Binary(), Ternary(), Int(2), Int(5), Fixed(8, 4), UInt(3)])
    channels = draw(st.integers(1, 2))
    size = (draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    form = draw(st.sampled_from([Int(8), UInt(4), Binary(), Ternary()]))
    operations = [Input("in", "", (channels, *size), form, 2.0 ** -draw(st.integers(0, 3)))]
    kernel, padding = (
        (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        (draw(st.integers(0, 2)), draw(st.integers(0, 1))),
    )
    stride, out = (draw(st.integers(1, 3)), draw(st.integers(1, 2))), draw(st.integers(1, 3))
    operations.append(Conv("c", "in", codes(draw(weights), (out, channels, *kernel), seed), stride, padding))
    size = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True))
    direction = generator.choice(np.array([-1, 1], np.int8), out)
    if draw(st.booleans()):
        new = draw(st.sampled_from([Binary(), Ternary(), UInt(2), Int(3)]))
        limits = np.sort(generator.integers(-40, 40, (out, len(new.codes()) - 1)), axis=1)
        operations.append(Threshold("t", "c", limits.astype(np.int64), direction, new))
    else:
        new, rounding = (
            draw(st.sampled_from([Int(5), UInt(8), Ternary()])),
            draw(st.sampled_from(DETERMINISTIC)),
        )
        m, b = generator.integers(-9, 10, out), generator.integers(-50, 50, out)
        operations.append(
            Affine("t", "c", m.astype(np.int64), b.astype(np.int64), draw(st.integers(0, 6)), new, rounding)
        )
    if min(size) >= 2:
        step = draw(st.integers(1, 2))
        pad = draw(st.integers(0, 1))
        operations.append(MaxPool("p", "t", (2, 2), (step, step), (pad, 0)))
        size = ((size[0] + 2 * pad - 2) // step + 1, (size[1] - 2) // step + 1)
    flat = out * size[0] * size[1]
    operations.append(Reshape("r", operations[-1].name, (flat,)))
    operations.append(Linear("l", "r", codes(draw(weights), (2, flat), seed + 1)))
    m, b = generator.integers(-(2**20), 2**20, 2), generator.integers(-(2**40), 2**40, 2)
    operations.append(Output("o", "l", m.astype(np.int64), b.astype(np.int64), draw(st.integers(0, 45))))
    x = generator.integers(-40, 40, (2, channels, *operations[0].shape[1:])).astype(np.float32) / 8
    return Network(operations), x


@settings(deadline=None, derandomize=True, max_examples=80)
@given(chains())
def test_random_chains_equal_brute_force(case):
    compare(*case)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 5), (9, 6, 4)])
def test_the_engine_makes_the_interpreters_tensors(isa, shape):
    network = binary_network(shape)
    x = np.random.default_rng(1).uniform(-1.1, 1.1, (70, *shape)).astype(np.float32)
    expected = network.trace(x, backend="interpreter")
    for threads in (1, 3):
        made = network.trace(x, backend="engine", isa=isa, threads=threads)
        assert {"input", "pool", "fc", "output"} <= set(made)
        for name, tensor in made.items():
            assert np.array_equal(tensor, expected[name]), name
        assert np.array_equal(network(x, isa=isa, threads=threads), expected["output"])
    compare(network, x[:2])


def test_batches_of_any_size_agree_with_single_examples():
    network = binary_network()
    x = np.random.default_rng(2).uniform(-1, 1, (130, 2, 4, 4)).astype(np.float32)
    whole = network(x, backend="interpreter")
    assert whole.dtype == np.float32
    for backend in ("interpreter", "engine"):
        assert np.array_equal(network(x, backend=backend), whole)
        assert np.array_equal(network(x.reshape(130, -1), backend=backend), whole)
        assert np.array_equal(
            np.concatenate([network(x[i : i + 1], backend=backend) for i in range(130)]), whole
        )
        assert network(x[:0], backend=backend).shape == (0, 3)
        # codes instead of floats
        assert np.array_equal(network(network.trace(x)["input"].astype(np.int8), backend=backend), whole)


def test_packing_bits_is_as_documented():
    array = np.where(np.arange(22).reshape(2, 11) % 3 == 0, 1, -1)
    packed = Codes.pack(Binary(), array)
    assert packed.data.shape == (2, 2)
    for row, column in indices((2, 11)):
        bit = packed.data[row, column // 8] >> column % 8 & 1
        assert bit == (array[row, column] > 0)
    assert (packed.data[:, 1] >> 3 == 0).all()
    assert np.array_equal(packed.array, array)


@pytest.mark.parametrize(
    "form", [Binary(), Ternary(), Int(1), Int(4), UInt(8), Int(9), UInt(16), Int(32), UInt(32)], ids=str
)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 8), (2, 3, 3, 1)])
def test_packing_keeps_every_code(form, shape):
    generator = np.random.default_rng(3)
    choice = (
        np.array(form.codes())
        if form.bits <= 9
        else np.array([form.code_min, -1 if form.code_min else 1, form.code_max])
    )
    array = generator.choice(choice, shape)
    packed = Codes.pack(form, array)
    assert np.array_equal(packed.array.astype(np.int64), array)
    assert packed.data.nbytes <= max(array.size * -(-form.bits // 8) * 2, 8)


def test_multipliers_reach_the_edge_of_2_53():
    """The largest sums that a network may hold are exact."""
    weight = Codes.pack(Int(32), np.array([[2**31 - 1]]))
    m = (2**53 - 1) // (2**31 - 1) // 128
    network = Network(
        [Input("i", "", (1,), Int(8), 1.0), Linear("l", "i", weight), Output("o", "l", ints(m), ints(5), 0)]
    )
    for x in (127, -128, 1, 0):
        exact = x * (2**31 - 1) * m + 5
        assert network(np.array([[x]], np.float32)).item() == float(np.float32(float(exact)))
