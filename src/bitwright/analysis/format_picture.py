"""One picture of a format: the value of each code, the steps between values, the SQNR of a Gaussian."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitwright.errors import InvalidValueError, MissingExtraError
from bitwright.formats import Block, Float, Format, Log
from bitwright.formats.facts import facts
from bitwright.integer import write_atomic

BLUE, RED, GREY = "#2a6f97", "#bc4749", "#8d99ae"
DRAWN = 2048
"""Points of a curve, at most."""
SAMPLES = 1 << 14
LEVELS = 97
BLOCK_OCTAVES = 12
"""A block format looks alike at every scale: so many octaves around 1 are shown."""


def draw_format(
    form: Format, path: Path, *, scale: float | None = None, zero_point: int | None = None
) -> None:
    """Draw `path`, a .png file: three panels about `form` at a scale, with a zero point where it is affine.

    Raises:
        InvalidValueError: the file is no .png, its folder is missing, or the format needs a scale.
        MissingExtraError: matplotlib is not installed.
    """
    worth = float(form.scale_or_default(scale))
    if path.suffix.lower() != ".png":
        raise InvalidValueError("pictures are .png files", got=path.name)
    if not path.absolute().parent.is_dir():
        raise InvalidValueError("the folder of a picture exists", got=path.absolute().parent)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing needs matplotlib", fix="pip install 'bitwright[report]'") from None
    figure = Figure(figsize=(10.5, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    codes, values = positive_values(form, worth)
    _values(axes[0], form, codes, values, worth, zero_point or 0)
    _steps(axes[1], form, values, worth)
    _sqnr(axes[2], form, worth, zero_point)
    scaled = "" if worth == form.default_scale else f", scale {worth:.4g}"
    scaled += "" if zero_point is None else f", zero point {zero_point}"
    figure.suptitle(f"{form}{scaled}", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    write_atomic(path, buffer.getvalue())


def positive_values(form: Format, worth: float) -> tuple[np.ndarray, np.ndarray]:
    """(codes, values) at or above 0, ascending; a sample of them where they are many."""
    inner = form.element if isinstance(form, Block) else form
    step = worth * (form.step if isinstance(form, Block) else 1.0)
    bit_patterns = isinstance(inner, Float | Log)
    last = int(inner.encode(inner.max_number, scale=1.0)) if bit_patterns else inner.code_max
    first = 0 if inner.number(0) >= 0 and 0 in inner.codes() else last
    picked = np.unique(np.linspace(first, last, min(last - first + 1, DRAWN)).astype(np.int64))
    return picked, np.array([inner.number(int(code)) * step for code in picked])


def sqnr_curve(form: Format, worth: float, zero_point: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(rms, SQNR in dB) of Gaussian numbers, or of their magnitudes where the format has no negative ones."""
    fact = facts(form, worth, zero_point)
    options: dict[str, Any] = {} if zero_point is None else {"zero_point": zero_point}
    if isinstance(form, Block):
        low, high = 2.0**-BLOCK_OCTAVES * worth, 2.0**BLOCK_OCTAVES * worth
    else:
        low, high = max((fact.smallest or fact.high) / 4, 1e-44), min(max(fact.high, fact.unit) * 2, 1e38)
    x = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.abs() if fact.low >= 0 else x
    rms = np.exp2(np.linspace(math.log2(low), math.log2(high), LEVELS))
    found = []
    for level in rms:
        scaled = x * float(level)
        error = form.quantize(scaled, scale=worth, **options).double() - scaled
        ratio = float(scaled.square().sum() / error.square().sum())
        found.append(10 * math.log10(ratio) if ratio > 0 and math.isfinite(ratio) else math.nan)
    return rms, np.array(found)


def _values(
    axis: Any, form: Format, codes: np.ndarray, values: np.ndarray, worth: float, zero_point: int
) -> None:
    inner = form.element if isinstance(form, Block) else form
    at = " at block scale 1" if isinstance(form, Block) else ""
    if isinstance(inner, Float | Log):
        shown = values > 0
        axis.set_yscale("log", base=2)
        title = f"value of each code above 0{at}"
    else:
        step = worth * (form.step if isinstance(form, Block) else 1.0)
        every = inner.codes()
        codes = np.array(every if len(every) <= DRAWN else every[:: len(every) // DRAWN], dtype=np.float64)
        values, shown = (codes - zero_point) * step, np.full(len(codes), fill_value=True)
        title = f"value of each code{at}"
        axis.axhline(0, color=GREY, lw=0.6)
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    few = shown.sum() <= 64
    axis.plot(codes[shown], values[shown], "o" if few else "-", ms=3, lw=1.4, color=BLUE)
    fact = facts(inner, worth)
    if isinstance(inner, Float) and fact.smallest_normal != fact.smallest and fact.smallest_normal:
        axis.axhline(fact.smallest_normal, color=RED, lw=0.8, ls=":")
        axis.text(
            codes[-1], fact.smallest_normal, "normal above", fontsize=7, color=RED, ha="right", va="bottom"
        )
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("code", fontsize=8)
    _calm(axis)


def _steps(axis: Any, form: Format, values: np.ndarray, worth: float) -> None:
    """The distance to the next value."""
    inner = form.element if isinstance(form, Block) else form
    if isinstance(inner, Float | Log) and len(values) > 1:
        gaps = _gaps(inner, values)
        axis.step(values[1:], gaps, where="pre", color=BLUE, lw=1.4)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
    else:
        step = facts(form, worth).step_low or worth
        axis.plot([0, max(values[-1], step)], [step, step], color=BLUE, lw=1.4)
        axis.set_ylim(0, 2 * step)
    axis.set_title("step to the next value", fontsize=9)
    axis.set_xlabel("magnitude", fontsize=8)
    _calm(axis)


def _gaps(form: Float | Log, values: np.ndarray) -> np.ndarray:
    """Distances below each value but the first: the quantum of its binade, or to its neighbour."""
    if len(values) < DRAWN:
        return np.diff(values)
    assert isinstance(form, Float)
    worth = values[-1] / form.max_number
    exponents = np.maximum(np.frexp(values[1:] / worth)[1] - 1, form.emin)
    gaps: np.ndarray = np.exp2(exponents.astype(np.float64) - form.mantissa) * worth
    return gaps


def _sqnr(axis: Any, form: Format, worth: float, zero_point: int | None) -> None:
    rms, found = sqnr_curve(form, worth, zero_point)
    axis.plot(rms, found, color=BLUE, lw=1.4)
    axis.set_xscale("log", base=2)
    best = int(np.nanargmax(found))
    axis.plot(rms[best], found[best], "o", ms=4, color=RED)
    right = best > 0.6 * len(rms)
    axis.annotate(
        f"{found[best]:.1f} dB",
        (rms[best], found[best]),
        xytext=(-6 if right else 6, 4),
        textcoords="offset points",
        ha="right" if right else "left",
        fontsize=8,
        color=RED,
    )
    top = max(float(np.nanmax(found)) * 1.15, 1.0)
    axis.set_ylim(min(0.0, float(np.nanmin(found))) if top > 8 else None, top)
    axis.set_ylim(bottom=max(axis.get_ylim()[0], -6.0))
    half = "" if facts(form, worth, zero_point).low < 0 else "the magnitude of "
    axis.set_title(f"SQNR of {half}a Gaussian, dB", fontsize=9)
    axis.set_xlabel("rms of the input", fontsize=8)
    _calm(axis)


def _calm(axis: Any) -> None:
    axis.grid(alpha=0.25, lw=0.6)
    axis.tick_params(labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
