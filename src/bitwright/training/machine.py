"""Where a result was measured."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

import bitwright
from bitwright.kernels import default_isa


def machine() -> dict[str, str | int | None]:
    """Processor, software, threads and commit, for result files."""
    return {
        "processor": _processor(),
        "isa": default_isa(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "bitwright": bitwright.__version__,
        "commit": _commit(),
    }


def _processor() -> str:
    """ "AMD EPYC (family 25, model 17)": the name alone tells no generation on a virtual machine."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        first, _, _ = info.read_text().partition("\n\n")
        fields = {
            key.strip(): value.strip() for key, _, value in (f.partition(":") for f in first.splitlines())
        }
        if "model name" in fields:
            generation = [f"{k.split()[-1]} {fields[k]}" for k in ("cpu family", "model") if k in fields]
            return fields["model name"] + (f" ({', '.join(generation)})" if generation else "")
    return platform.processor() or platform.machine()


@cache
def _commit() -> str | None:
    """The commit of the checkout around the library, "-dirty" if edited since; None elsewhere.

    Asked once: a process runs what it has loaded, whatever is committed while it trains.
    """
    here = Path(bitwright.__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
