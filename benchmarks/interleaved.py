"""Timing contenders against a yardstick, in turn, so that a change of the machine's speed meets both."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Run = Callable[[], object]


def time_pairs(
    yardstick: Run,
    contender: Run,
    pairs: int,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Medians of `pairs` alternating calls, in seconds, and the median of their ratios.

    `time.thread_time` as the clock leaves out what other processes take, where both run on one thread.
    """
    for _ in range(warm):
        yardstick()
        contender()
    ours, theirs = [], []
    gc.disable()
    try:
        for _ in range(pairs):
            began = clock()
            yardstick()
            between = clock()
            contender()
            ended = clock()
            theirs.append(between - began)
            ours.append(ended - between)
    finally:
        gc.enable()
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "seconds": statistics.median(ours),
        "yardstick": statistics.median(theirs),
    }


def show(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write(path: Path | None, record: dict[str, Any]) -> None:
    """Write the record with the machine it was measured on."""
    if path is None:
        return
    from bitwright.training.machine import machine

    path.write_text(json.dumps(record | {"machine": machine()}, indent=1) + "\n")
