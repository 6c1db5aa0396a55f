"""What a network refuses: batches that do not fit, operations that do not fit together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from integer_networks import binary_network, codes, ints

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Block, Float, Int, Log, Rounding, Ternary, UInt
from bitwright.integer import (
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Codes,
    Concat,
    Conv,
    ConvTranspose,
    Embedding,
    Engine,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Reshape,
    Table,
    Threshold,
    Transpose,
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
    """Only sizes are left: images beyond 2^31 bytes, copies of more than 2^26 numbers."""
    first = Input("i", "", (1, 1 << 14, 1 << 14), Int(8), 1.0)
    many = Linear("many", "i", codes(Int(4), (2, 1), 0))
    moved = Transpose("moved", "i", (1, 2, 0))
    for last, what in ((many, "2^31 bytes"), (moved, "2^26 numbers; got 268435456")):
        channels = last.infer(first.infer()).shape[0]
        network = Network(
            [first, last, Output("o", last.name, ints(*[1] * channels), ints(*[0] * channels), 0)]
        )
        with pytest.raises(UnsupportedError) as caught:
            Engine(network.operations, network.types, None)
        message = str(caught.value)
        assert what in message
        assert f"at operation {last.name!r}" in message
        assert "interpreter" in message
        assert network.backend() == "interpreter"


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
        ([FLAT, FIRST, END, Argmax("best", "l")], "begins with its one input"),
        ([FLAT, FIRST, END, Argmax("best", "o"), Argmax("more", "best")], "begins with its one input"),
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


W = codes(Int(4), (4, 2, 3, 3), 0)
LONG = Input("i", "", (4, 9), UInt(8), 1.0)


def affine(**changes):
    fields = {
        "multiplier": ints(1, 1),
        "offset": ints(0, 0),
        "shift": 1,
        "format": Int(8),
        "rounding": Rounding.FLOOR,
    }
    return Affine("t", "i", **(fields | changes))


def up(**changes):
    fields = {"stride": (2, 2), "padding": (0, 0), "dilation": (), "groups": 1, "output_padding": ()}
    return ConvTranspose("t", "i", W, **(fields | changes))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Conv("t", "i", W, [1, 1], (0, 0)), "stride is a tuple of ints; got list"),
        (Conv("t", "i", W, (1, True), (0, 0)), "stride is a tuple of ints"),
        (Conv("t", "i", W, (1, 1.0), (0, 0)), "stride is a tuple of ints"),
        (Conv("t", "i", W, (np.int64(1), 1), (0, 0)), "stride is a tuple of ints"),
        (Conv("t", "i", W.array, (1, 1), (0, 0)), "weight is stored codes"),
        (Conv("t", "i", W, (1, 1), (0, 0), groups=1.0), "groups is an int"),
        (Conv("t", 3, W, (1, 1), (0, 0)), "input is a str"),
        (affine(multiplier=[1, 1]), "multiplier is a NumPy array"),
        (affine(shift="1"), "shift is an int"),
        (affine(format="int8"), "format is a format"),
        (affine(rounding="floor"), "rounding is a Rounding"),
        (affine(zero_point=None), "zero_point is an int"),
        (Add("t", ["i", "i"], ints(1, 1)[:, None], ints(0), 0, Int(8), Rounding.FLOOR), "tuple of names"),
        (Add("t", "ii", ints(1, 1)[:, None], ints(0), 0, Int(8), Rounding.FLOOR), "tuple of names"),
        (Clip("t", "i", 0.0, 1), "low is an int"),
    ],
)
def test_fields_of_another_type_are_named(operation, message):
    with pytest.raises(InvalidTypeError, match=rf"{message}.*at operation 't' \({operation.kind}\)"):
        Network([INPUT, operation, Output("o", "t", ints(1, 1), ints(0, 0), 0)])


def test_what_is_no_operation_is_refused():
    class Mine(Linear):
        kind = "mine"

    for thing in (None, "conv", Mine("l", "i", FIRST.weight)):
        with pytest.raises(InvalidTypeError, match="an operation is one of input, linear"):
            Network([FLAT, thing, END])


@pytest.mark.parametrize(
    ("first", "operation", "message"),
    [
        (INPUT, Conv("t", "i", W, (1, 1), (0, 0, 0)), "has 2 or 4 numbers"),
        (INPUT, Conv("t", "i", W, (1,), (0, 0)), "a stride over 2 axes has 2 numbers"),
        (INPUT, Conv("t", "i", W, (1, 1), (0, 0, 0, -1)), "paddings not negative"),
        (INPUT, Conv("t", "i", W, (1, 1), (0, 0), (0, 1)), "dilation"),
        (INPUT, Conv("t", "i", W, (1, 1), (0, 0), (2, 1)), "fits into its padded"),
        (INPUT, Conv("t", "i", W, (1, 1), (0, 0), (), 3), "weight's channels"),
        (INPUT, Conv("t", "i", W, (1, 1), (0, 0), (), 0), "weight's channels"),
        (LONG, Conv("t", "i", W, (1, 1), (0, 0)), "weight's channels"),
        (LONG, Conv("t", "i", codes(Int(4), (3, 2, 3), 0), (1,), (0,), (), 2), "groups divide"),
        (INPUT, up(output_padding=(2, 0)), "below stride or dilation"),
        (INPUT, up(output_padding=(1,)), "output padding has 2 numbers"),
        (INPUT, up(padding=(9, 9)), "leaves something"),
        (INPUT, up(stride=(0, 1)), "strides are positive"),
        (INPUT, up(stride=(60000, 60000)), r"2\^31 elements"),
        (INPUT, affine(multiplier=np.ones((2, 2), np.int64)[:, 0]), "contiguous in C order"),
        (INPUT, affine(multiplier=ints(1, 1).astype(">i8")), "multiplier is int64"),
        (INPUT, affine(offset=ints(0, 2**53)), r"below 2\^53"),
        (INPUT, affine(zero_point=128), "a zero point is a code of int8; got 128"),
        (INPUT, affine(zero_point=-(10**30)), "a zero point is a code"),
        (INPUT, affine(format=Ternary(), zero_point=1), "only int and uint"),
        (INPUT, affine(format=Log(4)), "makes uniform codes"),
        (INPUT, Add("t", (), ints(), ints(), 0, Int(8), Rounding.FLOOR), "at least one tensor"),
        (INPUT, Add("t", ("i", "x"), ints(), ints(), 0, Int(8), Rounding.FLOOR), "earlier one; got x"),
        (INPUT, Add("t", ("i", "i"), ints(1, 1), ints(0, 0), 0, Int(8), Rounding.FLOOR), r"int64 \(2, 2\)"),
        (
            INPUT,
            Add("t", ("i", "i"), np.full((2, 2), 2**45), ints(0, 0), 0, Int(8), Rounding.FLOOR),
            r"below 2\^53",
        ),
        (INPUT, Concat("t", ()), "at least one tensor"),
        (INPUT, AvgPool("t", "i", (5, 1), (1, 1), (0, 0)), "fits into its padded"),
        (INPUT, AvgPool("t", "i", (2, 2), (1, 1), (0, 0, 2, 0)), "half the kernel"),
        (LONG, AvgPool("t", "i", (2, 2), (1, 1), (0, 0)), "has 1 numbers"),
        (INPUT, Transpose("t", "i", (0, 1)), "axes order"),
        (INPUT, Transpose("t", "i", (0, 1, 1)), "axes order"),
        (INPUT, Embedding("t", "i", codes(Int(4), (256, 2), 0)), "tokens lie between 0 and 255"),
        (LONG, Embedding("t", "i", codes(Int(4), (255, 2), 0)), "put a clip in front"),
        (LONG, Embedding("t", "i", codes(Int(4), (256, 2, 1), 0)), "rows of codes"),
        (LONG, Embedding("t", "i", codes(Log(4), (256, 2), 0), 1), "activations are uniform"),
        (INPUT, Table("t", "i", -128, np.zeros((1, 255), np.int64), Int(4)), "an entry for every level"),
        (INPUT, Table("t", "i", -127, np.zeros((1, 256), np.int64), Int(4)), "an entry for every level"),
        (INPUT, Table("t", "i", -128, np.zeros((1, 257), np.int64), Int(4)), "n from 1 to 256"),
        (INPUT, Table("t", "i", -128, np.zeros((3, 256), np.int64), Int(4)), r"\(2, n\)"),
        (INPUT, Table("t", "i", -128, np.full((1, 256), 8), Int(4)), "entries are codes of int4; got 8"),
        (INPUT, Table("t", "i", -128, np.zeros((1, 256), np.int64), Binary()), "entries are codes of binary"),
        (Input("i", "", (3,), Float(4, 3), 1.0), FIRST, "activations are uniform"),
        (Input("i", "", (3,), Log(4), 1.0), FIRST, "activations are uniform"),
        (Input("i", "", (3,), Int(8), 10**400), FIRST, "a scale is positive"),
        (Input("i", "", (3,), Int(8), math.inf), FIRST, "a scale is positive"),
        (Input("i", "", (3,), Int(8), 1.0, -129), FIRST, "a zero point is a code"),
        (Input("i", "", (1,) * 9, Int(8), 1.0), FIRST, "1 to 8 positive sizes"),
        (Input("i", "x", (3,), Int(8), 1.0), FIRST, "takes no tensor"),
        (Input("", "", (3,), Int(8), 1.0), FIRST, "operations have names"),
    ],
)
def test_new_operations_that_do_not_fit_say_why(first, operation, message):
    where = r"at operation '[it]?' \(\w+\)"
    with pytest.raises(InvalidValueError, match=rf"{message}.*{where}"):
        Network([first, operation, Output("o", operation.name, ints(1, 1), ints(0, 0), 0)])


def test_concat_takes_one_format():
    end = Output("o", "c", ints(1, 1, 1, 1), ints(0, 0, 0, 0), 0)
    a = Affine("a", "i", ints(1, 1), ints(0, 0), 0, Int(8), Rounding.FLOOR, 3)
    message = r"one format, zero point.*int8 \(2, 4, 4\) \(zero 3\).*'c' \(concat\)"
    with pytest.raises(InvalidValueError, match=message):
        Network([INPUT, a, Concat("c", ("i", "a")), end])
    with pytest.raises(InvalidValueError, match="one format"):
        Network([INPUT, Reshape("a", "i", (2, 16)), Concat("c", ("i", "a")), end])


def test_the_engine_runs_branches_and_windows():
    small, dense = codes(Binary(), (2, 2, 3, 3), 0), codes(Binary(), (2, 2), 0)
    sums = Add("c", ("i", "i"), np.ones((2, 2), np.int64), ints(0, 0), 0, Int(8), Rounding.FLOOR)
    shifted, line = Input("i", "", (2, 4, 4), Int(8), 1.0, 1), Input("i", "", (2, 4), Int(8), 1.0)
    for first, operation in (
        (INPUT, sums),
        (INPUT, Conv("c", "i", small, (1, 1), (0, 1, 0, 0))),
        (INPUT, Conv("c", "i", small, (1, 1), (2, 2), (2, 2))),
        (shifted, Conv("c", "i", small, (1, 1), (0, 0))),
        (line, Linear("c", "i", dense)),
        (INPUT, Clip("c", "i", -128, 127)),
    ):
        network = Network([first, operation, Output("o", "c", ints(1, 1), ints(0, 0), 0)])
        x = np.random.default_rng(0).normal(0, 60, (3, *first.shape)).astype(np.float32)
        np.testing.assert_array_equal(network(x, backend="engine"), network(x, backend="interpreter"))
