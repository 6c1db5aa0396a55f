"""What `quantize_` did, and what it left alone and why: values, and a table for people."""

from __future__ import annotations

import io
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One tensor of training that has a format (or one module that took another's place)."""

    tensor: str
    role: str
    format: str
    how: str = ""


@dataclass(frozen=True)
class Skipped:
    """One module or operation that was left alone."""

    name: str
    kind: str
    reason: str


@dataclass
class Report:
    """What `quantize_` did.

    Attributes:
        recipe: its name.
        rows: tensors with a format, in execution order.
        replaced: modules that took another's place.
        skipped: what was left alone, each with its reason.
        notes: anything else that the user should know.
    """

    recipe: str
    rows: list[Row] = field(default_factory=list)
    replaced: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table("tensor", "role", "format", "how", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in [*self.rows, *self.replaced]:
            table.add_row(row.tensor, row.role, row.format, row.how)
        for item in self.skipped:
            table.add_row(item.name, "left alone", item.kind, item.reason, style="dim")
        console = Console(file=io.StringIO(), width=110, record=True)
        console.print(f"recipe {self.recipe}")
        console.print(table)
        for note in self.notes:
            console.print(f"note: {note}")
        return console.export_text().rstrip()
