"""Residual networks: sizes, names, option A, and the published weights."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bitwright import data, models
from bitwright.data.folders import VARIABLE
from bitwright.errors import FileFormatError, InvalidValueError
from bitwright.models.tflite import read_tflite

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (56, 853_018)])
def test_parameters_are_those_of_the_published_networks(depth, count):
    model = models.resnet(depth, 16, CIFAR, 10)
    assert sum(p.numel() for p in model.parameters()) == count
    assert "layer2.0.conv1.weight" in model.state_dict()


def test_resnet8_folds_its_norms_away():
    plain, folded = (models.resnet8(16, CIFAR, 10, folded=f) for f in (False, True))
    assert sum(p.numel() for p in plain.parameters()) == 78_666 - 2 * 2 * (16 * 3 + 32 * 2 + 64 * 2) // 2
    assert not any("bn" in name for name in folded.state_dict())
    with pytest.raises(InvalidValueError, match="multiples of 4"):
        models.resnet8(16, (1, 30, 30), 10)
    with pytest.raises(InvalidValueError, match=r"6n \+ 2"):
        models.resnet(21, 16, CIFAR, 10)


def test_option_a_and_same_padding_are_as_published():
    torch.manual_seed(0)
    x = torch.randint(-8, 8, (2, 4, 8, 8)).float()
    block = models.resnet(20, 4, CIFAR, 10).layer2[0]
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
    assert torch.equal(block.shortcut(x), expected)
    tiny = models.resnet8(4, CIFAR, 10).block2
    tiny.conv1.weight.data.copy_(torch.randint(-4, 4, tiny.conv1.weight.shape))
    tiny.conv1.bias.data.zero_()
    # TensorFlow's "same", tap by tap: output i sees rows 2i, 2i + 1, 2i + 2
    wanted = torch.zeros(2, 8, 4, 4)
    for i in range(4):
        for j in range(4):
            window = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            kernel = tiny.conv1.weight[:, :, : window.shape[2], : window.shape[3]]
            wanted[:, :, i, j] = torch.einsum("nchw,ochw->no", window, kernel)
    assert torch.equal(tiny.conv1(tiny.pad(x)), wanted)


def vector(values):
    return struct.pack("<I", len(values)) + values


def test_a_tflite_file_gives_its_constants():
    # laid out by hand, each table behind its vtable: model, subgraph, one tensor, two buffers
    parts: list[bytes] = []
    places: dict[str, int] = {}

    def put(name, content):
        start = sum(map(len, parts))
        parts.append(b"\0" * (-start % 4))
        places[name] = sum(map(len, parts))
        parts.append(content)

    def table(name, fields):
        """Of 4-byte fields: (index, bytes)."""
        size = 4 + 4 * len(fields)
        slots = [0] * (max((i for i, _ in fields), default=-1) + 1)
        for place, (index, _) in enumerate(fields):
            slots[index] = 4 + 4 * place
        vtable = struct.pack(f"<HH{len(slots)}H", 4 + 2 * len(slots), size, *slots)
        vtable += b"\0" * (-len(vtable) % 4)
        put(name + "-vtable", vtable)
        put(name, struct.pack("<i", len(vtable)) + b"".join(content for _, content in fields))

    zero = b"\0\0\0\0"
    put("root", zero)
    table("model", [(2, zero), (4, zero)])
    put("subgraphs", struct.pack("<II", 1, 0))
    table("subgraph", [(0, zero)])
    put("tensors", struct.pack("<II", 1, 0))
    table("tensor", [(0, zero), (2, struct.pack("<I", 1)), (3, zero)])
    put("shape", struct.pack("<I2i", 2, 2, 3))
    put("name", struct.pack("<I", 4) + b"conv")
    put("buffers", struct.pack("<III", 2, 0, 0))
    table("empty", [])
    table("full", [(0, zero)])
    values = np.arange(6, dtype="<f4")
    put("data", struct.pack("<I", 24) + values.tobytes())
    image = bytearray(b"".join(parts))

    def point(at, target):
        struct.pack_into("<I", image, at, places[target] - at)

    struct.pack_into("<I", image, 0, places["model"])
    for holder, field, target in (
        ("model", 0, "subgraphs"), ("model", 1, "buffers"), ("subgraph", 0, "tensors"),
        ("tensor", 0, "shape"), ("tensor", 2, "name"), ("full", 0, "data"),
    ):  # fmt: skip
        point(places[holder] + 4 + 4 * field, target)
    point(places["subgraphs"] + 4, "subgraph")
    point(places["tensors"] + 4, "tensor")
    point(places["buffers"] + 4, "empty")
    point(places["buffers"] + 8, "full")
    found = read_tflite(bytes(image))
    assert list(found) == ["conv"]
    np.testing.assert_array_equal(found["conv"], values.reshape(2, 3))


def test_unknown_and_missing_weights(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InvalidValueError, match="did you mean 'resnet20'"):
        models.pretrained("resnet21")
    with pytest.raises(FileFormatError, match=r"resnet20 \(weights\).*no resnet20-12fca82f.th"):
        models.pretrained("resnet20", root=tmp_path, download=False)
    (tmp_path / "resnet20-12fca82f.th").write_bytes(b"x" * 1_099_231)
    with pytest.raises(FileFormatError, match="published SHA-256"):
        models.pretrained("resnet20", root=tmp_path, download=False)


@pytest.mark.parametrize(("name", "wrong"), [("resnet20", 6), ("resnet8", 12)])
def test_published_weights_answer_as_published(name, wrong):
    try:
        model, preprocessing = models.pretrained(name, download=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", data.InexactDataWarning)
            test = data.load("cifar10", "test", download=False).subset(100)
    except FileFormatError:
        pytest.skip("set BITWRIGHT_DATA to a folder that has CIFAR-10 and the weights")
    test = replace(test, preprocessing=preprocessing)
    with torch.no_grad():
        answers = model(torch.from_numpy(test.inputs())).argmax(1).numpy()
    assert int((answers != test.labels).sum()) == wrong
