"""The committed records: of the runs that the data files name, with the pages that they make."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bitwright.experiments import experiment, markdown
from bitwright.experiments.runner import wanted

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
PAGES = sorted(path for path in RESULTS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_what_its_record_says(page):
    record = json.loads(page.with_suffix(".json").read_text())
    assert page.stem == f"{record['experiment']}-{record['scale']}"
    assert page.read_text() == markdown(record)
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    # nothing was left out, and no file was edited since
    found = experiment(record["experiment"])
    scale = found.scale(record["scale"])
    assert [row["wanted"] for row in record["rows"]] == [wanted(job, scale) for job in found.jobs(scale)]
    assert all(row["machine"]["commit"] for row in record["rows"])


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem.startswith("exactness-")])
def test_no_code_differed_in_the_recorded_exactness(page):
    record = json.loads(page.with_suffix(".json").read_text())
    for row in record["rows"]:
        assert "interpreter" in [check["backend"] for check in row["verified"]]
        for check in row["verified"]:
            assert check["differing"] == 0
            whole = check["backend"] == row["machine"]["isa"]
            assert check["examples"] == (10_000 if whole else 1000)


def test_the_docs_link_every_record():
    text = (RESULTS.parents[1] / "docs" / "experiments.md").read_text()
    linked = re.findall(r"\]\(\.\./experiments/results/([\w.-]+)\.md\)", text)
    assert sorted(linked) == [page.stem for page in PAGES]
