"""The tables of docs/measured.md that come from benchmark records; a test compares them with the page.

python benchmarks/tables.py            # print them
python benchmarks/tables.py --write    # put them between their marks on the page
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measured.md"
RESULTS = ROOT / "experiments" / "results"
OURS = "bitwright"


def seconds(value: float) -> str:
    """With a unit that suits it."""
    return f"{value * 1e6:.0f} us" if value < 1e-3 else f"{value * 1e3:.2f} ms"


def networks(record: dict[str, Any]) -> list[str]:
    """One row a network, batch and number of threads: ours, the best peer, the best int8 peer."""
    lines = [
        "| network | batch | threads | bitwright | best of the others | | our time / theirs | / best int8 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    timed = [row for row in record["networks"] if "seconds" in row]
    for ours in (row for row in timed if row["runtime"] == OURS):
        place = (ours["network"], ours["batch"], ours["threads"])
        peers = [
            r for r in timed
            if (r["network"], r["batch"], r["threads"]) == place and r["runtime"] != OURS
        ]  # fmt: skip
        best = min(peers, key=lambda r: r["seconds"])
        int8 = min((r for r in peers if "int8" in r["runtime"]), key=lambda r: r["seconds"], default=None)
        lines.append(
            f"| {place[0]} | {place[1]} | {place[2]} | {seconds(ours['seconds'])} | {best['runtime']} | "
            f"{seconds(best['seconds'])} | **{best['ratio']:.2f}x** | "
            f"{'' if int8 is None else format(int8['ratio'], '.2f') + 'x'} |"
        )
    return lines


def ceilings(record: dict[str, Any]) -> list[str]:
    """Binary products against the register loop and the cache."""
    lines = [
        "| product | packed | Gop/s | ceiling | of the ceiling | from float | of the cache's bandwidth |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["ceilings"]:
        cache = f"{row['of_cache_bandwidth']:.0%}" if "of_cache_bandwidth" in row else ""
        lines.append(
            f"| {row['product']} | {seconds(row['packed_seconds'])} | {row['packed_gops']:.0f} | "
            f"{row['ceiling_gops']:.0f} | {row['packed_of_ceiling']:.0%} | "
            f"{row['from_float_of_ceiling']:.0%} | {cache} |"
        )
    return lines


def products(record: dict[str, Any]) -> list[str]:
    """Products of few bits beside other libraries: one column a number of rows."""
    shapes = list(dict.fromkeys(row["product"] for row in record["products"]))
    runtimes = list(dict.fromkeys(row["runtime"] for row in record["products"]))
    times = {(row["runtime"], row["product"]): row["seconds"] for row in record["products"]}
    lines = [f"| | {' | '.join(shapes)} |", "|---|" + "---|" * len(shapes)]
    for runtime in runtimes:
        cells = [seconds(times[runtime, s]) if (runtime, s) in times else "" for s in shapes]
        lines.append(f"| {runtime} | {' | '.join(cells)} |")
    return lines


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "networks": ("networks", networks),
    "ceilings": ("binary-gemm", ceilings),
    "products": ("binary-gemm", products),
}
"""Mark on the page -> (record, how its table is made)."""


def table(mark: str) -> str:
    """The table of a mark, from its record."""
    name, make = TABLES[mark]
    return "\n".join(make(json.loads((RESULTS / f"{name}.json").read_text())))


@click.command()
@click.option("--write", is_flag=True, help="Put the tables on the page.")
def main(write: bool) -> None:
    """Print or write the tables."""
    page = PAGE.read_text()
    for mark in TABLES:
        made = table(mark)
        print(f"{made}\n")
        pattern = rf"(<!-- {mark} -->\n).*?(<!-- end -->)"
        page = re.sub(pattern, lambda m, made=made: f"{m[1]}{made}\n{m[2]}", page, flags=re.S)
    if write:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()
