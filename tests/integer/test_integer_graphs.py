"""Random graphs: interpreter = brute force, through the file, on whatever backend runs them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from brute_force import brute_force
from hypothesis import HealthCheck, given, settings
from integer_networks import levels_for
from random_graphs import graphs

from bitwright.integer import OPERATIONS, load
from bitwright.kernels import available_isas

SEEN: Counter[str] = Counter()
KERNELS: Counter[str] = Counter()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs") / "m.bw"


@settings(
    deadline=None,
    derandomize=True,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(graphs())
def test_random_graphs_equal_brute_force_and_survive_the_file(path, network):
    SEEN.update(o.kind for o in network.operations)
    x = levels_for(network, 2, seed=len(network.operations))
    tensors = network.trace(x, backend="interpreter")
    for n, example in enumerate(x):
        for name, expected in brute_force(network, example).items():
            got, kind = tensors[name][n], network.types[name]
            assert got.shape == kind.shape
            assert all(got[i] == v for i, v in expected.items()), name
            assert all(kind.low <= v <= kind.high for v in expected.values()), name
    last = network.operations[-1].name
    for isa in available_isas():
        for name, mine in network.trace(x, backend="engine", isa=isa).items():  # no network is refused
            np.testing.assert_array_equal(mine, tensors[name], err_msg=f"{name} on {isa}")
    KERNELS.update(row["kernel"] for row in network.engine().explain())
    floats = x.astype(np.float32) / 4 - 1  # not codes: quantised on the way in
    np.testing.assert_array_equal(
        network(floats, backend="engine", threads=2), network(floats, backend="interpreter")
    )
    assert np.array_equal(network(x), tensors[last])
    network.save(path)
    first = path.read_bytes()
    for check in (True, False):
        again = load(path, check=check)
        assert again.types == network.types
        assert np.array_equal(again(x), tensors[last])
        again.save(path.with_suffix(".again"))
        assert path.with_suffix(".again").read_bytes() == first


def test_the_random_graphs_held_every_operation():
    if SEEN:  # this test may run alone
        assert set(SEEN) == set(OPERATIONS), SEEN
        assert {"wide", "copy", "table", "dot", "depthwise", "combine", "max_pool"} <= set(KERNELS), KERNELS
