"""Where emulation and integers could part: roundings, clips off the grid, wide codes, pools, thresholds."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Rounding, Ternary, UFixed, UInt, parse
from bitwright.kernels import available_isas
from bitwright.lowering import find_thresholds
from bitwright.quantize import MaxAbs, QuantizerSpec, Static
from bitwright.recipes import LayerRule, Recipe

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]


def converted(layers, activation, weight, first="fixed8.7", shape=(8,)):
    """A chain in eval-ready state: scales initialised, norms moved."""
    torch.manual_seed(1)
    model = nn.Sequential(*layers)
    rules = (LayerRule("first", {"activation": QuantizerSpec(parse(first))}),)
    recipe = Recipe(
        "edge", roles={"activation": activation, "weight": weight}, layers=rules, replace={"ReLU": "Hardtanh"}
    )
    bw.quantize_(model, recipe, verbose=False)
    x = torch.rand(16, *shape) * 2 - 1
    for _ in range(2):
        model(x)
    return model, x


def same_codes(model, x):
    network = bw.lower(model, x)
    result = bw.verify(model, network, [x], backend="interpreter")
    assert result.differing == 0, result
    if network.engine_problem is None:
        for isa in available_isas():
            assert bw.verify(model, network, [x], backend="engine", isa=isa).differing == 0
    return network


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    rounding=st.sampled_from(DETERMINISTIC),
    form=st.sampled_from(
        [Int(2), Int(3), Int(4), UInt(4), Int(5), Int(8), UInt(8), Fixed(12), Ternary(), Int(16)]
    ),
    controller=st.sampled_from([MaxAbs(), MaxAbs(power_of_two=True), Static(0.07), Static(0.25)]),
    weight=st.sampled_from(
        [("binary", Static()), ("int5", MaxAbs("channel")), ("fixed8.6", Static()), ("ternary", Static(0.2))]
    ),
    clip=st.sampled_from(
        [nn.ReLU(), nn.Hardtanh(-0.31, 0.52), nn.Hardtanh(0.11, 0.6), nn.ReLU6(), nn.Hardtanh(-9, -0.05)]
    ),
    norm=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_rounding_with_every_scale(rounding, form, controller, weight, clip, norm, seed):
    """A consumer that floors must get its levels back from values that carry any scale."""
    torch.manual_seed(seed)
    if form == Ternary() and getattr(clip, "min_val", -1) >= 0:
        clip = nn.Hardtanh()  # a ReLU by another name: refused
    activation = QuantizerSpec(form, controller, rounding)
    stored = QuantizerSpec(parse(weight[0]), weight[1])
    layers = [
        nn.Linear(8, 30),
        *([nn.BatchNorm1d(30)] if norm else []),
        clip,
        nn.Linear(30, 9),
        nn.Hardtanh(),
        nn.Linear(9, 3),
    ]
    model, x = converted(layers, activation, stored)
    same_codes(model, x)


@pytest.mark.parametrize("activation", ["int22", "int24", "int26", "fixed28.20", "uint25"])
def test_wide_codes_pass_between_layers_unrounded(activation):
    model, x = converted(
        [nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)],
        QuantizerSpec(parse(activation), MaxAbs()),
        QuantizerSpec(Int(4), MaxAbs()),
    )
    same_codes(model, x)


@pytest.mark.parametrize("rounding", [r for r in DETERMINISTIC if r is not Rounding.NEAREST_EVEN])
def test_an_input_that_is_not_rounded_to_nearest_is_named(rounding):
    model = nn.Sequential(nn.Linear(4, 3))
    recipe = Recipe(
        "r", roles={"activation": QuantizerSpec(Int(8), rounding=rounding), "weight": QuantizerSpec(Binary())}
    )
    bw.quantize_(model, recipe, verbose=False)
    with pytest.raises(
        InvalidValueError, match=f"nearest, ties to even; got {rounding.value}; at the activation of 0"
    ):
        bw.lower(model, torch.zeros(1, 4))


def test_stochastic_slots_are_rounded_to_nearest_in_eval():
    spec = QuantizerSpec(Int(4), Static(0.3), Rounding.STOCHASTIC)
    model, x = converted(
        [nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)],
        spec,
        QuantizerSpec(Fixed(4, 2), rounding=Rounding.STOCHASTIC),
    )
    same_codes(model, x)


def test_layers_may_be_called_input_and_output():
    from collections import OrderedDict

    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            input=nn.Linear(8, 5),
            output_=nn.Hardtanh(),
            hidden=nn.Linear(5, 5),
            act=nn.Hardtanh(),
            output=nn.Linear(5, 2),
        )
    )
    bw.quantize_(model, "qnn", verbose=False)
    network = same_codes(model, torch.rand(7, 8) * 2 - 1)
    names = [o.name for o in network.operations]
    assert names[0] == "input_"
    assert {"input", "hidden", "output"} <= set(names)


@pytest.mark.parametrize("gain", ["negative", "zero", "tiny variance", "huge mean"])
@pytest.mark.parametrize("pool", ["before", "after", "none"])
def test_norms_with_odd_statistics(gain, pool):
    pools = {
        "before": [nn.MaxPool2d(2, 2), nn.BatchNorm2d(6)],
        "after": [nn.BatchNorm2d(6), nn.Hardtanh(), nn.MaxPool2d(2, 2)],
        "none": [nn.BatchNorm2d(6)],
    }
    layers = [
        nn.Conv2d(1, 6, 3, padding=1),
        *pools[pool],
        nn.Hardtanh(),
        nn.Conv2d(6, 4, 2),
        nn.Flatten(),
        nn.LazyLinear(3),
    ]
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    model(torch.zeros(1, 1, 6, 6))
    bw.quantize_(model, "qnn", verbose=False)
    norm = next(m for m in model if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0, 1e-3, 3.0]))
        norm.running_mean.uniform_(-2, 2)
        if gain == "negative":
            norm.weight.neg_()
        elif gain == "zero":
            norm.weight.zero_()
            norm.bias.copy_(torch.tensor([0.0, -0.0, 1e-20, -1e-20, 1.0, -1.0]))
        elif gain == "tiny variance":
            norm.running_var.fill_(1e-12)
        else:
            norm.running_mean.mul_(1e4)
    same_codes(model, torch.rand(20, 1, 6, 6) * 2 - 1)


@pytest.mark.parametrize("padding", [0, 1, 2, "same", "valid"])
@pytest.mark.parametrize("stride", [1, (2, 1), (3, 2)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 3)])
def test_binary_convolutions_pad_level_zero(padding, stride, kernel):
    if padding == "same" and stride != 1:
        padding = 1  # torch has no same padding for strided convolutions
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Hardtanh(),
        nn.Conv2d(3, 4, kernel, stride, padding),
        nn.BatchNorm2d(4),
        nn.Hardtanh(),
        nn.Flatten(),
        nn.LazyLinear(2),
    )
    x = torch.rand(9, 1, 5, 6) * 2 - 1
    model(x)
    bw.quantize_(model, "qnn", verbose=False)
    model(x)
    network = same_codes(model, x)
    assert network.backend() == "engine"


@pytest.mark.parametrize(
    "first", ["binary", "uint8", "int3", "ufixed8.8", "uint1", "fixed8.-2", "ternary", "fixed12.11"]
)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 4, 5), (2, 3, 2, 2), (65,)])
def test_inputs_of_any_shape_and_format(first, shape):
    """Codes given instead of floats are taken as they are."""
    torch.manual_seed(3)
    features = math.prod(shape)
    layers = [nn.Flatten(), nn.Linear(features, 70), nn.BatchNorm1d(70), nn.Hardtanh(), nn.Linear(70, 2)]
    binary = QuantizerSpec(Binary())
    model, x = converted(layers, binary, binary, first=first, shape=shape)
    x = x * (8 if first == "fixed8.-2" else 1)
    network = same_codes(model, x)
    assert network.backend() == "engine"
    codes = parse(first).encode(x).numpy()
    assert np.array_equal(network(codes), network(x.numpy()))


def test_a_chain_of_pools_dropouts_and_identities():
    torch.manual_seed(4)
    first = [nn.Identity(), nn.Conv2d(2, 5, 3, padding=1), nn.Identity(), nn.MaxPool2d(2, 1)]
    norm = [nn.MaxPool2d(3, 2, 1), nn.Dropout(0.5), nn.BatchNorm2d(5), nn.Dropout2d(0.1), nn.Hardtanh()]
    second = [nn.MaxPool2d((2, 1)), nn.Conv2d(5, 70, (2, 3), padding=1), nn.BatchNorm2d(70), nn.Hardtanh()]
    last = [nn.MaxPool2d(2, 1, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(280, 3)]
    layers = [*first, *norm, *second, *last]
    model, x = converted(layers, QuantizerSpec(Binary()), QuantizerSpec(Binary()), shape=(2, 9, 8))
    with torch.no_grad():
        model[6].weight.copy_(torch.tensor([1.0, -1.0, 0.0, -0.3, 2.0]))
    same_codes(model, x)


# --- thresholds -----------------------------------------------------------------------------------------

FORMS = [
    Binary(),
    Ternary(),
    *[kind(w) for kind in (Int, UInt) for w in (1, 2, 3, 4)],
    Fixed(4, 1),
    UFixed(3, 3),
]


def code_at(acc, m, b, shift, form, rounding):
    """The code by exact fractions."""
    y = Fraction(acc * m + b, 2**shift)
    if isinstance(form, Binary):
        return 1 if y >= 0 else -1
    below = math.floor(y)
    rest = y - below
    half = Fraction(1, 2)
    up = {
        "nearest-even": rest > half or (rest == half and below % 2 == 1),
        "nearest-away": rest > half or (rest == half and y > 0),
        "floor": False,
        "ceil": rest > 0,
        "toward-zero": rest > 0 and y < 0,
    }[rounding.value]
    return min(max(below + up, form.code_min), form.code_max)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("rounding", DETERMINISTIC, ids=lambda r: r.value)
def test_thresholds_give_the_code_of_every_accumulator(form, rounding):
    bound = 40
    constants = list(itertools.product((0, 1, -1, 2, -3, 7, 1000), (0, 1, -1, 4, -6, 33, 5000, -5000)))
    m = np.array([c[0] for c in constants], np.int64)
    b = np.array([c[1] for c in constants], np.int64)
    for shift in (0, 1, 3):
        thresholds, direction = find_thresholds(m, b, shift, form, rounding, bound)
        assert thresholds.dtype == np.int64
        assert direction.dtype == np.int8
        assert (np.diff(thresholds, axis=1) >= 0).all()
        assert thresholds.min() >= -bound
        assert thresholds.max() <= bound + 1
        names = form.codes()
        for k, (mk, bk) in enumerate(constants):
            for acc in range(-bound, bound + 1):
                index = int((int(direction[k]) * acc >= thresholds[k]).sum())
                assert names[index] == code_at(acc, mk, bk, shift, form, rounding), (mk, bk, shift, acc)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    m=st.integers(-(2**31), 2**31),
    b=st.integers(-(2**51), 2**51),
    shift=st.integers(0, 62),
    form=st.sampled_from(FORMS),
    rounding=st.sampled_from(DETERMINISTIC),
    bound=st.integers(1, 2**20),
)
def test_thresholds_at_full_width(m, b, shift, form, rounding, bound):
    thresholds, direction = find_thresholds(np.array([m]), np.array([b]), shift, form, rounding, bound)
    names, sign = form.codes(), int(direction[0])
    near = {int(t) + d for t in thresholds[0] for d in (-1, 0, 1)} | {-bound, bound, 0}
    for directed in (d for d in near if -bound <= d <= bound):
        index = int((directed >= thresholds[0]).sum())
        assert names[index] == code_at(sign * directed, m, b, shift, form, rounding)


# --- what is refused --------------------------------------------------------------------------------------


def refusal(layers, shape, recipe="qnn", example=None):
    model = nn.Sequential(*layers)
    bw.quantize_(model, recipe, verbose=False)
    with pytest.raises(InvalidValueError) as info:
        bw.lower(model, torch.zeros(1, *shape) if example is None else example)
    return str(info.value)


def test_refusals_name_the_layer_and_the_reason():
    lin, conv = nn.Linear, nn.Conv2d
    cases = [
        ([lin(4, 3), nn.Sigmoid(), lin(3, 2)], (4,), "1 (Sigmoid) is not supported"),
        ([lin(4, 3), nn.Softmax(1)], (4,), "1 (Softmax)"),
        ([lin(4, 3), nn.ReLU()], (4,), "0: a clip or pool lies between it and the network's output"),
        ([lin(4, 3), nn.BatchNorm1d(3), nn.Hardtanh()], (4,), "1: a clip or pool"),
        ([nn.BatchNorm1d(4), lin(4, 3)], (4,), "0 (BatchNorm1d) is not directly behind it"),
        (
            [conv(1, 2, 3), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(), lin(8, 2)],
            (1, 6, 6),
            "1 (AvgPool2d)",
        ),
        ([conv(1, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), lin(8, 2)], (1, 6, 6), "1 (Adaptive"),
        (
            [conv(1, 2, 3, groups=1), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(), lin(8, 2)],
            (1, 6, 6),
            "ceil_mode",
        ),
        ([conv(1, 2, 3), nn.MaxPool2d(2, dilation=2), nn.Flatten(), lin(8, 2)], (1, 6, 6), "dilation"),
        ([conv(1, 2, 3), nn.Flatten(2), lin(16, 2)], (1, 6, 6), "flatten keeps the batch axis"),
        ([lin(4, 3), nn.LayerNorm(3), lin(3, 2)], (4,), "1 (LayerNorm)"),
    ]
    for layers, shape, message in cases:
        assert message in refusal(layers, shape), message
    assert "its forward.activation has no format" in refusal(
        [lin(4, 3)], (4,), bw.recipe("float", weight="int8")
    )
    assert "its forward.weight has no format" in refusal(
        [lin(4, 3)], (4,), bw.recipe("float", activation="int8")
    )


def test_a_wrong_example_or_model_is_one_clear_error():
    for example in (torch.zeros(4), torch.zeros(1, 5), torch.zeros(1, 1, 4), [1.0], None):
        message = refusal([nn.Linear(4, 3)], (4,), example=example) if example is not None else ""
        assert message == "" or "example" in message
    with pytest.raises(InvalidValueError, match=r"call bitwright\.quantize_"):
        bw.lower(nn.Sequential(nn.Linear(4, 3)), torch.zeros(1, 4))


def test_norm_statistics_that_are_not_finite_are_named():
    model, x = converted([nn.Linear(8, 3), nn.BatchNorm1d(3)], QuantizerSpec(Int(8)), QuantizerSpec(Binary()))
    model[1].running_mean[1] = math.nan
    with pytest.raises(InvalidValueError, match="channel 1 of 0"):
        bw.lower(model, x)


def test_verify_needs_the_network_of_that_model():
    def make(width):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Hardtanh(), nn.Linear(width, 3))
        bw.quantize_(model, "qnn", verbose=False)
        return model

    x = torch.rand(4, 8)
    network = bw.lower(make(5), x)
    with pytest.raises(InvalidValueError):
        bw.verify(make(6), network, [x])
    with pytest.raises(InvalidValueError, match="at least one example"):
        bw.verify(make(5), network, [])
    with pytest.raises(InvalidValueError, match="at least one example"):
        bw.verify(make(5), network, [x[:0]])


def test_verify_compares_what_it_says():
    model, x = converted(
        [nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Hardtanh(), nn.Linear(5, 3)],
        QuantizerSpec(Binary()),
        QuantizerSpec(Binary()),
    )
    network = bw.lower(model, x)
    for backend in ("interpreter", "engine"):
        result = bw.verify(model, network, [x, x[:3]], backend=backend)
        n = len(x) + 3
        expected = {
            "0.weight": 40,
            "3.weight": 15,
            "0 input": 8 * n,
            "3 input": 5 * n,
            "3 accumulator": 3 * n,
            "output": 3 * n,
        }
        assert expected.items() <= result.elements.items()
        assert result.examples == n
        assert {"output.multiplier", "output.offset", "output.shift"} <= set(result.elements)
        assert "0 differing codes" in str(result)


@pytest.mark.parametrize("field", ["multiplier", "offset", "shift", "thresholds", "direction"])
def test_verify_names_every_kind_of_stored_constant(field):
    from dataclasses import replace

    from bitwright.integer import Network

    model, x = converted(
        [nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Hardtanh(), nn.Linear(5, 3)],
        QuantizerSpec(Binary()),
        QuantizerSpec(Binary()),
    )
    network = bw.lower(model, x)
    operations = list(network.operations)
    place = next(i for i, o in enumerate(operations) if hasattr(o, field))
    value = getattr(operations[place], field)
    if field == "shift":
        changed, index = value - 1, (0,)
    else:
        changed = value.copy()
        changed.flat[-1] = -changed.flat[-1] if field == "direction" else changed.flat[-1] + 1
        index = tuple(n - 1 for n in value.shape)
    operations[place] = replace(operations[place], **{field: changed})
    result = bw.verify(model, Network(operations), [x])
    assert result.first.tensor == f"{operations[place].name}.{field}"
    assert result.first.index == index
    assert result.differing >= 1
