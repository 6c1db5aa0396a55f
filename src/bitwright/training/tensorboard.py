"""Curves of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitwright.errors import MissingExtraError


class TensorBoard:
    """A watcher that writes loss per step and test error per epoch.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "curves need the tensorboard package",
                fix='install it: pip install "bitwright[tensorboard]"',
            ) from error
        self.writer: Any = SummaryWriter(str(folder))
        self.step = 0

    def epoch_begins(self, epoch: int, steps: int) -> None:
        """Number the steps from the start of the whole run, also after a resume."""
        self.step = epoch * steps

    def step_ends(self, loss: float) -> None:
        """One point of the loss."""
        self.step += 1
        self.writer.add_scalar("loss", loss, self.step)

    def epoch_ends(self, row: dict[str, Any]) -> None:
        """One point of the test error."""
        self.writer.add_scalar("test error (%)", row["test_error"], row["epoch"])
        self.writer.flush()
