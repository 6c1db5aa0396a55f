"""cli: the `bitwright` command. Each verb has a file of its own, imported when it is used."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import click

from bitwright import __version__
from bitwright.errors import BitwrightError, unknown_name

# verb -> (module, one line of help); help is here so that `bitwright --help` imports no torch
_VERBS = {
    "demo": "Train, lower, verify and time a small network: the whole journey.",
    "train": "Train a network with a recipe; resumable.",
    "quantize": "Make an integer network of a trained float one, without training.",
    "verify": "Prove that a model file computes the same codes as its training emulation.",
    "run": "Classify images or .npy arrays with a model file.",
    "export": "Write a model file as C source; measure it on a microcontroller.",
    "inspect": "Show what a model file holds: operations, formats, sizes, bounds.",
    "bench": "Time a model file beside float32 runtimes.",
    "reproduce": "Run a published table again: the paper's figures and ours.",
    "formats": "Explain a number format: range, step, codes, a picture of the grid.",
    "recipes": "List the recipes, or show one.",
    "doctor": "Show what this machine has: instruction sets, kernels, packages, data.",
}
INTERRUPTED = 130


class _Verbs(click.Group):
    """A group that imports a verb only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"bitwright.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            raise unknown_name("command", args[0], _VERBS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bitwright")
def app() -> None:
    """Train and run neural networks in few bits, where the bits are real.

    Begin with `bitwright demo`, or `bitwright train --recipe qnn --model mlp --data digits`.
    """


def main() -> None:
    """The entry point: every error a user can mend ends in one message and a non-zero exit code."""
    warnings.showwarning = _show_warning
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except BitwrightError as error:
        click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo(click.style("interrupted", fg="yellow"), err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(click.style("warning: ", fg="yellow") + str(message), err=True)
