"""The page on products shows the recorded benchmark."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_products_is_the_recorded_one():
    page = (ROOT / "docs" / "products.md").read_text()
    record = json.loads((ROOT / "experiments" / "results" / "products.json").read_text())
    assert len(record["products"]) == 6
    assert f"medians of {record['rounds']} interleaved" in page
    assert (record["threads"], record["tuned_allocator"]) == (1, True)
    for product in record["products"]:
        assert product["equal"]
        seconds = product["seconds"]
        ratios = [
            f"{seconds[path] / seconds['float32']:.2f}x" for path in ("int8", "split", "float64", "norm")
        ]
        cells = [product["case"], product["product"], f"{seconds['float32'] * 1e3:.1f} ms", *ratios]
        assert f"| {' | '.join(cells)} | {product['chosen']} |" in page
