"""bitwright formats: a number format, explained."""

from __future__ import annotations

import click
from rich import box
from rich.table import Table

from bitwright.cli.common import console
from bitwright.formats import EXAMPLES, Format, describe_codes, parse

SHOWN_CODES = 16
GRID_COLUMNS = 72


@click.command("formats")
@click.argument("name", required=False)
@click.option(
    "--value",
    type=float,
    default=0.3,
    show_default=True,
    help="Explain how this number becomes a code.",
)
@click.option("--scale", type=float, help="Worth of one step, where the format has no point of its own.")
@click.option("--all", "show_all", is_flag=True, help="Every code, also of wide formats.")
def command(name: str | None, value: float, scale: float | None, show_all: bool) -> None:
    """Explain a number format: range, step, codes, a picture of the grid.

    \b
    Examples:
      bitwright formats
      bitwright formats fixed8.4
      bitwright formats fixed12 --scale 0.001 --value 3.14
    """
    if name is None:
        console.print(_families([*EXAMPLES, "fixed8.-2", "fixed12"]))
        console.print("widths 1 to 32; any fraction: bitwright formats NAME shows one")
        return
    form = parse(name)
    step = float(form.scale_or_default(scale))
    low, high = form.code_min * step, form.code_max * step
    console.print(
        f"{form}: {form.bits} bit{'s' if form.bits > 1 else ''}, codes {describe_codes(form)}, "
        f"one step is worth {step:g}, values {low:g} to {high:g}"
    )
    console.print(_grid(form, step), markup=False)
    console.print()
    console.print(form.explain(value, scale=scale), markup=False)
    console.print(_codes(form, step, show_all))


def _families(names: list[str]) -> Table:
    """One line for each family of formats."""
    columns = ("name", "bits", "codes", "step", "from", "to")
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        form = parse(name)
        step = form.default_scale
        values = ["a scale", "-", "-"]
        if step is not None:
            values = [f"{v:g}" for v in (step, form.code_min * step, form.code_max * step)]
        table.add_row(str(form), str(form.bits), describe_codes(form), *values)
    return table


def _grid(form: Format, step: float) -> str:
    """The values on a line: one mark each, or a bar where they lie closer than a column."""
    codes = form.codes()
    span = max(codes[-1] - codes[0], 1)
    line = ["-"] * (GRID_COLUMNS + 1)
    if len(codes) > GRID_COLUMNS // 2:
        line = ["="] * (GRID_COLUMNS + 1)
    else:
        for code in codes:
            line[round((code - codes[0]) / span * GRID_COLUMNS)] = "|"
    if codes[0] <= 0 <= codes[-1]:
        line[round(-codes[0] / span * GRID_COLUMNS)] = "0"
    left, right = f"{codes[0] * step:g}", f"{codes[-1] * step:g}"
    return "".join(line) + "\n" + left + " " * (GRID_COLUMNS + 1 - len(left) - len(right)) + right


def _codes(form: Format, step: float, show_all: bool) -> Table:
    codes = form.codes()
    table = Table("code", "bits", "value", box=box.SIMPLE_HEAD, pad_edge=False)
    half = SHOWN_CODES // 2
    whole = show_all or len(codes) <= SHOWN_CODES
    shown = list(codes) if whole else [*codes[:half], None, *codes[-half:]]
    for code in shown:
        if code is None:
            table.add_row("...", f"{len(codes) - SHOWN_CODES:,} more", "(--all)")
            continue
        pattern = (code > 0) if len(codes) == 2 and 0 not in codes else code & ((1 << form.bits) - 1)
        table.add_row(str(code), format(int(pattern), f"0{form.bits}b"), f"{code * step:g}")
    return table
