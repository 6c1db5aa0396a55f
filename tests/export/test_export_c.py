"""The exported C computes the interpreter's integers: every tensor of random networks, of all operations."""

from __future__ import annotations

import re
import shutil
from collections import Counter

import numpy as np
import pytest
from compiled import case, compile_and_run, differing
from hypothesis import HealthCheck, given, settings
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
from random_graphs import graphs
from resnet8 import resnet8

from bitwright.errors import InvalidValueError
from bitwright.export import to_c
from bitwright.formats import Binary, Fixed, Flex, Int, Log, Rounding, Ternary, UInt
from bitwright.integer import (
    OPERATIONS,
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

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
EVEN = Rounding.NEAREST_EVEN
HAND = [every_operation, binary_network, residual_network, token_network]
SANITIZE = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def both_ways(network, x, name):
    """Fused, and with every operation's tensor in memory."""
    return [case(network, x, f"{name}{suffix}", fuse) for suffix, fuse in (("f", True), ("u", False))]


def drawn(count):
    """So many random networks, the same ones in every run."""
    networks = []

    @settings(
        deadline=None,
        derandomize=True,
        max_examples=count,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs())
    def draw(network):
        networks.append(network)

    draw()
    return networks


def compare_random(tmp_path, count, flags):
    networks = drawn(count)
    cases = []
    for i, network in enumerate(networks):
        # fusing leaves out most tensors; where it is off, every one is compared
        cases += both_ways(network, levels_for(network, 2, i), f"n{i}")[: 2 if i % 3 == 0 else 1]
    kinds = Counter(o.kind for network in networks for o in network.operations)
    assert set(kinds) == set(OPERATIONS), kinds
    compared, wrong = differing(cases, compile_and_run(tmp_path, cases, flags, together=True))
    assert len(networks) >= count
    assert compared > 50 * count
    assert wrong == 0


def test_random_networks_equal_the_interpreter_in_every_tensor(tmp_path):
    compare_random(tmp_path, 200, ["-O0"])


@pytest.mark.slow
def test_a_thousand_random_networks_optimised(tmp_path):
    compare_random(tmp_path, 1000, ["-O2"])


@pytest.mark.slow
def test_random_networks_under_sanitizers(tmp_path):
    compare_random(tmp_path, 300, SANITIZE)


def test_every_operation_under_sanitizers(tmp_path):
    cases = [c for i, make in enumerate(HAND) for c in both_ways(make(), levels_for(make(), 3, i), f"h{i}")]
    compared, wrong = differing(cases, compile_and_run(tmp_path, cases, SANITIZE))
    assert compared > 5000
    assert wrong == 0


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compilers_take_it_without_a_warning(tmp_path, compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    cases = both_ways(residual_network(), levels_for(residual_network(), 2, 0), "net")
    assert differing(cases, compile_and_run(tmp_path, cases, ["-O2"], compiler))[1] == 0


# --- widths and formats ------------------------------------------------------------------------------


def chain(weight, activation, zero=0, rounding=EVEN, shape=(3, 8, 8)):
    """A small convolutional network: convolution, pool, depthwise, linear."""
    generator = np.random.default_rng(weight.bits * 64 + activation.bits)

    def slopes(channels):
        return generator.integers(1, 1 << 12, channels)

    def numbers(name, x, channels, bound):
        if isinstance(activation, Binary | Ternary):
            limits = np.sort(generator.integers(-bound // 4, bound // 4, (channels, activation.code_max + 1)))
            limits = limits[:, : len(activation.codes()) - 1]
            direction = generator.choice(np.array([-1, 1], np.int8), channels)
            return Threshold(name, x, np.ascontiguousarray(limits), direction, activation)
        shift = max(0, (bound << 12).bit_length() - activation.bits)
        offset = generator.integers(-bound, bound + 1, channels)
        return Affine(name, x, slopes(channels), offset, shift, activation, rounding, zero)

    operations = [
        Input("in", "", shape, UInt(8), 0.25, 100),
        Conv("c1", "in", codes(weight, (6, 3, 3, 3), 1), (1, 1), (1, 1)),
        MaxPool("p1", "c1", (2, 2), (2, 2), (0, 0)),
        numbers("a1", "p1", 6, 255 * 27 * weight.level_max // 8),
        Conv("c2", "a1", codes(weight, (6, 1, 3, 3), 2), (1, 1), (1, 1), groups=6),
        numbers("a2", "c2", 6, activation.code_max * 9 * weight.level_max // 2),
        Reshape("flat", "a2", (96,)),
        Linear("fc", "flat", codes(weight, (5, 96), 3)),
        Output("out", "fc", slopes(5), ints(0, 3, -9, 1, 7), 20),
    ]
    return Network(operations)


CHAINS = {
    "binary": (Binary(), Binary(), 0),
    "ternary": (Ternary(), Ternary(), 0),
    "2-bit": (Int(2), UInt(2), 0),
    "4-bit": (Int(4), UInt(4), 0),
    "4x8": (Int(4), UInt(8), 0),
    "8-bit affine": (Int(8), Int(8), -17),
    "unsigned affine": (Int(8), UInt(8), 200),
    "5-bit": (Int(5), Int(5), 3),
    "unsigned weights": (UInt(8), Int(8), 0),
    "logarithmic": (Log(4), Int(8), 0),
    "roots": (Log(3, root=True), Int(8), 0),
    "12-bit": (Fixed(12, 7), Fixed(12, 7), 0),
    "16-bit": (Flex(16, 5), Int(16), 1000),
    "20-bit": (Int(20), Int(17), 0),
}  # fmt: skip


def test_chains_of_every_width(tmp_path):
    cases = []
    for i, (weight, activation, zero) in enumerate(CHAINS.values()):
        network = chain(weight, activation, zero, DETERMINISTIC[i % len(DETERMINISTIC)])
        cases += both_ways(network, levels_for(network, 3, i), f"c{i}")
    compared, wrong = differing(cases, compile_and_run(tmp_path, cases, ["-O0"], together=True))
    assert compared > 10000
    assert wrong == 0


def test_sums_beyond_32_bits_are_exact(tmp_path):
    weight = Codes.pack(Int(20), np.full((2, 300), -(1 << 19)))
    affine = Affine("a", "fc", ints(-1, 1), ints(5, -5), 40, Int(8), Rounding.NEAREST_AWAY)
    first = Input("in", "", (300,), Int(16), 1.0)
    last = Output("out", "a", ints(1, 1), ints(0, 0), 0)
    network = Network([first, Linear("fc", "in", weight), affine, last])
    x = np.stack([np.full(300, v, np.float32) for v in (-32768, 32767, 1, 0)])
    assert int(network.trace(x, backend="interpreter")["fc"].max()) == 300 << 34
    cases = both_ways(network, x, "wide")
    assert differing(cases, compile_and_run(tmp_path, cases))[1] == 0


@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
def test_every_tie_is_rounded_as_it_says(tmp_path, rounding):
    """All sums from -70 to 70 at every shift up to 6, and the largest at 62."""
    cases = []
    for shift in (0, 1, 2, 6, 62):
        scale = 1 if shift < 62 else 1 << 44
        affine = Affine("a", "in", ints(scale), ints(1), shift, Int(8), rounding)
        network = Network(
            [Input("in", "", (1,), Int(8), 1.0), affine, Output("out", "a", ints(1), ints(0), 0)]
        )
        cases.append(case(network, np.arange(-128, 128, dtype=np.float32)[:, None], f"r{shift}"))
    assert differing(cases, compile_and_run(tmp_path, cases))[1] == 0


@pytest.mark.parametrize(
    ("form", "scale", "zero"),
    [(Int(8), 0.1, 3), (UInt(16), 1e-3, 0), (Int(32), 1e-7, 0), (Int(24), 0.7, 1 << 22), (Binary(), 1.0, 0)],
    ids=str,
)
def test_inputs_are_quantised_by_one_division(tmp_path, form, scale, zero):
    """Ties, values beyond the codes, infinities, zeros of both signs, numbers too small to be normal."""
    steps = np.arange(-600, 601) / 2
    x = np.concatenate(
        [
            steps * scale,
            [np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, 214.7, form.code_max * scale],
        ]
    )
    last = Output("out", "in", ints(1), ints(0), 0)
    network = Network([Input("in", "", (1,), form, scale, zero), last])
    cases = [case(network, x.astype(np.float32)[:, None])]
    assert differing(cases, compile_and_run(tmp_path, cases, ["-O2"]))[1] == 0


# --- pools inside products, sums in place --------------------------------------------------------------


def pooled(groups, kernel, stride, padding, direction):
    weight = codes(Int(4), (4, 4 // groups, 3, 3), 5)
    limits = np.sort(np.random.default_rng(3).integers(-300, 300, (4, 3)))
    sign = np.full(4, direction, np.int8) if direction else np.array([1, -1, 1, -1], np.int8)
    return Network(
        [
            Input("in", "", (4, 9, 7), Int(6), 1.0),
            Conv("conv", "in", weight, (1, 1), (1, 1), groups=groups),
            MaxPool("pool", "conv", kernel, stride, padding),
            Threshold("t", "pool", limits, sign, UInt(2)),
            Clip("clip", "t", 1, 3),
            Output("out", "clip", ints(1, 2, 3, 4), ints(0, 0, 0, 0), 1),
        ]
    )


def test_a_pool_runs_inside_its_product(tmp_path):
    cases = []
    windows = [
        ((2, 2), (2, 2), (0, 0)),
        ((3, 2), (3, 4), (1, 0, 0, 1)),
        ((2, 2), (1, 1), (1, 1)),
        ((1, 1), (2, 2), (0, 0)),
    ]
    for i, (kernel, stride, padding) in enumerate(windows):
        for groups in (1, 2, 4):
            network = pooled(groups, kernel, stride, padding, (1, -1, 0)[i % 3])
            cases.append(case(network, levels_for(network, 2, i), f"p{i}g{groups}"))
    stages = {one.name: len(one.c.layout.placed) for one in cases}
    assert stages["p0g1"] == 1
    assert stages["p2g1"] == 2  # windows overlap: sums would be made twice
    assert differing(cases, compile_and_run(tmp_path, cases, ["-O0"], together=True))[1] == 0


def test_a_residual_sum_takes_no_memory_of_its_own():
    layout = to_c(resnet8()).layout
    by_name = {placed.stage.result: placed for placed in layout.placed}
    block = by_name["stack0"]
    assert block.stage.names == ("stack0.b.conv", "stack0.b", "stack0")
    assert block.result.buffer is block.sources["stem"].buffer
    images = 2 * 16 * 32 * 32  # the block's input, and what its first convolution makes
    assert images < layout.arena < images + 2000


def test_a_sum_does_not_overwrite_what_its_product_reads(tmp_path):
    """x + conv(x): every place of x is read by several windows."""
    weight, terms = codes(Int(4), (4, 4, 3, 3), 5), np.array([[1] * 4, [3] * 4])
    network = Network(
        [
            Input("in", "", (4, 6, 6), Int(8), 1.0),
            Clip("x", "in", -100, 100),
            Conv("conv", "x", weight, (1, 1), (1, 1)),
            OPERATIONS["add"]("sum", ("conv", "x"), terms, ints(0, 0, 0, 0), 5, Int(8), EVEN),
            Output("out", "sum", ints(1, 2, 3, 4), ints(0, 0, 0, 0), 1),
        ]
    )
    cases = [case(network, levels_for(network, 2, 0))]
    assert [p.stage.result for p in cases[0].c.layout.placed] == ["x", "out"]
    assert differing(cases, compile_and_run(tmp_path, cases))[1] == 0


# --- the text --------------------------------------------------------------------------------------------


def test_weights_stay_packed():
    """4-bit weights take half the flash of 8-bit ones, binary ones an eighth."""
    sizes = [chain(form, UInt(4)) for form in (Int(8), Int(4), Binary())]
    stored = [sum(w.packed.nbytes for w in network.weights().values()) for network in sizes]
    assert stored[0] == 162 + 54 + 480
    rest = [to_c(network).constants - size for network, size in zip(sizes, stored, strict=True)]
    assert max(rest) <= 6 * 2 * 8 + 6 * 2 * 8 + 5 * 9  # multipliers and offsets


def test_no_float_no_allocation_no_state_inside():
    source = to_c(residual_network()).source
    inside = source.split("#endif\n", 1)[1].split("void network_encode(")[0]
    assert "s8_class(" in inside
    assert not re.search(r"float|double|malloc|free\(|[0-9]f\b|\d\.\d", inside)
    assert set(re.findall(r"#include <(.*)>", source)) == {"stddef.h", "stdint.h"}
    assert not re.findall(r"^static (?!const|\w+ \w+\()", source, re.M)  # constants and functions only


def test_the_text_depends_on_the_network_alone():
    assert to_c(residual_network()).source == to_c(residual_network()).source


def test_names_of_operations_cannot_leave_their_place(tmp_path):
    name = 'a"*/ int x; /*\\\n#error ??/\nb\u2028é' * 3
    first, weight = Input(name, "", (4,), Int(8), 1.0), codes(Int(4), (2, 4), 1)
    twin = name.replace("*", "+")  # the same letters
    chain = [Linear(twin, name, weight), Clip("0", twin, 0, 9), Linear("int", "0", codes(Int(4), (2, 2), 1))]
    network = Network([first, *chain, Output("*/", "int", ints(1, 1), ints(0, 0), 0)], {"note": "*/ int y;"})
    cases = both_ways(network, levels_for(network, 2, 0), "net")
    assert all(c.c.source.isascii() for c in cases)
    assert differing(cases, compile_and_run(tmp_path, cases))[1] == 0


@pytest.mark.parametrize("name", ["", "1net", "a-b", "int", "main", "s0", "_x", "é", "a b"])
def test_a_name_is_an_identifier(name):
    with pytest.raises(InvalidValueError, match="identifier"):
        to_c(binary_network(), name)
