"""Time the arithmetics of one product against each other, interleaved.

    python benchmarks/products.py --json experiments/results/products.json

8-bit levels, held in float32 as layers hold them: every path includes its casts, its patches, and a float64
result where the widths need one. Medians over interleaved rounds, so that other work on the machine meets
every path alike; ratios are to float32, which for the linear case and for the convolution's wgrad is not
exact.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import click
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from bitwright.nn.arithmetic import Operand, Path, choose, largest_sum, preference
from bitwright.nn.geometry import ConvGeometry, Geometry, Kind, LinearGeometry
from bitwright.nn.multiply import int8_speed
from bitwright.nn.product import sums
from bitwright.training import machine, tune_allocator, write_json

CASES: dict[str, tuple[Geometry, tuple[int, ...], tuple[int, ...]]] = {
    "linear 100 x 4096 x 4096": (LinearGeometry(), (100, 4096), (4096, 4096)),
    "conv 8 x 64 x 32 x 32, 64 of 3 x 3": (ConvGeometry((1, 1), (1, 1)), (8, 64, 32, 32), (64, 64, 3, 3)),
}
EIGHT_BITS = Operand(-128, 127)
PATHS = (Path.FLOAT32, Path.INT8, Path.SPLIT, Path.FLOAT64)
Run = Callable[[], object]


def measure(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median seconds of each; in every round each runs twice in turn, and the second is timed."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            began = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in samples.items()}


def random_levels(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Levels of all 8 bits, as float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, generator=generator).float()


def read_norm(geometry: Geometry, kind: Kind, left: torch.Tensor, right: torch.Tensor) -> tuple[int, int]:
    """What the choice reads where the widths do not decide."""
    side, rows = geometry.terms(kind, left, right)
    return side, largest_sum(rows)


def products_of(name: str, rounds: int) -> list[dict[str, Any]]:
    """The three products of a case: seconds by path, the path that is chosen, and whether all agree."""
    geometry, a_shape, w_shape = CASES[name]
    y_shape = tuple(geometry.output(torch.Size(a_shape), torch.Size(w_shape)))
    a, w, e = (random_levels(shape, seed) for seed, shape in enumerate((a_shape, w_shape, y_shape)))
    results = []
    for kind, left, right, shape in (
        (Kind.FORWARD, a, w, y_shape),
        (Kind.DGRAD, e, w, a_shape),
        (Kind.WGRAD, e, a, w_shape),
    ):
        known = EIGHT_BITS, EIGHT_BITS

        def run(
            path: Path, kind: Kind = kind, left: Any = left, right: Any = right, shape: Any = shape
        ) -> Any:
            return sums(geometry, kind, left, right, list(shape), (EIGHT_BITS, EIGHT_BITS), path=path)

        def norm(kind: Kind = kind, left: Any = left, right: Any = right) -> tuple[int, int]:
            side, rows = geometry.terms(kind, left, right)
            return side, largest_sum(rows)

        exact = {path: run(path=path).double() for path in PATHS if path is not Path.FLOAT32}
        equal = all(torch.equal(exact[Path.FLOAT64], result) for result in exact.values())
        reduction = geometry.reduction(kind, left.shape, right.shape)
        order = preference(geometry, kind, reduction, shape, True, int8_speed())
        runs: dict[str, Run] = {path.value: partial(run, path=path) for path in PATHS}
        runs["norm"] = norm
        results.append(
            {
                "case": name,
                "product": kind.value,
                "reduction": reduction,
                "chosen": choose(known, reduction, norm, order).path.value,
                "equal": equal,
                "seconds": measure(runs, rounds),
            }
        )
    return results


def table_of(results: list[dict[str, Any]]) -> Table:
    """One row a product; milliseconds and the ratio to float32."""
    columns = [*(path.value for path in PATHS), "norm"]
    table = Table("case", "product", *columns, "chosen", box=box.SIMPLE_HEAD, pad_edge=False)
    for result in results:
        seconds = result["seconds"]
        cells = [f"{seconds[c] * 1e3:.2f} ms {seconds[c] / seconds['float32']:.2f}x" for c in columns]
        table.add_row(result["case"], result["product"], *cells, result["chosen"])
    return table


@click.command()
@click.option("--rounds", type=click.IntRange(min=3), default=25, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--tuned/--default-allocator", default=True, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=FilePath), help="Also write the figures here.")
def main(rounds: int, threads: int, tuned: bool, json_path: FilePath | None) -> None:
    """Time float32, int8, split and float64 products of 8-bit levels."""
    tuned = tuned and tune_allocator()
    torch.set_num_threads(threads)
    results = [result for name in CASES for result in products_of(name, rounds)]
    Console(width=160).print(table_of(results))
    if json_path is not None:
        settings = {"rounds": rounds, "threads": threads, "tuned_allocator": tuned}
        write_json(json_path, {**settings, "products": results, "machine": machine()})


if __name__ == "__main__":
    main()
