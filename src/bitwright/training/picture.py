"""One picture of a run: stored weights, the codes of the activations, the error curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bitwright.data import Dataset
from bitwright.integer import Network, write_atomic
from bitwright.nn import FloatLayer

BLUE, RED, GREY = "#2a6f97", "#bc4749", "#8d99ae"
IMAGES = 100


def draw_run(
    model: nn.Module, network: Network | None, test: Dataset, result: dict[str, Any], path: Path
) -> None:
    """Draw `path`: four panels, one a sentence about the run (three for a float network)."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4 if network is None else 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3) if network is None else figure.subplots(2, 2).ravel()
    settings = result["settings"]
    figure.suptitle(
        f"{settings['recipe']} {settings['model']} {settings['width']} on {settings['data']}: "
        f"test error {result['test_error']:.2f} %"
    )
    _error_curve(axes[0], result)
    _weights(axes[1], model)
    if network is None:
        _images(axes[2], test, None)
    else:
        _codes(axes[2], network, test)
        _images(axes[3], test, network)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())


def _error_curve(axis: Any, result: dict[str, Any]) -> None:
    epochs = [row["epoch"] for row in result["history"]]
    axis.plot(epochs, [row["test_error"] for row in result["history"]], color=BLUE)
    axis.set(title="test error (%)", xlabel="epoch", ylim=(0, None))
    axis.grid(alpha=0.3)
    twin = axis.twinx()
    twin.plot(epochs, [row["loss"] for row in result["history"]], color=GREY, lw=1)
    twin.set_ylabel("training loss (grey)", color=GREY)


def _weights(axis: Any, model: nn.Module) -> None:
    for index, (name, parameter) in enumerate(_weight_parameters(model)):
        counts, edges = np.histogram(parameter.detach().numpy().ravel(), bins=81)
        share = counts / counts.sum()
        axis.plot((edges[:-1] + edges[1:]) / 2, share, lw=1.2, alpha=0.9, label=name, color=f"C{index}")
    axis.set(title="stored weights, share per bin", yscale="log")
    axis.legend(fontsize=7, ncols=2)


def _weight_parameters(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, FloatLayer)]
    return [(name, layer.weight) for name, layer in layers]


def _codes(axis: Any, network: Network, test: Dataset) -> None:
    """How often each unit is +1: units at 0 or 1 are dead."""
    traced = network.trace(test.inputs(0, IMAGES))
    names = [o.name for o in network.operations if o.kind == "threshold" and o.name in traced]
    for index, name in enumerate(names):
        codes = traced[name]
        rate = (codes > 0).mean(axis=(0, *range(2, codes.ndim)))
        axis.plot(np.linspace(0, 1, len(rate)), np.sort(rate), lw=1.2, color=f"C{index}", label=name)
    axis.axhline(0.5, color=GREY, lw=0.8, ls=":")
    axis.set(title="share of images in which a unit is +1", xlabel="units, sorted", ylim=(0, 1))
    if names:
        axis.legend(fontsize=7)


def _images(axis: Any, test: Dataset, network: Network | None) -> None:
    """The first test images, wrong answers framed."""
    rows, columns = 4, 12
    shown = min(rows * columns, len(test))
    channels, height, width = test.preprocessing.shape
    pixels = test.images[:shown].transpose(0, 2, 3, 1) / test.preprocessing.pixel_max
    pad = 2
    sheet = np.ones((rows * (height + pad), columns * (width + pad), channels))
    wrong: list[tuple[int, int]] = []
    answers = None if network is None else network(test.inputs(0, shown)).argmax(1)
    for index in range(shown):
        y, x = (index // columns) * (height + pad), (index % columns) * (width + pad)
        sheet[y : y + height, x : x + width] = pixels[index]
        if answers is not None and answers[index] != test.labels[index]:
            wrong.append((x, y))
    axis.imshow(np.clip(sheet if channels == 3 else sheet[..., 0], 0, 1), cmap="gray")
    for x, y in wrong:
        axis.add_patch(_frame(x, y, width, height))
    axis.set_axis_off()
    title = "test images" if answers is None else f"first {shown} test images, {len(wrong)} wrong (red)"
    axis.set_title(title)


def _frame(x: int, y: int, width: int, height: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 1, y - 1), width + 1, height + 1, fill=False, edgecolor=RED, lw=1.5)
