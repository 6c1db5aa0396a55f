"""training: a loop that trains what the papers train, and resumes bit for bit."""

from bitwright.training.after_training import PostTraining, post_training
from bitwright.training.allocator import tune_allocator
from bitwright.training.checkpoint import load_checkpoint, save_checkpoint
from bitwright.training.finish import finish
from bitwright.training.loop import (
    CHECKPOINT,
    MODEL,
    PICTURE,
    RESULT,
    RUN,
    DivergedError,
    Watcher,
    batches,
    error_rate,
    train,
    write_json,
)
from bitwright.training.losses import loss, squared_hinge
from bitwright.training.machine import machine
from bitwright.training.monitor import MONITOR, Monitor, Reading, read_monitor
from bitwright.training.packed import StoredAsCodes, store_as_codes
from bitwright.training.relax import relax_
from bitwright.training.runs import AnySettings, load_run, read_run
from bitwright.training.settings import DEFAULT_EPOCHS, Settings

__all__ = [
    "CHECKPOINT",
    "DEFAULT_EPOCHS",
    "MODEL",
    "MONITOR",
    "PICTURE",
    "RESULT",
    "RUN",
    "AnySettings",
    "DivergedError",
    "Monitor",
    "PostTraining",
    "Reading",
    "Settings",
    "StoredAsCodes",
    "Watcher",
    "batches",
    "error_rate",
    "finish",
    "load_checkpoint",
    "load_run",
    "loss",
    "machine",
    "post_training",
    "read_monitor",
    "read_run",
    "relax_",
    "save_checkpoint",
    "squared_hinge",
    "store_as_codes",
    "train",
    "tune_allocator",
    "write_json",
]
