"""What follows training: lower the network, save it, draw its picture, complete its result."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitwright import __version__
from bitwright.analysis import (
    float_bytes,
    float_operations,
    integer_operations,
    weight_bits,
)
from bitwright.data import Dataset
from bitwright.lowering import NotLowerableError, lower
from bitwright.recipes import is_quantised
from bitwright.training.loop import MODEL, PICTURE, RESULT, write_json
from bitwright.training.monitor import MONITOR, read_monitor
from bitwright.training.settings import Settings


def finish(
    settings: Settings,
    model: nn.Module,
    test: Dataset,
    out: Path,
    result: dict[str, Any],
    *,
    picture: bool = True,
) -> dict[str, Any]:
    """Complete a run folder: model.bw (of a quantised network), picture.png (with matplotlib, if wanted).

    A recipe may leave in float what an integer network needs in integers: then there is no model.bw, and the
    result says why.

    Returns:
        `result` with operations per example, bits per weight and bytes, as in result.json; or, without an
        integer network, `not_lowered`: the problems and what to change.
    """
    example = torch.from_numpy(test.inputs(0, 1))
    network = None
    if is_quantised(model):
        meta = {
            "bitwright": __version__,
            "recipe": settings.recipe,
            "model": settings.model,
            "width": settings.width,
            "data": settings.data,
            "test_error": result["test_error"],
            "classes": list(test.classes),
            "preprocessing": test.preprocessing.to_json(),
        }
        try:
            network = lower(model, example, meta)
        except NotLowerableError as error:
            result["not_lowered"] = {"problems": list(error.problems), "fix": error.fix}
    if network is not None:
        network.save(out / MODEL)
        result |= {
            "operations": integer_operations(network),
            "weight_bits": weight_bits(network),
            "file_bytes": (out / MODEL).stat().st_size,
        }
    elif not is_quantised(model):
        result |= {
            "operations": float_operations(model, example),
            "weight_bits": 32.0,
            "parameter_bytes": float_bytes(model),
        }
    if picture and importlib.util.find_spec("matplotlib"):
        from bitwright.training.picture import draw_run

        draw_run(model, network, test, result, out / PICTURE)
        if (out / MONITOR).exists():
            from bitwright.training.monitor_picture import draw_monitor

            draw_monitor(read_monitor(out / MONITOR), out / MONITOR.replace(".jsonl", ".png"))
    write_json(out / RESULT, result)
    return result
