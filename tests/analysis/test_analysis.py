"""Costs counted by hand, and the float twin that timings run against."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright import analysis, models


def network(name, width, shape):
    model = models.build(name, width, shape, 10)
    bw.quantize_(model, "qnn", verbose=False)
    return bw.lower(model, torch.zeros(1, *shape))


def test_operations_by_kind_of_an_mlp():
    counts = analysis.integer_operations(network("mlp", 16, (1, 8, 8)))
    assert counts == {"int8": 64 * 16, "xor+popcount": 2 * 16 * 16 + 16 * 10}


def test_operations_of_a_convnet_agree_with_the_float_model():
    shape = (3, 16, 16)
    counts = analysis.integer_operations(network("convnet", 8, shape))
    plain = models.build("convnet", 8, shape, 10)
    total = analysis.float_operations(plain, torch.zeros(1, *shape))
    assert sum(counts.values()) == total["float MAC"]
    assert counts["int8"] == 3 * 9 * 8 * 16 * 16
    assert plain.training


@pytest.mark.parametrize("name", ["dscnn", "convnet1d"])
def test_operations_in_groups_and_in_one_dimension_agree_with_the_float_model(name):
    counts = analysis.integer_operations(network(name, 8, (3, 16, 16)))
    plain = models.build(name, 8, (3, 16, 16), 10)
    assert analysis.float_operations(plain, torch.zeros(1, 3, 16, 16)) == {"float MAC": sum(counts.values())}


def test_operations_of_a_transposed_convolution_are_counted_from_its_input():
    model = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2))
    example = torch.zeros(1, 4, 5, 7)
    assert analysis.float_operations(model, example) == {"float MAC": 5 * 7 * 4 * 3 * 9}
    bw.quantize_(model, bw.recipe("float", weight="int8", activation="int8"), verbose=False)
    assert analysis.integer_operations(bw.lower(model, example)) == {"int8": 5 * 7 * 4 * 3 * 9}


def test_bits_and_bytes():
    net = network("mlp", 16, (1, 8, 8))
    assert analysis.weight_bits(net) == 1
    plain = models.build("mlp", 16, (1, 8, 8), 10)
    assert analysis.float_bytes(plain) == sum(
        t.numel() * t.element_size() for t in plain.state_dict().values()
    )


@pytest.mark.parametrize(("name", "shape"), [("mlp", (1, 8, 8)), ("convnet", (3, 16, 16))])
def test_float_twin_has_the_networks_products(name, shape):
    net = network(name, 8, shape)
    twin = analysis.float_twin(net)
    assert twin(torch.zeros(2, *shape)).shape == (2, 10)
    stored = [w.array.astype(np.float32) for w in net.weights().values()]
    products = torch.nn.Linear | torch.nn.Conv2d
    floats = [m.weight.detach().numpy() for m in twin.chain if isinstance(m, products)]
    assert all(np.array_equal(a, b) for a, b in zip(stored, floats, strict=True))


def test_timings_cover_every_batch_and_restore_threads():
    before = torch.get_num_threads()
    timings = analysis.time_network(network("mlp", 8, (1, 8, 8)), (1, 3), threads=1, rounds=3)
    runtimes = {t.runtime for t in timings}
    assert {t.batch for t in timings} == {1, 3}
    assert "torch float32" in runtimes
    assert any(r.startswith("bitwright") for r in runtimes)
    assert all(t.seconds > 0 for t in timings)
    assert torch.get_num_threads() == before


def test_a_float_twin_of_a_residual_network_branches_as_it_does():
    torch.manual_seed(0)
    model = models.build("resnet20", 4, (3, 8, 8), 10)
    batch = torch.randn(4, 3, 8, 8)
    bw.quantize_(model, "int4", verbose=False)
    bw.calibrate(model, [batch])
    net = bw.lower(model, batch)
    twin = analysis.float_twin(net)
    kinds = [type(m).__name__ for m in twin.modules()]
    assert (kinds.count("Conv2d"), kinds.count("Shortcut"), kinds.count("_Sum")) == (19, 2, 9)
    assert (kinds.count("BatchNorm2d"), kinds.count("BatchNorm1d")) == (19, 1)  # the output's is a bias
    assert twin.chain is None
    assert twin(batch).shape == (4, 10)
    runtimes = {t.runtime for t in analysis.time_network(net, (1,), rounds=3)}
    assert "torch float32" in runtimes


def test_a_float_twin_names_what_torch_has_no_layer_for():
    last = bw.integer.Network(
        [bw.integer.Input("input", "", (2,), bw.Int(8), 1.0), bw.integer.Argmax("best", "input")]
    )
    with pytest.raises(bw.errors.InvalidValueError, match=r"argmax; at best$"):
        analysis.float_twin(last)
