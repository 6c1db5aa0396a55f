"""Whole networks against the best runtimes: the same architecture, interleaved in one process, medians.

    python benchmarks/networks.py --out experiments/results/networks.json

Four networks, two batches each, one and two threads. In every round each contender rests, runs untimed for a
few milliseconds (its neighbours have filled the caches and their threads may still spin), and is timed once:
in CPU time of the process on one thread, so that other processes count less, and in wall time on two.
What is not installed (benchmarks/requirements.txt) is named in the record.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from architectures import CASES, Case
from interleaved import show, write
from peers import PEERS, Run, missing

OURS = "bitwright"
REST_SECONDS = 0.003
WARM_SECONDS = 0.005
LEAST_ROUNDS = 5


@dataclass
class Contender:
    """A call to time, and its times."""

    name: str
    run: Run
    seconds: list[float] = field(default_factory=list)


def inputs(case: Case, batch: int) -> np.ndarray:
    """Numbers in [-1, 1) of 8 bits, float32."""
    levels = np.random.default_rng(1).integers(-128, 128, (batch, *case.shape))
    return (levels / 128).astype(np.float32)


def contenders(case: Case, x: np.ndarray, threads: int, failed: dict[str, str]) -> list[Contender]:
    """Ours and every peer that is installed; what could not be built goes into `failed`."""
    found = [Contender(OURS, lambda: case.network(x, threads=threads))]
    for name, (packages, build) in PEERS.items():
        absent = missing(packages)
        if absent:
            failed[name] = f"not installed: {', '.join(absent)}"
            continue
        try:
            run = build(case, x, threads)
        except Exception as error:
            failed[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        if run is not None:
            found.append(Contender(name, run))
    return found


def check(case: Case, x: np.ndarray, found: list[Contender]) -> None:
    """The same arithmetic gives the same numbers: the interpreter's, and OpenVINO's binary operation's."""
    few = x[:2]
    np.testing.assert_array_equal(case.network(few), case.network(few, backend="interpreter"))
    np.testing.assert_array_equal(case.network(x)[: len(few)], case.network(few))
    for contender in found:
        if contender.name == "OpenVINO binary":
            sums = case.network.trace(x)[case.network.operations[-1].input]
            np.testing.assert_array_equal(np.asarray(contender.run()).reshape(sums.shape), sums)


def time_all(found: list[Contender], threads: int, budget: float) -> int:
    """Rounds until the budget is spent; returns how many."""
    clock = time.process_time if threads == 1 else time.perf_counter
    ended = time.perf_counter() + budget
    rounds = 0
    gc.disable()
    try:
        while rounds < LEAST_ROUNDS or time.perf_counter() < ended:
            for contender in found:
                time.sleep(REST_SECONDS)
                began = now = time.perf_counter()
                while now - began < WARM_SECONDS:
                    contender.run()
                    now = time.perf_counter()
                began = clock()
                contender.run()
                contender.seconds.append(clock() - began)
            rounds += 1
    finally:
        gc.enable()
    return rounds


def measure(case: Case, batch: int, threads: int, budget: float) -> list[dict[str, Any]]:
    """One row a runtime."""
    torch.set_num_threads(threads)
    x = inputs(case, batch)
    failed: dict[str, str] = {}
    found = contenders(case, x, threads, failed)
    check(case, x, found)
    rounds = time_all(found, threads, budget)
    ours = found[0].seconds
    place = {"network": case.name, "batch": batch, "threads": threads}
    rows: list[dict[str, Any]] = []
    for contender in found:
        ratios = [a / b for a, b in zip(ours, contender.seconds, strict=True)]
        rows.append(
            place
            | {
                "runtime": contender.name,
                "seconds": statistics.median(contender.seconds),
                "ratio": statistics.median(ratios),  # our time / theirs
                "rounds": rounds,
            }
        )
    return rows + [place | {"runtime": name, "problem": why} for name, why in failed.items()]


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of the peers."""
    return min((r for r in rows if "seconds" in r and r["runtime"] != OURS), key=lambda r: r["seconds"])


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write the record here.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(CASES)), help="Only these.")
@click.option("--threads", "counts", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--seconds", default=15.0, show_default=True, help="Of each network, batch and thread count.")
def main(out: Path | None, names: tuple[str, ...], counts: tuple[int, ...], seconds: float) -> None:
    """Time every network beside its peers."""
    record: list[dict[str, Any]] = []
    for name in names or CASES:
        torch.manual_seed(0)
        case = CASES[name]()
        for batch in case.batches:
            for threads in counts:
                rows = measure(case, batch, threads, seconds)
                record += rows
                cells = [
                    (
                        row["runtime"],
                        f"{row['seconds'] * 1e6:.0f} us" if "seconds" in row else row["problem"],
                        f"{row['ratio']:.2f}" if "ratio" in row else "",
                    )
                    for row in rows
                ]
                title = f"{case.name}, batch {batch}, {threads} threads; best peer: {best(rows)['runtime']}"
                show(title, ("runtime", "time", "our time / theirs"), cells)
    write(out, {"networks": record})


if __name__ == "__main__":
    main()
