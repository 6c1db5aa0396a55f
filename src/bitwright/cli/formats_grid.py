"""The grid of a format as lines of text, and a histogram of values over it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from bitwright.cli.drawing import Axis, arrow_line, bars_of_counts, histogram, rug
from bitwright.formats import Block, Float, Format, Log
from bitwright.formats.facts import Facts, facts

ROWS = 6
SMALL_QUANTILE = 0.001
"""The share of the smallest magnitudes that a logarithmic histogram piles up at its left end."""


def grid_lines(form: Format, scale: float | None, zero_point: int | None, columns: int) -> list[str]:
    """The values on an axis: all of them, or on a logarithmic one those above 0."""
    form, scale = _inner(form, scale)
    fact = facts(form, scale, zero_point)
    if not isinstance(form, Float | Log):
        axis = Axis(fact.low, fact.high, columns)
        return [_linear_marks(form, fact, axis, columns), *axis.lines()]
    assert fact.smallest is not None
    axis = Axis(math.log2(fact.smallest), math.log2(fact.high), columns, log=True)
    lines = [_log_marks(form, float(form.scale_or_default(scale)), axis), *axis.lines()]
    if fact.smallest_normal is not None and fact.smallest_normal > fact.smallest:
        turn = max(axis.column(fact.smallest_normal), 1)
        lines.append(_span("subnormal", turn) + _span("normal", columns - turn))
    return lines


def grid_title(form: Format) -> str:
    """What the picture shows."""
    form, _ = _inner(form, None)
    if not isinstance(form, Float | Log):
        return "grid"
    mirror = " (those below are its mirror image)" if form.min_number < 0 else ""
    return f"grid of the values above 0, logarithmic{mirror}"


def histogram_title(form: Format) -> str:
    """What the histogram counts."""
    inner, _ = _inner(form, None)
    what = "|x|" if isinstance(inner, Float | Log) else "x"
    what += " / block step" if isinstance(form, Block) else ""
    return f"how often {what}; below, where the format begins and ends"


def histogram_lines(
    form: Format, values: np.ndarray, scale: float | None, zero_point: int | None, columns: int
) -> list[str]:
    """The finite `values` as bars over the grid's limits: |values| on a logarithmic axis for Float and Log.

    For a block format, `values` are divided by their block's step, and `scale` is left out.
    """
    if not values.size:
        return ["nothing: every block has a scale of 0"]
    inner, scale = _inner(form, None if isinstance(form, Block) else scale)
    if isinstance(form, Block):
        scale = 1.0
    fact = facts(inner, scale, zero_point)
    if isinstance(inner, Float | Log):
        magnitudes = np.abs(values[values != 0])
        if not magnitudes.size or fact.smallest is None:
            return ["nothing but zeros"]
        logs = np.log2(magnitudes)
        top, bottom = float(logs.max()), float(np.quantile(logs, SMALL_QUANTILE))
        axis = Axis(math.floor(bottom), max(math.ceil(top), math.floor(bottom) + 1), columns, log=True)
        shown, limits = logs, (fact.smallest, fact.high)
    else:
        low, high = float(values.min()), float(values.max())
        # the limits are drawn in place where they are not far away
        reach = max(high - low, abs(high), 1e-30)
        low = fact.low if low - reach <= fact.low < low else low
        high = fact.high if high < fact.high <= high + reach else high
        axis = Axis(low, high, columns)
        shown, limits = values, (fact.low, fact.high)
    edges = np.linspace(axis.low, axis.high, columns + 1)
    counts, _ = np.histogram(np.clip(shown, axis.low, axis.high), bins=edges)
    lines = [*histogram(counts.tolist(), ROWS), *axis.lines(ends=False)]
    return [*lines, arrow_line(axis, limits)]


def _inner(form: Format, scale: float | None) -> tuple[Format, float | None]:
    """The elements of a block format, at block scale 1."""
    if isinstance(form, Block):
        return form.element, form.step * form.scale_or_default(scale)
    return form, scale


def _linear_marks(form: Format, fact: Facts, axis: Axis, columns: int) -> str:
    if fact.values > columns:
        return "█" * columns
    step = (fact.high - fact.low) / max(fact.values - 1, 1)
    return rug([fact.low + step * i for i in range(fact.values)], axis)


def _log_marks(form: Format, worth: float, axis: Axis) -> str:
    """Values in each column, counted as the difference of two codes: bit patterns follow magnitudes."""
    width = (axis.high - axis.low) / max(axis.columns - 1, 1)

    def rank(column: int) -> int:
        edge = 2.0 ** min(axis.low + (column - 0.5) * width, 127.99) / worth
        return form.encode(edge, scale=1.0, rounding="toward-zero") if edge >= form.unit / 2 else 0

    ranks = [rank(c) for c in range(axis.columns + 1)]
    ranks[0] = form.encode(2.0**axis.low / worth, scale=1.0) - 1  # whatever means 0 is left out
    counts = [max(b - a, 0) for a, b in pairwise(ranks)]
    return bars_of_counts(counts)


def _span(word: str, columns: int) -> str:
    if columns < len(word) + 4:
        return "├" + "─" * (columns - 2) + "┤" if columns > 1 else "│" * columns
    return "├" + f" {word} ".center(columns - 2, "─") + "┤"
