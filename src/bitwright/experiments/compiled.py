"""The C that a network exports, compiled for this machine, as a backend to compare."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bitwright.data import Dataset
from bitwright.errors import InvalidValueError
from bitwright.export import to_c
from bitwright.integer import Network, Output
from bitwright.lowering import Difference, Verification, evaluating
from bitwright.training import batches

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O2", "-fPIC", "-shared")

_LOOP = """
#include "net.h"
void run_batch(int n, const float *x, net_code *codes, net_number *numbers, float *y)
{
    static net_arena arena;
    for (; n > 0; n--, x += net_CODES, codes += net_CODES, numbers += net_NUMBERS, y += net_NUMBERS) {
        net_encode(x, codes);
        net_run(codes, numbers, &arena);
        net_decode(numbers, y);
    }
}
"""

Program = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""float32 [N, ...] -> input codes, the last layer's integers x M + B, float32 outputs; each [N, size]."""


def find_compiler() -> str | None:
    """The C compiler of this machine."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def compile_network(network: Network) -> Program:
    """Export a network that ends in an `output` as C99, compile it, and load it.

    Raises:
        InvalidValueError: there is no compiler, it refuses the file, or the network ends in an argmax.
    """
    compiler = find_compiler()
    if compiler is None:
        raise InvalidValueError("compiling needs a C compiler", got=f"none of {', '.join(COMPILERS)}")
    if not isinstance(network.operations[-1], Output):
        raise InvalidValueError("a network to be compared ends in an output", got=network.operations[-1].kind)
    c = to_c(network, "net")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.c").write_text(c.source)
        (folder / "net.h").write_text(c.header)
        (folder / "loop.c").write_text(_LOOP)
        command = [compiler, *FLAGS, "net.c", "loop.c", "-o", "net.so"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InvalidValueError("the exported C compiles", got=done.stderr[:2000], where=compiler)
        run_batch = ctypes.CDLL(str(folder / "net.so")).run_batch  # mapped: the file may go
    types = [np.dtype(t.c_type.removesuffix("_t")) for t in (c.layout.input, c.layout.output)]
    ends = [network.types[o.name].shape for o in (network.operations[0], network.operations[-1])]
    sizes = [int(np.prod(shape)) for shape in ends]

    def program(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = np.ascontiguousarray(x, np.float32)
        codes = np.empty((len(x), sizes[0]), types[0])
        numbers = np.empty((len(x), sizes[1]), types[1])
        y = np.empty((len(x), sizes[1]), np.float32)
        run_batch(len(x), *(ctypes.c_void_p(array.ctypes.data) for array in (x, codes, numbers, y)))
        return codes, numbers, y

    return program


def verify_compiled(
    model: nn.Module, network: Network, images: Dataset, progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare the compiled C with the model: its float output, bit for bit.

    Input codes and the last layer's integers are compared with the interpreter's, which `verify` compares
    with the model on the same images.
    """
    program = compile_network(network)
    first, last = network.input, network.operations[-1]
    assert isinstance(last, Output)
    result = Verification("c")
    with evaluating(model), torch.no_grad():
        for batch in batches(images):
            x = batch.numpy()
            codes, numbers, y = program(x)
            traced = network.trace(x, backend="interpreter")
            acc = traced[last.input].reshape(len(x), len(last.multiplier), -1)
            expected = acc * last.multiplier[:, None] + last.offset[:, None]
            wanted = model(batch).numpy().reshape(len(x), -1)
            start = result.examples
            for name, got, want in (
                ("input codes", codes, traced[first.name].reshape(len(x), -1) + first.zero_point),
                ("last integers", numbers, expected.reshape(len(x), -1)),
                ("output", y.view(np.int32), wanted.view(np.int32)),
            ):
                _compare(result, name, got, want, start)
            result.examples += len(x)
            if progress is not None:
                progress(len(x))
    return result


def _compare(result: Verification, name: str, got: np.ndarray, want: np.ndarray, start: int) -> None:
    different = np.argwhere(got != want)
    result.elements[name] = result.elements.get(name, 0) + got.size
    result.differing += len(different)
    if len(different) and result.first is None:
        example, index = (int(i) for i in different[0])
        place = (start + example, index)
        result.first = Difference(name, place, float(got[example, index]), float(want[example, index]))
