"""Bad arguments, orders and inputs give the library's errors; nothing crashes."""

from __future__ import annotations

import numpy as np
import pytest
from kernels_reference import pack, signs

from bitwright.errors import BitwrightError, InvalidTypeError, InvalidValueError
from bitwright.kernels import Program, available_isas

RNG = np.random.default_rng(0)


def started(shape=(3, 4, 4)) -> Program:
    program = Program()
    program.input(shape=shape, scale=1.0, low=-128, high=127)
    return program


def weight(channels=5, k=27):
    return pack(signs(RNG, (channels, k)))


def thresholds(channels=5):
    return np.zeros(channels, np.int32), np.zeros(channels, np.uint8)


def at_product() -> Program:
    program = started()
    program.product(weight(), channels=5, kernel=(3, 3))
    return program


def at_bits() -> Program:
    program = at_product()
    program.threshold(*thresholds())
    return program


def whole(isa=None, **given) -> Program:
    program = Program(isa)
    program.input(**{"shape": (3, 4, 4), "scale": 1.0, "low": -128, "high": 127, **given})
    program.product(weight(), channels=5, kernel=(3, 3))
    program.output(np.ones(5, np.int64), np.zeros(5, np.int64), 0)
    return program


STAGES = {
    "input": lambda p: p.input(shape=(3, 4, 4), scale=1.0, low=0, high=255),
    "input_binary": lambda p: p.input_binary(shape=(3, 4, 4)),
    "product": lambda p: p.product(weight(), channels=5, kernel=(3, 3)),
    "threshold": lambda p: p.threshold(*thresholds()),
    "max_pool": lambda p: p.max_pool(kernel=(1, 1), stride=(1, 1)),
    "output": lambda p: p.output(np.ones(5, np.int64), np.zeros(5, np.int64), 0),
}


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (Program, {"input", "input_binary"}),
        (started, {"product"}),
        (at_product, {"threshold", "output"}),
        (at_bits, {"product", "max_pool"}),
        (whole, set()),
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_order_of_stages(make, allowed, stage):
    program = make()
    if stage in allowed and not (stage == "product" and make is at_bits):
        STAGES[stage](program)
        return
    before = program.stages
    with pytest.raises(InvalidValueError, match=stage):
        STAGES[stage](program)
    assert program.stages == before


@pytest.mark.parametrize("make", [Program, started, at_product, at_bits])
def test_run_before_output(make):
    with pytest.raises(InvalidValueError, match="runs once it has its output"):
        make().run(np.zeros((1, 48), np.float32))
    with pytest.raises(InvalidValueError, match="runs once it has its output"):
        make().trace(np.zeros((1, 48), np.float32))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"shape": (3, 4)}, InvalidTypeError),
        ({"shape": 3}, InvalidTypeError),
        ({"shape": (0, 4, 4)}, InvalidValueError),
        ({"shape": (3, -4, 4)}, InvalidValueError),
        ({"shape": (3, 4.0, 4)}, InvalidTypeError),
        ({"shape": (2**20, 2**20, 2**20)}, InvalidValueError),
        ({"scale": 0.0}, InvalidValueError),
        ({"scale": -1.0}, InvalidValueError),
        ({"scale": float("nan")}, InvalidValueError),
        ({"scale": float("inf")}, InvalidValueError),
        ({"scale": 1e-60}, InvalidValueError),
        ({"scale": 1e60}, InvalidValueError),
        ({"scale": "one"}, InvalidTypeError),
        ({"low": -129}, InvalidValueError),
        ({"low": -1, "high": 128}, InvalidValueError),
        ({"low": 0, "high": 256}, InvalidValueError),
        ({"low": 5, "high": 4}, InvalidValueError),
        ({"low": True}, InvalidTypeError),
        ({"high": 1.0}, InvalidTypeError),
    ],
)
def test_bad_inputs(given, error):
    with pytest.raises(error, match="stage 0"):
        Program().input(**{"shape": (3, 4, 4), "scale": 1.0, "low": -128, "high": 127, **given})
    if "shape" in given:
        with pytest.raises(error, match="stage 0"):
            Program().input_binary(shape=given["shape"])


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"weight": weight(5, 35)}, InvalidValueError),
        ({"weight": weight(4)}, InvalidValueError),
        ({"weight": weight(5, 27)[0]}, InvalidValueError),
        ({"weight": weight().astype(np.int8)}, InvalidTypeError),
        ({"weight": weight().tolist()}, InvalidTypeError),
        ({"weight": weight() | np.uint8(0)}, None),
        ({"channels": 0}, InvalidValueError),
        ({"channels": -1}, InvalidValueError),
        ({"channels": 2**31}, InvalidValueError),
        ({"channels": "5"}, InvalidTypeError),
        ({"kernel": (5, 3)}, InvalidValueError),
        ({"kernel": (0, 3)}, InvalidValueError),
        ({"kernel": (3,)}, InvalidTypeError),
        ({"kernel": 3}, InvalidTypeError),
        ({"stride": (0, 1)}, InvalidValueError),
        ({"stride": (1, -1)}, InvalidValueError),
        ({"padding": (-1, 0)}, InvalidValueError),
        ({"padding": (2**30, 2**30)}, InvalidValueError),
        ({"stride": (2**31 - 1, 2**31 - 1)}, None),
    ],
)
def test_bad_products(given, error):
    program = started()
    arguments = {"weight": weight(), "channels": 5, "kernel": (3, 3), **given}
    if error is None:
        program.product(**arguments)
        return
    with pytest.raises(error, match=r"stage 1 \(product\)"):
        program.product(**arguments)
    program.product(weight(), channels=5, kernel=(3, 3))  # a failed stage leaves nothing behind
    program.threshold(*thresholds())


@pytest.mark.parametrize("bit", [3, 7])
def test_nonzero_padding_bits(bit):
    bad = weight()
    bad[3, -1] |= 1 << bit
    with pytest.raises(InvalidValueError, match=r"beyond K = 27 are zero.*row 3"):
        started().product(bad, channels=5, kernel=(3, 3))


def test_k_too_large():
    program = started((2**23, 1, 1))
    with pytest.raises(InvalidValueError, match="K = C"):
        program.product(np.zeros((1, 2**20), np.uint8), channels=1)


@pytest.mark.parametrize(
    ("limits", "flip", "error"),
    [
        (np.zeros(4, np.int32), np.zeros(5, np.uint8), InvalidValueError),
        (np.zeros((5, 1), np.int32), np.zeros(5, np.uint8), InvalidValueError),
        (np.zeros(5, np.int64), np.zeros(5, np.uint8), InvalidTypeError),
        (np.zeros(5, np.float32), np.zeros(5, np.uint8), InvalidTypeError),
        ([0] * 5, np.zeros(5, np.uint8), InvalidTypeError),
        (np.zeros(5, np.int32), np.zeros(6, np.uint8), InvalidValueError),
        (np.zeros(5, np.int32), np.full(5, 2, np.uint8), InvalidValueError),
        (np.zeros(5, np.int32), np.zeros(5, np.int32), InvalidTypeError),
        (np.zeros(5, np.int32), None, InvalidTypeError),
        (np.zeros(5, ">i4"), np.zeros(5, np.uint8), InvalidTypeError),
    ],
)
def test_bad_thresholds(limits, flip, error):
    program = at_product()
    with pytest.raises(error, match=r"stage 2 \(threshold\)"):
        program.threshold(limits, flip)
    program.threshold(*thresholds())


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"kernel": (3, 3)}, InvalidValueError),
        ({"padding": (2, 0)}, InvalidValueError),
        ({"padding": (0, 2)}, InvalidValueError),
        ({"stride": (0, 1)}, InvalidValueError),
        ({"flip": np.zeros(4, bool)}, InvalidValueError),
        ({"flip": [False] * 5}, InvalidTypeError),
        ({"flip": np.zeros(5, np.float32)}, InvalidTypeError),
    ],
)
def test_bad_pools(given, error):
    program = at_bits()
    with pytest.raises(error, match=r"stage 3 \(max_pool\)"):
        program.max_pool(**{"kernel": (2, 2), "stride": (1, 1), **given})


@pytest.mark.parametrize(
    ("multiplier", "offset", "shift", "error"),
    [
        (np.ones(4, np.int64), np.zeros(5, np.int64), 0, InvalidValueError),
        (np.ones(5, np.int64), np.zeros(6, np.int64), 0, InvalidValueError),
        (np.ones(5, np.int32), np.zeros(5, np.int64), 0, InvalidTypeError),
        (np.ones(5, np.int64), np.zeros(5, np.float64), 0, InvalidTypeError),
        (np.full(5, 2**53 // (27 * 128) + 1), np.zeros(5, np.int64), 0, InvalidValueError),
        (np.ones(5, np.int64), np.full(5, -(2**53)), 0, InvalidValueError),
        (np.full(5, -(2**63)), np.full(5, -(2**63)), 0, InvalidValueError),
        (np.ones(5, np.int64), np.zeros(5, np.int64), 1000, InvalidValueError),
        (np.ones(5, np.int64), np.zeros(5, np.int64), 0.5, InvalidTypeError),
    ],
)
def test_bad_outputs(multiplier, offset, shift, error):
    program = at_product()
    with pytest.raises(error, match=r"stage 2 \(output\)"):
        program.output(multiplier, offset, shift)
    program.output(np.ones(5, np.int64), np.zeros(5, np.int64), 0)


def test_largest_output_is_exact():
    program = Program()
    program.input_binary(shape=(1, 1, 1))
    program.product(np.ones((2, 1), np.uint8), channels=2)
    program.output(np.array([2**53 - 2, 1]), np.array([1, 2**53 - 2]), 960)
    expected = np.float32([[float(2**53 - 1) * 2.0**-960] * 2])
    np.testing.assert_array_equal(program.run(np.ones((1, 1), np.float32)), expected)


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.zeros((1, 47), np.float32), InvalidValueError),
        (np.zeros(48, np.float32), InvalidValueError),
        (np.zeros((1, 3, 4, 5), np.float32), InvalidValueError),
        (np.zeros((1, 48), np.float64), InvalidTypeError),
        (np.zeros((1, 48), np.uint8), InvalidTypeError),
        (np.zeros((1, 48), np.int64), InvalidTypeError),
        (np.zeros((1, 48), ">f4"), InvalidTypeError),
        ([[0.0] * 48], InvalidTypeError),
        (None, InvalidTypeError),
    ],
)
def test_bad_samples(x, error):
    with pytest.raises(error):
        whole().run(x)


@pytest.mark.parametrize("threads", [0, -1, 2.0, True, "2", 10**9])
def test_bad_threads(threads):
    with pytest.raises(BitwrightError, match="threads"):
        whole().run(np.zeros((1, 48), np.float32), threads=threads)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("binary", [False, True])
def test_nan_is_named(isa, threads, binary):
    program = Program(isa)
    if binary:
        program.input_binary(shape=(3, 4, 4))
    else:
        program.input(shape=(3, 4, 4), scale=0.5, low=-128, high=127)
    program.product(weight(), channels=5, kernel=(3, 3))
    program.output(np.ones(5, np.int64), np.zeros(5, np.int64), 0)
    x = np.zeros((9, 48), np.float32)
    expected = program.run(x, threads=threads)
    for image, element in [(0, 0), (4, 17), (8, 47), (5, 31)]:
        bad = x.copy()
        bad[image, element] = np.nan
        bad[8, 47] = np.nan
        with pytest.raises(InvalidValueError, match=f"image {image}, element {element}$"):
            program.run(bad, threads=threads)
        with pytest.raises(InvalidValueError, match=f"image {image}, element {element}$"):
            program.trace(bad, threads=threads)
    np.testing.assert_array_equal(program.run(x, threads=threads), expected)


def test_codes_outside_the_format():
    program = whole(low=-7, high=6)
    codes = np.zeros((3, 48), np.int8)
    codes[1, 9] = 7
    with pytest.raises(InvalidValueError, match=r"code from -7 to 6; got 7; at image 1, element 9"):
        program.run(codes)
    binary = Program()
    binary.input_binary(shape=(12, 1, 1))
    binary.product(weight(2, 12), channels=2)
    binary.output(np.ones(2, np.int64), np.zeros(2, np.int64), 0)
    with pytest.raises(InvalidValueError, match=r"-1 or 1; got 0; at image 0, element 0"):
        binary.run(np.zeros((1, 12), np.int8))


def test_the_callers_arrays_are_copied():
    program = started()
    bits = weight()
    limits, flip = thresholds()
    program.product(bits, channels=5, kernel=(3, 3))
    expected = bits.copy()
    bits[:] = 0
    program.threshold(limits, flip)
    program.product(pack(signs(np.random.default_rng(1), (1, 20))), channels=1, kernel=(2, 2))
    program.output(np.ones(1, np.int64), np.zeros(1, np.int64), 0)
    again = started()
    again.product(expected, channels=5, kernel=(3, 3))
    again.threshold(*thresholds())
    again.product(pack(signs(np.random.default_rng(1), (1, 20))), channels=1, kernel=(2, 2))
    again.output(np.ones(1, np.int64), np.zeros(1, np.int64), 0)
    x = RNG.standard_normal((4, 48)).astype(np.float32)
    np.testing.assert_array_equal(program.run(x), again.run(x))
