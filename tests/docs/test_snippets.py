"""Every Python snippet of the README and the docs runs."""

from __future__ import annotations

import json
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


def test_measured_figures_are_those_of_the_recorded_runs():
    page = (ROOT / "docs" / "measured.md").read_text()
    results = ROOT / "experiments" / "results"

    def read(name):
        return json.loads((results / f"{name}.json").read_text())

    for name in ("qnn-mnist-mlp1024", "qnn-cifar10-convnet64"):
        assert f"**{read(name)['test_error']:.2f} % test error**" in page
    for name in ("verify-mnist-mlp1024", "verify-cifar10-convnet64"):
        for run in read(name)["verified"]:
            counts = (f"{run['examples']:,}", len(run["tensors"]), f"{run['compared']:,}", 0)
            assert f"| {run['backend']} | {' | '.join(map(str, counts))} |" in page
            assert run["differing"] == 0
    timings = {(t["runtime"], t["batch"]): t["seconds"] for t in read("bench-mlp4096")["timings"]}
    ours = next(runtime for runtime, _ in timings if runtime.startswith("bitwright"))
    for (_, batch), seconds in timings.items():
        assert f"{seconds / timings[ours, batch]:.1f}x" in page


def test_the_readme_shows_the_recorded_demo():
    page = (ROOT / "README.md").read_text()
    demo = json.loads((ROOT / "experiments" / "results" / "demo.json").read_text())
    errors = [f"{demo['results'][recipe]['test_error']:.1f} %" for recipe in ("float", "qnn")]
    assert re.search(rf"test error +{errors[0]} +{errors[1]}", page)
    seconds = {(t["runtime"].split()[0], t["batch"]): t["seconds"] for t in demo["timings"]}
    for batch in (1, 100):
        ratio = seconds["torch", batch] / seconds["bitwright", batch]
        assert re.search(rf"batch {batch} .* {ratio:.1f}x torch", page)
    assert all(check["differing"] == 0 for check in demo["verified"])
