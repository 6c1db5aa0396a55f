"""What a network refuses: batches that do not fit, operations that do not fit together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from integer_networks import binary_network, codes, every_operation, ints

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Block, Float, Int, Log, Rounding, Ternary, UInt
from bitwright.integer import (
    Affine,
    Clip,
    Codes,
    Conv,
    Engine,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Reshape,
    Threshold,
    UnsupportedError,
)

NETWORK = binary_network()
GOOD = np.zeros((1, 2, 4, 4), np.float32)


def with_value(value):
    x = GOOD.copy()
    x[0, 1, 2, 3] = value
    return x


@pytest.mark.parametrize("backend", ["engine", "interpreter"])
@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (with_value(math.nan), InvalidValueError, r"NaN; at index \(0, 1, 2, 3\) of the batch"),
        (GOOD[0], InvalidValueError, r"shape \(N, 2, 4, 4\); got \(2, 4, 4\).*add the batch axis"),
        (GOOD[:, :, :3], InvalidValueError, r"got \(1, 2, 3, 4\)"),
        (np.float32(1.0), InvalidValueError, r"got \(\)"),
        (GOOD.astype(np.float64), InvalidTypeError, "got float64.*astype"),
        (GOOD.astype(np.int64), InvalidTypeError, "float32, or int8 codes of int8; got int64"),
        (GOOD.astype(bool), InvalidTypeError, "got bool"),
        (GOOD.astype(object), InvalidTypeError, "got object"),
        ([[1.0, 2.0], [3.0]], InvalidTypeError, "a batch is an array"),
        (torch.zeros(1, 2, 4, 4, requires_grad=True), InvalidTypeError, "a batch is an array"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16), InvalidTypeError, "a batch is an array"),
        ("image.png", InvalidValueError, r"got \(\)"),
        (None, InvalidValueError, r"got \(\)"),
    ],
)
def test_bad_batches_are_one_clear_error(backend, batch, error, message):
    with pytest.raises(error, match=message):
        NETWORK(batch, backend=backend)
    with pytest.raises(error, match=message):
        NETWORK.trace(batch, backend=backend)


def test_codes_out_of_range_are_named():
    weight = codes(Binary(), (2, 3), 0)
    tail = [Linear("l", "i", weight), Output("o", "l", ints(1, 1), ints(0, 0), 0)]
    for form, bad in ((Int(4), 8), (Binary(), 0), (Ternary(), 2), (Int(4), -9)):
        network = Network([Input("i", "", (3,), form, 1.0), *tail])
        with pytest.raises(InvalidValueError, match=rf"got {bad}; at index \(1, 2\)"):
            network(np.array([[1, 1, 1], [1, 1, bad]], np.int8))


def test_infinities_saturate():
    assert np.array_equal(NETWORK(with_value(math.inf)), NETWORK(with_value(1e9)))
    assert np.array_equal(NETWORK(with_value(-math.inf)), NETWORK(with_value(-1e9)))


def test_unknown_backends_isas_and_threads():
    with pytest.raises(InvalidValueError, match="unknown backend 'enigne': the valid ones are engine"):
        NETWORK(GOOD, backend="enigne")
    with pytest.raises(InvalidValueError, match="instruction set"):
        NETWORK(GOOD, isa="mmx")
    with pytest.raises(InvalidValueError, match="threads is at least 1"):
        NETWORK(GOOD, threads=0)
    with pytest.raises(InvalidValueError, match=r"unknown operation 'cnov'.*conv"):
        NETWORK.operation("cnov")


def test_the_engine_names_what_it_cannot_run():
    network = every_operation()
    with pytest.raises(UnsupportedError, match=r"weights in ternary; at operation 'conv'.*interpreter"):
        network(np.zeros((1, 2, 5, 4), np.float32), backend="engine")
    with pytest.raises(UnsupportedError):
        Engine(network.operations, network.types, None)


INPUT = Input("i", "", (2, 4, 4), Int(8), 1.0)
FLAT = Input("i", "", (3,), Int(8), 1.0)
ONE = ints(1)
CONV = Conv("c", "i", codes(Binary(), (1, 2, 3, 3), 0), (1, 1), (0, 0))
FIRST = Linear("l", "i", codes(Int(4), (2, 3), 0))
END = Output("o", "l", ints(1, 1), ints(0, 0), 0)


def bad_threshold(thresholds, direction=(1,), form=None):
    return Threshold(
        "t", "c", np.array(thresholds, np.int64), np.array(direction, np.int8), form or Ternary()
    )


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ([], "begins with its one input"),
        ([INPUT], "begins with its one input"),
        ([FLAT, END, END], "begins with its one input"),
        ([FLAT, FIRST], "begins with its one input"),
        ([FLAT, FIRST, FIRST, END], "names are unique; got l"),
        ([FLAT, Linear("l", "later", FIRST.weight), END], "earlier one; got later"),
        ([FLAT, Linear("l", "l", FIRST.weight), END], "earlier one; got l"),
        ([FLAT, Linear("l", "i", codes(Int(4), (2, 4), 0)), END], "its weight's width"),
        ([INPUT, Linear("l", "i", codes(Int(4), (2, 4), 0)), END], "its weight's width"),
        ([FLAT, Conv("l", "i", CONV.weight, (1, 1), (0, 0)), END], "its weight's channels"),
        (
            [INPUT, Conv("l", "i", codes(Binary(), (1, 3, 3, 3), 0), (1, 1), (0, 0)), END],
            "its weight's channels",
        ),
        ([INPUT, Conv("l", "i", CONV.weight, (0, 1), (0, 0)), END], "strides are positive"),
        ([INPUT, Conv("l", "i", CONV.weight, (1, 1), (-1, 0)), END], "paddings not negative"),
        (
            [INPUT, Conv("l", "i", codes(Binary(), (1, 2, 5, 5), 0), (1, 1), (0, 0)), END],
            "fits into its padded",
        ),
        ([INPUT, Conv("l", "i", CONV.weight, (1, 1), (60000, 60000)), END], r"2\^31 elements"),
        ([INPUT, MaxPool("l", "i", (2, 2), (1, 1), (2, 0)), END], "half the kernel"),
        ([INPUT, MaxPool("l", "i", (0, 2), (1, 1), (0, 0)), END], "kernels and strides are positive"),
        ([FLAT, MaxPool("l", "i", (1, 1), (1, 1), (0, 0)), END], r"takes \(C, H, W\)"),
        ([FLAT, Reshape("l", "i", (4,)), END], "keeps every element"),
        ([FLAT, Reshape("l", "i", (-3, -1)), END], "keeps every element"),
        ([FLAT, Clip("l", "i", 3, 2), END], "low is at most high"),
        ([FLAT, Clip("l", "i", -(10**30), 10**30), END], r"2\^53"),
        ([FLAT, FIRST, Output("o", "l", ints(1), ints(0), 0)], "multiplier is int64"),
        ([FLAT, FIRST, Output("o", "l", ints(1, 1), np.zeros(2), 0)], "offset is int64"),
        ([FLAT, FIRST, Output("o", "l", ints(1, 1), ints(0, 0), 63)], "shift lies between 0 and 62"),
        ([FLAT, FIRST, Output("o", "l", ints(1, 1), ints(0, 0), -1)], "shift lies between 0 and 62"),
        ([FLAT, FIRST, Output("o", "l", ints(2**50, 1), ints(0, 0), 3)], r"below 2\^53"),
        ([FLAT, FIRST, Output("o", "l", ints(-(2**63), 1), ints(0, 0), 3)], r"below 2\^53"),
        ([INPUT, CONV, bad_threshold([[1, 0]]), END], "ascend"),
        ([INPUT, CONV, bad_threshold([[2**62, -(2**62)]]), END], "ascend"),
        ([INPUT, CONV, bad_threshold([[2**63 - 1, -(2**63)]]), END], "ascend"),
        ([INPUT, CONV, bad_threshold([[0]]), END], "thresholds is int64"),
        ([INPUT, CONV, bad_threshold([[0, 1]], direction=[0]), END], r"\+1 and -1"),
        ([INPUT, CONV, bad_threshold([[0, 1]], direction=[-128]), END], r"\+1 and -1"),
        ([INPUT, CONV, bad_threshold([[0, 1]], form=UInt(32)), END], "thresholds is int64"),
        ([INPUT, CONV, Affine("t", "c", ONE, ONE, 1, Binary(), Rounding.FLOOR), END], "uniform codes"),
        ([INPUT, CONV, Affine("t", "c", ONE, ONE, 1, Int(8), Rounding.STOCHASTIC), END], "no random numbers"),
        ([Input("i", "", (), Int(8), 1.0), FIRST, END], "positive sizes"),
        ([Input("i", "", (0,), Int(8), 1.0), FIRST, END], "positive sizes"),
        ([Input("i", "", (2**40,), Int(8), 1.0), FIRST, END], r"2\^31 elements"),
        ([Input("i", "", (3,), Int(8), 0.0), FIRST, END], "a scale is positive"),
        ([Input("i", "", (3,), Int(8), math.nan), FIRST, END], "a scale is positive"),
    ],
)
def test_networks_that_do_not_fit_together_say_why(operations, message):
    with pytest.raises(InvalidValueError, match=message):
        Network(operations)


def test_accumulators_stay_below_2_53():
    heavy = Codes.pack(Int(32), np.full((1, 5000), -(2**31)))
    with pytest.raises(
        InvalidValueError, match=r"accumulator stays below 2\^53.*'l' \(linear\)|'l' \(linear\)"
    ):
        Network(
            [Input("i", "", (5000,), Int(32), 1.0), Linear("l", "i", heavy), Output("o", "l", ONE, ONE, 0)]
        )


def test_stored_codes_are_checked():
    with pytest.raises(InvalidValueError, match=r"got 0; at index \(0, 1\)"):
        Codes.pack(Binary(), np.array([[1, 0]]))
    with pytest.raises(InvalidValueError, match="padding bits are zero"):
        Codes(Binary(), (1, 3), np.array([[0b1101]], np.uint8))
    with pytest.raises(InvalidValueError, match="stored as"):
        Codes(Binary(), (1, 9), np.array([[1]], np.uint8))
    with pytest.raises(InvalidValueError, match="got 9"):
        Codes.pack(Int(4), np.array([[9]], np.int8))
    with pytest.raises(InvalidValueError, match=r"stored as contiguous uint8 \(1, 1\)"):
        Codes(Int(4), (1, 1), np.array([[1]], np.int8))
    with pytest.raises(InvalidValueError, match="stored as contiguous int8"):
        Codes(Int(8), (1, 1), np.array([[1]], np.int16))
    with pytest.raises(InvalidValueError, match=r"ternary.*got -2; at index \(0, 1, 2\)"):
        Codes(Ternary(), (1, 2, 3), np.array([[0, 0b1000]], np.uint8))
    with pytest.raises(InvalidValueError, match=r"log3.*got 4; at index \(0, 1\)"):
        Codes(Log(3), (1, 2), np.array([[0b100000]], np.uint8))
    for form in (Float(4, 3), Block(Int(8), 32), Log(7), Log(6, root=True)):
        with pytest.raises(InvalidValueError, match="stored codes are uniform"):
            Codes.pack(form, np.array([[0]]))
    with pytest.raises(InvalidTypeError, match="integer array"):
        Codes.pack(Int(4), np.array([[1.0]]))
    with pytest.raises(InvalidValueError, match="positive sizes"):
        Codes.pack(Int(4), np.zeros((2, 0), int))
