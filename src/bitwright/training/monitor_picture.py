"""The picture of a monitored run: a row for each kind of tensor, a column for each thing measured."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from bitwright.integer import write_atomic
from bitwright.training.monitor import Reading

COLUMNS = {
    "sqnr": "SQNR (dB)",
    "overflow": "share beyond the limits",
    "scale": "scale",
    "flipped": "share of codes that flipped",
}
"""What is drawn of a reading -> its title."""
SMALLEST = 1e-5
"""Shares are drawn on a logarithmic axis from here."""


def draw_monitor(samples: list[tuple[int, dict[str, Reading]]], path: Path) -> None:
    """Draw `path`: curves over the steps, one for each layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tensors = list(dict.fromkeys(name for _, readings in samples for name in readings))
    roles = list(dict.fromkeys(_role(name) for name in tensors))
    layers = list(dict.fromkeys(_layer(name) for name in tensors))
    if not roles:
        return
    figure = Figure(figsize=(13, 0.9 + 1.9 * len(roles)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(roles), len(COLUMNS), squeeze=False, sharex=True)
    for row, role in zip(grid, roles, strict=True):
        for axis, (what, title) in zip(row, COLUMNS.items(), strict=True):
            lines = _lines(samples, [n for n in tensors if _role(n) == role], what)
            for name, (steps, values) in lines.items():
                color = f"C{layers.index(_layer(name)) % 10}"
                axis.plot(steps, values, lw=1.1, marker=".", ms=3, color=color, label=_layer(name))
            _dress(axis, what, bool(lines))
            axis.set_title(f"{role}: {title}", fontsize=8)
    for axis in grid[-1]:
        axis.set_xlabel("step", fontsize=8)
    handles: dict[str, Any] = {}
    for axis in grid.ravel():
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=8, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())


def _lines(
    samples: list[tuple[int, dict[str, Reading]]], tensors: list[str], what: str
) -> dict[str, tuple[list[int], list[float]]]:
    """Tensor -> (steps, values), of those that have any."""
    lines = {}
    for name in tensors:
        points = [(step, getattr(r[name], what)) for step, r in samples if name in r]
        points = [(step, value) for step, value in points if value is not None]
        if points:
            steps, values = zip(*points, strict=True)
            shares = what in ("overflow", "flipped")
            lines[name] = (list(steps), [max(v, SMALLEST) if shares else v for v in values])
    return lines


def _dress(axis: Any, what: str, drawn: bool) -> None:
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    if not drawn:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes, color="grey")
    elif what == "scale":
        axis.set_yscale("log", base=2)
    elif what in ("overflow", "flipped"):
        axis.set_yscale("log")
        axis.set_ylim(SMALLEST / 1.5, 1.5)


def _role(tensor: str) -> str:
    """The last words of a tensor's name: "fc1.weight.state.exp_avg" -> "weight.state.exp_avg"."""
    words = tensor.split(".")
    first = next((i for i, word in enumerate(words) if word in ROLE_WORDS), len(words) - 1)
    return ".".join(words[first:])


def _layer(tensor: str) -> str:
    return tensor[: -len(_role(tensor)) - 1] or tensor


ROLE_WORDS = {"weight", "bias", "activation", "error", "forward", "dgrad", "wgrad", "primal", "state"}
"""Where a layer's name ends and a role begins."""
