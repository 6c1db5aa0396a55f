"""What several verbs share: the console, options, progress, reading a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_WIDTH = 110
"""Columns where the output is no terminal."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads; all processors by default."
)


@contextmanager
def progress_bar(*columns: str) -> Iterator[Progress]:
    """A progress bar with counts and time left; silent where the output is no terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        *(TextColumn(column) for column in columns),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield progress


def set_threads(threads: int | None) -> None:
    """Let torch use `threads` threads, where that is given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@cache
def tune_process() -> None:
    """Tune the C allocator of this process, once, and say so."""
    from bitwright.training import tune_allocator

    if tune_allocator():
        console.print("allocator tuned: memory once used stays with this process", style="dim")


def say_bytes(count: float) -> str:
    """ "43 kB"."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def say_seconds(seconds: float) -> str:
    """ "39 us"."""
    for unit, worth in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= worth:
            return f"{seconds / worth:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def run_folder(model: Path) -> Path:
    """The folder of the run that made a model file."""
    return model.parent
