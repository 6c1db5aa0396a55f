"""What monitoring costs: training steps with and without it, in turn.

    python benchmarks/monitoring.py --json experiments/results/monitoring.json

The median says what an ordinary step pays, the mean what the run pays, samples included.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from interleaved import show, write

import bitwright as bw
from bitwright import models, training
from bitwright.training import Monitor

NETWORKS = {
    "MLP 3 x 1024, batch 100": (("mlp", 1024, (1, 28, 28), 10), 100),
    "VGG-small at quarter width, batch 64": (("convnet", 32, (3, 32, 32), 10), 64),
}
ROLES = ("weight", "activation", "error", "weight_grad", "primal")


def measure(name: str, steps: int) -> dict[str, Any]:
    """`steps` steps of each kind of one network with a format in every role."""
    build, batch = NETWORKS[name]
    torch.manual_seed(0)
    spec = {"format": "fixed12", "controller": "max-abs"}
    recipe = bw.recipe("float", **dict.fromkeys(ROLES, spec))
    x, t = torch.rand(batch, *build[2]) * 2 - 1, torch.randint(0, 10, (batch,))
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seen in (False, True):
            model = models.build(*build)
            bw.quantize_(model, recipe, verbose=False)
            optimizer = recipe.optimizer(model)
            monitor = Monitor(Path(folder)) if seen else None
            if monitor is not None:
                monitor.run_begins(model, optimizer)
                monitor.epoch_begins(0, steps)
            runs.append((model, optimizer, monitor, []))
        for _ in range(steps + 3):
            for model, optimizer, monitor, seconds in runs:
                began = time.perf_counter()
                optimizer.zero_grad()
                value = training.loss("cross-entropy", model(x), t)
                value.backward()
                optimizer.step()
                if monitor is not None:
                    monitor.step_ends(float(value.detach()))
                seconds.append(time.perf_counter() - began)
        samples = len(training.read_monitor(Path(folder) / training.MONITOR))
    off, on = (seconds[3:] for *_, seconds in runs)
    return {
        "network": name,
        "steps": steps,
        "samples": samples,
        "median_ratio": statistics.median(a / b for a, b in zip(on, off, strict=True)),
        "mean_ratio": statistics.fmean(on) / statistics.fmean(off),
        "step_seconds": statistics.median(off),
    }


@click.command(help=__doc__)
@click.option("--steps", default=200, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the record here.")
def main(steps: int, threads: int, path: Path | None) -> None:
    torch.set_num_threads(threads)
    training.tune_allocator()
    rows = [measure(name, steps) for name in NETWORKS]
    show(
        f"{steps} steps with monitoring against as many without, in turn",
        ("network", "median", "mean", "samples"),
        [
            (r["network"], f"{r['median_ratio']:.3f}", f"{r['mean_ratio']:.3f}", str(r["samples"]))
            for r in rows
        ],
    )
    if path is not None:
        write(path, {"threads": threads, "rows": rows})


if __name__ == "__main__":
    main()
