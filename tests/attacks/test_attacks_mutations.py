"""Thousands of mutated files: each runs within the types it states, or is refused."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fuzz import networks
from mutations import Intact, attack, mutated, run_both

FILES = 3000


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    path = tmp_path_factory.mktemp("mutations") / "m.bw"
    return path, [Intact.of(network, path) for network in networks()]


def test_mutated_files_run_within_their_types_or_are_refused(targets):
    path, intact = targets
    chance, results = random.Random(0), Counter()
    for _ in range(FILES):
        path.write_bytes(mutated(chance.choice(intact), chance))
        results[attack(path, check=chance.random() < 0.5, run=run_both)] += 1
    assert results["ran"] > FILES // 50
    assert results["refused"] > FILES // 2
