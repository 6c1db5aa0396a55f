"""Threads are kept from call to call: callers at a time, other numbers of threads, children of a fork."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from graph_networks import random_network, samples

from bitwright.errors import InvalidValueError

NETWORK = next(n for n in map(random_network, range(100)) if n.engine_problem is None)


def test_any_number_of_threads_in_any_order():
    x = samples(NETWORK, 23)
    expected = NETWORK(x, backend="interpreter")
    for threads in (2, 1, 5, 2, 40, 3, 3):
        np.testing.assert_array_equal(NETWORK(x, threads=threads), expected)
        np.testing.assert_array_equal(NETWORK(x[:1], threads=threads), expected[:1])
    assert len(NETWORK(x[:0], threads=2)) == 0


def test_eight_callers_at_a_time():
    """Each caller has its own batch and its own threads; nobody sees another's numbers."""
    batches = [samples(NETWORK, 1 + i % 5, i) for i in range(64)]
    expected = [NETWORK(x, backend="interpreter") for x in batches]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: NETWORK(batches[i % 64], threads=1 + i % 3), range(640)))
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, expected[i % 64])


def test_the_first_fault_is_named_whichever_thread_meets_it():
    x = samples(NETWORK, 600)
    for image in (3, 599):
        bad = x.copy()
        bad[image:].reshape(600 - image, -1)[:, 0] = np.nan
        graph = NETWORK.engine().graph
        for threads in (1, 2, 4):
            with pytest.raises(InvalidValueError, match=f"image {image}, element 0"):
                graph.run(NETWORK.engine()._images(bad), threads)


CHILD = """
import os, numpy as np
from bitwright.formats import Binary, Int
from bitwright.integer import Codes, Input, Linear, Network, Output
signs = np.random.default_rng(0).choice([-1, 1], (40, 100))
ones = np.ones(40, np.int64)
network = Network([
    Input("input", "", (100,), Int(8), 1.0),
    Linear("fc", "input", Codes.pack(Binary(), signs)),
    Output("output", "fc", ones, 0 * ones, 0),
])
x = np.random.default_rng(1).integers(-128, 128, (9, 100), np.int8)
before = network(x, threads=3)
child = os.fork()
same = all((network(x[:n], threads=t) == before[:n]).all() for n in (1, 9) for t in (3, 2))
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there is no fork here")
def test_a_child_has_threads_of_its_own():
    subprocess.run([sys.executable, "-c", CHILD], check=True, timeout=60)
