"""Thousands of mutated headers and arrays: each file runs within the types it states, or is refused."""

from __future__ import annotations

import copy
import json
import random
import time

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save as serialize
from test_attacks_file import small_network

from bitwright.errors import FileFormatError
from bitwright.integer import load

MUTATIONS = 3000
VALUES = [
    0, 1, -1, 2, 3, 127, 128, 255, 65536, 2**31, 2**53, 2**63, -(2**63), 10**30, 1.5, True, None, "",
    "int8", "uint8", "binary", "ternary", "log4", "e4m3fn", "mxint8", "floor", "conv", "argmax",
    [], [1], [1, 1], [0, 0, 0, 0], {},
]  # fmt: skip


def places(value, path=()):
    """The path of every value inside a JSON value."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def mutate(header, tensors, chance):
    if chance.random() < 0.3:
        array = tensors[chance.choice(sorted(tensors))].reshape(-1)
        wide, narrow = [0, 1, -1, 2**40, 2**62, -(2**63)], range(128)
        array[chance.randrange(array.size)] = chance.choice(wide if array.itemsize == 8 else narrow)
        return
    *path, last = chance.choice(list(places(header["operations"])))
    holder = header["operations"]
    for key in path:
        holder = holder[key]
    if chance.random() < 0.8:
        names = [o["name"] for o in header["operations"] if isinstance(o, dict) and "name" in o]
        holder[last] = copy.deepcopy(chance.choice(VALUES + names))
    elif isinstance(holder, list):
        holder.insert(last, copy.deepcopy(chance.choice(holder)))
    else:
        del holder[last]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutations") / "m.bw"
    small_network().save(path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["bitwright"])
        return path, header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_mutated_files_run_within_their_types_or_are_refused(parts):
    path, header, tensors = parts
    chance, ran = random.Random(0), 0
    with path.open("r+b", buffering=0) as file:
        for _ in range(MUTATIONS):
            changed = copy.deepcopy(header), {name: array.copy() for name, array in tensors.items()}
            for _ in range(chance.choice([1, 1, 2])):
                mutate(*changed, chance)
            file.seek(0)
            file.write(serialize(changed[1], metadata={"bitwright": json.dumps(changed[0])}))
            file.truncate()
            start = time.monotonic()
            try:
                network = load(path, check=False)
                if max(made.elements for made in network.types.values()) < 100_000:
                    run(network)
                ran += 1
            except FileFormatError:
                pass
            assert time.monotonic() - start < 1
    assert MUTATIONS // 100 < ran < MUTATIONS // 2


def run(network):
    x = np.zeros((1, *network.input.shape), np.float32)
    tensors = network.trace(x, backend="interpreter")
    assert np.array_equal(network(x), tensors[network.operations[-1].name])
    for name, tensor in tensors.items():
        made = network.types[name]
        assert tensor.shape[1:] == made.shape
        assert made.low <= tensor.min() <= tensor.max() <= made.high
