"""Mutated model files: cut, flipped, spliced, or with a hostile header whose hash fits again."""

from __future__ import annotations

import copy
import json
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as serialize

from bitwright.errors import FileFormatError
from bitwright.integer import Network, load
from bitwright.integer.file import _canonical, _digest

SECONDS = 1.0
"""For loading and running one file."""
MEGABYTES = 32
"""What loading one may take beyond twice its size: parsed JSON and NumPy's own needs."""
RUNNABLE = 100_000
"""A network whose tensors and products together have more elements is loaded, not run: a small file may
honestly describe an hour's work."""
VALUES = [
    0, 1, -1, 2, 3, 127, 128, 255, 65536, 2**31, 2**53, 2**63, -(2**63), 10**30, 1.5, 1e308, True, None, "",
    "int8", "uint8", "binary", "ternary", "log4", "e4m3fn", "mxint8", "flex16+5", "floor", "conv", "argmax",
    [], [1], [1, 1], [0, 0, 0, 0], {}, [[]],
]  # fmt: skip

Header = dict[str, Any]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Intact:
    """A small network's file, as bytes and in parts."""

    data: bytes
    header: Header
    tensors: Tensors

    @classmethod
    def of(cls, network: Network, path: Path) -> Intact:
        """`network`, written to `path` and read again."""
        network.save(path)
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["bitwright"])
            return cls(path.read_bytes(), header, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def mutated(intact: Intact, chance: random.Random) -> bytes:
    """One hostile file."""
    kind = chance.choice([cut, flip, splice, *[edit] * 5])
    return kind(intact, chance)


def cut(intact: Intact, chance: random.Random) -> bytes:
    """A part of the file, or the file and more."""
    length = chance.randrange(len(intact.data) + 9)
    return intact.data[:length] + bytes(max(0, length - len(intact.data)))


def flip(intact: Intact, chance: random.Random) -> bytes:
    """Up to eight other bits."""
    data = bytearray(intact.data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def splice(intact: Intact, chance: random.Random) -> bytes:
    """A run of bytes from elsewhere, of noise, or of one value; the header's length is a favourite place."""
    data = bytearray(intact.data)
    length = chance.choice([1, 2, 8, 64])
    place = chance.choice([0, chance.randrange(len(data))])
    source = chance.randrange(len(data))
    run = [
        bytes(data[source : source + length]),
        chance.randbytes(length),
        bytes([chance.choice([0, 255, 0x5B, 0x7B])]) * length,
    ]
    data[place : place + length] = chance.choice(run)
    return bytes(data)


def edit(intact: Intact, chance: random.Random) -> bytes:
    """Other values in the header or the arrays; half of them with the hash that fits."""
    header = copy.deepcopy(intact.header)
    tensors = {name: array.copy() for name, array in intact.tensors.items()}
    for _ in range(chance.choice([1, 1, 2, 4])):
        edit_once(header, tensors, chance)
    if chance.random() < 0.5:
        header["sha256"] = _digest(header, tensors)
    return serialize(tensors, metadata={"bitwright": _canonical(header)})


def edit_once(header: Header, tensors: Tensors, chance: random.Random) -> None:
    """Another number in an array, another value, a copy or a gap in the header."""
    if chance.random() < 0.5:
        array = tensors[chance.choice(sorted(tensors))].reshape(-1)
        if array.size:
            wide, narrow = [0, 1, -1, 2**40, 2**62, -(2**63), 2**63 - 1], range(128)
            array[chance.randrange(array.size)] = chance.choice(wide if array.itemsize == 8 else narrow)
        return
    operations = header["operations"]
    found = list(places(operations))
    if not found:
        return
    *path, last = chance.choice(found)
    holder = operations
    for key in path:
        holder = holder[key]
    if chance.random() < 0.8:
        names = [o["name"] for o in operations if isinstance(o, dict) and isinstance(o.get("name"), str)]
        near = [holder[last] + d for d in (-1, 1)] if type(holder[last]) is int else []
        holder[last] = copy.deepcopy(chance.choice(VALUES + names + near * 4))
    elif isinstance(holder, list):
        holder.insert(last, copy.deepcopy(chance.choice(holder)))
    else:
        del holder[last]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def attack(path: Path, *, check: bool, run: Callable[[Network], None]) -> str:
    """Load the file, run one input where that is little work: "ran", "loaded" or "refused".

    Raises:
        AssertionError: it took too long or too much memory.
    """
    before = largest(afresh=True)
    start = time.monotonic()
    try:
        network = load(path, check=check)
        took = largest() - before - 2 * path.stat().st_size
        assert took < MEGABYTES << 20, f"loading took {took >> 20} MiB"
        work = sum(made.elements for made in network.types.values())
        work += sum(network.macs(o) for o in network.operations)
        if work > RUNNABLE:
            result = "loaded"
        else:
            run(network)
            result = "ran"
    except FileFormatError:
        result = "refused"
    seconds = time.monotonic() - start
    assert seconds < SECONDS, f"it took {seconds:.2f} s"
    return result


def run_both(network: Network) -> None:
    """One input through interpreter and engine: every tensor within its type, and both alike."""
    x = np.zeros((1, *network.input.shape), np.float32)
    tensors = network.trace(x, backend="interpreter")
    assert np.array_equal(network(x), tensors[network.operations[-1].name], equal_nan=True)
    for name, tensor in tensors.items():
        made = network.types[name]
        assert tensor.shape[1:] == made.shape
        if tensor.size and not isinstance(tensor.flat[0], np.floating):
            assert made.low <= tensor.min() <= tensor.max() <= made.high


def largest(*, afresh: bool = False) -> int:
    """The process's largest resident memory in bytes: so far, or from now on where Linux can forget it."""
    with suppress(OSError):
        if afresh:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
