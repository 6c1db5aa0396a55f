"""A training step with formats in every role, against the float32 step of the same network.

    python benchmarks/training_step.py --json experiments/results/training-step.json

fixed8.4, nearest, in weight, activation, error and weight_grad; SGD; one process, steps in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from interleaved import show, time_pairs, write
from torch import nn

import bitwright as bw
from bitwright import models, training
from bitwright.nn import Exact

NETWORKS = {
    "MLP 3 x 4096, batch 100": (("mlp", 4096, (1, 28, 28), 10), 100, 1.3),
    "VGG-small at half width, batch 64": (("convnet", 64, (3, 32, 32), 10), 64, 1.1),
}
ROLES = ("weight", "activation", "error", "weight_grad")


def step_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, t: torch.Tensor
) -> Callable[[], None]:
    """One training step as a call."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        training.loss("cross-entropy", model(x), t).backward()
        optimizer.step()

    return step


def measure(pairs: int, threads: int) -> list[dict[str, Any]]:
    """Every network under both meanings of exact."""
    torch.set_num_threads(threads)
    rows = []
    for name, (build, batch, limit) in NETWORKS.items():
        torch.manual_seed(0)
        plain = models.build(*build)
        x, t = torch.rand(batch, *build[2]) * 2 - 1, torch.randint(0, 10, (batch,))
        steps = {"float32": step_of(plain, torch.optim.SGD(plain.parameters(), lr=1e-3), x, t)}
        for exact in Exact:
            model = copy.deepcopy(plain)
            recipe = bw.recipe("float", **dict.fromkeys(ROLES, "fixed8.4"))
            recipe = replace(recipe, optimizer_rule=replace(recipe.optimizer_rule, name="SGD"))
            bw.quantize_(model, recipe, verbose=False)
            for module in model.modules():
                if hasattr(module, "exact"):
                    module.exact = exact
            optimizer = recipe.optimizer(model, lr=1e-3)
            times = time_pairs(steps["float32"], step_of(model, optimizer, x, t), pairs)
            kept = limit if exact is Exact.FORWARD else None
            rows.append({"network": name, "exact": exact.value, "limit": kept, "threads": threads} | times)
            print(rows[-1], flush=True)
    return rows


@click.command()
@click.option("--pairs", default=15, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--tuned/--default-allocator", default=False, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(pairs: int, threads: int, tuned: bool, path: Path | None) -> None:
    """Time training steps in formats against float32."""
    if tuned:
        training.tune_allocator()
    rows = measure(pairs, threads)
    show(
        f"training step / float32 step, {'tuned' if tuned else 'default'} allocator",
        ("network", "exact", "ratio", "limit"),
        [(r["network"], r["exact"], f"{r['ratio']:.2f}", str(r["limit"] or "")) for r in rows],
    )
    write(path, {"allocator": "tuned" if tuned else "default", "pairs": pairs, "rows": rows})


if __name__ == "__main__":
    main()
