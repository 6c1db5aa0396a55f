"""A scale that never moves."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.formats import Format
from bitwright.quantize.controllers.base import Controller, State


@dataclass(frozen=True)
class Static(Controller):
    """A scale that never moves, the same on every rank; nothing is measured.

    Args:
        scale: worth of one level; None takes the format's own.
    """

    scale: float | None = None

    moves = False

    def check(self, form: Format) -> None:
        form.scale_or_default(self.scale)

    def initial(self, measured: State, form: Format) -> State:
        return {}

    def __str__(self) -> str:
        return "static" if self.scale is None else f"static {self.scale:g}"
