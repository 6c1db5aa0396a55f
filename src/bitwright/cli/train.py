"""bitwright train: train a network with a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich import box
from rich.progress import Progress, TaskID
from rich.table import Table

from bitwright.cli.common import (
    console,
    progress_bar,
    say_bytes,
    set_threads,
    threads_option,
    tune_process,
)

_SETTINGS = (
    "recipe_name", "model", "width", "data", "epochs", "batch", "lr", "lr_final", "seed", "examples"
)  # fmt: skip
"""Parameters that make a run what it is: a resumed one keeps its own."""


@click.command("train")
@click.option(
    "--recipe",
    "recipe_name",
    default="qnn",
    show_default=True,
    help="Recipe, or a TOML file; `bitwright recipes` lists them.",
)
@click.option("--model", default="mlp", show_default=True, help="Network: mlp, convnet, dscnn, resnet20...")
@click.option(
    "--width",
    type=int,
    help="Width of the network (units of the MLP, first channels of the ConvNet).",
)
@click.option("--data", default="digits", show_default=True, help="Data set: digits, mnist, cifar10....")
@click.option("--epochs", type=int, help="Length of the run; the learning rate decays over it.")
@click.option("--batch", type=int, default=100, show_default=True, help="Examples per step.")
@click.option("--lr", type=float, help="First learning rate instead of the recipe's.")
@click.option("--lr-final", type=float, help="Last learning rate instead of the recipe's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights, order, dropout, rounding.")
@click.option("--examples", type=int, help="Train on the first so many examples only.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/DATA-MODEL-RECIPE]")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the folder's checkpoint, with the settings of that run.",
)
@click.option(
    "--stop-after", type=click.IntRange(min=1), help="End after this epoch; --resume goes on later."
)
@click.option(
    "--monitor",
    is_flag=True,
    help="Sample every quantiser now and then (1 % of the time): monitor.jsonl, monitor.png.",
)
@click.option("--watch", is_flag=True, help="Monitor, and print a table of the tensors after each epoch.")
@click.option("--tensorboard", is_flag=True, help="Monitor, and write curves for TensorBoard.")
@threads_option
def command(
    recipe_name: str,
    model: str,
    width: int | None,
    data: str,
    epochs: int | None,
    batch: int,
    lr: float | None,
    lr_final: float | None,
    seed: int,
    examples: int | None,
    out: Path | None,
    resume: bool,
    stop_after: int | None,
    monitor: bool,
    watch: bool,
    tensorboard: bool,
    threads: int | None,
) -> None:
    """Train a network with a recipe.

    The run folder receives a checkpoint after each epoch, result.json, a picture where matplotlib
    is installed, and, for a quantised network, model.bw: the integer network. Some recipes leave
    in float what an integer network needs in integers; a note then says what.

    \b
    Examples:
      bitwright train --recipe qnn --model mlp --data digits
      bitwright train --recipe qnn --model mlp --width 1024 --data mnist
      bitwright train --resume --out runs/mnist-mlp-qnn
    """
    from bitwright.models import DEFAULT_WIDTHS
    from bitwright.training import DEFAULT_EPOCHS, RUN, Settings

    set_threads(threads)
    if resume:
        if out is None:
            raise click.UsageError("--resume needs --out, the run folder to go on in")
        given = click.get_current_context().get_parameter_source
        for name in _SETTINGS:
            if given(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"--resume goes on with the settings of the run in {out}; leave out "
                    f"--{name.removesuffix('_name').replace('_', '-')}, or begin another run"
                )
        settings = Settings.read(out / RUN)
    else:
        settings = Settings(
            recipe=recipe_name,
            model=model,
            width=DEFAULT_WIDTHS.get(model, 1024) if width is None else width,
            data=data,
            epochs=DEFAULT_EPOCHS.get(data, 20) if epochs is None else epochs,
            batch=batch,
            lr=lr,
            lr_final=lr_final,
            seed=seed,
            examples=examples,
        )
        out = out or Path("runs") / f"{data}-{model}-{Path(recipe_name).stem}"
    run_training(
        settings,
        out,
        resume=resume,
        stop_after=stop_after,
        monitor=monitor,
        watch=watch,
        tensorboard=tensorboard,
    )


def run_training(
    settings: Any,
    out: Path,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    monitor: bool = False,
    watch: bool = False,
    tensorboard: bool = False,
    show_table: bool = True,
) -> dict[str, Any]:
    """Train with a progress bar, then lower; returns the result with what lowering added."""
    from bitwright import data as data_room
    from bitwright.training import CHECKPOINT, MODEL, Monitor, finish, train

    tune_process()
    training = data_room.load(settings.data, "train")
    test = data_room.load(settings.data, "test")
    if show_table:
        _, report = settings.build(training)
        console.print(str(report), markup=False, soft_wrap=True)
    console.print(
        f"{settings.recipe} {settings.model} {settings.width} on {settings.data}: "
        f"{len(training):,} examples, {settings.epochs} epochs -> {out}"
    )
    watchers: list[Any] = []
    seen = Monitor(out) if monitor or watch or tensorboard else None
    if seen is not None:
        watchers.append(seen)
    if tensorboard:
        from bitwright.training.tensorboard import TensorBoard

        watchers.append(TensorBoard(out / "tensorboard", seen))
    try:
        with progress_bar("loss {task.fields[loss]}") as bars:
            watchers.append(_Bars(bars, settings.epochs, seen if watch else None))
            model, result = train(
                settings,
                training,
                test,
                out,
                watchers=tuple(watchers),
                resume=resume,
                stop_after=stop_after,
            )
    except KeyboardInterrupt:
        kept = (out / CHECKPOINT).exists()
        note = f"the last whole epoch is in {out / CHECKPOINT}" if kept else "before the first epoch ended"
        remedy = f"; go on with: bitwright train --resume --out {out}" if kept else ""
        console.print(f"interrupted: {note}{remedy}")
        raise
    result = finish(settings, model, test, out, result)
    console.print(f"test error {result['test_error']:.2f} %  ({out / 'result.json'})")
    if "checkpoint_bytes" in result:
        sizes = result["checkpoint_bytes"]
        memory = say_bytes(sizes["in_memory"])
        console.print(f"checkpoint {say_bytes(sizes['tensors'])} of tensors, {memory} in memory")
    if "file_bytes" in result:
        console.print(f"integer network {out / MODEL}  ({say_bytes(result['file_bytes'])})")
        if show_table:
            console.print(f"next: bitwright verify {out / MODEL}", markup=False)
    if "not_lowered" in result:
        console.print("note: the training is complete, but there is no integer network:")
        for problem in result["not_lowered"]["problems"]:
            console.print(f"  {problem}", markup=False, soft_wrap=True)
        console.print(result["not_lowered"]["fix"], markup=False, soft_wrap=True)
    return result


class _Bars:  # a Watcher in all but name, whose import would make --help wait for torch
    """One bar over the steps of the whole run, one line for each epoch that ended."""

    def __init__(self, bars: Progress, epochs: int, monitor: Any = None) -> None:
        self.bars = bars
        self.monitor = monitor
        self.epochs = epochs
        self.task: TaskID | None = None
        self.mean = 0.0
        self.steps = 0

    def run_begins(self, model: Any, optimizer: Any) -> None:
        """Nothing to show."""

    def epoch_begins(self, epoch: int, steps: int) -> None:
        self.mean, self.steps = 0.0, 0
        if self.task is None:  # a resumed run's time left counts from here
            self.task = self.bars.add_task("", total=self.epochs * steps, completed=epoch * steps, loss="")
        self.bars.update(self.task, description=f"epoch {epoch + 1}/{self.epochs}", loss="")

    def step_ends(self, loss: float) -> None:
        self.steps += 1
        self.mean += (loss - self.mean) / self.steps
        if self.task is not None:
            self.bars.update(self.task, advance=1, loss=f"{self.mean:.4f}")

    def epoch_ends(self, row: dict[str, Any]) -> None:
        shown = row["epoch"] in (1, self.epochs) or row["seconds"] > 2 or row["epoch"] % 10 == 0
        if shown:
            self.bars.console.print(
                f"epoch {row['epoch']:>3}/{self.epochs}  loss {row['loss']:.4f}  "
                f"test error {row['test_error']:5.2f} %  {row['seconds']:.1f} s"
            )
        if self.monitor is not None and self.monitor.last:
            self.bars.console.print(monitor_table(self.monitor.last))


def monitor_table(readings: dict[str, Any]) -> Table:
    """The last reading of every tensor."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("tensor")
    table.add_column("format")
    for heading in ("scale", "moved", "overflow", "SQNR dB", "flipped", "dead codes"):
        table.add_column(heading, justify="right")
    for name, r in readings.items():
        table.add_row(
            name,
            r.format,
            _shown(r.scale, "{:.3g}"),
            _shown(r.moved or None, "2^{:+.3g}"),
            f"{r.overflow:.2%}",
            _shown(r.sqnr, "{:.1f}"),
            _shown(r.flipped, "{:.2%}"),
            "" if r.dead is None else f"{r.dead} of {r.codes}",
        )
    return table


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
