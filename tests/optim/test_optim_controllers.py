"""Moving scales of what is stored: re-put on the new grid, resumed without losing a count, clipped."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed, parse
from bitwright.optim import STEP_BUFFER, ParameterRule, wrap
from bitwright.quantize import Autoflex, MaxAbs, OverflowRate, Percentile, QuantizerSpec, SqnrOptimal

CONTROLLERS = {
    "overflow-rate": (OverflowRate(rate=0.01, window=3), "fixed8"),
    "autoflex": (Autoflex(window=4), "flex16+5"),
    "percentile": (Percentile(95.0), "int8"),
    "sqnr": (SqnrOptimal(), "fixed8"),
    "max-abs": (MaxAbs(), "int8"),
}


def build(spec, clip=None, roles=("weight_grad", "primal", "state")):
    torch.manual_seed(1)
    model = nn.Linear(8, 6, bias=False)
    model.register_buffer(STEP_BUFFER, torch.zeros((), dtype=torch.int64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    wrap(optimizer, model, [ParameterRule("w", model.weight, clip=clip, **dict.fromkeys(roles, spec))])
    return model, optimizer


def step(model, optimizer, number, size=1.0):
    getattr(model, STEP_BUFFER).fill_(number)
    model.weight.grad = torch.randn(6, 8, generator=torch.Generator().manual_seed(number)) * size
    optimizer.step()


SIZES = [0.01, 0.01, 3.0, 3.0, 0.1, 0.1, 0.1, 0.1, 0.1, 9.0, 9.0, 9.0]


@pytest.mark.parametrize("name", CONTROLLERS)
def test_what_is_stored_lies_on_the_grid_of_its_present_scale_after_every_step(name):
    controller, text = CONTROLLERS[name]
    form = parse(text)
    model, optimizer = build(QuantizerSpec(form, controller))
    moved = {"primal": set(), "state.momentum_buffer": set()}
    for number, size in enumerate(SIZES):
        step(model, optimizer, number, size)
        state = optimizer.state[model.weight]
        for tensor, value in (("primal", model.weight), ("state.momentum_buffer", state["momentum_buffer"])):
            scale = state[f"{tensor}.scale"]
            moved[tensor].add(scale.item())
            levels = (value.detach() / scale).round()
            assert torch.equal(levels * scale, value)
            assert levels.min() >= form.code_min
            assert levels.max() <= form.code_max
    assert all(len(scales) > 1 for scales in moved.values())


@pytest.mark.parametrize("through_file", [False, True])
@pytest.mark.parametrize("name", CONTROLLERS)
def test_optimiser_state_resumes_bit_for_bit_in_the_middle_of_a_window(name, through_file):
    controller, text = CONTROLLERS[name]
    spec = QuantizerSpec(parse(text), controller)
    whole, whole_optimizer = build(spec)
    for number, size in enumerate(SIZES[:5]):
        step(whole, whole_optimizer, number, size)
    again, again_optimizer = build(spec)
    again.load_state_dict(whole.state_dict())
    saved = copy.deepcopy(whole_optimizer.state_dict())  # torch itself would share the momentum
    if through_file:
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file)
    again_optimizer.load_state_dict(saved)
    for number, size in enumerate(SIZES[5:], start=5):
        step(whole, whole_optimizer, number, size)
        step(again, again_optimizer, number, size)
        assert torch.equal(whole.weight, again.weight)
    first, second = (o.state_dict()["state"][0] for o in (whole_optimizer, again_optimizer))
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert value.dtype == second[key].dtype, key
        assert torch.equal(value, second[key]), key


def test_counters_beyond_float32_survive_a_load():
    """torch casts a parameter's state to the parameter's type; ours is kept out of that."""
    spec = QuantizerSpec(Fixed(8), OverflowRate(window=100))
    model, optimizer = build(spec, roles=("primal",))
    step(model, optimizer, 0)
    saved = optimizer.state_dict()
    saved["state"][0]["primal.window_count"] = torch.tensor(2**24 + 1)
    _, other = build(spec, roles=("primal",))
    other.load_state_dict(saved)
    state = next(iter(other.state.values()))
    assert state["primal.window_count"].dtype == torch.int64
    assert state["primal.window_count"] == 2**24 + 1
    assert state["momentum_buffer"].dtype == torch.float32
    saved["state"][0]["primal.window_count"].zero_()  # what was loaded is a copy
    assert state["primal.window_count"] == 2**24 + 1


@pytest.mark.parametrize(
    ("text", "scale"), [("fixed12", 2.0**-11), ("fixed4", 2.0**-3), ("ufixed4", 2.0**-4)]
)
def test_a_clipped_weight_has_a_fixed_point(text, scale):
    """FxpNet: no integer bits for [-1, 1]; otherwise values at the bound count as overflow for ever."""
    spec = QuantizerSpec(parse(text), OverflowRate(rate=0.0, window=1, patience=1))
    model, optimizer = build(spec, clip=(-1.0, 1.0), roles=("primal",))
    for number in range(10):
        step(model, optimizer, number, size=5.0)
        levels = model.weight.detach() / scale
        assert torch.equal(levels, levels.round())
        assert model.weight.abs().max() <= 1
    assert model.weight.max() == parse(text).max_number * scale
    assert not any("." in key for key in optimizer.state[model.weight])


def test_a_clipped_weight_may_count_before_it_is_clipped():
    spec = QuantizerSpec(Fixed(8), OverflowRate(rate=0.1, window=1, patience=9, clipped="before"))
    model, optimizer = build(spec, clip=(-1.0, 1.0), roles=("primal",))
    scales = []
    for number in range(4):
        step(model, optimizer, number, size=(1.0, 100.0, 0.0, 0.0)[number])
        state = optimizer.state[model.weight]
        scales.append(state["primal.scale"].item())
        assert model.weight.abs().max() <= 1
        assert state["primal.count"] == 48
        assert state["primal.max_abs"].item() > 1
    assert scales[:2] == [scales[0], scales[0]]  # delayed: what step 1 counted moves step 2
    assert scales[2] == 2 * scales[0]
    assert all(math.frexp(s)[0] == 0.5 for s in scales)


def test_a_tensor_without_gradient_moves_nothing():
    spec = QuantizerSpec(Fixed(8), OverflowRate(window=1, patience=1))
    model, optimizer = build(spec, roles=("primal",))
    step(model, optimizer, 0)
    before = {k: v.clone() for k, v in optimizer.state[model.weight].items()}
    model.weight.grad = None
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in optimizer.state[model.weight].items())


def test_a_rule_that_cannot_be_is_refused():
    with pytest.raises(InvalidValueError, match="needs a scale"):
        QuantizerSpec(Fixed(8))
