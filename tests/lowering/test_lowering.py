"""lower and verify: the same codes on every backend, or a message that names the layer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Int, Rounding, Ternary, UInt
from bitwright.integer import round_shift
from bitwright.kernels import available_isas
from bitwright.lowering import find_thresholds
from bitwright.nn.fold import fold_constants
from bitwright.recipes import recipe


def shaken(model, seed):
    """Batch norms with statistics that a short training would not give: negative gammas, tiny variances."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=generator) * 5)
            module.running_var.copy_(10 ** (torch.rand(n, generator=generator) * 6 - 4))
            module.weight.data.copy_(torch.randn(n, generator=generator))
            module.weight.data[: n // 5] = 0
            module.bias.data.copy_(torch.randn(n, generator=generator))
    return model


BINARY = {"activation": "binary", "weight": "binary"}


@st.composite
def networks(draw, binary):
    """A random chain of layers, its recipe and its input shape."""
    if binary:
        roles = {"weight": "binary", "activation": {"format": "binary", "estimator": "clipped"}}
        found = recipe("qnn", **roles)
    else:
        moving = {"controller": "max-abs", "power_of_two": draw(st.booleans())}
        weight = draw(
            st.sampled_from(
                ["binary", "ternary", "int2", "int4", "int8", "fixed8.6", "fixed12.10", "fixed16.3"]
            )
        )
        activation = draw(
            st.sampled_from(["ternary", "int3", "int8", "uint4", "uint8", "fixed8.5", "fixed16.8", "int4"])
        )
        per = draw(st.sampled_from(["tensor", "channel"]))
        static = weight.startswith("fixed")
        found = recipe(
            "qnn",
            weight={"format": weight} if static else {"format": weight, "per": per, **moving},
            activation=activation if activation.startswith("fixed") else {"format": activation, **moving},
        )
    channels = draw(st.integers(1, 4))
    size = draw(st.integers(5, 9))
    shape = (channels, size, draw(st.integers(5, 9)))
    layers, (height, width) = [], shape[1:]

    def activation():
        return draw(st.sampled_from([nn.ReLU(), nn.Hardtanh(), nn.Hardtanh(-0.4, 0.7)]))

    for _ in range(draw(st.integers(0, 2))):
        out = draw(st.sampled_from([1, 5, 8, 17, 33]))
        kernel, stride, padding = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
        if min(height, width) + 2 * padding < kernel:
            break
        layers.append(nn.Conv2d(channels, out, kernel, stride, padding, bias=draw(st.booleans())))
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
        channels = out
        pool = draw(st.sampled_from(["none", "before", "after"])) if min(height, width) >= 2 else "none"
        pool_layer = nn.MaxPool2d(2, draw(st.integers(1, 2)), draw(st.integers(0, 1)))
        if pool == "before":
            layers.append(pool_layer)
        layers += [nn.BatchNorm2d(out), activation()]
        if pool == "after":
            layers.append(pool_layer)
        if pool != "none":
            step, pad = pool_layer.stride, pool_layer.padding
            height, width = ((n + 2 * pad - 2) // step + 1 for n in (height, width))
    layers.append(nn.Flatten())
    features = channels * height * width
    for _ in range(draw(st.integers(0, 2))):
        out = draw(st.sampled_from([1, 7, 16, 65]))
        layers.append(nn.Linear(features, out, bias=draw(st.booleans())))
        if draw(st.booleans()):
            layers.append(nn.BatchNorm1d(out))
        layers += [activation(), nn.Dropout(0.2)]
        features = out
    layers.append(nn.Linear(features, 3))
    if draw(st.booleans()):
        layers.append(nn.BatchNorm1d(3))
    return nn.Sequential(*layers), found, shape


def check(case, seed, backends):
    model, found, shape = case
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    bw.quantize_(model, found, verbose=False)
    x = torch.rand(6, *shape) * 2.4 - 1.2
    model(x), model(x)
    shaken(model, seed)
    network = bw.lower(model, x)
    for backend, isa in backends:
        result = bw.verify(model, network, [x, -x[:1]], backend=backend, isa=isa)
        assert result.differing == 0, (result, model)
        assert result.examples == 7
    # lowering and verifying leave the model as it was
    assert model.training


common = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@settings(common, max_examples=60)
@given(networks(binary=False), st.integers(0, 2**16))
def test_random_networks_have_no_differing_codes(case, seed):
    check(case, seed, [("interpreter", None)])


@settings(common, max_examples=60)
@given(networks(binary=True), st.integers(0, 2**16))
def test_random_binary_networks_have_none_on_any_backend(case, seed):
    check(case, seed, [("interpreter", None), *(("engine", isa) for isa in available_isas())])


@pytest.mark.parametrize("form", [Int(1), Int(2), UInt(3), Int(4), Ternary(), bw.Binary()], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 7])
def test_thresholds_agree_with_the_affine_map_on_every_accumulator(form, shift):
    bound = 300
    accs = np.arange(-bound, bound + 1)
    multiplier = np.array([-37, -3, -1, 0, 0, 0, 1, 2, 5, 64, 99], np.int64)
    offset = np.array([12, -500, 0, -1, 0, 1, -77, 1, 64, -64, 12345], np.int64)
    roundings = (
        [Rounding.NEAREST_EVEN] if form == bw.Binary() else [r for r in Rounding if r.value != "stochastic"]
    )
    for rounding in roundings:
        thresholds, direction = find_thresholds(multiplier, offset, shift, form, rounding, bound)
        for c, (m, b) in enumerate(zip(multiplier, offset, strict=True)):
            y = accs * m + b
            if form == bw.Binary():
                wanted = np.where(y >= 0, 1, -1)
            else:
                wanted = np.clip(round_shift(y, shift, rounding), form.code_min, form.code_max)
            index = (accs[:, None] * direction[c] >= thresholds[c]).sum(axis=1)
            assert np.array_equal(np.array(form.codes())[index], wanted), (rounding, m, b)


def test_folded_constants_are_as_precise_as_they_can_be():
    slope = torch.tensor([0.37, -2.5e-4], dtype=torch.float64)
    intercept = torch.tensor([11.0, -0.25], dtype=torch.float64)
    affine = fold_constants(slope, intercept, 1000, "layer")
    assert affine.multiplier.abs().max() < 2**31
    assert affine.multiplier.abs().max() >= 2**29
    assert torch.allclose(affine.multiplier.double() / 2.0**affine.shift, slope, rtol=1e-5)
    assert (affine.multiplier.abs() * 1000 + affine.offset.abs()).max() < 2**53
    with pytest.raises(InvalidValueError, match="channel 1 of layer"):
        fold_constants(torch.tensor([1.0, float("nan")]).double(), intercept, 10, "layer")
    with pytest.raises(InvalidValueError, match="stays below"):
        fold_constants(slope * 1e60, intercept, 10, "layer")


def small():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 9, 3, padding=1),
        nn.MaxPool2d(2), nn.BatchNorm2d(9), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10), nn.BatchNorm1d(10),
    )  # fmt: skip
    bw.quantize_(model, "qnn", verbose=False)
    model(torch.rand(8, 1, 8, 8))
    return model, torch.rand(64, 1, 8, 8) * 2 - 1


def test_verify_counts_what_it_compares():
    model, x = small()
    result = bw.verify(model, bw.lower(model, x), x.split(20), backend="interpreter")
    # three weights, two pairs of thresholds and directions, M, B, s; three inputs, accumulators, output
    assert set(result.elements) == {
        "0.weight", "0.threshold.thresholds", "0.threshold.direction",
        "3.weight", "3.threshold.thresholds", "3.threshold.direction",
        "8.weight", "output.multiplier", "output.offset", "output.shift",
        "0 input", "3 input", "8 input", "8 accumulator", "output",
    }  # fmt: skip
    assert result.elements["3 input"] == 64 * 8 * 64
    assert result.elements["output"] == 640
    assert "64 examples x 15 tensors" in str(result)


@pytest.mark.parametrize("backend", ["interpreter", "engine"])
def test_verify_names_the_first_difference(backend):
    model, x = small()
    network = bw.lower(model, x)
    with torch.no_grad():
        model[3].weight[4, 5, 1, 2] *= -1
    result = bw.verify(model, network, [x], backend=backend)
    assert result.first.tensor == "3.weight"
    assert result.first.index == (4, 5, 1, 2)
    assert result.differing > 1
    with torch.no_grad():
        model[3].weight[4, 5, 1, 2] *= -1
        model[9].bias[7] += 1e-3
    result = bw.verify(model, network, [x], backend=backend)
    assert result.first.tensor == "output.offset"
    assert result.first.index == (7,)
    assert result.elements["output"] == 640
    assert result.differing == 65  # that offset, and one output of each example


def test_verify_refuses_to_compare_nothing():
    model, x = small()
    with pytest.raises(InvalidValueError, match="at least one example"):
        bw.verify(model, bw.lower(model, x), [])


def test_eval_of_the_emulator_is_what_the_float_chain_says_up_to_rounding():
    # the integers are a rounding of the real batch norm: outputs agree closely, codes nearly always
    model, x = small()
    model.eval()
    with torch.no_grad():
        integers = model(x)
        for layer, norm in ((0, 1), (3, 5), (8, 9)):
            model[layer].fold = model[norm].fold = None
        floats = model(x)
    assert (integers - floats).abs().max() < 1e-3


UNSUPPORTED = {
    "plain": (nn.Sequential(nn.Linear(4, 4)), None, "quantised model"),
    "sigmoid": (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)), BINARY, r"1 \(Sigmoid\)"),
    "relu first": (
        nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        BINARY,
        "2",
    ),
    "relu last": (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), BINARY, "0: a clip or pool"),
    "float weight": (
        nn.Sequential(nn.Linear(4, 4)),
        {"activation": "int8"},
        r"0: its forward\.weight has no format",
    ),
    "float input": (nn.Sequential(nn.Linear(4, 4)), {"weight": "int8"}, r"0: its forward\.activation"),
    "two norms": (
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)),
        BINARY,
        "not directly",
    ),
    "norm first": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), BINARY, r"0 \(BatchNorm1d\)"),
    "ceil pool": (
        nn.Sequential(
            nn.Conv2d(1, 2, 1),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.BatchNorm2d(2),
            nn.Flatten(),
            nn.Linear(18, 2),
        ),
        BINARY,
        "1: max-pools with",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_lowered_is_named(name):
    model, roles, message = UNSUPPORTED[name]
    import copy

    model = copy.deepcopy(model)
    if roles is not None:
        bw.quantize_(model, recipe("float", **roles), verbose=False)
    shape = (2, 1, 5, 5) if name == "ceil pool" else (2, 4)
    with pytest.raises(InvalidValueError, match=message):
        bw.lower(model, torch.zeros(shape))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.a(x)
        return self.b(y) * y


def test_unknown_operations_train_and_are_named_when_lowered():
    model = Branches()
    bw.quantize_(model, recipe("float", weight="int8", activation="int8"), verbose=False)
    model(torch.rand(2, 4)).sum().backward()
    with pytest.raises(InvalidValueError, match=r"a: function mul follows it.*function mul is not supported"):
        bw.lower(model, torch.zeros(1, 4))


def test_wrong_example_shape():
    model, _ = small()
    with pytest.raises(InvalidValueError, match="input shape"):
        bw.lower(model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(InvalidValueError, match="batch"):
        bw.lower(model, torch.zeros(8))


def test_pool_order_and_norm_sign_on_every_accumulator():
    # max-pool in front of a norm whose gamma is negative: the largest accumulator gives the smallest value
    for gamma, after in itertools.product((1.0, -1.0), (False, True)):
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 1, 1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(1), nn.ReLU()]
        if after:
            layers = [layers[0], layers[2], layers[3], layers[1]]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 1))
        bw.quantize_(model, "qnn", verbose=False)
        norm = next(m for m in model if isinstance(m, nn.BatchNorm2d))
        norm.weight.data.fill_(gamma)
        x = torch.rand(20, 1, 4, 4) * 2 - 1
        network = bw.lower(model, x)
        for backend in ("engine", "interpreter"):
            assert bw.verify(model, network, [x], backend=backend).differing == 0


@pytest.mark.parametrize("form", ["uint8", "int8", "uint4", "int4", "uint2"])
def test_affine_activations_lower_with_their_zero_points(form):
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    recipe = bw.recipe(
        "float",
        weight={"format": "int8", "controller": "max-abs", "per": "channel"},
        activation={"format": form, "controller": "min-max"},
    )
    bw.quantize_(model, recipe, verbose=False)
    x = torch.rand(40, 2, 8, 8) * 3 - 1
    bw.calibrate(model, [x])
    network = bw.lower(model, x[:1])
    assert network.input.zero_point != 0
    for backend in ("interpreter", None):
        assert bw.verify(model, network, [x], backend=backend).differing == 0


def test_other_overflows_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    wrap = {"format": "fixed8.4", "overflow": "wrap"}
    bw.quantize_(model, bw.recipe("float", weight="int8", activation=wrap), verbose=False)
    with pytest.raises(InvalidValueError, match="overflow by wrap"):
        bw.lower(model, torch.zeros(1, 4))
