"""bitwright quantize: make integers of a trained float network, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich import box
from rich.progress import TaskID
from rich.table import Table

from bitwright.cli.common import (
    console,
    progress_bar,
    say_bytes,
    set_threads,
    threads_option,
    tune_process,
)

VERIFIED = 64
_STAGES = {
    "float": "test the float network",
    "calibrate": "calibrate",
    "refine": "refine (layers)",
    "test": "test the integers",
    "verify": "verify",
}


@click.command("quantize")
@click.option(
    "--model",
    default="resnet20",
    show_default=True,
    help="Published network (resnet8, resnet20, resnet56), or with --weights any that `train` knows.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A safetensors file of the network's state_dict, or checkpoint.safetensors of a `float` run.",
)
@click.option("--width", type=int, help="Width of the network, with --weights.")
@click.option(
    "--recipe",
    "recipe_name",
    default="int8",
    show_default=True,
    help="Recipe (int8, w4a8, int6, int5, int4...), or a TOML file.",
)
@click.option("--data", default="cifar10", show_default=True, help="Data set: digits, mnist or cifar10.")
@click.option("--images", default=256, show_default=True, help="Training images to calibrate on, no labels.")
@click.option(
    "--refine/--no-refine",
    default=True,
    show_default=True,
    help="Round the weights of each layer together, and correct biases.",
)
@click.option("--examples", type=click.IntRange(min=1), help="Test on the first so many images only.")
@click.option(
    "--verify-examples",
    type=click.IntRange(min=1),
    default=VERIFIED,
    show_default=True,
    help="Compare emulation and integers on so many.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/DATA-MODEL-RECIPE]")
@threads_option
def command(
    model: str,
    weights: Path | None,
    width: int | None,
    recipe_name: str,
    data: str,
    images: int,
    refine: bool,
    examples: int | None,
    verify_examples: int,
    out: Path | None,
    threads: int | None,
) -> None:
    """Make an integer network of a trained float one, without training.

    Scales are set on a few training images; the weights of each layer are rounded together, so that its
    outputs come closest to the float ones. Both networks are then tested, and the run folder receives
    model.bw, which `verify`, `run`, `bench` and `inspect` take.

    \b
    Examples:
      bitwright quantize --model resnet20 --recipe w4a8
      bitwright quantize --model resnet8 --recipe int8 --out runs/tiny
      bitwright quantize --model mlp --data digits --weights runs/digits-mlp-float/checkpoint.safetensors
    """
    from bitwright.training import MODEL, RUN, PostTraining, post_training

    if width is not None and weights is None:
        raise click.UsageError("--width is for a network whose --weights are given")
    set_threads(threads)
    settings = PostTraining(
        model=model,
        recipe=recipe_name,
        data=data,
        weights=None if weights is None else str(weights),
        width=width,
        images=images,
        refine=refine,
    )
    out = out or Path("runs") / f"{data}-{model}-{Path(recipe_name).stem}"
    if (out / RUN).exists():
        raise click.UsageError(f"{out} holds another run; choose another --out")
    tune_process()
    with progress_bar() as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(_STAGES[stage], total=total)
            bars.update(tasks[stage], completed=done)

        result = post_training(
            settings,
            out,
            test_examples=examples,
            verify_examples=verify_examples,
            progress=progress,
        )
    console.print(_table(result))
    verified = result["verified"]
    differing = verified["differing"]
    console.print(
        f"verified: {verified['examples']} images, {verified['compared']:,} codes, "
        f"{differing} differing codes ({verified['backend']})",
        style="red" if differing else None,
    )
    console.print(f"integer network {out / MODEL}  ({say_bytes(result['file_bytes'])})")
    console.print(f"next: bitwright verify {out / MODEL}", markup=False)
    if differing:
        raise SystemExit(1)


def _table(result: dict[str, Any]) -> Table:
    """Float and integers side by side."""
    settings = result["post_training"]
    table = Table(
        "network",
        "test error",
        "bits a weight",
        "calibrated on",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_row(settings["model"], f"{result['float_error']:.2f} %", "32", "")
    table.add_row(
        settings["recipe"],
        f"{result['test_error']:.2f} %",
        f"{result['weight_bits']:.2f}",
        f"{settings['images']} images" + (", refined" if settings["refine"] else ""),
    )
    return table
