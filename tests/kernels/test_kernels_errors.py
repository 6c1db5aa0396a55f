"""Bad arguments, orders and inputs of a graph give the library's errors; nothing crashes."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.errors import BitwrightError, InvalidTypeError, InvalidValueError
from bitwright.kernels import Graph, available_isas
from bitwright.kernels.tensors import Bits, Codes, Levels, Sums, Window

ONES, ZEROS = np.ones(5, np.int64), np.zeros(5, np.int64)
WEIGHT = np.ones((5, 3, 3, 3), np.int8)
LIMITS = np.zeros(5, np.int32)
CODES = Codes(ONES, ZEROS, 0, "floor", -128, 127)


def started(isa=None, **given):
    graph = Graph(isa)
    arguments = {"scale": 1.0, "low": -128, "high": 127, **given}
    return graph, graph.input(arguments.pop("shape", (3, 4, 4)), **arguments)


def whole(isa=None, **given):
    graph, x = started(isa, **given)
    graph.output(graph.product(x, WEIGHT, Sums()), ONES, ZEROS, 0)
    return graph


@pytest.mark.parametrize(
    "given",
    [
        {"shape": (0, 4, 4)}, {"shape": (3, -4, 4)}, {"shape": (2**20, 2**20, 2**20)},
        {"shape": (2**62, 2**62, 2**62)}, {"shape": (2**31, 1, 1)}, {"scale": 0.0}, {"scale": -1.0},
        {"scale": float("nan")}, {"scale": 1e-60}, {"low": -(2**31) - 1}, {"low": -1, "high": 2**31},
        {"low": 0, "high": 2**32}, {"low": 5, "high": 4}, {"low": 0, "high": 2**62},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_bad_inputs(given):
    with pytest.raises(InvalidValueError):
        started(**given)


@pytest.mark.parametrize(
    ("weight", "window", "groups", "epilogue"),
    [
        (np.ones((5, 2, 3, 3), np.int8), Window(), 1, Sums()),
        (np.ones((5, 3, 5, 3), np.int8), Window(), 1, Sums()),
        (np.ones((5, 3, 3), np.int8), Window(), 1, Sums()),
        (np.ones((5, 3, 3, 3), np.int16), Window(), 1, Sums()),
        (WEIGHT, Window(stride=(0, 1)), 1, Sums()),
        (WEIGHT, Window(dilation=(2, 0)), 1, Sums()),
        (WEIGHT, Window(dilation=(1, 2)), 1, Sums()),
        (WEIGHT, Window(pads=((-1, 0), (0, 0))), 1, Sums()),
        (WEIGHT, Window(pads=((2**40, 0), (0, 0))), 1, Sums()),
        (WEIGHT, Window(pads=((2**16, 2**16), (2**16, 2**16))), 1, Sums()),
        (WEIGHT, Window(), 3, Sums()),
        (np.ones((6, 1, 3, 3), np.int8), Window(), 2, Sums()),
        (WEIGHT, Window(), 1, Bits(LIMITS[:4], np.zeros(5, bool))),
        (WEIGHT, Window(), 1, Bits(LIMITS, np.zeros(4, bool))),
        (WEIGHT, Window(), 1, Levels(np.zeros((2, 4), np.int32), LIMITS, LIMITS, 0, 3)),
        (WEIGHT, Window(), 1, Levels(np.zeros((2, 5), np.int32), LIMITS, LIMITS[:4], 0, 3)),
        (WEIGHT, Window(), 1, Codes(ONES[:4], ZEROS, 0, "floor", 0, 3)),
        (WEIGHT, Window(), 1, Codes(ONES, ZEROS[:4], 0, "floor", 0, 3)),
        (WEIGHT, Window(), 1, Codes(ONES, ZEROS, 63, "floor", 0, 3)),
        (WEIGHT, Window(), 1, Codes(ONES, ZEROS, -1, "floor", 0, 3)),
        (WEIGHT, Window(), 1, Codes(ONES, ZEROS, 0, "floor", 0, 256)),
        (WEIGHT, Window(), 1, Codes(ONES, ZEROS, 0, "floor", 4, 3)),
        (WEIGHT, Window(), 1, Codes(ONES, ZEROS, 0, "up", 0, 3)),
        (WEIGHT, Window(), 1, Codes(ONES.tolist(), ZEROS, 0, "floor", 0, 3)),
    ],
)
def test_bad_products(weight, window, groups, epilogue):
    graph, x = started()
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        graph.product(x, weight, epilogue, window, groups)


def test_what_stages_cannot_read():
    graph, x = started()
    sums = graph.product(x, WEIGHT, Sums())
    codes = graph.product(x, WEIGHT, CODES)
    bits = graph.product(x, WEIGHT, Bits(LIMITS, np.zeros(5, bool)))
    small = np.ones((2, 5, 1, 1), np.int8)
    for attempt in (
        lambda: graph.product(sums, small, Sums()),
        lambda: graph.product(bits, np.ones((5, 1, 1, 1), np.int8), Sums(), groups=5),
        lambda: graph.sum_pool(sums, Window((2, 2))),
        lambda: graph.sum_pool(bits, Window((2, 2))),
        lambda: graph.max_pool(codes, Window((2, 2), pads=((2, 0), (0, 0)))),
        lambda: graph.max_pool(codes, Window((3, 3))),
        lambda: graph.max_pool(codes, Window((2, 2)), np.ones(5, bool)),
        lambda: graph.max_pool(bits, Window((2, 2)), np.ones(4, bool)),
        lambda: graph.combine([bits], CODES),
        lambda: graph.combine([codes, x], CODES, np.ones((2, 5), np.int64)),
        lambda: graph.combine([codes, sums], CODES),
        lambda: graph.combine([codes, sums], CODES, np.ones((2, 4), np.int64)),
        lambda: graph.combine([codes, sums], Bits(LIMITS, np.zeros(5, bool)), np.ones((2, 5), np.int64)),
        lambda: graph.split(bits, 3),
        lambda: graph.concat([codes, x], -128, 127),
        lambda: graph.output(sums, ONES[:4], ZEROS[:4], 0),
        lambda: graph.output(sums, ONES, ZEROS[:4], 0),
    ):
        with pytest.raises(BitwrightError):
            attempt()
    with pytest.raises(InvalidValueError, match="runs once it has"):
        Graph().run(np.zeros((1, 3, 4, 4), np.float32))


def test_a_finished_graph_stays_as_it_is():
    graph = whole()
    with pytest.raises(InvalidValueError, match="finished"):
        graph.input((3, 4, 4), scale=1.0, low=0, high=1)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((1, 3, 4, 5), np.float32), np.zeros((3, 4, 4), np.float32), np.zeros((1, 3, 4, 4)),
        np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 3, 4, 4), ">f4"), [[0.0] * 48], None,
    ],
)  # fmt: skip
def test_bad_samples(x):
    with pytest.raises(InvalidTypeError):
        whole().run(x)


@pytest.mark.parametrize("threads", [0, -1, 2.0, True, "2", 10**9])
def test_bad_threads(threads):
    with pytest.raises(InvalidValueError, match="threads"):
        whole().run(np.zeros((1, 3, 4, 4), np.float32), threads=threads)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("binary", [False, True])
def test_nan_is_named(isa, threads, binary):
    graph = Graph(isa)
    x = graph.input_binary((3, 4, 4)) if binary else graph.input((3, 4, 4), scale=0.5, low=-8, high=7)
    graph.output(graph.product(x, WEIGHT, Sums()), ONES, ZEROS, 0)
    batch = np.zeros((9, 48), np.float32)
    expected, _ = graph.run(batch.reshape(-1, 3, 4, 4), threads)
    for image, element in [(0, 0), (4, 17), (8, 47), (5, 31)]:
        bad = batch.copy()
        bad[image, element] = bad[8, 47] = np.nan
        with pytest.raises(InvalidValueError, match=f"image {image}, element {element}$"):
            graph.run(bad.reshape(-1, 3, 4, 4), threads)
    one = np.full((1, 3, 4, 4), np.nan, np.float32)
    with pytest.raises(InvalidValueError, match=r"image 0, element 0$"):
        graph.run(one, threads)
    np.testing.assert_array_equal(graph.run(batch.reshape(-1, 3, 4, 4), threads)[0], expected)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("kind", ["bits", "bytes", "wide"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (15, 1, 1), (131, 1, 1), (1, 9, 15), (3, 7, 9)])
def test_a_nan_at_any_place_is_named(isa, kind, shape):
    """Vectors and their tails, dense and spread pixels: nobody but the engine looks for NaN in its input."""
    graph = Graph(isa)
    high = {"bytes": 7, "wide": 2047}.get(kind)
    x = graph.input(shape, scale=0.5, low=-high - 1, high=high) if high else graph.input_binary(shape)
    graph.output_levels(x)
    batch = np.zeros((3, *shape), np.float32)
    elements = batch[0].size
    for place in range(batch.size):
        batch.ravel()[place] = np.nan
        image, element = divmod(place, elements)
        for threads in (1, 2):
            with pytest.raises(InvalidValueError, match=f"image {image}, element {element}$"):
                graph.run(batch, threads)
        batch.ravel()[place] = 0


def test_codes_outside_the_format():
    graph = whole(low=-7, high=6)
    codes = np.zeros((3, 3, 4, 4), np.int8)
    codes[1, 0, 2, 1] = 7
    with pytest.raises(InvalidValueError, match=r"code from -7 to 6; got 7; at image 1, element 9"):
        graph.run(codes)
    codes[1, 0, 2, 1] = -128
    with pytest.raises(InvalidValueError, match=r"got -128; at image 1, element 9"):
        graph.run(codes)
    binary = Graph()
    x = binary.input_binary((12, 1, 1))
    binary.output(binary.product(x, np.ones((5, 12, 1, 1), np.int8), Sums()), ONES, ZEROS, 0)
    with pytest.raises(InvalidValueError, match=r"-1 or 1; got 0; at image 0, element 0"):
        binary.run(np.zeros((1, 12, 1, 1), np.int8))


def test_the_callers_arrays_are_copied():
    graph, x = started()
    weight, multiplier = WEIGHT.copy(), ONES.copy()
    y = graph.product(x, weight, Codes(multiplier, ZEROS, 0, "floor", -128, 127))
    weight[:] = 0
    multiplier[:] = 0
    graph.output(y, ONES, ZEROS, 0)
    batch = np.ones((1, 3, 4, 4), np.float32)
    assert graph.run(batch)[0].max() == 27
