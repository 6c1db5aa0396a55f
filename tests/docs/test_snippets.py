"""Every Python snippet of the README and the docs runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(snippet, id=f"{page.name}-{number}")
    for page in PAGES
    for number, snippet in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs(snippet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "snippet", "exec"), {"__name__": "__main__"})


def test_there_are_snippets():
    assert len(SNIPPETS) >= 4


def test_recipe_snippet_of_the_docs_is_a_recipe(tmp_path):
    from bitwright.recipes import recipe

    (toml,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/recipes.md").read_text(), re.S)
    path = tmp_path / "mine.toml"
    path.write_text(toml)
    assert str(recipe(path).roles["weight"].format) == "int4"


def test_links_between_pages_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+\.(?:md|png|json))\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
