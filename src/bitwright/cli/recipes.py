"""bitwright recipes: what there is, and what one says."""

from __future__ import annotations

import click
from rich import box
from rich.table import Table

from bitwright.cli.common import console


@click.command("recipes")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the recipes, or show what one says of each tensor of training."""
    from bitwright.recipes import ROLES, names, recipe

    if name is None:
        table = Table("recipe", "what", "paper", box=box.SIMPLE_HEAD, pad_edge=False)
        for known in names():
            found = recipe(known)
            table.add_row(known, found.title, found.paper)
        console.print(table)
        return
    found = recipe(name)
    console.print(f"{found.name}: {found.title}")
    if found.paper != "none":
        console.print(found.paper, style="dim")
    table = Table("layers", "role", "format", "estimator", box=box.SIMPLE_HEAD, pad_edge=False)
    for scope, roles in [("all", found.roles), *((r.key, r.roles) for r in found.layers)]:
        for role in sorted(roles, key=ROLES.index):
            spec = roles[role]
            table.add_row(scope, role, str(spec or "float"), spec.estimator.value if spec else "")
    if table.row_count:
        console.print(table)
    else:
        console.print("every tensor stays in float32")
    rule = found.optimizer_rule
    console.print(f"optimizer  {rule.name}, lr {rule.lr:g} to {rule.lr_final:g}")
    if rule.step_scale:
        console.print(
            f"           steps of weights scaled by layer ({rule.step_scale}), clipped to {rule.clip}"
        )
    for old, new in found.replace.items():
        console.print(f"replaces   {old} by {new} in front of binary and ternary slots")
    console.print(f"loss       {found.loss}")
