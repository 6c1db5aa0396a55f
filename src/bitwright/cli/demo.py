"""bitwright demo: the whole journey on the embedded digits, and one table at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table

from bitwright.cli.common import console, say_bytes, say_seconds, set_threads

BATCHES = (1, 100)
RECORD = "demo.json"
"""Everything that the table shows, as it was measured."""


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Run folder; an earlier demo there is replaced.",
)
@click.option(
    "--width",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Units of each hidden layer.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="Length of both trainings.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of both trainings.")
@click.option(
    "--rounds",
    type=click.IntRange(min=3),
    default=50,
    show_default=True,
    help="Rounds of the timing.",
)
def command(out: Path, width: int, epochs: int, seed: int, rounds: int) -> None:
    """Train, lower, verify and time a small network: the whole journey.

    A float32 and a one-bit (qnn) MLP are trained on scikit-learn's digits; the one-bit one is
    lowered to integers, verified on the whole test set, saved, and timed beside torch.
    """
    from bitwright import data as data_room
    from bitwright.cli.bench import time_with_bar
    from bitwright.cli.train import run_training
    from bitwright.cli.verify import verify_everywhere
    from bitwright.integer import load
    from bitwright.training import MODEL, PICTURE, Settings, load_run, write_json

    # as fast as two on networks this small, and the figures do not depend on the processors' number
    set_threads(1)
    _clear(out)
    results: dict[str, dict[str, Any]] = {}
    for recipe in ("float", "qnn"):
        settings = Settings(recipe=recipe, width=width, data="digits", epochs=epochs, seed=seed)
        folder = out if recipe == "qnn" else out / "float32"
        results[recipe] = run_training(settings, folder, show_table=recipe == "qnn")
    test = data_room.load("digits", "test")
    network = load(out / MODEL)
    model, _ = load_run(out, test)
    checks = verify_everywhere(model, network, test, len(test))
    timings = time_with_bar(network, BATCHES, 1, rounds)
    record = {
        "results": results,
        "verified": [
            {"backend": c.backend, "examples": c.examples, "differing": c.differing} for c in checks
        ],
        "rounds": rounds,
        "timings": [vars(t) for t in timings],
    }
    write_json(out / RECORD, record)
    console.print(_table(results, checks, timings, rounds))
    if (out / PICTURE).exists():
        console.print(f"picture   {out / PICTURE}")
    console.print(
        f"next      bitwright run {out / MODEL} IMAGE   bitwright formats binary   docs/first-steps.md",
        markup=False,
        soft_wrap=True,
    )
    if any(check.differing for check in checks):
        raise SystemExit(1)


def _table(results: dict[str, dict[str, Any]], checks: list[Any], timings: list[Any], rounds: int) -> Table:
    from bitwright.analysis import describe_operations

    plain, binary = results["float"], results["qnn"]
    ours = {t.batch: t.seconds for t in timings if t.runtime.startswith("bitwright")}
    theirs = {t.batch: t.seconds for t in timings if t.runtime.startswith("torch")}
    table = Table("", "float32", "qnn", "", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_row("test error", f"{plain['test_error']:.1f} %", f"{binary['test_error']:.1f} %")
    table.add_row("weights", "32 bit", f"{binary['weight_bits']:g} bit", "first layer's input 8 bit")
    sizes = say_bytes(plain["parameter_bytes"]), say_bytes(binary["file_bytes"])
    table.add_row("model", *sizes)
    binary_work = [describe_operations({k: v}) for k, v in binary["operations"].items()]
    table.add_row("work per image", describe_operations(plain["operations"]), "\n".join(binary_work))
    for size in BATCHES:
        table.add_row(
            f"batch {size}",
            say_seconds(theirs[size]),
            say_seconds(ours[size]),
            f"{theirs[size] / ours[size]:.1f}x torch (1 thread, medians of {rounds})",
        )
    differing = sum(check.differing for check in checks)
    backends = ", ".join(check.backend for check in checks)
    table.add_row(
        "same bits",
        f"{checks[0].examples} images",
        f"{differing} differing codes",
        next((str(c.first) for c in checks if c.first), f"{checks[0].tensors} tensors: {backends}"),
    )
    return table


def _clear(out: Path) -> None:
    """Remove the files of an earlier demo, and nothing else.

    A demo trains its float32 network first, so a run without one beside it is somebody's own.
    """
    from bitwright.errors import InvalidValueError
    from bitwright.training import CHECKPOINT, MODEL, PICTURE, RESULT, RUN

    baseline = out / "float32"
    if any((out / name).exists() for name in (RUN, CHECKPOINT)) and not (baseline / RUN).exists():
        raise InvalidValueError(
            "the demo replaces only an earlier demo",
            got="a run that is none",
            where=out,
            fix="choose another --out",
        )
    for folder in (out, baseline):
        for name in (CHECKPOINT, RUN, RESULT, MODEL, PICTURE, RECORD):
            if (folder / name).is_file():
                (folder / name).unlink()
