"""experiments: published tables as data files, and what runs them again."""

from bitwright.experiments.cost import estimate, estimates
from bitwright.experiments.definition import Claim, Experiment, Job, Run, Scale
from bitwright.experiments.exactness import Backend, backends, verify_everywhere
from bitwright.experiments.kinds import KINDS, Kind, Splits, cut, measure, work
from bitwright.experiments.reading import experiment, names
from bitwright.experiments.records import record
from bitwright.experiments.report import markdown, write_report
from bitwright.experiments.runner import Watcher, finished, reproduce, unfinished

__all__ = [
    "KINDS",
    "Backend",
    "Claim",
    "Experiment",
    "Job",
    "Kind",
    "Run",
    "Scale",
    "Splits",
    "Watcher",
    "backends",
    "cut",
    "estimate",
    "estimates",
    "experiment",
    "finished",
    "markdown",
    "measure",
    "names",
    "record",
    "reproduce",
    "unfinished",
    "verify_everywhere",
    "work",
    "write_report",
]
