"""Published float networks as integers after training: errors on the whole CIFAR-10 test set.

    python benchmarks/post_training.py --json experiments/results/post-training.json

Rows that the file holds already are kept, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bitwright import models
from bitwright.training import PostTraining, machine, post_training, write_json

RECIPES = ("w4a8", "int8", "int6", "int5", "int4")


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """What the table keeps of a result."""
    settings = result["post_training"]
    kept = ("test_examples", "float_error", "test_error", "weight_bits", "verified", "seconds")
    return {
        **{name: settings[name] for name in ("model", "recipe", "images", "refine")},
        **{name: result[name] for name in kept},
        "commit": result["machine"]["commit"],
    }


@click.command()
@click.option("--model", "names", multiple=True, default=models.pretrained_names(), show_default=True)
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option("--images", default=PostTraining().images, show_default=True)
@click.option("--plain", is_flag=True, help="Also without refinement.")
@click.option("--verify-examples", default=64, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), required=True)
def main(
    names: tuple[str, ...],
    recipes: tuple[str, ...],
    images: int,
    plain: bool,
    verify_examples: int,
    path: Path,
) -> None:
    """Quantise each network with each recipe, and test it."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(row["model"], row["recipe"], row["refine"]): row for row in rows}
    for recipe in recipes:
        for name in names:
            for refine in (True, False) if plain else (True,):
                if (name, recipe, refine) in done:
                    continue
                known = next((row["float_error"] for row in rows if row["model"] == name), None)
                settings = PostTraining(model=name, recipe=recipe, images=images, refine=refine)
                result = post_training(settings, verify_examples=verify_examples, float_error=known)
                rows.append(row_of(result))
                print(rows[-1], flush=True)
                write_json(path, {"data": "cifar10", "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
