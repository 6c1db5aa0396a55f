"""Estimators against their formulas, controllers against their rules of time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Rounding, Ternary
from bitwright.quantize import Estimator, MaxAbs, Quantizer, QuantizerSpec, Static, calibrate


def gradient(spec, x):
    x = x.clone().requires_grad_()
    quantized = Quantizer(spec)(x)
    upstream = torch.arange(1.0, x.numel() + 1).view_as(x)
    (quantized.levels * upstream).sum().backward()
    return x.grad / upstream


EDGES = torch.tensor([-1e9, -1.0001, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0001, 1e9, float("nan")])


def test_clipped_estimator_is_the_hard_tanhs_derivative():
    grad = gradient(QuantizerSpec(Binary(), estimator=Estimator.CLIPPED), EDGES)
    assert grad.tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]


def test_straight_through_passes_everything_and_none_nothing():
    assert gradient(QuantizerSpec(Binary()), EDGES).tolist() == [1] * 10
    assert gradient(QuantizerSpec(Int(8), estimator=Estimator.NONE), EDGES).tolist() == [0] * 10


def test_clipped_bounds_follow_the_format_and_the_scale():
    spec = QuantizerSpec(Int(4), Static(0.5), estimator=Estimator.CLIPPED)
    x = torch.tensor([-4.01, -4.0, 3.5, 3.51])
    assert gradient(spec, x).tolist() == [0, 1, 1, 0]


def test_static_scale():
    q = Quantizer(QuantizerSpec(Int(8), Static(0.25)))
    out = q(torch.tensor([1.1, -100.0]))
    assert out.levels.tolist() == [4, -128]
    assert out.value().tolist() == [1.0, -32.0]
    assert not list(q.state_dict())
    assert Quantizer(QuantizerSpec(Fixed(8, 4)))(torch.ones(1)).value().item() == 1
    with pytest.raises(InvalidValueError, match="needs a scale"):
        QuantizerSpec(Fixed(12))


def test_max_abs_is_delayed_by_one_step():
    q = Quantizer(QuantizerSpec(Int(8), MaxAbs()))
    seen = []
    for step, top in enumerate([127.0, 254.0, 12.7], start=1):
        q.tick(step)
        q(torch.tensor([top, -1.0]))
        seen.append(float(q.scale))
    # the first batch initialises; afterwards a step's maximum serves the next
    assert seen == [1.0, 1.0, 2.0]
    q.tick(4)
    assert float(q.scale) == pytest.approx(0.1)


def test_calls_in_one_step_are_merged():
    q = Quantizer(QuantizerSpec(Int(8), MaxAbs()))
    q.tick(1)
    for top in (1.0, 127.0 * 3, 2.0):
        q(torch.tensor([top]))
    q.tick(2)
    assert float(q.scale) == 3.0
    q.tick(3)  # nothing came in between: nothing moves
    assert float(q.scale) == 3.0


def test_eval_moves_nothing():
    q = Quantizer(QuantizerSpec(Int(8), MaxAbs()))
    q.eval()
    with pytest.raises(InvalidValueError, match="first training batch or by calibration"):
        q(torch.ones(1))
    q.train()
    q.tick(1)
    q(torch.tensor([127.0]))
    q.eval()
    before = copy.deepcopy(q.state_dict())
    assert q(torch.tensor([1000.0])).levels.item() == 127
    assert all(torch.equal(before[k], v) for k, v in q.state_dict().items())


def test_per_channel_scales():
    q = Quantizer(QuantizerSpec(Int(8), MaxAbs("channel")), channel_axis=0)
    w = torch.tensor([[127.0, 1.0], [0.0, 0.0], [-254.0, 2.0]])
    out = q(w)
    assert out.scale.tolist() == [[1.0], [1.0], [2.0]]
    assert out.levels.tolist() == [[127, 1], [0, 0], [-127, 1]]
    conv = Quantizer(QuantizerSpec(Int(8), MaxAbs("channel")), channel_axis=1)
    assert conv(torch.rand(2, 3, 4, 5)).scale.shape == (1, 3, 1, 1)


def test_infinities_do_not_set_the_scale():
    q = Quantizer(QuantizerSpec(Int(8), MaxAbs()))
    out = q(torch.tensor([float("inf"), float("nan"), 12.7]))
    assert float(out.scale) == pytest.approx(0.1)
    assert out.levels.tolist() == [127, 0, 127]


@pytest.mark.parametrize(
    ("top", "scale"), [(127.0, 1.0), (127.5, 2.0), (60.0, 0.5), (63.5, 0.5), (64.0, 1.0)]
)
def test_power_of_two_scales_never_overflow(top, scale):
    q = Quantizer(QuantizerSpec(Int(8), MaxAbs(power_of_two=True)))
    assert float(q(torch.tensor([top])).scale) == scale


def test_state_travels_in_the_state_dict():
    spec = QuantizerSpec(Int(8), MaxAbs("channel"))
    a, b = Quantizer(spec), Quantizer(spec)
    a(torch.rand(5, 3))
    b.load_state_dict(a.state_dict())
    x = torch.rand(5, 3)
    a.tick(1), b.tick(1)
    assert torch.equal(a(x).value(), b(x).value())


def test_stochastic_draws_differ_by_step_and_call_and_repeat_by_key():
    spec = QuantizerSpec(Binary(), rounding=Rounding.STOCHASTIC)
    a, b = Quantizer(spec, "layer.activation", seed=4), Quantizer(spec, "layer.activation", seed=4)
    other = Quantizer(spec, "other.activation", seed=4)
    x = torch.zeros(200)

    def draws(q):
        out = []
        for step in (1, 2):
            q.tick(step)
            out += [q(x).levels, q(x).levels]
        return out

    first, second, third = draws(a), draws(b), draws(other)
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
    everything = {tuple(t.tolist()) for t in first + third}
    assert len(everything) == 8
    a.eval()
    assert a(x).levels.tolist() == [1] * 200  # in eval the sign


def test_calibrate_sets_scales_without_training():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    recipe = bw.recipe("float", activation={"format": "int8", "controller": "max-abs"}, weight="fixed8.7")
    bw.quantize_(model, recipe, verbose=False)
    batches = [torch.full((2, 4), v) for v in (0.5, 12.7, 1.0)]
    assert calibrate(model, batches) == 3
    assert float(model[0].slots.of("forward.activation").scale) == pytest.approx(0.1)
    assert model.training
    assert int(model.bitwright_step) == 0
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in weights.items())
    with pytest.raises(InvalidValueError, match="at least one batch"):
        calibrate(model, [])


def test_specs_print_themselves():
    assert str(QuantizerSpec(Int(8), MaxAbs("channel"))) == "int8 (max-abs per channel)"
    assert (
        str(QuantizerSpec(Ternary(), Static(0.5), Rounding.STOCHASTIC)) == "ternary (static 0.5, stochastic)"
    )
    with pytest.raises(InvalidValueError, match="tensor or channel"):
        MaxAbs("row")
    with pytest.raises(InvalidValueError, match="did you mean 'clipped'"):
        Estimator.of("cliped")
