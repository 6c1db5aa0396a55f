"""Exported networks, compiled for this machine and run on what the interpreter runs."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitwright.export import CSource, to_c
from bitwright.integer import Network

FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
TRACE = """
#include <stdio.h>
#define BITWRIGHT_TRACE(stage, data, bytes) fwrite(data, 1, bytes, stdout)
"""
PRIVATE = re.compile(r"\b(round|clip|dot|unpack|s\d+)_\w+\(?")
RUN = """
static void run_{name}(int examples)
{{
    static float x[{name}_CODES];
    static {name}_code codes[{name}_CODES];
    static {name}_number numbers[{name}_NUMBERS];
    static struct {{ {name}_arena arena; unsigned char guard[8]; }} memory;
    for (; examples > 0; examples--) {{
        take(x, sizeof x);
        {name}_encode(x, codes);
        give(codes, sizeof codes);
        memset(&memory, 0x5a, sizeof memory);
        {name}_run(codes, numbers, &memory.arena);
        for (int i = 0; i < 8; i++)
            if (memory.guard[i] != 0x5a)
                abort();
        give(numbers, sizeof numbers);
        {decode}
    }}
}}
"""
MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
{includes}
static void take(void *data, size_t bytes) {{ if (fread(data, 1, bytes, stdin) != bytes) abort(); }}
static void give(const void *data, size_t bytes) {{ if (fwrite(data, 1, bytes, stdout) != bytes) abort(); }}
{runs}
int main(void) {{
{calls}
    return 0;
}}
"""


@dataclass(frozen=True)
class Case:
    """A network, a float32 batch for it, and its C."""

    network: Network
    x: np.ndarray
    c: CSource
    name: str


def case(network, x, name="net", fuse=True):
    """A network in C beside its inputs."""
    return Case(network, x, to_c(network, name, fuse=fuse), name)


def compile_and_run(folder: Path, cases, flags=("-O1",), compiler="gcc", together=False):
    """Compile every case into one program, run each on its batch, and give the stream that came out.

    Starting the compiler takes longer than compiling a small network: `together` makes one file of them.
    """
    (folder / "trace.h").write_text(TRACE)
    runs, files = [], []
    for one in cases:
        (folder / f"{one.name}.h").write_text(one.c.header)
        (folder / f"{one.name}.c").write_text(one.c.source)
        files.append(f"{one.name}.c")
        decode = f"static float y[{one.name}_NUMBERS]; {one.name}_decode(numbers, y); give(y, sizeof y);"
        runs.append(RUN.format(name=one.name, decode=decode if "_decode(" in one.c.header else ""))
    if together:
        merged = "\n".join(PRIVATE.sub(rf"{one.name}_\g<0>", one.c.source) for one in cases)
        (folder / "merged.c").write_text(merged)
        files = ["merged.c"]
    main = MAIN.format(
        includes="\n".join(f'#include "{one.name}.h"' for one in cases),
        runs="".join(runs),
        calls="\n".join(f"    run_{one.name}({len(one.x)});" for one in cases),
    )
    (folder / "main.c").write_text(main)
    command = [compiler, *FLAGS, *flags, "-include", "trace.h", *files, "main.c", "-o", "run"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[:4000]
    stdin = b"".join(np.ascontiguousarray(one.x, np.float32).tobytes() for one in cases)
    done = subprocess.run([folder / "run"], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[:4000]
    return done.stdout


def differing(cases, stream: bytes) -> tuple[int, int]:
    """Numbers compared with the interpreter's, and how many differ; the stream holds nothing else."""
    compared = wrong = place = 0
    for one in cases:
        expected = one.network.trace(one.x, backend="interpreter")
        layout, last = one.c.layout, one.network.operations[-1]
        for n in range(len(one.x)):
            for name, tensor, want in _expected(one, layout, last, expected, n):
                got = np.frombuffer(stream, tensor, len(want), place)
                place += got.nbytes
                compared += len(want)
                wrong += int((got != want).sum())
                assert np.array_equal(got, want), f"{one.name}: {name} of example {n}"
    assert place == len(stream)
    return compared, wrong


def _expected(one, layout, last, expected, n):
    """Name, type and numbers of everything that an example writes, in order."""
    first = one.network.input
    codes = expected[first.name][n].reshape(-1) + first.zero_point
    yield "codes", dtype(layout.input), codes
    numbers = None
    for placed in layout.placed:
        name = placed.stage.result
        result = placed.result
        levels = expected[name][n]
        if (end := one.network.operation(name)).kind == "output":
            source = expected[end.input][n]
            shape = (-1, *(1,) * (source.ndim - 1))
            levels = source * end.multiplier.reshape(shape) + end.offset.reshape(shape)
        memory = levels if result.plain else np.moveaxis(levels, 0, -1)
        stored = memory.reshape(-1) - result.base
        if name == last.name:
            numbers = stored
        yield name, dtype(result), stored
    yield "numbers", dtype(layout.output), numbers
    if last.kind == "output":
        yield "output", np.dtype(np.float32), expected[last.name][n].reshape(-1)


def dtype(tensor):
    return np.dtype(tensor.c_type.removesuffix("_t"))
