"""bitwright reproduce: run a published table again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.markdown import Markdown
from rich.progress import Progress, TaskID
from rich.table import Table

from bitwright.cli.common import console, progress_bar, set_threads, threads_option, tune_process

if TYPE_CHECKING:
    from bitwright.experiments import Experiment, Job, Scale

OUT = Path("runs/reproduce")


@click.command("reproduce")
@click.argument("name", required=False)
@click.option(
    "--scale",
    "scale_name",
    default="small",
    show_default=True,
    help="How large: small, paper, or another of the experiment's.",
)
@click.option("--only", metavar="GLOB", help="Run only the runs of these names.")
@click.option("--smoke", is_flag=True, help="One seed, a tenth of an epoch: does it run at all?")
@click.option("--dry-run", is_flag=True, help="Time a few steps of each run, and say what all would cost.")
@click.option("--list", "show_list", is_flag=True, help="List the experiments, or the runs of one.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=OUT, show_default=True, help="Folder of the results."
)
@threads_option
def command(
    name: str | None,
    scale_name: str,
    only: str | None,
    smoke: bool,
    dry_run: bool,
    show_list: bool,
    out: Path,
    threads: int | None,
) -> None:
    """Run a published table again: the paper's figures and ours, side by side.

    NAME is an experiment, or a TOML file like theirs; without it they are listed. Each run is
    written to OUT/NAME/SCALE when it ends, and a training after each epoch: the same command goes
    on after an interrupt, bit for bit. At the end that folder holds the table as JSON, Markdown and
    a picture (where matplotlib is installed). A claim that does not hold ends with exit code 1.

    \b
    Examples:
      bitwright reproduce exactness
      bitwright reproduce qnn-mnist --scale small
      bitwright reproduce qnn-cifar10 --scale paper --dry-run
    """
    from bitwright.experiments import experiment

    set_threads(threads)
    if name is None:
        console.print(_experiments())
        return
    found = experiment(name)
    scale = found.scale(scale_name, smoke=smoke)
    folder = out / found.name / scale.title
    if show_list:
        console.print(_runs(found, scale, only))
    elif dry_run:
        _dry_run(found, scale, only, folder)
    else:
        _reproduce(found, scale, only, folder)


def _reproduce(found: Experiment, scale: Scale, only: str | None, folder: Path) -> None:
    from bitwright.experiments import markdown, record, reproduce, write_report

    tune_process()
    console.print(f"{found.name}, scale {scale.title} -> {folder}")
    try:
        with progress_bar() as bars:
            rows = reproduce(found, scale, folder, only=only, watcher=_Bars(bars))
    except KeyboardInterrupt:
        console.print("interrupted: what has ended is kept; the same command goes on")
        raise
    made = record(found, scale, rows)
    paths = write_report(made, folder)
    console.print(Markdown(markdown(made)))
    console.print(f"written: {', '.join(str(path) for path in paths)}", soft_wrap=True)
    if not all(claim["holds"] for claim in made["claims"]):
        raise SystemExit(1)


def _experiments() -> Table:
    from bitwright.experiments import experiment, names

    table = Table("experiment", "what", "scales", "paper", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names():
        found = experiment(name)
        table.add_row(name, found.title, ", ".join(found.scales), found.paper)
    return table


def _runs(found: Experiment, scale: Scale, only: str | None) -> Table:
    table = Table("run", "seed", "recipe", "roles", "size", box=box.SIMPLE_HEAD, pad_edge=False)
    for job in found.jobs(scale, only):
        s = job.settings
        examples = "" if s.examples is None else f" of {s.examples:,} examples"
        roles = ", ".join(f"{role} {_format(spec)}" for role, spec in s.roles.items())
        size = f"{s.model} {s.width}, {s.data}, {s.epochs} epochs{examples}"
        table.add_row(job.run.name, str(s.seed), s.recipe, roles, size)
    return table


def _format(spec: Any) -> str:
    return str(spec["format"] if isinstance(spec, dict) else spec)


def _dry_run(found: Experiment, scale: Scale, only: str | None, folder: Path) -> None:
    from bitwright.experiments import estimates

    tune_process()
    table = Table("run", "seeds left", "each", "together", box=box.SIMPLE_HEAD, pad_edge=False)
    total = 0.0
    with progress_bar() as bars:
        task = bars.add_task("timing a few steps", total=len({j.run.name for j in found.jobs(scale, only)}))
        for run, left, seconds in estimates(found, scale, folder, only):
            table.add_row(run, str(left), _time(seconds), _time(left * seconds))
            total += left * seconds
            bars.advance(task)
    console.print(table)
    console.print(f"about {_time(total)} on this machine, as busy as it is now; nothing was kept")


def _time(seconds: float) -> str:
    """ "3.2 hours"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


class _Bars:
    """One bar over the whole experiment, one line for each run that ended.

    Where the output is no terminal, a line for every twentieth of the work takes the place of the bar.
    """

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.task: TaskID | None = None
        self.lines = 0

    def job_begins(self, job: Job, done: float, total: float) -> None:
        if self.task is None:
            self.task = self.bars.add_task("", total=round(total))
        self.bars.update(self.task, description=job.name, completed=done)
        self.lines = self._twentieths()

    def advances(self, work: float) -> None:
        if self.task is None:
            return
        self.bars.advance(self.task, work)
        if not self.bars.console.is_terminal and self._twentieths() > self.lines:
            self.lines = self._twentieths()
            task = self.bars.tasks[self.task]
            left = "" if task.time_remaining is None else f", {_time(task.time_remaining)} left"
            self.bars.console.print(f"{task.description}: {task.percentage:.0f} % of all{left}")

    def _twentieths(self) -> int:
        assert self.task is not None
        return int(self.bars.tasks[self.task].percentage / 5)

    def job_ends(self, job: Job, row: dict[str, Any]) -> None:
        figure = "diverged" if row["value"] is None else f"{row['value']:g}"
        self.bars.console.print(f"{job.name}: {figure}  ({_time(row.get('seconds', 0.0))})")
