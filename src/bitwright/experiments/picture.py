"""One picture of an experiment: the paper's figures and ours, or what was compared."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from bitwright.experiments.records import whole_grid
from bitwright.integer import write_atomic

BLUE, RED, GREY = "#2a6f97", "#bc4749", "#8d99ae"


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw a record to a PNG file: what was compared, a grid as a map, or figures beside the paper's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = whole_grid(record["table"])
    shown = len(record["table"]) * (2 if record["kind"] == "exactness" else 1) + len(record["published"])
    figure = Figure(figsize=(9, 4.5 if grid else 1.6 + 0.42 * max(shown, 4)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    if record["kind"] == "exactness":
        _compared(axis, record)
    elif grid:
        _map(axis, record, grid)
    else:
        _figures(axis, record)
    figure.suptitle(f"{record['title']} ({record['experiment']}, scale {record['scale']})", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())


def _figures(axis: Any, record: dict[str, Any]) -> None:
    """Each line of the table: the paper's figure as a cross, each seed as a dot, the mean as a bar."""
    lines = record["table"]
    labels = [line["label"] for line in lines] + list(record["published"])
    for y, line in enumerate(lines):
        values = [row["value"] for row in record["rows"] if row["run"] == line["run"]]
        dots = [value for value in values if value is not None]
        axis.plot(dots, [y] * len(dots), "o", color=BLUE, alpha=0.7)
        if line["mean"] is not None:
            axis.plot([line["mean"]], [y], "|", color=BLUE, ms=18, mew=2)
            axis.annotate(
                f"{line['mean']:.2f}",
                (line["mean"], y),
                (0, 10),
                textcoords="offset points",
                fontsize=8,
                ha="center",
            )
        if line["diverged"]:
            axis.annotate("diverged", (0.5, y), xycoords=("axes fraction", "data"), color=RED)
        if line["paper"] is not None:
            axis.plot([line["paper"]], [y], "x", color=RED, ms=8, mew=2)
    for y, value in enumerate(record["published"].values(), start=len(lines)):
        axis.plot([value], [y], "x", color=GREY, ms=8, mew=2)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    crosses = bool(record["published"]) or any(line["paper"] is not None for line in lines)
    words = "ours in blue (bar: mean)" + (", the paper's crosses" if crosses else "")
    largest = axis.dataLim.x1 if math.isfinite(axis.dataLim.x1) else 1.0
    axis.set(xlabel=f"{record['measure']}: {words}", xlim=(0, 1.04 * largest), ylim=(len(labels) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)


def _map(axis: Any, record: dict[str, Any], grid: list[dict[str, Any]]) -> None:
    """A grid of two axes as a map, the mean in each cell."""
    down, across = grid[0]["axes"]
    rows, columns = (list(dict.fromkeys(line["axes"][name] for line in grid)) for name in (down, across))
    cells = {tuple(line["axes"].values()): line for line in grid}
    means = [[cells[row, column]["mean"] for column in columns] for row in rows]
    known = [mean for line in means for mean in line if mean is not None]
    filled = [[math.nan if mean is None else mean for mean in line] for line in means]
    axis.imshow(filled, cmap="viridis_r", aspect="auto")
    middle = (min(known) + max(known)) / 2 if known else 0.0
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            line = cells[row, column]
            missing = "diverged" if line["diverged"] else "not run"
            text = missing if line["mean"] is None else f"{line['mean']:.2f}"
            axis.text(
                x, y, text, ha="center", va="center", color="white" if filled[y][x] > middle else "black"
            )
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=across, ylabel=down, title=f"{record['measure']}, mean over the seeds")


def _compared(axis: Any, record: dict[str, Any]) -> None:
    """Elements compared, for each network on each backend; red where any differs."""
    labels = {line["run"]: line["label"] for line in record["table"]}
    backends = list(dict.fromkeys(check["backend"] for row in record["rows"] for check in row["verified"]))
    high = 0.8 / max(len(backends), 1)
    for y, row in enumerate(record["rows"]):
        for check in row["verified"]:
            index = backends.index(check["backend"])
            color = RED if check["differing"] else BLUE
            place = y - 0.4 + high * (index + 0.5)
            shade = 1 - 0.7 * index / len(backends)
            axis.barh(place, check["compared"], high * 0.9, color=color, alpha=shade)
    axis.set_yticks(range(len(record["rows"])), [labels[row["run"]] for row in record["rows"]], fontsize=8)
    differing = sum(check["differing"] for row in record["rows"] for check in row["verified"])
    axis.set(xscale="log", xlabel=f"elements compared, of which {differing} differ")
    axis.set_title(f"from the top: {', '.join(backends)}", fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
