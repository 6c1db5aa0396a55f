"""The NEON kernels against the scalar ones, on the same bytes: cross-compiled, run under QEMU."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-DBITWRIGHT_NEON"]
SOURCES = [
    "bgemm-neon", "bgemm-scalar", "dispatch", "engine-dot-neondot", "engine-neon", "engine-scalar", "graph",
    "graph-ends", "graph-epilogue", "graph-execute", "graph-pack", "graph-wide", "pack", "quantize-neon",
    "quantize-scalar", "team",
]  # fmt: skip
SEEDS = 40


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """tests/kernels/arm_equal.cc with the engine, for AArch64."""
    if COMPILER is None or EMULATOR is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu qemu-user)")
    folder = tmp_path_factory.mktemp("arm")
    paths = [*(ROOT / "csrc" / f"{name}.cc" for name in SOURCES), ROOT / "tests/kernels/arm_equal.cc"]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        extra = ["-march=armv8.2-a+dotprod"] if source.stem.endswith("neondot") else []
        include = ["-I", str(ROOT / "csrc"), "-Wno-missing-field-initializers"]
        command([COMPILER, *FLAGS, *extra, *include, "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, paths))
    command([COMPILER, "-static", "-pthread", *objects, "-o", str(folder / "equal")])
    return folder / "equal"


def command(arguments) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("machine", "isas"), [("cortex-a53", ["neon"]), ("max", ["neon", "neondot"])], ids=["plain", "sdot"]
)
def test_neon_equals_scalar(program, machine, isas):
    """A processor without SDOT takes the other kernel; each runs every stage."""
    lines = command([EMULATOR, "-cpu", machine, str(program), str(SEEDS)]).splitlines()
    assert [line.split()[0] for line in lines] == isas
    for line in lines:
        levels, nonzero = map(int, re.findall(r"\d+", line.partition(" ")[2]))
        assert levels > nonzero > 50_000
