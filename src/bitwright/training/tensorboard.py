"""Curves of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitwright.errors import MissingExtraError
from bitwright.training.loop import Watcher
from bitwright.training.monitor import Monitor

CURVES = ("overflow", "scale", "moved", "sqnr", "flipped", "dead")
"""What is drawn of each tensor's readings."""


class TensorBoard(Watcher):
    """A watcher that writes loss per step, test error per epoch, and what a monitor sampled.

    Args:
        folder: where the event files go.
        monitor: whose readings become curves; it stands before this watcher.
    """

    def __init__(self, folder: Path, monitor: Monitor | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "curves need the tensorboard package",
                fix='install it: pip install "bitwright[tensorboard]"',
            ) from error
        self.writer: Any = SummaryWriter(str(folder))
        self.step = 0
        self.monitor = monitor
        self._seen: object = None

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """Number the steps from the start of the whole run, also after a resume."""
        self.step = epoch * steps

    def step_ends(self, loss: float) -> None:
        """One point of the loss."""
        self.step += 1
        self.writer.add_scalar("loss", loss, self.step)
        if self.monitor is None or self.monitor.last is self._seen:
            return
        self._seen = self.monitor.last
        for tensor, reading in self.monitor.last.items():
            for what in CURVES:
                value = getattr(reading, what)
                if value is not None:
                    self.writer.add_scalar(f"{what}/{tensor}", value, self.step)

    def epoch_ends(self, row: dict[str, Any]) -> None:
        """One point of the test error."""
        self.writer.add_scalar("test error (%)", row["test_error"], row["epoch"])
        self.writer.flush()
