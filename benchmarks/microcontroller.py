"""MLPerf Tiny's ResNet-8 on a Cortex-M under QEMU: the emulation's codes, and what they take.

    python benchmarks/microcontroller.py --json experiments/results/microcontroller.json

The published float network is quantised after training, in 8 bits and in 4-bit weights x 8-bit activations,
and lowered. On the same test images the emulation is compared with the interpreter and the engine, and the C
on every core with the interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console

import bitwright as bw
from bitwright.data import Dataset, load
from bitwright.export.cortex_m import BOARDS, measure
from bitwright.integer import Network
from bitwright.models import pretrained
from bitwright.training import batches, machine, write_json

RECIPES = ("int8", "w4a8")
CALIBRATED = 500
"""Training images that set the scales."""


@click.command()
@click.option("--examples", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(examples: int, json_path: Path | None) -> None:
    """Measure both networks on every core."""
    console = Console(highlight=False)
    float_model, preprocessing = pretrained("resnet8")
    train, test = (
        replace(load("cifar10", split), preprocessing=preprocessing) for split in ("train", "test")
    )
    test = test.subset(examples)
    record: dict[str, Any] = {"network": "MLPerf Tiny ResNet-8", "networks": {}}
    for recipe in RECIPES:
        model = deepcopy(float_model)
        bw.quantize_(model, bw.recipe(recipe))
        bw.calibrate(model, batches(train.subset(CALIBRATED), 100))
        network = bw.lower(model, next(batches(test)))
        compared = list(compare(model, network, test))
        measured = [measure(network, test.inputs(), cpu).to_json() for cpu in BOARDS]
        record["networks"][recipe] = {"compared": compared, "measured": measured}
        for row in [*compared, *measured]:
            console.print(recipe, row)
        if any(row["differing"] for row in [*compared, *measured]):
            raise SystemExit(f"{recipe}: codes differ")
    if json_path is not None:
        write_json(json_path, record | {"machine": machine()})


def compare(model: torch.nn.Module, network: Network, test: Dataset) -> Iterator[dict[str, Any]]:
    """The emulation's float32 outputs against the interpreter's and the engine's, bit for bit."""
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(test.inputs())).numpy().view(np.int32)
    for backend in ("interpreter", "engine"):
        got = network(test.inputs(), backend=backend).view(np.int32)
        differing = int((got != expected).sum())
        yield {"backend": backend, "examples": len(test), "numbers": got.size, "differing": differing}


if __name__ == "__main__":
    main()
