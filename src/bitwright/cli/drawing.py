"""Lines of text that draw: the grid of a format, a histogram with its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BARS = " ▁▂▃▄▅▆▇█"
TICK, MARK = "┬", "│"
ASCII = str.maketrans("▁▂▃▄▅▆▇█│┬─├┤◂▸", "__::++##|+-||<>")
"""What stands for the drawing characters on a terminal without them."""


@dataclass(frozen=True)
class Axis:
    """A line of `columns` columns from low to high; logarithmic (base 2) where both are exponents."""

    low: float
    high: float
    columns: int
    log: bool = False

    def column(self, value: float) -> int:
        """The column of a value; of the nearest end where it lies beyond."""
        place = math.log2(value) if self.log else value
        span = self.high - self.low
        share = (place - self.low) / span if span > 0 else 0.5
        return round(min(max(share, 0.0), 1.0) * (self.columns - 1))

    def ticks(self) -> list[tuple[int, str]]:
        """(column, label) of round values, far enough apart."""
        return self._powers() if self.log else self._round_values()

    def _powers(self) -> list[tuple[int, str]]:
        first, last = math.ceil(self.low), math.floor(self.high)
        step = next(s for s in (1, 2, 4, 8, 16, 32, 64, 128) if (last - first) / s <= self.columns / 9)
        exponents = [e for e in range(first, last + 1) if e % step == 0]
        return [(self.column(2.0**e), f"2^{e}") for e in exponents]

    def _round_values(self) -> list[tuple[int, str]]:
        span = self.high - self.low
        if span <= 0:
            return [(self.column(self.low), f"{self.low:g}")]
        rough = span / max(self.columns / 12, 1)
        ten = 10.0 ** math.floor(math.log10(rough))
        step = next(ten * m for m in (1, 2, 5, 10) if ten * m >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.column(k * step), f"{k * step:.6g}") for k in range(first, last + 1)]

    def lines(self, ends: bool = True) -> list[str]:
        """The axis with its ticks, and the labels below; exact ends where they fit."""
        line, labels = ["─"] * self.columns, [" "] * (self.columns + 12)
        taken: list[tuple[int, int]] = []
        wanted = self.ticks()
        if ends and not self.log:
            wanted = [(0, f"{self.low:g}"), (self.columns - 1, f"{self.high:g}"), *wanted]
        for column, label in wanted:
            start = min(max(column - len(label) // 2, 0), self.columns - len(label))
            if any(start <= b and start + len(label) >= a for a, b in taken):
                continue
            taken.append((start, start + len(label)))
            labels[start : start + len(label)] = label
            line[column] = TICK
        return ["".join(line), "".join(labels).rstrip()]


def rug(values: Sequence[float], axis: Axis) -> str:
    """One mark for each value; bars, as high as the logarithm of their number, where columns hold many."""
    counts = [0] * axis.columns
    for value in values:
        counts[axis.column(value)] += 1
    return bars_of_counts(counts)


def bars_of_counts(counts: Sequence[float]) -> str:
    """One character for each count."""
    top = max(counts, default=0)
    if top <= 4:
        return "".join(MARK if count else " " for count in counts).rstrip()
    unit = (len(BARS) - 2) / math.log2(top)
    return "".join(BARS[1 + round(unit * math.log2(n))] if n else " " for n in counts).rstrip()


def histogram(counts: Sequence[int], rows: int) -> list[str]:
    """Vertical bars, one column for each count, `rows` lines high; every count above 0 is seen."""
    top = max(counts, default=0) or 1
    eighths = [max(round(count / top * rows * 8), 1) if count else 0 for count in counts]
    lines = []
    for row in reversed(range(rows)):
        fill = (min(max(e - row * 8, 0), 8) for e in eighths)
        lines.append("".join(BARS[f] for f in fill).rstrip())
    return lines


def arrow_line(axis: Axis, limits: tuple[float, float]) -> str:
    """Where a format begins and ends: "├ -8" and "7.5 ┤" in place, arrows where that is further out."""
    line = [" "] * axis.columns
    low, high = limits
    low_text = f"{'◂' if _left_of(axis, low) else '├'} {low:.6g}"
    high_text = f"{high:.6g} {'▸' if _right_of(axis, high) else '┤'}"
    if _right_of(axis, low) or _left_of(axis, high):
        return f"the format has no value here: {low:.6g} to {high:.6g}"
    start, end = axis.column(low), axis.column(high)
    start = min(start, axis.columns - len(low_text))
    if end - start >= len(low_text) + len(high_text):
        line[start : start + len(low_text)] = low_text
        line[end - len(high_text) + 1 : end + 1] = high_text
        return "".join(line).rstrip()
    # too near each other: the labels stand outside
    between = "├" + "─" * max(end - start - 1, 0) + "┤"
    before, after = f"{low:.6g} ", f" {high:.6g}"
    text = (" " * max(start - len(before), 0) + before)[-start:] if start else ""
    return (text + between + after)[: axis.columns]


def _left_of(axis: Axis, value: float) -> bool:
    return (math.log2(value) if axis.log and value > 0 else value) < axis.low - 1e-9


def _right_of(axis: Axis, value: float) -> bool:
    return (math.log2(value) if axis.log and value > 0 else value) > axis.high + 1e-9
