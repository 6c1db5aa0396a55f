"""The file: version 1 is read, codes lie as the page says, a mapped file is read when it is used."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from integer_networks import binary_network, codes, every_operation, ints, residual_network, token_network
from safetensors import safe_open
from safetensors.numpy import save as serialize

from bitwright.errors import FileFormatError, InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Log, Ternary, UInt
from bitwright.integer import Codes, Input, Linear, Network, Output, identify, load

DATA = Path(__file__).parent / "data"
# what version 1 of the library computed when it wrote these files
VERSION_1 = {
    "version1-every-operation": (
        every_operation,
        4,
        [[-25.25, -8.5, -86.75], [-16.25, -5.5, -56.75], [-2.75, -1.0, -111.75]],
    ),
    "version1-binary": (
        binary_network,
        32,
        [[0.0, -1.25, -0.375], [-1.25, -0.5, -0.625], [-1.25, 1.0, -0.125]],
    ),
}


@pytest.mark.parametrize("name", VERSION_1)
@pytest.mark.parametrize("check", [True, False])
def test_files_of_version_1_compute_what_they_did(name, check, tmp_path):
    build, scale, expected = VERSION_1[name]
    network = load(DATA / f"{name}.bw", check=check)
    shape = network.input.shape
    x = (np.arange(3 * np.prod(shape)) * 7 % 61 - 30).reshape(3, *shape).astype(np.float32) / scale
    assert network(x).tolist() == expected
    assert network.types == build().types
    assert identify(DATA / f"{name}.bw").version == 1
    network.save(tmp_path / "new.bw")
    build().save(tmp_path / "built.bw")
    assert (tmp_path / "new.bw").read_bytes() == (tmp_path / "built.bw").read_bytes()
    assert identify(tmp_path / "new.bw").version == 3
    assert identify(tmp_path / "new.bw").fits


@pytest.mark.parametrize("build", [residual_network, token_network])
def test_a_foreign_reader_finds_what_was_written(build, tmp_path):
    network = build()
    network.save(tmp_path / "m.bw")
    with safe_open(tmp_path / "m.bw", framework="numpy") as file:
        header = json.loads(file.metadata()["bitwright"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert [o["op"] for o in header["operations"]] == [o.kind for o in network.operations]
    for described in header["operations"]:
        if "weight" in described:
            stored = network.operation(described["name"]).weight
            assert np.array_equal(tensors[f"{described['name']}.weight"], stored.data)
            rows = np.abs(stored.levels.astype(object)).reshape(stored.shape[0], -1)
            assert described["weight"]["norm"] == max(rows.sum(axis=1))


FORMATS = [
    Binary(), Ternary(), Int(1), Int(3), UInt(5), Fixed(7, 2), Int(8), UInt(9), Int(12), UInt(15), Int(16),
    Int(17), UInt(24), Int(31), Int(32), UInt(32), Log(2), Log(4), Log(5, root=True),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 11), (2, 3, 5)])
def test_codes_lie_where_the_page_says(form, shape):
    generator = np.random.default_rng(4)
    if form.bits <= 16:
        array = generator.choice(np.array(form.codes()), shape)
    else:
        array = generator.integers(form.code_min, form.code_max + 1, shape)
    stored = Codes.pack(form, array)
    assert np.array_equal(stored.array, array)
    rows = array.reshape(shape[0], -1)
    octets = stored.data.reshape(shape[0], -1).view(np.uint8)
    assert octets.shape[1] == -(-rows.shape[1] * form.bits // 8)
    for row, packed in zip(rows.tolist(), octets.tolist(), strict=True):
        number = int.from_bytes(bytes(packed), "little")
        for i, code in enumerate(row):
            bits = int(code > 0) if isinstance(form, Binary) else code & (1 << form.bits) - 1
            assert number >> i * form.bits & (1 << form.bits) - 1 == bits
        assert number >> len(row) * form.bits == 0
    numbers = np.array([form.number(int(c)) / form.unit for c in array.reshape(-1)])
    assert np.array_equal(stored.levels.reshape(-1), numbers)
    assert stored.norm == int(np.abs(numbers).reshape(shape[0], -1).sum(axis=1).max())


def long_rows(form):
    """Rows longer than the blocks in which codes are unpacked."""
    return codes(form, (2, 2_200_001), 3)


@pytest.mark.parametrize("form", [Ternary(), Int(3)], ids=str)
def test_blocks_cover_long_rows(form):
    stored = long_rows(form)
    assert stored.norm == np.abs(stored.array.astype(np.int64)).sum(axis=1).max()
    assert np.array_equal(Codes.pack(form, stored.array).data, stored.data)
    bad = long_rows(Ternary()).data.copy()
    bad[1, 400_000] = 0b10  # code 1600000 of the second row
    with pytest.raises(InvalidValueError, match=r"got -2; at index \(1, 1600000\)"):
        Codes(Ternary(), (2, 2_200_001), bad)


def edited(path, network, name, change, **described):
    """The file of a network with another weight, and no valid hash."""
    network.save(path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bitwright"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors[f"{name}.weight"] = change(tensors[f"{name}.weight"])
    next(o for o in header["operations"] if o["name"] == name)["weight"].update(described)
    path.write_bytes(serialize(tensors, metadata={"bitwright": json.dumps(header)}))


def ternary_network():
    return Network(
        [
            Input("i", "", (3,), Int(8), 1.0),
            Linear("l", "i", Codes.pack(Ternary(), np.array([[1, 0, -1], [0, 0, 1]]))),
            Output("o", "l", ints(1, 1), ints(0, 0), 0),
        ]
    )


@pytest.mark.parametrize(
    ("change", "described", "message"),
    [
        (lambda w: w | 0b10, {}, "codes of ternary"),
        (lambda w: w | 0x40, {}, "padding bits are zero"),
        (lambda w: w, {"norm": 1}, "norm of these codes is 2; got 1"),
        (lambda w: w * 0, {}, "norm of these codes is 0; got 2"),
    ],
)
def test_without_the_check_bad_contents_stop_before_a_kernel(tmp_path, change, described, message):
    path = tmp_path / "m.bw"
    edited(path, ternary_network(), "l", change, **described)
    network = load(path, check=False)  # nobody has looked yet
    for look in (
        lambda: network(np.zeros((1, 3), np.float32)),
        lambda: network.operation("l").weight.data,
        lambda: network.operation("l").weight.array,
        lambda: network.save(tmp_path / "again.bw"),
    ):
        with pytest.raises(FileFormatError, match=rf"{message}.*'l.weight' of .*m\.bw"):
            look()


def test_with_the_check_bad_contents_are_refused_at_once(tmp_path):
    path = tmp_path / "m.bw"
    edited(path, ternary_network(), "l", lambda w: w | 0b10)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bitwright"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    sha = hashlib.sha256(
        json.dumps({k: v for k, v in header.items() if k != "sha256"}, sort_keys=True).encode()
    )
    for key in sorted(tensors):  # as docs/model-file.md says
        sha.update(f"\n{key} {tensors[key].dtype} {tensors[key].shape}\n".encode() + tensors[key].tobytes())
    text = json.dumps(header | {"sha256": sha.hexdigest()}, sort_keys=True)
    path.write_bytes(serialize(tensors, metadata={"bitwright": text}))
    assert identify(path).fits
    with pytest.raises(FileFormatError, match=r"codes of ternary.*got -2"):
        load(path)


def test_a_large_file_is_ready_at_once(tmp_path):
    rows, columns = 49_000, 2048
    weight = Codes.pack(Int(8), np.ones((rows, columns), np.int8))
    scale, zeros = np.ones(rows, np.int64), np.zeros(rows, np.int64)
    first = Input("i", "", (columns,), Int(8), 1.0)
    path = tmp_path / "m.bw"
    Network([first, Linear("l", "i", weight), Output("o", "l", scale, zeros, 0)]).save(path)
    assert identify(path).bytes > 100_000_000
    statm = Path("/proc/self/statm")

    def resident():
        return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0

    load(path, check=False)
    before, seconds, kept = resident(), [], []
    for _ in range(5):
        start = time.perf_counter()
        kept.append(load(path, check=False))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02
    assert resident() - before < 100_000_000  # five networks of 100 MB
    assert kept[0].types["l"].bound == 128 * columns
