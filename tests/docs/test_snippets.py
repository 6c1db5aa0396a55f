"""Every Python snippet of the README and the docs runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
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


def test_recipe_snippets_of_the_docs_are_recipes(tmp_path):
    from bitwright.recipes import recipe

    snippets = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/recipes.md").read_text(), re.S)
    assert len(snippets) == 2
    for toml in snippets:
        path = tmp_path / "mine.toml"
        path.write_text(toml)
        assert str(recipe(path).roles["weight"].format) == "int4"


def test_links_between_pages_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+\.(?:md|png|json))\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


FORMAT_PAGES = sorted((ROOT / "docs" / "formats").glob("*.md"))


@pytest.mark.parametrize("page", FORMAT_PAGES, ids=lambda page: page.stem)
def test_each_page_of_a_format_shows_a_small_picture_and_the_command_that_draws_it(
    page, tmp_path, monkeypatch
):
    from click.testing import CliRunner

    from bitwright.cli.formats import command

    text = page.read_text()
    assert f"](formats/{page.name})" in (ROOT / "docs" / "formats.md").read_text()
    (picture,) = re.findall(r"!\[[^\]]+\]\(([\w.+-]+\.png)\)", text)
    (arguments,) = re.findall(rf"`bitwright formats ([^`]+ --plot {re.escape(picture)})`", text)
    committed = (page.parent / picture).read_bytes()
    assert len(committed) < 60_000
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(command, arguments.split()).exit_code == 0
    # the size in pixels is in the header; the pixels depend on the fonts of the machine
    assert (tmp_path / picture).read_bytes()[:24] == committed[:24]


def test_commands_of_the_format_pages_run():
    from click.testing import CliRunner

    from bitwright.cli.formats import command

    for page in [ROOT / "docs" / "formats.md", *FORMAT_PAGES]:
        for arguments in re.findall(r"`bitwright formats( [^`]+)?`", page.read_text()):
            if not re.search(r"NAME|FILE|--plot", arguments):
                assert CliRunner().invoke(command, arguments.split()).exit_code == 0, arguments


def test_the_table_of_floats_is_what_the_formats_say():
    from bitwright.formats import parse
    from bitwright.formats.facts import facts

    rows = re.findall(r"^\| (`.*)\|$", (ROOT / "docs" / "formats" / "floating-point.md").read_text(), re.M)
    assert len(rows) == 8
    for row in rows:
        name, bits, largest, normal, smallest, infinities, nans = (cell.strip() for cell in row.split("|"))
        form = parse(name.split("`")[1])
        fact = facts(form)
        assert int(bits) == form.bits
        shown = [eval(cell.replace("^", "**")) for cell in (largest, normal, smallest)]
        assert shown == [fact.high, fact.smallest_normal, fact.smallest]
        assert infinities == ("none" if not fact.infinities else str(fact.infinities))
        count = re.match(r"\d+", nans)
        assert (int(count[0]) if count else int(nans.startswith("in the place"))) == fact.nans


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


def test_bytes_of_stored_codes_are_those_of_the_recorded_run():
    page = (ROOT / "docs" / "recipes.md").read_text()
    record = json.loads((ROOT / "experiments" / "results" / "stored-codes.json").read_text())
    assert record["rows"]
    for row in record["rows"]:
        sizes = [f"{row[key] / 1e6:.1f} MB" for key in ("float_bytes", "bytes")]
        assert f"| {row['network']} | {' | '.join(sizes)} | {row['ratio']:.2f}x |" in page


def test_measured_ratios_of_formats_are_those_of_the_recorded_runs():
    page = (ROOT / "docs" / "measured.md").read_text()
    results = ROOT / "experiments" / "results"

    def rows(name):
        return json.loads((results / f"{name}.json").read_text())["rows"]

    ratios = {(r["format"], r["rounding"], r["by"], r["allocator"]): r["ratio"] for r in rows("quantizers")}
    for form, rounding, by, allocator in ratios:
        if by == "bitwright" and allocator == "default":
            shown = "int8 with a float scale" if "," in form else f"`{form}`"
            both = [f"{ratios[form, rounding, by, a]:.2f}x" for a in ("default", "tuned")]
            assert f"| {shown} | {rounding} | {' | '.join(both)} |" in page
    tuned = {(r["network"], r["exact"]): r["ratio"] for r in rows("training-step-tuned")}
    for row in rows("training-step"):
        both = f"{row['ratio']:.2f}x | {tuned[row['network'], row['exact']]:.2f}x"
        assert f"| {row['network']} | {row['exact']} | {both} |" in page


def test_tables_of_benchmarks_are_those_of_the_recorded_runs():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    tables = module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (ROOT / "docs" / "measured.md").read_text()
    assert len(tables.TABLES) == 3
    for mark in tables.TABLES:
        assert f"<!-- {mark} -->\n{tables.table(mark)}\n<!-- end -->" in page
