"""Bytes of a network's weights and optimiser state between steps, as codes and as floats; a step's time.

    python benchmarks/stored_codes.py --json experiments/results/stored-codes.json

FxpNet's recipe; one process, steps with codes and steps without in turn.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from interleaved import show, time_pairs, write
from training_step import step_of

import bitwright as bw
from bitwright import models

NETWORKS = {
    "ConvNet, first layers of 128, batch 50": (("convnet", 128, (3, 32, 32), 10), 50),
    "MLP 3 x 2048, batch 100": (("mlp", 2048, (1, 28, 28), 10), 100),
}


def measure(pairs: int) -> list[dict[str, Any]]:
    """Each network: bytes of all that its optimiser keeps, and the ratio of steps."""
    torch.set_num_threads(1)
    rows = []
    for name, (build, batch) in NETWORKS.items():
        x, t = torch.rand(batch, *build[2]) * 2 - 1, torch.randint(0, 10, (batch,))
        steps, handles = [], []
        for codes in (False, True):
            torch.manual_seed(0)
            model, recipe = models.build(*build), bw.recipe("fxpnet")
            bw.quantize_(model, recipe, verbose=False)
            optimizer = recipe.optimizer(model)
            steps.append(step_of(model, optimizer, x, t))
            if codes:
                handles.append(bw.store_as_codes(optimizer))
        # processor time of the one thread: what other processes take is left out
        times = time_pairs(*steps, pairs, clock=time.thread_time)
        sizes = {"bytes": handles[0].nbytes, "float_bytes": handles[0].float_nbytes}
        rows.append({"network": name, "threads": 1} | sizes | times)
        print(rows[-1], flush=True)
    return rows


@click.command()
@click.option("--pairs", default=5, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(pairs: int, path: Path | None) -> None:
    """Measure FxpNet stored as codes."""
    rows = measure(pairs)
    show(
        "FxpNet between steps",
        ("network", "floats", "codes", "step / step without codes"),
        [
            (
                r["network"],
                f"{r['float_bytes'] / 1e6:.1f} MB",
                f"{r['bytes'] / 1e6:.1f} MB",
                f"{r['ratio']:.2f}",
            )
            for r in rows
        ],
    )
    write(path, {"pairs": pairs, "rows": rows})


if __name__ == "__main__":
    main()
