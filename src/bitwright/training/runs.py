"""Run folders: what made them, and the model in them."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from bitwright.data import Dataset
from bitwright.training.after_training import PostTraining
from bitwright.training.checkpoint import load_checkpoint
from bitwright.training.loop import CHECKPOINT, RUN
from bitwright.training.settings import Settings

AnySettings = Settings | PostTraining


def read_run(out: Path) -> AnySettings:
    """The settings of a run folder, of training or after it.

    Raises:
        FileFormatError: there are none, or they are damaged.
    """
    try:
        after = "post_training" in json.loads((out / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        after = False  # the reader of training runs says what is wrong
    return PostTraining.read(out / RUN) if after else Settings.read(out / RUN)


def load_run(out: Path, dataset: Dataset) -> tuple[nn.Module, AnySettings]:
    """The model of a run folder as its last checkpoint left it, in eval mode, and its settings."""
    settings = read_run(out)
    model, _ = settings.build(dataset)
    load_checkpoint(out / CHECKPOINT, model)
    return model.eval(), settings
