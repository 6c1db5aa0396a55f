"""FxpNet's training step against the float32 step (Adam) of the same network, and where its time goes.

    python benchmarks/fxpnet_step.py --json experiments/results/fxpnet-step.json

One process, steps in turn; the median of pairs.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
import torch
from interleaved import show, time_pairs, write
from torch.profiler import ProfilerActivity, profile
from training_step import step_of

import bitwright as bw
from bitwright import models, training

NETWORKS = {
    "VGG-small at half width, batch 64": (("convnet", 64, (3, 32, 32), 10), 64),
    "MLP 3 x 4096, batch 100": (("mlp", 4096, (1, 28, 28), 10), 100),
}
LIMIT = 1.5
SHOWN = 8


def measure(pairs: int, threads: int) -> list[dict[str, Any]]:
    """Each network: the ratio, and the operators that take most of the step."""
    torch.set_num_threads(threads)
    rows = []
    for name, (build, batch) in NETWORKS.items():
        torch.manual_seed(0)
        plain = models.build(*build)
        model, recipe = copy.deepcopy(plain), bw.recipe("fxpnet")
        bw.quantize_(model, recipe, verbose=False)
        x, t = torch.rand(batch, *build[2]) * 2 - 1, torch.randint(0, 10, (batch,))
        float_step = step_of(plain, torch.optim.Adam(plain.parameters(), lr=1e-3), x, t)
        fixed_step = step_of(model, recipe.optimizer(model), x, t)
        times = time_pairs(float_step, fixed_step, pairs)
        rows.append({"network": name, "threads": threads, "limit": LIMIT} | times)
        rows[-1]["shares"] = shares(fixed_step)
        print(rows[-1], flush=True)
    return rows


def shares(step: Any) -> dict[str, float]:
    """Operator -> its share of one step's time, the largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    found = profiler.key_averages()
    total = sum(e.self_cpu_time_total for e in found)
    largest = sorted(found, key=lambda e: -e.self_cpu_time_total)[:SHOWN]
    return {e.key: round(e.self_cpu_time_total / total, 3) for e in largest}


@click.command()
@click.option("--pairs", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--tuned/--default-allocator", default=False, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(pairs: int, threads: int, tuned: bool, path: Path | None) -> None:
    """Time FxpNet's training step against float32."""
    if tuned:
        training.tune_allocator()
    rows = measure(pairs, threads)
    show(
        f"FxpNet step / float32 step, {'tuned' if tuned else 'default'} allocator",
        ("network", "ratio", "limit"),
        [(r["network"], f"{r['ratio']:.2f}", str(r["limit"])) for r in rows],
    )
    write(path, {"allocator": "tuned" if tuned else "default", "pairs": pairs, "rows": rows})


if __name__ == "__main__":
    main()
