"""bitwright inspect: what a model file holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from bitwright.analysis import Repetition, kernel_repetitions
from bitwright.cli.common import console, say_bytes
from bitwright.errors import FileFormatError
from bitwright.formats import Format
from bitwright.integer import Identity, Network, Operation, TensorType, identify, load

COLUMNS = 100
SHOWN_CLASSES = 12


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(model: Path, as_json: bool) -> None:
    """Show what a model file holds: operations, formats, sizes, bounds.

    Sums are exact integers; their bound follows from the weights. MACs are for one example.

    \b
    Examples:
      bitwright inspect runs/demo/model.bw
      bitwright inspect runs/demo/model.bw --json
    """
    identity, network = identify(model), load(model, check=False)
    try:
        for weight in network.weights().values():
            weight.check()
        problem = None if identity.fits else "it is not that of the contents: the file was edited or damaged"
    except FileFormatError as error:
        problem = str(error)
    described = describe(identity, network, problem)
    if as_json:
        click.echo(json.dumps({"file": str(model)} | described, indent=2))
    else:
        _print(model, described)


def describe(identity: Identity, network: Network, problem: str | None = None) -> dict[str, Any]:
    """Everything that the command shows, as JSON values."""
    repeated = kernel_repetitions(network)
    operations = [
        _operation(network, o) | {"repetition": asdict(repeated[o.name]) if o.name in repeated else None}
        for o in network.operations
    ]
    stored = [o["weight"] for o in operations if o["weight"]]
    return {
        "version": identity.version,
        "bytes": identity.bytes,
        "sha256": identity.sha256,
        "intact": problem is None,
        "problem": problem,
        "meta": network.meta,
        "operations": operations,
        "totals": {
            "operations": len(operations),
            "weights": sum(w["count"] for w in stored),
            "weight_bytes": sum(w["bytes"] for w in stored),
            "macs": sum(o["macs"] for o in operations),
        },
    }


def _operation(network: Network, operation: Operation) -> dict[str, Any]:
    made, weight = network.types[operation.name], network.weights().get(operation.name)
    stored = None
    if weight is not None:
        stored = {
            "format": str(weight.format),
            "bits": weight.format.bits,
            "shape": list(weight.shape),
            "count": weight.bits // weight.format.bits,
            "bytes": weight.packed.nbytes,
        }
    return {
        "name": operation.name,
        "op": operation.kind,
        "inputs": list(operation.inputs),
        "shape": list(made.shape),
        "holds": _holds(operation, made),
        "zero_point": made.zero_point,
        "bound": made.bound,
        "scale": getattr(operation, "scale", None),
        "weight": stored,
        "macs": network.macs(operation),
    }


def _holds(operation: Operation, made: TensorType) -> str:
    """The format of a tensor, or what it is instead."""
    if operation.kind == "output":
        return "float32"
    if operation.kind == "argmax":
        return "int64"
    return str(made.format) if isinstance(made.format, Format) else "sums"


# --- on the terminal --------------------------------------------------------------------------------


def _print(model: Path, described: dict[str, Any]) -> None:
    width = min(console.width, COLUMNS)
    state = "[green]intact[/]" if described["intact"] else "[red]damaged[/]"
    console.print(
        f"[bold]{escape(str(model))}[/]  version {described['version']}, {say_bytes(described['bytes'])}, "
        f"{state}",
        width=width,
    )
    console.print(f"SHA-256 {escape(described['sha256'])}", style="dim", width=width)
    if described["problem"]:
        console.print(f"[red]{escape(described['problem'])}[/]", width=width)
    for key, value in described["meta"].items():
        console.print(f"[bold]{escape(key)}[/]: {escape(_short(value))}", width=width)
    console.print(_table(described["operations"]), width=width)
    _print_repetition(described["operations"], width)
    totals = described["totals"]
    console.print(
        f"{totals['operations']} operations, {totals['weights']:,} weights in "
        f"{say_bytes(totals['weight_bytes'])}, {totals['macs']:,} MACs for one example",
        width=width,
    )


def _print_repetition(operations: list[dict[str, Any]], width: int) -> None:
    """How many 2-D filters differ in their input channel, and what using one for all would save."""
    found = {o["name"]: Repetition(**o["repetition"]) for o in operations if o["repetition"]}
    if found:
        shown = ", ".join(
            f"{escape(name)} {r.unique / r.filters:.0%} unique, {r.saving:.1f}x fewer passes"
            for name, r in found.items()
        )
        console.print(f"repeated binary filters: {shown}", width=width)


def _table(operations: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("operation", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("takes", overflow="fold")
    table.add_column("shape", overflow="fold")
    table.add_column("holds", no_wrap=True)
    table.add_column("|largest|", justify="right", no_wrap=True)
    table.add_column("weights", overflow="fold")
    before = None
    for o in operations:
        takes = ", ".join(o["inputs"])
        weight = o["weight"]
        table.add_row(
            escape(o["name"]),
            o["op"],
            "" if takes == before else escape(takes),  # the one above
            " x ".join(map(str, o["shape"])) or "1",
            o["holds"] + (f" zero {o['zero_point']}" if o["zero_point"] else ""),
            "" if o["holds"] == "float32" else _magnitude(o["bound"]),
            f"{weight['format']}, {say_bytes(weight['bytes'])}" if weight else "",
        )
        before = o["name"]
    return table


def _magnitude(bound: int) -> str:
    """ "127", or "<= 2^23" where that is shorter."""
    return f"{bound:,}" if bound < 1_000_000 else f"< 2^{bound.bit_length()}"


def _short(value: Any) -> str:
    """JSON on a line or two; long lists of names are cut."""
    if isinstance(value, list) and len(value) > SHOWN_CLASSES:
        shown = ", ".join(map(str, value[:SHOWN_CLASSES]))
        return f"{shown}, ... ({len(value)})"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 4 * COLUMNS else text[: 4 * COLUMNS] + " ..."
