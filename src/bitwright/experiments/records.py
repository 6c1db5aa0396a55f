"""The record of an experiment: its rows, its table with mean and spread, its claims. JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from bitwright.experiments.definition import Claim, Experiment, Run, Scale
from bitwright.experiments.kinds import KINDS


def record(experiment: Experiment, scale: Scale, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that the report says, from the rows of the finished jobs."""
    jobs = experiment.jobs(scale)
    runs = dict.fromkeys(job.run.name for job in jobs)
    table = [
        _line(run, [row for row in rows if row["run"] == run.name])
        for run in experiment.runs
        if run.name in runs
    ]
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "paper": experiment.paper,
        "kind": experiment.kind,
        "measure": KINDS[experiment.kind].measure,
        "scale": scale.title,
        "note": scale.note,
        "command": f"bitwright reproduce {experiment.name} {scale.options}",
        "finished": len(rows),
        "jobs": len(jobs),
        "seconds": round(sum(row.get("seconds", 0.0) for row in rows), 1),
        "table": table,
        "published": dict(experiment.published),
        "claims": [
            checked
            for claim in experiment.claims
            if not claim.scales or scale.name in claim.scales
            if experiment.kind == "exactness" or not scale.is_smoke  # a tenth of an epoch learns nothing
            for checked in check(claim, table)
        ],
        "rows": list(rows),
    }


def _line(run: Run, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: mean, lowest and highest over the seeds that ended; None where one diverged."""
    values = [row["value"] for row in rows]
    whole = values if values and None not in values else []
    return {
        "run": run.name,
        "label": run.label,
        "axes": dict(run.axes),
        "paper": run.paper,
        "seeds": [row["seed"] for row in rows],
        "mean": sum(whole) / len(whole) if whole else None,
        "low": min(whole) if whole else None,
        "high": max(whole) if whole else None,
        "diverged": values.count(None),
        "setting": _setting(rows[0]) if rows else None,
    }


def _setting(row: dict[str, Any]) -> dict[str, Any]:
    """How large the run was: what a reader must know beside the paper's figure."""
    wanted = row["wanted"]
    return {
        **{key: wanted[key] for key in ("model", "width", "data", "epochs", "batch")},
        **row.get("examples", {}),
    }


def whole_grid(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a grid of two axes, if every cell of it is part of this scale."""
    lines = [line for line in table if len(line["axes"]) == 2]
    down, across = ({tuple(line["axes"].values())[axis] for line in lines} for axis in (0, 1))
    return lines if len(lines) == len(down) * len(across) > 1 else []


def check(claim: Claim, table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The claim for each run it names that has ended, with its figure."""
    means = {line["run"]: line["mean"] for line in table}
    ended = {line["run"] for line in table if line["seeds"]}
    checked = []
    for run in (line["run"] for line in table if fnmatchcase(line["run"], claim.run)):
        if run not in ended or (claim.minus is not None and claim.minus not in ended):
            continue
        pair = (means[run], 0.0 if claim.minus is None else means[claim.minus])
        value = None if None in pair else round(pair[0] - pair[1], 9)  # 1.6 - 1.3 is 0.3
        checked.append(
            {
                "run": run,
                "minus": claim.minus,
                "at_most": claim.at_most,
                "source": claim.source,
                "value": value,
                "holds": value is not None and value <= claim.at_most,
            }
        )
    return checked
