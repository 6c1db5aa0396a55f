"""Attack the reader of model files at length.

    python tests/attacks/fuzz.py [--files 100000] [--processes 1000] [--seed 0] [--out record.json]

Each mutated file must load and run one input within the bounds that it states, through interpreter and
engine alike, or be refused by the library's own error: in at most a second, with at most twice the file and
32 MiB of memory, without a crash. `--files` run 2000 to a process, `--processes` more in one each. A file
that breaks a rule stays in the working folder, whose name is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "integer"))

from integer_networks import binary_network, every_operation, residual_network, token_network
from mutations import Intact, attack, mutated, run_both
from test_attacks_file import small_network, tiny_network

from bitwright.integer import Network

FILES_A_PROCESS = 2000
HANG = 120
"""Seconds after which a process of many files counts as hung."""


def networks() -> list[Network]:
    """The small networks whose files are mutated; together they have every operation."""
    return [
        small_network(),
        tiny_network(),
        every_operation(),
        binary_network(),
        residual_network(),
        token_network(),
    ]


def attacks(intact: list[Intact], folder: Path, seed: int, files: int) -> Counter[str]:
    """`files` mutated files in this process."""
    chance, results = random.Random(seed), Counter[str]()
    path = folder / f"{seed}.bw"
    for _ in range(files):
        path.write_bytes(mutated(chance.choice(intact), chance))
        results[attack(path, check=chance.random() < 0.5, run=run_both)] += 1
    path.unlink()
    return results


def forked(intact: list[Intact], folder: Path, seed: int, files: int) -> Counter[str]:
    """The same in a process of its own: a crash, a hang or an error counts as "broken" and keeps its file."""
    answer = folder / f"{seed}.json"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer.write_text(json.dumps(attacks(intact, folder, seed, files)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    began, status = time.monotonic(), None
    while status is None:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = code
        elif time.monotonic() - began > HANG:
            os.kill(child, 9)
            status = os.waitpid(child, 0)[1]
        else:
            time.sleep(0.002)
    if status or not answer.is_file():
        print(f"seed {seed}: status {status}; the file is {folder / f'{seed}.bw'}", file=sys.stderr)
        return Counter(broken=1)
    results = Counter[str](json.loads(answer.read_text()))
    answer.unlink()
    return results


def fuzz(files: int, processes: int, seed: int, folder: Path) -> dict[str, Any]:
    """Every attack; the counts."""
    intact = [Intact.of(network, folder / "intact.bw") for network in networks()]
    together, alone = Counter[str](), Counter[str]()
    shares = [FILES_A_PROCESS] * (files // FILES_A_PROCESS) + [files % FILES_A_PROCESS]
    for share in filter(None, shares):
        together += forked(intact, folder, seed, share)
        seed += 1
        print(f"\r{together.total():,} files {dict(together)}", end="", file=sys.stderr)
    for _ in range(processes):
        alone += forked(intact, folder, seed, 1)
        seed += 1
    print(f"\n{alone.total():,} processes {dict(alone)}", file=sys.stderr)
    return {"files": dict(together), "processes": dict(alone)}


def main() -> int:
    """The command."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    chosen = parser.parse_args()
    np.seterr(all="raise")
    folder = Path(tempfile.mkdtemp(prefix="bitwright-fuzz-"))
    began = time.monotonic()
    result = fuzz(chosen.files, chosen.processes, chosen.seed, folder)
    broken = result["files"].get("broken", 0) + result["processes"].get("broken", 0)
    if not broken:
        shutil.rmtree(folder)
    if chosen.out:
        from bitwright.training import machine

        record = {
            **result,
            "seed": chosen.seed,
            "seconds": round(time.monotonic() - began),
            "machine": machine(),
        }
        chosen.out.write_text(json.dumps(record, indent=2) + "\n")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
