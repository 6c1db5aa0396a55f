"""The page of post-training shows what was recorded, and what was recorded is what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPES = ("int8", "w4a8", "int6", "int5", "int4")


def test_the_table_is_the_record():
    page = (ROOT / "docs" / "post-training.md").read_text()
    record = json.loads((ROOT / "experiments" / "results" / "post-training.json").read_text())
    rows = {(row["model"], row["recipe"]): row for row in record["rows"] if row["refine"]}
    plain = {(row["model"], row["recipe"]): row for row in record["rows"] if not row["refine"]}
    for model, published, title in (
        ("resnet20", 8.27, "ResNet-20"),
        ("resnet56", 6.61, "ResNet-56"),
        ("resnet8", 12.79, "ResNet-8"),
    ):
        found = [rows[model, recipe] for recipe in RECIPES]
        assert all(row["test_examples"] == 10_000 for row in found)
        assert all(row["verified"]["differing"] == 0 for row in found)
        assert {f"{row['float_error']:.2f}" for row in found} == {f"{published:.2f}"}
        cells = [f"{row['test_error']:.2f}" for row in found]
        assert f"| {title} | {published:.2f} | {' | '.join(cells)} |" in page
        errors = dict(zip(RECIPES, (row["test_error"] for row in found), strict=True))
        assert errors["int8"] - published <= 0.2
        assert errors["w4a8"] - published <= 1.0
        if model != "resnet8":
            cells = [f"{plain[model, recipe]['test_error']:.2f}" for recipe in ("w4a8", "int4")]
            assert f"| {title}, plain | {' | '.join(cells)} |" in page
    for recipe in ("int8", "w4a8", "int4"):
        assert rows["resnet20", recipe]["verified"]["examples"] == 10_000
