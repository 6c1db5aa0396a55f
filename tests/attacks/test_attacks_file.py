"""Hostile model files: every flipped bit and every cut is refused, and no header does more than an error."""

from __future__ import annotations

import copy
import json
import resource
import struct
import time
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save as serialize

import bitwright as bw
from bitwright.errors import FileFormatError, InvalidTypeError
from bitwright.formats import Binary, Int, Log, Rounding, Ternary, UInt
from bitwright.integer import (
    Add,
    Affine,
    AvgPool,
    Clip,
    Codes,
    Concat,
    Conv,
    ConvTranspose,
    Embedding,
    Input,
    Linear,
    MaxPool,
    Network,
    Output,
    Reshape,
    Table,
    Threshold,
    Transpose,
    load,
)


def small_network():
    """Every kind of operation, with a scale that JSON writes with an exponent and padding bits to set."""
    generator = np.random.default_rng(0)

    def codes(form, *shape):
        return Codes.pack(form, generator.choice(np.array(form.codes()), shape))

    def ints(*values):
        return np.array(values, np.int64)

    even = Rounding.NEAREST_EVEN
    return Network(
        [
            Input("in", "", (1, 2, 2), Int(8), 2.0**-20, 3),
            Conv("c", "in", codes(Binary(), 1, 1, 1, 1), (1, 1), (0, 0)),
            Threshold("t", "c", ints(-1, 1)[None], np.array([-1], np.int8), Ternary()),
            MaxPool("p", "t", (1, 2), (1, 1), (0, 0)),
            AvgPool("v", "t", (1, 2), (1, 1), (0, 0)),
            Add("d", ("p", "v", "v"), ints(1, -2, 3)[:, None], ints(1), 1, UInt(2), even, 1),
            ConvTranspose("u", "d", codes(Log(3), 1, 1, 2, 1), (1, 1), (1, 0), (1, 1), 1, (0, 0)),
            Table("b", "u", -12, np.arange(25)[None] % 4, UInt(2)),
            Embedding("e", "b", codes(Int(3), 4, 1)),
            Reshape("s", "e", (1, 1, 1)),
            Concat("g", ("s", "s")),
            Transpose("x", "g", (1, 0, 2)),
            Reshape("r", "x", (2,)),
            Linear("l", "r", codes(Int(3), 1, 2)),
            Affine("a", "l", ints(3), ints(1), 1, Int(6), even),
            Clip("k", "a", 0, 9),
            Linear("m", "k", codes(Binary(), 2, 1)),
            Output("o", "m", ints(3, -1), ints(0, 1), 2),
        ],
        {"classes": ["é", "b"], "error": 1e-05},
    )


X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 1, 2, 2) * 2.0**-15


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.bw"
    small_network().save(path)
    return path.read_bytes()


def refused(path, **options):
    """The message; without the check some contents are looked at when the network first runs."""
    with pytest.raises(FileFormatError) as info:
        load(path, **options)(X)
    assert str(path) in str(info.value)
    return str(info.value)


def test_the_intact_file_loads(tmp_path, intact):
    path = tmp_path / "m.bw"
    path.write_bytes(intact)
    network = load(path)
    assert network.meta == small_network().meta
    assert np.array_equal(network(X), small_network()(X))
    network.save(path)
    assert path.read_bytes() == intact


def tiny_network():
    """One weight of odd width, one join: few enough bytes to try every bit."""
    one = np.ones(1, np.int64)
    return Network(
        [
            Input("i", "", (3,), Int(8), 1.0),
            Linear("l", "i", Codes.pack(Ternary(), np.array([[1, 0, -1]]))),
            Add("a", ("l", "l"), np.ones((2, 1), np.int64), one, 0, Int(4), Rounding.FLOOR),
            Output("o", "a", one, one, 0),
        ]
    )


def test_every_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "m.bw"
    tiny_network().save(path)
    intact = path.read_bytes()
    for place in range(len(intact)):
        for bit in range(8):
            with flipped(path, intact, place, bit):
                try:
                    load(path)
                except FileFormatError:
                    continue
            pytest.fail(f"bit {bit} of byte {place} of {len(intact)} was flipped, and nobody minded")
    assert path.read_bytes() == intact


def test_without_the_hash_a_flipped_bit_raises_nothing_else(tmp_path, intact):
    path = tmp_path / "m.bw"
    path.write_bytes(intact)
    accepted = 0
    for place in range(len(intact)):
        with flipped(path, intact, place, place % 8):
            try:
                network = load(path, check=False)
                network(np.zeros((1, *network.input.shape), np.float32))
                accepted += 1
            except FileFormatError:
                pass
    assert accepted  # a weight's bit, say: `verify` names those


@contextmanager
def flipped(path, intact, place, bit):
    """The file with one other bit; written in place, which is much faster than anew."""
    with path.open("r+b", buffering=0) as file:
        file.seek(place)
        file.write(bytes([intact[place] ^ 1 << bit]))
        yield
        file.seek(place)
        file.write(intact[place : place + 1])


def test_every_truncation_is_refused(tmp_path, intact):
    path = tmp_path / "m.bw"
    for length in [*range(0, len(intact), 5), *range(len(intact) - 300, len(intact))]:
        path.write_bytes(intact[:length])
        for check in (True, False):
            with pytest.raises(FileFormatError):
                load(path, check=check)
    path.write_bytes(intact + b"\0")
    refused(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        b"\xff" * 1000,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**27) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 50) + b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'[:50],
        b"PK\x03\x04" + b"\0" * 100,
    ],
    ids=range(11),
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, data):
    path = tmp_path / "m.bw"
    path.write_bytes(data)
    refused(path)
    refused(path, check=False)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "BOOL", "F64", "U64"])
def test_other_tensor_types_are_refused(tmp_path, dtype):
    size = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1, "F64": 8, "U64": 8}[dtype]
    header = {
        "__metadata__": {"bitwright": header_text()},
        "c.weight": {"dtype": dtype, "shape": [1, 1], "data_offsets": [0, size]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "m.bw"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * size)
    refused(path, check=False)


def parts():
    """Header and tensors of the small network, free to be edited."""
    from tempfile import TemporaryDirectory

    from safetensors import safe_open

    with TemporaryDirectory() as folder:
        path = f"{folder}/m.bw"
        small_network().save(path)
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["bitwright"])
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def header_text():
    return json.dumps(parts()[0])


def operation(header, name):
    return next(o for o in header["operations"] if o["name"] == name)


def edit(name, /, **fields):
    return lambda header, tensors: operation(header, name).update(fields)


def drop(name, field):
    return lambda header, tensors: operation(header, name).pop(field)


def tensor(name, array):
    return lambda header, tensors: tensors.__setitem__(name, array)


def top(**fields):
    return lambda header, tensors: header.update(fields)


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


HUGE = 10**30
ATTACKS = {
    "no operations": top(operations=[]),
    "operations no list": top(operations={}),
    "operation no object": top(operations=[1, 2]),
    "meta no object": top(meta=[]),
    "meta gone": lambda h, t: h.pop("meta"),
    "another format": top(format="other"),
    "version 4": top(version=4),
    "an argmax of the output in version 2": lambda h, t: (
        h.update(version=2),
        h["operations"].append({"op": "argmax", "name": "best", "input": "o"}),
    ),
    "version 1": top(version=1),
    "unknown field of the header": top(author="me"),
    "hash gone": lambda h, t: h.pop("sha256"),
    "version 0": top(version=0),
    "version text": top(version="1"),
    "version true": top(version=True),
    "version 1.0": top(version=1.0),
    "no version": lambda h, t: h.pop("version"),
    "unknown field": edit("c", bias=0),
    "unknown op": edit("c", op="deconv"),
    "op a number": edit("c", op=1),
    "op a list": edit("c", op=["conv"]),
    "op gone": drop("c", "op"),
    "name gone": drop("c", "name"),
    "name a number": edit("c", name=3),
    "duplicate names": edit("p", name="t"),
    "cycle": edit("c", input="t"),
    "own input": edit("c", input="c"),
    "forward reference": edit("c", input="l"),
    "input a list": edit("c", input=["in"]),
    "stride gone": drop("c", "stride"),
    "stride one number": edit("c", stride=[1]),
    "stride three": edit("c", stride=[1, 1, 1]),
    "stride zero": edit("c", stride=[0, 1]),
    "stride negative": edit("c", stride=[-1, 1]),
    "stride float": edit("c", stride=[1.0, 1]),
    "stride bool": edit("c", stride=[True, 1]),
    "stride huge": edit("c", stride=[HUGE, 1]),
    "padding negative": edit("c", padding=[-1, 0]),
    "padding huge": edit("c", padding=[2**40, 0]),
    "padding large": edit("c", padding=[65536, 65536]),
    "padding text": edit("c", padding="00"),
    "padding three": edit("c", padding=[0, 0, 0]),
    "padding beside": edit("p", padding=[0, 0, 0, 2]),
    "dilation zero": edit("c", dilation=[0, 1]),
    "dilation huge": edit("c", dilation=[1, 2**17]),
    "dilation null": edit("c", dilation=None),
    "groups zero": edit("c", groups=0),
    "groups negative": edit("c", groups=-1),
    "groups two": edit("c", groups=2),
    "groups huge": edit("c", groups=HUGE),
    "output padding too wide": edit("u", output_padding=[1, 0]),
    "output padding negative": edit("u", output_padding=[-1, 0]),
    "transposed padding too wide": edit("u", padding=[60000, 0]),
    "transposed stride huge": edit("u", stride=[HUGE, 1]),
    "zero point outside": edit("in", zero_point=128),
    "zero point huge": edit("in", zero_point=HUGE),
    "zero point float": edit("in", zero_point=1.0),
    "zero point of ternary": edit("t", zero_point=1),
    "zero point of bits": edit("e", zero_point=-5),
    "add of nothing": edit("d", inputs=[]),
    "add of one": edit("d", inputs=["p"]),
    "add of text": edit("d", inputs="pvv"),
    "add of numbers": edit("d", inputs=[1, 2, 3]),
    "add of later ones": edit("d", inputs=["p", "v", "u"]),
    "add of itself": edit("d", inputs=["p", "v", "d"]),
    "add of other shapes": edit("d", inputs=["p", "v", "t"]),
    "add of one input": edit("d", input="p"),
    "add of a million": edit("d", inputs=["p"] * 10**5),
    "concat of nothing": edit("g", inputs=[]),
    "concat of two formats": edit("g", inputs=["s", "in"]),
    "axes twice": edit("x", axes=[0, 0, 1]),
    "axes short": edit("x", axes=[0, 1]),
    "axes negative": edit("x", axes=[-1, 0, 1]),
    "axes huge": edit("x", axes=[HUGE, 0, 1]),
    "table too low": edit("b", first=-5),
    "table too high": edit("b", first=-13 + 25),
    "table huge": edit("b", first=HUGE),
    "table of other codes": tensor("b.entries", np.full((1, 25), 4)),
    "table one short": tensor("b.entries", np.zeros((1, 13), np.int64)),
    "table of many": tensor("b.entries", np.zeros((1, 257), np.int64)),
    "table of channels": tensor("b.entries", np.zeros((2, 25), np.int64)),
    "table flat": tensor("b.entries", np.zeros(25, np.int64)),
    "tokens outside": edit("b", format="uint3"),
    "tokens negative": edit("b", format="int2"),
    "norm gone": lambda h, t: operation(h, "u")["weight"].pop("norm"),
    "norm wrong": lambda h, t: operation(h, "u")["weight"].update(norm=1000),
    "norm zero": lambda h, t: operation(h, "l")["weight"].update(norm=0),
    "norm negative": lambda h, t: operation(h, "u")["weight"].update(norm=-1),
    "norm huge": lambda h, t: operation(h, "u")["weight"].update(norm=2**63),
    "norm of another sum": lambda h, t: operation(h, "u")["weight"].update(norm=2**60),
    "norm float": lambda h, t: operation(h, "u")["weight"].update(norm=1.0),
    "weight field unknown": lambda h, t: operation(h, "u")["weight"].update(scale=1),
    "weight of a float format": edit("u", weight={"format": "e4m3fn", "shape": [1, 1, 2, 1], "norm": 1}),
    "weight of blocks": edit("u", weight={"format": "mxint8", "shape": [1, 1, 2, 1], "norm": 1}),
    "weight of long levels": edit("u", weight={"format": "log8", "shape": [1, 1, 2, 1], "norm": 1}),
    "logarithmic -0": tensor("u.weight", np.array([[0b100100]], np.uint8)),
    "input in a float format": edit("in", format="e4m3fn"),
    "input takes a tensor": edit("in", input="o"),
    "no name": edit("p", name=""),
    "kernel negative": edit("p", kernel=[-1, 2]),
    "kernel zero": edit("p", kernel=[0, 0]),
    "pool padding too wide": edit("p", padding=[0, 2]),
    "shape huge": edit("in", shape=[2**31, 2**31, 2**31]),
    "shape one too large": edit("in", shape=[1, 65536, 65536]),
    "shape zero": edit("in", shape=[1, 0, 2]),
    "shape negative": edit("in", shape=[-1, -2, 2]),
    "shape empty": edit("in", shape=[]),
    "shape long": edit("in", shape=[1] * 9),
    "shape null": edit("in", shape=None),
    "reshape huge": edit("r", shape=[2**62]),
    "reshape negative": edit("r", shape=[-2]),
    "weight shape huge": edit("c", weight={"format": "binary", "shape": [2**40, 1, 1, 1]}),
    "weight shape zero": edit("c", weight={"format": "binary", "shape": [0, 1, 1, 1]}),
    "weight shape text": edit("c", weight={"format": "binary", "shape": "1111"}),
    "weight shape flat": edit("c", weight={"format": "binary", "shape": [1]}),
    "weight no shape": edit("c", weight={"format": "binary"}),
    "weight no format": edit("c", weight={"shape": [1, 1, 1, 1]}),
    "weight a list": edit("c", weight=[1]),
    "weight another format": edit("c", weight={"format": "int32", "shape": [1, 1, 1, 1]}),
    "weight unknown format": edit("c", weight={"format": "float4", "shape": [1, 1, 1, 1]}),
    "weight format huge": edit("c", weight={"format": "int" + "9" * 5000, "shape": [1, 1, 1, 1]}),
    "format a number": edit("in", format=8),
    "format null": edit("in", format=None),
    "scale zero": edit("in", scale=0),
    "scale negative": edit("in", scale=-1.0),
    "scale NaN": edit("in", scale=float("nan")),
    "scale infinite": edit("in", scale=float("inf")),
    "scale huge": edit("in", scale=10**400),
    "scale tiny": edit("in", scale=1e-60),
    "scale bool": edit("in", scale=True),
    "scale text": edit("in", scale="1"),
    "shift negative": edit("a", shift=-1),
    "shift 63": edit("a", shift=63),
    "shift huge": edit("a", shift=HUGE),
    "shift float": edit("a", shift=1.0),
    "shift bool": edit("a", shift=True),
    "rounding unknown": edit("a", rounding="nearest"),
    "rounding a list": edit("a", rounding=[1]),
    "rounding stochastic": edit("a", rounding="stochastic"),
    "affine to binary": edit("a", format="binary"),
    "clip reversed": edit("k", low=3, high=2),
    "clip huge": edit("k", high=HUGE),
    "clip text": edit("k", low="0"),
    "threshold format wide": edit("t", format="int32"),
    "threshold format huge": edit("t", format="uint32"),
    "array in the header": edit("a", multiplier=[3]),
    "weight gone": lambda h, t: t.pop("c.weight"),
    "multiplier gone": lambda h, t: t.pop("a.multiplier"),
    "a tensor too many": tensor("x.weight", np.zeros(3, np.uint8)),
    "padding bits set": tensor("c.weight", np.array([[0b11]], np.uint8)),
    "weight int8": tensor("c.weight", np.array([[1]], np.int8)),
    "weight too long": tensor("c.weight", np.zeros((1, 2), np.uint8)),
    "weight too many rows": tensor("c.weight", np.zeros((2, 1), np.uint8)),
    "weight a scalar": tensor("c.weight", np.array(1, np.uint8)),
    "weight empty": tensor("c.weight", np.zeros((0,), np.uint8)),
    "weight unpacked": tensor("l.weight", np.array([[3, 0]], np.int8)),
    "multiplier float": tensor("a.multiplier", np.array([3.0])),
    "multiplier int32": tensor("a.multiplier", np.array([3], np.int32)),
    "multiplier too long": tensor("a.multiplier", np.array([3, 3], np.int64)),
    "multiplier huge": tensor("a.multiplier", np.array([-(2**63)], np.int64)),
    "offset huge": tensor("o.offset", np.array([2**63 - 1, 0], np.int64)),
    "thresholds descend": tensor("t.thresholds", np.array([[1, -1]], np.int64)),
    "thresholds descend far": tensor("t.thresholds", np.array([[2**63 - 1, -(2**63)]], np.int64)),
    "thresholds one short": tensor("t.thresholds", np.array([[1]], np.int64)),
    "direction zero": tensor("t.direction", np.array([0], np.int8)),
    "direction -128": tensor("t.direction", np.array([-128], np.int8)),
    "two outputs": lambda h, t: h["operations"].append(dict(operation(h, "o"), name="o2")),
    "no output": lambda h, t: h["operations"].pop(),
    "input in the middle": lambda h, t: h["operations"].insert(3, dict(operation(h, "in"), name="in2")),
    "deep meta": top(meta={"a": nested(900)}, version=4),
    "header too long": top(meta={"a": "x" * 2_100_000}),
    "deep operation": edit("c", stride=nested(400)),
    "header a list": lambda h, t: h.clear(),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_headers_are_one_clear_error(tmp_path, attack):
    header, tensors = parts()
    ATTACKS[attack](header, tensors)
    path = tmp_path / "m.bw"
    path.write_bytes(serialize(tensors, metadata={"bitwright": json.dumps(header)}))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    message = refused(path, check=False)
    assert time.monotonic() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert len(message) < 20_000


def test_the_attacks_start_from_a_file_that_loads(tmp_path):
    header, tensors = parts()
    path = tmp_path / "m.bw"
    path.write_bytes(serialize(tensors, metadata={"bitwright": json.dumps(header)}))
    load(path, check=False)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", '"x"', "{", '{"a": 1', "[" * 200_000, '{"a":' * 50_000, "NaN", "{}", "9" * 5000],
)
def test_headers_that_are_no_json_object(tmp_path, text):
    path = tmp_path / "m.bw"
    path.write_bytes(serialize({"a": np.zeros(1, np.uint8)}, metadata={"bitwright": text}))
    refused(path)
    refused(path, check=False)
    path.write_bytes(serialize({"a": np.zeros(1, np.uint8)}, metadata={"other": "x"}))
    refused(path)
    path.write_bytes(serialize({"a": np.zeros(1, np.uint8)}))
    refused(path)


def test_a_header_with_a_recomputed_hash_but_another_spelling_is_refused(tmp_path, intact):
    header, tensors = parts()
    path = tmp_path / "m.bw"
    path.write_bytes(serialize(tensors, metadata={"bitwright": json.dumps(header, sort_keys=True)}))
    load(path)
    path.write_bytes(serialize(tensors, metadata={"bitwright": json.dumps(header, sort_keys=True, indent=1)}))
    assert "SHA-256" in refused(path)


def test_deep_meta_that_json_can_read_is_no_other_error(tmp_path):
    header, tensors = parts()
    for depth in (100, 900, 5000, 50_000):
        text = json.dumps(header).replace('"error": 1e-05', '"error": ' + "[" * depth + "]" * depth)
        path = tmp_path / "m.bw"
        path.write_bytes(serialize(tensors, metadata={"bitwright": text}))
        for check in (True, False):
            try:
                load(path, check=check)
            except FileFormatError:
                continue


def test_paths_that_are_no_files(tmp_path):
    assert "no such file" in refused(tmp_path / "none.bw")
    refused(tmp_path)


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    network = small_network()
    path = tmp_path / "deep" / "folder" / "m.bw"
    network.save(path)
    before = path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["m.bw"]

    # a folder stands in its place
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileFormatError, match="can be written"):
        network.save(tmp_path / "taken")
    # a file stands where a folder must
    with pytest.raises(FileFormatError, match=r"can be written.*--out"):
        network.save(path / "m.bw")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "taken"]

    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(*_, failure=failure):
            raise failure

        for name in ("fsync", "replace"):
            with monkeypatch.context() as patch:
                patch.setattr(f"bitwright.integer.file.os.{name}", fail)
                expected = FileFormatError if isinstance(failure, OSError) else KeyboardInterrupt
                with pytest.raises(expected):
                    network.save(path)
            assert [p.name for p in path.parent.iterdir()] == ["m.bw"]
            assert path.read_bytes() == before


def test_meta_must_be_json_and_loads_as_it_was_saved(tmp_path):
    operations = small_network().operations
    path = tmp_path / "m.bw"
    meta = {"a": (1, 2), "n": None, "x": 1e-300, "ü": {"10": 1, "9": 2}}
    Network(operations, meta).save(path)
    assert load(path).meta == {**meta, "a": [1, 2]}
    Network(operations, {10: "a", 9: "b"}).save(path)  # JSON has only string keys
    assert load(path).meta == {"10": "a", "9": "b"}
    for bad in ({"a": np.int64(3)}, {"a": {1, 2}}, {"a": b"x"}):
        with pytest.raises(InvalidTypeError, match="meta of a network is JSON"):
            Network(operations, bad).save(tmp_path / "bad.bw")
    assert not (tmp_path / "bad.bw").exists()


def test_one_weight_bit_is_refused_by_load_and_named_by_verify(tmp_path):
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 20), nn.BatchNorm1d(20), nn.Hardtanh(), nn.Linear(20, 3))
    bw.quantize_(model, "qnn", verbose=False)
    path = tmp_path / "m.bw"
    network = bw.lower(model, torch.zeros(1, 9))
    network.save(path)
    data = path.read_bytes()
    weight = network.operation("3").weight.data.tobytes()
    place = data.rindex(weight)
    row, byte, bit = 2, 1, 5
    flipped = bytearray(data)
    flipped[place + row * 3 + byte] ^= 1 << bit
    path.write_bytes(flipped)
    assert "SHA-256" in refused(path)
    edited = load(path, check=False)
    for backend in ("interpreter", "engine"):
        result = bw.verify(model, edited, [torch.rand(4, 9) * 2 - 1], backend=backend)
        assert result.differing > 0
        assert result.first.tensor == "3.weight"
        assert result.first.index == (row, byte * 8 + bit)
        assert {result.first.code, result.first.expected} == {-1.0, 1.0}
    again = copy.deepcopy(load(path, check=False).operation("3").weight.array)
    assert (again != network.operation("3").weight.array).sum() == 1
