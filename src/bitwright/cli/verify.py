"""bitwright verify: prove that a model file computes the codes of its training emulation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from bitwright.cli.common import console, progress_bar, run_folder, set_threads, threads_option

SLOW_EXAMPLES = 1000


@click.command("verify")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", "data_name", help="Data set; that of the run by default.")
@click.option("--examples", type=click.IntRange(min=1), help="Compare only the first so many test examples.")
@click.option(
    "--slow-examples",
    type=click.IntRange(min=1),
    default=SLOW_EXAMPLES,
    show_default=True,
    help="For the interpreter and the slower instruction sets.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Also write the counts to this file."
)
@click.option("--no-check", is_flag=True, help="Read the file even where its SHA-256 does not fit.")
@threads_option
def command(
    model: Path,
    data_name: str | None,
    examples: int | None,
    slow_examples: int,
    json_path: Path | None,
    no_check: bool,
    threads: int | None,
) -> None:
    """Prove that a model file computes the same codes as its training emulation.

    The emulation is rebuilt from the run folder (run.json, checkpoint.safetensors) beside the
    file. The whole test set runs on the best instruction set; the interpreter and the others take
    fewer examples. Compared are weights, thresholds, multipliers, input codes, every activation
    slot, the last accumulators, and the float output bit for bit. Any difference ends with exit
    code 1.
    """
    from bitwright.integer import load
    from bitwright.training import load_run, machine, read_run, write_json

    set_threads(threads)
    network = load(model, check=not no_check)
    settings = read_run(run_folder(model))
    test = settings.load("test", data_name)
    emulated, _ = load_run(run_folder(model), test)
    total = min(examples or len(test), len(test))
    results = verify_everywhere(emulated, network, test.subset(total), min(slow_examples, total))
    for result in results:
        style = "red" if result.differing else None
        console.print(str(result), markup=False, soft_wrap=True, style=style)
    if json_path is not None:
        counts = [
            {
                "backend": r.backend,
                "examples": r.examples,
                "tensors": r.elements,
                "compared": r.compared,
                "differing": r.differing,
            }
            for r in results
        ]
        write_json(json_path, {"run": settings.to_json(), "verified": counts, "machine": machine()})
    if any(result.differing for result in results):
        console.print("the file does not compute what was trained", style="red")
        raise SystemExit(1)


def verify_everywhere(model: Any, network: Any, test: Any, slow_examples: int) -> list[Any]:
    """One verification a backend, each behind a bar: all of `test` on the fastest, some on the others."""
    from bitwright.experiments import backends

    if network.engine_problem is not None:
        console.print(f"note: {network.engine_problem}", markup=False)
    results = []
    for backend in backends(network):
        part = backend.images(test, slow_examples)
        with progress_bar() as bars:
            task = bars.add_task(f"verify {backend.name}", total=len(part))
            progress = partial(bars.advance, task)
            results.append(backend.check(model, network, part, progress))
    return results
