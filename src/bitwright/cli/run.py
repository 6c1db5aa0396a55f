"""bitwright run: images in, class names out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich import box
from rich.table import Table

from bitwright.cli.common import console, threads_option

if TYPE_CHECKING:
    from bitwright.integer import Network


@click.command("run")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--invert", is_flag=True, help="Dark on light instead of light on dark.")
@click.option("--backend", help="engine or interpreter; the engine by default where it knows the network.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Show so many best classes.",
)
@click.option(
    "--explain", is_flag=True, help="Print the engine's plan: the kernel of each operation, and why."
)
@click.option("--no-check", is_flag=True, help="Read the file even where its SHA-256 does not fit.")
@threads_option
def command(
    model: Path,
    inputs: tuple[Path, ...],
    invert: bool,
    backend: str | None,
    top: int,
    explain: bool,
    no_check: bool,
    threads: int | None,
) -> None:
    """Classify images or .npy arrays with a model file.

    Images are converted to the model's size and channels; .npy files hold uint8 pixels or float32
    inputs, one example or a batch.

    \b
    Examples:
      bitwright run runs/demo/model.bw three.png
      bitwright run runs/demo/model.bw batch.npy --top 3
      bitwright run runs/demo/model.bw --explain
    """
    from bitwright.data import Preprocessing, read_images
    from bitwright.errors import FileFormatError
    from bitwright.integer import load

    network = load(model, check=not no_check)
    note = network.meta.get("float_islands")
    if explain:
        console.print(_plan(network))
        if note is not None:
            console.print(f"one part of a chain with float islands: {note}", markup=False)
    if not inputs:
        if explain:
            return
        raise click.UsageError("name at least one image or .npy file (or --explain)")
    if note is not None:
        raise FileFormatError(
            "a file that runs alone is a whole network",
            got=f"one part of a chain with float islands: {note}",
            where=model,
            fix="join the parts in Python with bitwright.lowering.Chain",
        )
    if "preprocessing" not in network.meta:
        raise FileFormatError(
            "a model file that reads images carries its preprocessing",
            got="none",
            where=model,
            fix="call the network in Python with float32 batches",
        )
    preprocessing = Preprocessing.from_json(network.meta["preprocessing"])
    names = network.meta.get("classes", [])
    if not isinstance(names, list):
        raise FileFormatError("the class names of a model file are a list", got=repr(names), where=model)
    classes = [str(name) for name in names]
    table = Table("input", "class", "score", box=box.SIMPLE_HEAD, pad_edge=False)
    for path in inputs:
        x = read_images([path], preprocessing, invert=invert)
        scores = network(x, backend=backend, threads=threads)
        if scores.ndim == 1:  # the network ends in an argmax
            for index, best in enumerate(scores):
                name = f"{path}[{index}]" if len(scores) > 1 else str(path)
                table.add_row(name, classes[best] if best < len(classes) else str(best), "")
            continue
        for index, row in enumerate(scores):
            name = f"{path}[{index}]" if len(scores) > 1 else str(path)
            for rank, best in enumerate(row.argsort()[::-1][:top]):
                label = classes[best] if best < len(classes) else str(best)
                table.add_row(name if rank == 0 else "", label, f"{row[best]:.3f}")
    console.print(table)


def _plan(network: Network) -> Table | str:
    """The engine's plan, one row a stage; or why the interpreter runs."""
    if network.engine_problem is not None:
        return f"the interpreter runs it: {network.engine_problem}"
    rows = network.engine().explain()
    table = Table("operation", "kernel", "layout", "MACs", "why", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        macs = f"{row['macs']:,}" if row["macs"] else ""
        table.add_row(row["operation"], row["kernel"], row["layout"], macs, row["reason"])
    return table
