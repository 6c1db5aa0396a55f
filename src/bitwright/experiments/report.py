"""The report of an experiment: its record as a page of Markdown, and the files it is written to."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from bitwright.experiments.records import whole_grid
from bitwright.integer import write_atomic
from bitwright.training import write_json


def write_report(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write NAME-SCALE.json, .md and (with matplotlib) .png; returns their paths."""
    stem = f"{record['experiment']}-{record['scale']}"
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    write_json(paths[0], record)
    write_atomic(paths[1], markdown(record).encode())
    if importlib.util.find_spec("matplotlib"):
        from bitwright.experiments.picture import draw

        paths.append(folder / f"{stem}.png")
        draw(record, paths[2])
    return paths


def markdown(record: dict[str, Any]) -> str:
    """A page from a record alone: the paper's figures and ours side by side, the claims, where and when."""
    parts = [
        f"# {record['experiment']}, scale {record['scale']}",
        f"{record['title']}. {record['paper']}.",
        f"`{record['command']}`: {_machines(record)}",
        record["note"],
        _exact_table(record) if record["kind"] == "exactness" else _error_table(record),
        _grid(record),
        _claims(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figure(line: dict[str, Any]) -> str:
    """ "1.43 (1.40 to 1.45)": mean and range over the seeds."""
    if line["diverged"]:
        return f"diverged ({line['diverged']} of {len(line['seeds'])})"
    if line["mean"] is None:
        return "not run"
    spread = f" ({line['low']:.2f} to {line['high']:.2f})" if len(line["seeds"]) > 1 else ""
    return f"{line['mean']:.2f}{spread}"


def _error_table(record: dict[str, Any]) -> str:
    verified = {row["run"]: row.get("verified", []) for row in record["rows"]}
    rows = [
        [
            line["label"],
            _number(line["paper"]),
            figure(line),
            str(len(line["seeds"])),
            _size(line["setting"]),
            _differing(verified.get(line["run"], [])),
        ]
        for line in record["table"]
    ]
    rows += [[label, _number(value), "", "", "", ""] for label, value in record["published"].items()]
    head = ["", "paper", f"ours: {record['measure']}", "seeds", "ours: size", "integer network"]
    return _table(head, rows)


def _exact_table(record: dict[str, Any]) -> str:
    labels = {line["run"]: line["label"] for line in record["table"]}
    sizes = {line["run"]: _size(line["setting"]) for line in record["table"]}
    rows = []
    for row in record["rows"]:
        for index, check in enumerate(row["verified"]):
            rows.append(
                [
                    labels[row["run"]] if index == 0 else "",
                    sizes[row["run"]] if index == 0 else "",
                    check["backend"],
                    f"{check['examples']:,}",
                    f"{check['tensors']}",
                    f"{check['compared']:,}",
                    f"{check['differing']:,}",
                ]
            )
        rows += [["", "", f"{name}: {why}", "0", "", "", ""] for name, why in row["left_out"].items()]
    head = ["network", "trained as", "backend", "test images", "tensors", "elements", "differing"]
    return _table(head, rows)


def _grid(record: dict[str, Any]) -> str:
    """The runs of a grid of two axes as rows and columns."""
    lines = whole_grid(record["table"])
    if not lines:
        return ""
    down, across = lines[0]["axes"]
    columns = list(dict.fromkeys(line["axes"][across] for line in lines))
    cells = {tuple(line["axes"].values()): figure(line) for line in lines}
    rows = [
        [name, *(cells[name, column] for column in columns)]
        for name in dict.fromkeys(line["axes"][down] for line in lines)
    ]
    return f"Ours, {record['measure']}:\n\n" + _table([f"{down} \\ {across}", *columns], rows)


def _claims(record: dict[str, Any]) -> str:
    lines = []
    for claim in record["claims"]:
        what = claim["run"] if claim["minus"] is None else f"{claim['run']} - {claim['minus']}"
        value = "diverged" if claim["value"] is None else f"{claim['value']:.2f}"
        source = f" ({claim['source']})" if claim["source"] else ""
        verdict = "holds" if claim["holds"] else "DOES NOT HOLD"
        lines.append(f"- {what} at most {claim['at_most']:g}{source}: {value}, {verdict}")
    return "Claims, on the means:\n\n" + "\n".join(lines) if lines else ""


def _machines(record: dict[str, Any]) -> str:
    machines = [row["machine"] for row in record["rows"]]
    where = ", ".join(dict.fromkeys(f"{m['processor']} ({m['isa']}), torch {m['torch']}" for m in machines))
    commits = ", ".join(dict.fromkeys(str(m["commit"]) for m in machines))
    return (
        f"{record['finished']} of {record['jobs']} runs, {record['seconds'] / 3600:.2f} hours, "
        f"{where or 'nowhere yet'}, commit {commits or 'none'}."
    )


def _size(setting: dict[str, Any] | None) -> str:
    if setting is None:
        return ""
    examples = f" of {setting['training']:,} examples" if "training" in setting else ""
    return f"{setting['model']} {setting['width']}, {setting['epochs']} epochs{examples}, {setting['data']}"


def _differing(checks: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{check['differing']} differing codes, {check['examples']:,} images ({check['backend']})"
        for check in checks
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
