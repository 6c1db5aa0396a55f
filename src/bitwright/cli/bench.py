"""bitwright bench: an integer network beside float32 runtimes of the same architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from bitwright.cli.common import console, progress_bar, say_seconds, tune_process


@click.command("bench")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "model_name",
    default="mlp",
    show_default=True,
    help="Without a file: a network of this kind...",
)
@click.option(
    "--width", type=int, default=4096, show_default=True, help="...and width, with fresh weights..."
)
@click.option(
    "--data",
    "data_name",
    default="mnist",
    show_default=True,
    help="...for images of this data set's shape.",
)
@click.option(
    "--batch",
    "sizes",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 100),
    show_default=True,
    help="Examples per call; may be repeated.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of every runtime.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=3),
    default=50,
    show_default=True,
    help="Interleaved rounds; medians are reported.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    help="Also write the figures to this file.",
)
def command(
    model: Path | None,
    model_name: str,
    width: int,
    data_name: str,
    sizes: tuple[int, ...],
    threads: int,
    rounds: int,
    json_path: Path | None,
) -> None:
    """Time a model file, or a fresh qnn network, beside float32 runtimes.

    All run the same architecture, interleaved in one process: torch, and ONNX Runtime where onnx
    and onnxruntime are installed. The medians hold for this machine, as busy as it is.
    """
    from bitwright.training import machine, write_json

    tune_process()
    network, name = _network(model, model_name, width, data_name)
    timings = time_with_bar(network, sizes, threads, rounds)
    console.print(f"{name}, {threads} thread{'s' if threads > 1 else ''}, medians of {rounds}")
    console.print(timing_table(timings))
    if json_path is not None:
        result = {
            "network": name,
            "threads": threads,
            "rounds": rounds,
            "timings": [vars(t) for t in timings],
            "machine": machine(),
        }
        write_json(json_path, result)


def time_with_bar(network: Any, sizes: tuple[int, ...], threads: int, rounds: int) -> list[Any]:
    """`time_network` behind a progress bar."""
    from bitwright.analysis import time_network

    with progress_bar() as bars:
        task = bars.add_task("timing", total=len(sizes) * (rounds + 3))
        return time_network(
            network, sizes, threads=threads, rounds=rounds, progress=lambda: bars.advance(task)
        )


def timing_table(timings: list[Any]) -> Table:
    """One row a runtime, one column a batch size, with the ratio to bitwright."""
    sizes = sorted({t.batch for t in timings})
    ours = {t.batch: t.seconds for t in timings if t.runtime.startswith("bitwright")}
    table = Table("runtime", box=box.SIMPLE_HEAD, pad_edge=False)
    for size in sizes:
        table.add_column(f"batch {size}", justify="right")
        table.add_column("", justify="right")
    for runtime in dict.fromkeys(t.runtime for t in timings):
        cells = []
        for size in sizes:
            seconds = next(t.seconds for t in timings if t.runtime == runtime and t.batch == size)
            cells += [say_seconds(seconds), f"{seconds / ours[size]:.1f}x"]
        table.add_row(runtime, *cells)
    return table


def _network(model: Path | None, kind: str, width: int, data_name: str) -> tuple[Any, str]:
    if model is not None:
        from bitwright.integer import load

        return load(model), str(model)
    import torch

    from bitwright import models
    from bitwright.errors import unknown_name
    from bitwright.lowering import lower
    from bitwright.recipes import quantize_

    shapes = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
    if data_name not in shapes:
        raise unknown_name("data set", data_name, shapes)
    plain = models.build(kind, width, shapes[data_name], 10)
    quantize_(plain, "qnn", verbose=False)
    network = lower(plain, torch.zeros((1, *shapes[data_name])))
    return network, f"qnn {kind} {width} for {data_name}, fresh weights"
