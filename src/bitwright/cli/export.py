"""bitwright export: a model file as source for other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.table import Table

from bitwright.cli.common import console, say_bytes

if TYPE_CHECKING:
    import numpy as np

    from bitwright.export import CSource
    from bitwright.export.cortex_m import Measured
    from bitwright.integer import Network

CPUS = ("cortex-m3", "cortex-m4", "cortex-m7")
EXAMPLES = 50


@click.command("export")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(["c"]), required=True, help="The language: C99.")
@click.option("--out", type=click.Path(path_type=Path), help="The file; beside the model by default.")
@click.option("--name", help="Begins every public name of the file; that of the file by default.")
@click.option("--force", is_flag=True, help="Write over files that exist.")
@click.option(
    "--measure",
    "cpus",
    type=click.Choice(CPUS),
    multiple=True,
    help="Also run it on this microcontroller in QEMU: same numbers, flash, RAM, instructions. Repeatable.",
)
@click.option("--data", "data_name", help="Measure on test images of this data set, not on drawn codes.")
@click.option(
    "--examples", type=click.IntRange(min=1), default=EXAMPLES, show_default=True, help="To measure on."
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Also write what was measured to this file."
)
@click.option("--no-check", is_flag=True, help="Read the file even where its SHA-256 does not fit.")
def command(
    model: Path,
    target: str,
    out: Path | None,
    name: str | None,
    force: bool,
    cpus: tuple[str, ...],
    data_name: str | None,
    examples: int,
    json_path: Path | None,
    no_check: bool,
) -> None:
    """Write a model file as one dependency-free C99 file, and its header.

    The C computes the same integers as the model file on every machine, with no allocation and no
    floating point inside; weights stay packed. Measuring needs Debian's gcc-arm-none-eabi and
    qemu-system-arm. A number that differs ends with exit code 1.

    \b
    Examples:
      bitwright export runs/demo/model.bw --to c
      bitwright export model.bw --to c --out net.c --measure cortex-m4
    """
    from bitwright.errors import InvalidValueError
    from bitwright.export import to_c
    from bitwright.integer import load, write_atomic

    network = load(model, check=not no_check)
    path = out or model.with_suffix(".c")
    header = path.with_suffix(".h")
    if path.suffix != ".c":
        raise InvalidValueError("a C file ends in .c", got=path, fix="choose another with --out")
    for file in (path, header):
        if file.exists() and not force:
            raise InvalidValueError(
                "a file is not written over", got=file, fix="pass --force, or another --out"
            )
    c = to_c(network, name or re.sub("[^A-Za-z0-9_]", "_", path.stem))
    write_atomic(path, c.source.encode())
    write_atomic(header, c.header.encode())
    console.print(
        f"{path} and {header.name}: {say_bytes(c.constants)} of constants, {say_bytes(c.arena)} of arena",
        markup=False,
    )
    if cpus:
        _measure(network, c, cpus, _examples(network, data_name, examples), json_path)


def _examples(network: Network, data_name: str | None, count: int) -> np.ndarray:
    """Test images as the network takes them, or drawn codes."""
    import numpy as np

    from bitwright.integer.codes import storage_type

    if data_name is None:
        form = network.input.format
        codes = np.array(form.codes()) if form.bits <= 16 else np.array([form.code_min, 0, form.code_max])
        drawn = np.random.default_rng(0).choice(codes, (count, *network.input.shape))
        return drawn.astype(storage_type(form))
    from dataclasses import replace

    from bitwright import data as data_room
    from bitwright.errors import FileFormatError

    test = data_room.load(data_name, "test")
    if "preprocessing" not in network.meta:
        raise FileFormatError(
            "a model file that takes images carries its preprocessing", got="none", fix="leave out --data"
        )
    preprocessing = data_room.Preprocessing.from_json(network.meta["preprocessing"])
    return replace(test, preprocessing=preprocessing).inputs(0, min(count, len(test)))


def _measure(
    network: Network, c: CSource, cpus: tuple[str, ...], x: np.ndarray, json_path: Path | None
) -> None:
    from bitwright.export.cortex_m import measure

    results = [measure(network, x, cpu) for cpu in cpus]
    console.print(_table(results))
    if json_path is not None:
        from bitwright.training import machine, write_json

        record: dict[str, Any] = {"meta": network.meta, "measured": [m.to_json() for m in results]}
        write_json(json_path, record | {"machine": machine()})
    if any(result.differing for result in results):
        console.print("the microcontroller computes other numbers than the model file", style="red")
        raise SystemExit(1)


def _table(results: list[Measured]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("core")
    for column in (
        "examples",
        "numbers",
        "differing",
        "flash",
        "RAM",
        "of it arena",
        "instructions",
        "a MAC",
    ):
        table.add_column(column, justify="right")
    for m in results:
        table.add_row(
            m.cpu,
            str(m.examples),
            f"{m.numbers:,}",
            str(m.differing),
            say_bytes(m.flash),
            say_bytes(m.ram),
            say_bytes(m.arena),
            f"{m.instructions:,}",
            f"{m.instructions / m.macs:.2f}" if m.macs else "",
        )
    return table
