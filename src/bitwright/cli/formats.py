"""bitwright formats: number formats, listed, explained, drawn, and tried on a tensor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from bitwright.cli.common import console
from bitwright.cli.drawing import ASCII
from bitwright.errors import InvalidValueError
from bitwright.formats import Block, Format, Key, Overflow, Rounding, parse

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bitwright.analysis.tensors import Effect

WIDTH = 100
SEARCHES = ("max-abs", "mse")


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> list[float] | None:
    """ "0.3", or for a block "0.3,-1,2"."""
    try:
        return None if value is None else [float(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no number and no list such as 0.3,-1,2") from None


def _scale(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """A number, or how to find one."""
    try:
        return value if value is None or value in SEARCHES else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor {' or '.join(SEARCHES)}") from None


@click.command("formats")
@click.argument("name", required=False)
@click.option(
    "--value",
    "numbers",
    callback=_numbers,
    metavar="NUMBER[,NUMBER...]",
    help="Tell step by step how this becomes a code.",
)
@click.option(
    "--scale",
    callback=_scale,
    metavar="NUMBER|max-abs|mse",
    help="Worth of a number 1; with --tensor also max-abs or mse, a search.",
)
@click.option("--zero-point", type=int, help="The code that stands for 0, of an integer format.")
@click.option(
    "--rounding",
    type=click.Choice([r.value for r in Rounding]),
    default=Rounding.NEAREST_EVEN.value,
    show_default=True,
    help="How numbers between two values are rounded.",
)
@click.option(
    "--overflow",
    type=click.Choice([o.value for o in Overflow]),
    default=Overflow.SATURATE.value,
    show_default=True,
    help="What numbers beyond the largest value become.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the stochastic rounding. [0]")
@click.option("--all", "show_all", is_flag=True, help="Every code.")
@click.option(
    "--tensor", type=click.Path(path_type=Path), help="What the format does to a tensor of this file."
)
@click.option("--key", "tensor_name", help="Which tensor of the file.")
@click.option("--axis", type=int, default=-1, show_default=True, help="The axis along which blocks run.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the grid, its steps and its SQNR: a .png file."
)
@click.option("--json", "as_json", is_flag=True, help="Print data.")
def command(
    name: str | None,
    numbers: list[float] | None,
    scale: float | str | None,
    zero_point: int | None,
    rounding: str,
    overflow: str,
    seed: int,
    show_all: bool,
    tensor: Path | None,
    tensor_name: str | None,
    axis: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """List the number formats, or show one: what it holds, its grid, its codes, how a number becomes one.

    \b
    Examples:
      bitwright formats
      bitwright formats e4m3fn --value 0.3 --rounding stochastic
      bitwright formats mxfp4 --value 0.3,-1.7,5
      bitwright formats uint8 --scale 0.02 --zero-point 128
      bitwright formats int4 --tensor weights.safetensors --key conv1.weight --scale mse
      bitwright formats nvfp4 --plot nvfp4.png
    """
    from bitwright.cli import formats_text as text

    if name is None:
        _refuse_without_name(scale=scale, tensor=tensor, plot=plot, value=numbers)
        _show_list(as_json)
        return
    form = parse(name)
    form.check_overflow(Overflow.of(overflow))
    key = Key(seed=seed) if rounding == Rounding.STOCHASTIC.value else None
    how = {"rounding": rounding, "overflow": overflow, "key": key}
    if show_all and len(form.codes()) > text.MOST_CODES:
        raise InvalidValueError(
            f"--all prints at most {text.MOST_CODES:,} codes", got=f"{len(form.codes()):,}"
        )
    if tensor is None:
        if tensor_name is not None:
            raise InvalidValueError("--key names a tensor of a file", fix="give the file: --tensor FILE")
        if isinstance(scale, str):
            raise InvalidValueError(f"--scale {scale} looks at a tensor", fix="give one: --tensor FILE")
        if as_json:
            _show_json(text.as_json(form, scale, zero_point))
        else:
            _show_format(form, scale, zero_point, numbers, show_all, **how)
    else:
        scale = _show_tensor(form, tensor, tensor_name, scale, zero_point, axis, as_json, **how)
    if plot is not None:
        from bitwright.analysis.format_picture import draw_format

        draw_format(form, plot, scale=scale, zero_point=zero_point)
        if not as_json:
            _say([f"drew {plot}"])


def _refuse_without_name(**options: Any) -> None:
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise InvalidValueError(f"{given[0]} needs the name of a format", fix="bitwright formats lists them")


def _show_list(as_json: bool) -> None:
    from bitwright.cli import formats_text as text

    if as_json:
        forms = [parse(name) for _, names in text.FAMILIES for name in names]
        _show_json([text.as_json(form, text.any_scale(form), None) for form in forms])
        return
    _say(text.list_lines())


def _show_format(
    form: Format,
    scale: float | None,
    zero_point: int | None,
    numbers: list[float] | None,
    show_all: bool,
    **how: Any,
) -> None:
    from bitwright.cli import formats_text as text
    from bitwright.cli.formats_grid import grid_lines, grid_title
    from bitwright.formats.explain import explain

    told = numbers or ([0.3, -1.7, 5.0][: form.size] if isinstance(form, Block) else [0.3])
    x: float | list[float] = told if isinstance(form, Block) or len(told) > 1 else told[0]
    story = explain(form, x, scale, zero_point, **how)  # first, as it knows what to refuse
    title, *steps = story.splitlines()
    _say([f"[{text.title(form)}]", *text.fact_lines(form, scale, zero_point), ""])
    _say([f"[{grid_title(form)}]", *_indent(grid_lines(form, scale, zero_point, _columns())), ""])
    _say(["[what becomes of]", *text.fate_lines(form, scale, zero_point), ""])
    _say([f"[{title}]", *steps, ""])
    _say(text.code_lines(form, scale, zero_point, show_all))


def _show_tensor(
    form: Format,
    path: Path,
    tensor_name: str | None,
    scale: float | str | None,
    zero_point: int | None,
    axis: int,
    as_json: bool,
    **how: Any,
) -> float | None:
    """Print what the format does to a tensor; the scale that was used."""
    import dataclasses

    from bitwright.analysis.tensor_files import read_tensor
    from bitwright.analysis.tensors import effect, max_abs_scale, mse_scale
    from bitwright.cli import formats_text as text

    found_name, x = read_tensor(path, tensor_name)
    search = scale if isinstance(scale, str) else None
    if search == "max-abs":
        scale = max_abs_scale(form, x)
    elif search == "mse":
        scale = mse_scale(form, x, axis=axis)
    assert not isinstance(scale, str)
    used = float(form.scale_or_default(scale))
    done = effect(form, x, scale=used, zero_point=zero_point, axis=axis, **how)
    if as_json:
        data = {"format": str(form), "tensor": found_name, "shape": list(x.shape), "scale": used}
        found = {k: text.plain(v) for k, v in dataclasses.asdict(done).items()}
        _show_json(data | {"dead": done.dead, **found})
        return scale
    shape = " x ".join(map(str, x.shape)) or "one number"
    _say([f"[{form} on {found_name}, {shape}, from {path.name}]"])
    _say(_effect_lines(form, done, used, search))
    if done.elements > done.nans + done.infinities:
        _say(["", *_histogram(form, x, used, zero_point, axis)])
    return scale


def _effect_lines(form: Format, done: Effect, scale: float, search: str | None) -> list[str]:
    from bitwright.formats.explain import say

    sqnr = "none: there is no signal" if done.sqnr is None else f"{done.sqnr:.2f} dB"
    if done.sqnr == float("inf"):
        sqnr = "infinite: every element is a value of the format"
    rows = [("scale", say(scale) + ("" if search is None else f", found by {search}"))]
    if done.nans or done.infinities:
        nan, infinity = (form.quantize(v, scale=scale) for v in (float("nan"), float("inf")))
        fates = [f"{done.nans:,} NaN, which become {say(nan)}"] * bool(done.nans)
        fates += [f"{done.infinities:,} infinite, which become +-{say(infinity)}"] * bool(done.infinities)
        rows.append(("not finite", "; ".join(fates)))
    where = "format" if done.scales_used is None else "block"
    rows += [
        ("SQNR", f"{sqnr}"),
        ("elements", f"{done.elements:,}, max |x| {done.largest:.6g}, rms {done.rms:.4g}"),
        ("error", f"rms {done.rms_error:.4g}, mean {done.mean_error:+.3g}, largest {done.largest_error:.4g}"),
        (
            "overflow",
            f"{_percent(done.overflowing)} beyond the limits of the {where}",
        ),
        ("underflow", f"{_percent(done.flushed)} of those that are not 0 become 0"),
    ]
    if done.used is not None and done.values is not None:
        rows.append(("values used", f"{done.used:,} of {done.values:,}: {done.dead:,} dead"))
    if done.scales_used is not None:
        rows.append(("block scales", f"{done.scales_used:,} different ones"))
    return [f"  {label:<12}  {text}" for label, text in rows]


def _histogram(form: Format, x: torch.Tensor, scale: float, zero_point: int | None, axis: int) -> list[str]:
    from bitwright.analysis.tensors import block_steps
    from bitwright.cli.formats_grid import histogram_lines, histogram_title

    values = x
    if isinstance(form, Block):
        steps = block_steps(form, x, scale=scale, axis=axis)
        values = x / steps
    finite: np.ndarray = values[values.isfinite()].double().numpy()
    lines = histogram_lines(form, finite, scale, zero_point, _columns())
    return [f"[{histogram_title(form)}]", *_indent(lines)]


def _percent(share: float) -> str:
    if share == 0:
        return "none"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.1f} %"


# --- output ------------------------------------------------------------------------------------------------


def _columns() -> int:
    return max(min(console.width, WIDTH) - 4, 40)


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]


def _say(lines: Iterable[str]) -> None:
    """Print lines as they are; [headings] are bold."""
    plain = not (console.encoding or "").lower().startswith("utf")
    for line in lines:
        text = line.translate(ASCII) if plain else line
        heading = text.startswith("[") and text.endswith("]")
        console.print(Text(text[1:-1], style="bold") if heading else Text(text), soft_wrap=True)


def _show_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
