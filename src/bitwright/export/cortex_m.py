"""An exported network on a Cortex-M: built by gcc-arm-none-eabi, run by qemu-system-arm, measured.

QEMU counts instructions, not cycles: under `-icount shift=0` every instruction takes one virtual nanosecond,
and the board's 25 MHz timer shows 40 of them a tick. Real cores take more cycles than instructions, by a
factor that depends on their memory and pipeline.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import BitwrightError, unknown_name
from bitwright.export.c import CSource, to_c
from bitwright.export.memory import Tensor
from bitwright.export.text import render
from bitwright.integer import Network, interpreter

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
BOARDS = {"cortex-m3": "mps2-an385", "cortex-m4": "mps2-an386", "cortex-m7": "mps2-an500"}
INSTRUCTIONS_PER_TICK = 40
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-mthumb", "-ffunction-sections")
TIMEOUT = 600.0


class ToolError(BitwrightError, RuntimeError):
    """A compiler or an emulator is missing or failed."""


@dataclass(frozen=True)
class Measured:
    """What a network takes on a microcontroller.

    Args:
        examples, numbers, differing: how much was compared with the interpreter, and how much of it differs.
        flash: bytes of code and constants, library functions included; `constants` of them are weights,
            thresholds, multipliers and tables.
        ram: bytes of arena, stack, input codes and output numbers together.
        instructions: for one example, the mean.
        macs: multiply-accumulates for one example.
    """

    cpu: str
    optimisation: str
    examples: int
    numbers: int
    differing: int
    flash: int
    constants: int
    ram: int
    arena: int
    stack: int
    buffers: int
    instructions: int
    macs: int
    compiler: str
    emulator: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def missing_tools() -> list[str]:
    """The programs that are needed and not there."""
    return [tool for tool in (COMPILER, "arm-none-eabi-size", EMULATOR) if shutil.which(tool) is None]


def measure(network: Network, x: np.ndarray, cpu: str = "cortex-m4", optimisation: str = "-O2") -> Measured:
    """Run a batch on a microcontroller and compare every number with the interpreter's.

    Args:
        x: as the network takes it, float32 or codes; it is quantised here, the microcontroller takes codes.
        cpu: one of BOARDS.
        optimisation: the compiler's flag.

    Raises:
        ToolError: the compiler or QEMU is missing, or failed.
    """
    if cpu not in BOARDS:
        raise unknown_name("cpu", cpu, BOARDS)
    if missing_tools():
        raise ToolError(
            "a run on a microcontroller needs a compiler for it and QEMU",
            got=f"no {', '.join(missing_tools())}",
            fix="install Debian's gcc-arm-none-eabi and qemu-system-arm",
        )
    c, batch = to_c(network, "net"), network.check_batch(x)
    expected = interpreter.trace(network, batch)
    codes = _stored(c.layout.input, expected[network.input.name])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flash = _build(folder, c, cpu, optimisation)
        numbers, ticks, stack = _run(folder, c, codes, cpu)
    want = _numbers(network, c, expected)
    buffers = c.layout.input.bytes + c.layout.output.bytes
    return Measured(
        cpu=cpu,
        optimisation=optimisation,
        examples=len(batch),
        numbers=want.size,
        differing=int((numbers != want).sum()),
        flash=flash,
        constants=c.constants,
        ram=c.arena + stack + buffers,
        arena=c.arena,
        stack=stack,
        buffers=buffers,
        instructions=round(float(ticks.mean()) * INSTRUCTIONS_PER_TICK),
        macs=sum(network.macs(operation) for operation in network.operations),
        compiler=_first_line(COMPILER, "--version"),
        emulator=_first_line(EMULATOR, "--version"),
    )


def _build(folder: Path, c: CSource, cpu: str, optimisation: str) -> int:
    """net.elf; returns the bytes of flash that the network takes."""
    (folder / "net.c").write_text(c.source)
    (folder / "net.h").write_text(c.header)
    (folder / "harness.c").write_text(render("cortex_m.c.j2", name="net"))
    (folder / "net.ld").write_text(render("cortex_m.ld.j2"))
    for source in ("net", "harness"):
        _call(
            folder, COMPILER, *FLAGS, optimisation, f"-mcpu={cpu}", "-c", f"{source}.c", "-o", f"{source}.o"
        )
    link = ["-nostartfiles", "-Wl,--gc-sections", "-T", "net.ld", "harness.o", "net.o", "-o", "net.elf"]
    _call(folder, COMPILER, "-mthumb", f"-mcpu={cpu}", *link)
    sizes = _call(folder, "arm-none-eabi-size", "-A", "net.elf")
    return next(int(line.split()[1]) for line in sizes.splitlines() if line.startswith(".network"))


def _run(folder: Path, c: CSource, codes: np.ndarray, cpu: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers [N, outputs], timer ticks [N] and bytes of stack."""
    (folder / "codes.bin").write_bytes(codes.tobytes())
    quiet = ["-display", "none", "-monitor", "none", "-serial", "none"]
    counted = ["-icount", "shift=0", "-semihosting-config", "enable=on,target=native"]
    _call(folder, EMULATOR, "-M", BOARDS[cpu], *quiet, *counted, "-kernel", "net.elf")
    written = (folder / "numbers.bin").read_bytes()
    kind = np.dtype(
        [("ticks", "<u4"), ("numbers", _dtype(c.layout.output), (c.layout.output.type.elements,))]
    )
    if len(written) != len(codes) * kind.itemsize + 4:
        raise ToolError("the microcontroller gives numbers for every example", got=f"{len(written)} bytes")
    records = np.frombuffer(written, kind, len(codes))
    return records["numbers"], records["ticks"], int.from_bytes(written[-4:], "little")


def _numbers(network: Network, c: CSource, expected: dict[str, np.ndarray]) -> np.ndarray:
    """What the interpreter says of the numbers that a run gives: [N, outputs]."""
    last = network.operations[-1]
    levels = expected[last.name]
    if last.kind == "output":
        x = expected[last.input]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        levels = x * last.multiplier.reshape(shape) + last.offset.reshape(shape)  # type: ignore[attr-defined]
    return levels.reshape(len(levels), -1)


def _stored(tensor: Tensor, levels: np.ndarray) -> np.ndarray:
    return (levels - tensor.base).astype(_dtype(tensor))


def _dtype(tensor: Tensor) -> np.dtype:
    return np.dtype(tensor.c_type.removesuffix("_t"))


def _first_line(*command: str) -> str:
    return _call(Path.cwd(), *command).splitlines()[0]


def _call(folder: Path, *command: str) -> str:
    """The output of a program that succeeds."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{command[0]} ends", got=f"nothing in {TIMEOUT:.0f} s") from error
    if done.returncode:
        raise ToolError(f"{command[0]} succeeds", got=(done.stderr or done.stdout).strip()[-2000:])
    return done.stdout
