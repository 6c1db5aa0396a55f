"""When scales move: controllers, steps, calls, eval, calibration, checkpoints, random draws."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Key, Rounding, Ternary, UInt, tensor_id
from bitwright.quantize import MaxAbs, Quantizer, QuantizerSpec, Static, calibrate, quantizers


def moving(form=None, **settings):
    return Quantizer(QuantizerSpec(form or Int(8), controller=MaxAbs(**settings)))


def test_static_scales_never_move():
    for scale, expected in ((None, 2**-4), (0.3, torch.tensor(0.3).item())):
        quantizer = Quantizer(QuantizerSpec(Fixed(8, 4), controller=Static(scale)))
        for step in range(3):
            quantizer.tick(step)
            assert quantizer(torch.full((4,), 100.0)).scale.item() == expected
        assert not quantizer.state_dict()
    assert Quantizer(QuantizerSpec(Int(4)))(torch.ones(2)).scale is None


def test_the_scale_of_a_step_comes_from_the_step_before():
    quantizer = moving()
    used = []
    for step, largest in enumerate([2.0, 8.0, 1.0, 4.0, 4.0], start=1):
        quantizer.tick(step)
        used.append(quantizer(torch.tensor([0.1, -largest])).scale.item())
    # the first batch initialises: its own maximum
    maxima = [2.0, 2.0, 8.0, 1.0, 4.0]
    assert used == [(torch.tensor(m) / 127).item() for m in maxima]


def test_calls_within_a_step_merge_their_maxima():
    quantizer = moving()
    quantizer.tick(1)
    scales = [quantizer(torch.tensor([m])).scale.item() for m in (1.0, 5.0, 3.0)]
    assert len(set(scales)) == 1
    quantizer.tick(2)
    assert quantizer(torch.tensor([0.0])).scale.item() == (torch.tensor(5.0) / 127).item()


def test_nothing_moves_in_eval():
    quantizer = moving()
    quantizer.tick(1)
    quantizer(torch.tensor([1.0]))
    quantizer.eval()
    before = copy.deepcopy(quantizer.state_dict())
    for _ in range(3):
        assert quantizer(torch.tensor([50.0])).scale.item() == (torch.tensor(1.0) / 127).item()
    assert all(torch.equal(before[k], v) for k, v in quantizer.state_dict().items())


def test_a_step_without_data_or_of_zeros_leaves_the_scale():
    quantizer = moving()
    quantizer.tick(1)
    quantizer(torch.tensor([2.0]))
    for step in (2, 3):
        quantizer.tick(step)
    assert quantizer.scale.item() == (torch.tensor(2.0) / 127).item()
    quantizer(torch.zeros(3))
    quantizer.tick(4)
    assert quantizer.scale.item() == (torch.tensor(2.0) / 127).item()


def test_a_channel_of_zeros_keeps_its_scale_while_others_move():
    quantizer = moving(per="channel")
    quantizer.tick(1)
    quantizer(torch.tensor([[127.0], [254.0]]))
    quantizer(torch.tensor([[0.0], [508.0]]))
    quantizer.tick(2)
    quantizer(torch.tensor([[0.0], [127.0]]))
    quantizer.tick(3)
    assert quantizer.scale.flatten().tolist() == [1.0, 1.0]


def test_channels_have_their_own_scales():
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for axis in (0, 1):
        quantizer = Quantizer(QuantizerSpec(Int(8), controller=MaxAbs("channel")), channel_axis=axis)
        quantised = quantizer(x)
        for channel in range(x.shape[axis]):
            part = x.select(axis, channel)
            scale = part.abs().max() / 127
            assert torch.equal(quantised.scale.select(axis, channel).flatten(), scale.view(1))
            levels = Int(8).encode(part, scale=scale.item()).float()
            assert torch.equal(quantised.levels.select(axis, channel), levels)


@pytest.mark.parametrize("form", [Int(8), UInt(4), Ternary(), Binary(), Fixed(12)], ids=str)
@pytest.mark.parametrize("largest", [1.0, 0.3, 127.0, 128.0, 1e-30, 3e38])
def test_max_abs_puts_the_maximum_on_the_largest_level(form, largest):
    x = torch.tensor([largest, largest / 3])
    quantised = moving(form)(x)
    assert quantised.levels[0] == form.code_max
    assert quantised.scale.item() == pytest.approx(largest / form.code_max, rel=2**-23)  # one rounding
    if largest > 1e38:
        return  # the power of two above has no float32
    coarse = moving(form, power_of_two=True)(x)
    mantissa, _ = math.frexp(coarse.scale.item())
    assert mantissa == 0.5
    assert coarse.scale.item() / 2 < quantised.scale.item() <= coarse.scale.item()


def test_zeros_and_what_is_not_finite():
    assert moving()(torch.zeros(4)).scale.item() == 1.0
    assert moving()(torch.empty(0)).scale.item() == 1.0
    x = torch.tensor([math.inf, -math.inf, math.nan, -2.0])
    quantised = moving()(x)
    assert quantised.scale.item() == (torch.tensor(2.0) / 127).item()
    assert quantised.levels.tolist() == [127, -128, 0, -127]


def test_a_moving_scale_needs_data_before_eval():
    quantizer = moving().eval()
    with pytest.raises(InvalidValueError, match=r"bitwright\.calibrate"):
        quantizer(torch.ones(2))
    with pytest.raises(InvalidValueError, match="per tensor or channel"):
        MaxAbs("row")
    with pytest.raises(InvalidValueError, match="fixed12 has no point"):
        QuantizerSpec(Fixed(12))


def net():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.Hardtanh(), nn.Linear(5, 2))
    recipe = bw.recipe("qnn", weight={"format": "int8", "controller": "max-abs", "per": "channel"},
                       activation={"format": "int8", "controller": "max-abs"})  # fmt: skip
    bw.quantize_(model, recipe, verbose=False)
    return model


def test_calibrate_sets_every_scale_from_the_batches_and_only_from_them():
    batches = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    model = net()
    flags = [m.training for m in model.modules()]
    assert calibrate(model, iter(batches)) == 3
    assert [m.training for m in model.modules()] == flags
    slot = model[2].slots.of("forward.activation")
    model.eval()
    with torch.no_grad():
        before = [model[1](model[0](b)) for b in batches]
    assert slot.initialized
    first = slot.scale.clone()
    assert slot.scale.item() == pytest.approx(max(b.abs().max().item() for b in before) / 127, rel=0.05)
    # a training step on larger data is forgotten
    model.train()
    model(batches[0] * 100).sum().backward()
    calibrate(model, batches)
    calibrate(model, batches)
    assert slot.scale.item() == pytest.approx(first.item(), rel=0.05)
    model.eval()
    assert model(batches[0]).isfinite().all()
    with pytest.raises(InvalidValueError, match="at least one batch"):
        calibrate(model, [])


def test_all_that_a_controller_learns_is_in_the_state_dict():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    model, other = net(), net()
    for factor in (1.0, 3.0, 2.0):
        model(x * factor)
    other.load_state_dict(model.state_dict())
    model(x)
    other(x)
    for a, b in zip(quantizers(model), quantizers(other), strict=True):
        for key, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[key]), key
    model.eval()
    other.eval()
    assert torch.equal(model(x), other(x))


def test_draws_are_keyed_by_name_seed_step_and_call():
    form = Fixed(8, 2)
    spec = QuantizerSpec(form, rounding=Rounding.STOCHASTIC)
    x = torch.randn(200, generator=torch.Generator().manual_seed(0))

    def draw(name="fc1.weight", seed=3, step=5, calls=1):
        quantizer = Quantizer(spec, name, seed=seed)
        quantizer.tick(step)
        return [quantizer(x).levels for _ in range(calls)][-1]

    key = Key(3, tensor_id("fc1.weight"), step=5)
    assert torch.equal(draw(), form.encode(x, rounding="stochastic", key=key).float())
    assert torch.equal(draw(), draw())
    for changed in ({"name": "fc2.weight"}, {"seed": 4}, {"step": 6}, {"calls": 2}):
        assert not torch.equal(draw(), draw(**changed)), changed
    # each step counts its calls anew
    quantizer = Quantizer(spec, "fc1.weight", seed=3)
    for step in (4, 5):
        quantizer.tick(step)
        levels = quantizer(x).levels
    assert torch.equal(levels, draw())
    # in eval nothing is random, and no call is counted
    quantizer = Quantizer(spec, "fc1.weight", seed=3).eval()
    assert torch.equal(quantizer(x).levels, form.encode(x).float())
    quantizer.train().tick(5)
    assert torch.equal(quantizer(x).levels, draw())


def test_stochastic_sign_in_a_quantiser():
    """QNN, section 1: P(+1) = clip((x + 1) / 2, 0, 1), on average over steps."""
    quantizer = Quantizer(QuantizerSpec(Binary(), rounding=Rounding.STOCHASTIC), "h")
    x = torch.linspace(-1.5, 1.5, 61)
    total = torch.zeros_like(x)
    count = 2000
    for step in range(count):
        quantizer.tick(step)
        total += (quantizer(x).levels > 0).float()
    p = ((x + 1) / 2).clamp(0, 1)
    spread = 4.5 * torch.sqrt(p * (1 - p) * count) + 0.1  # 61 points at once
    assert ((total - count * p).abs() <= spread).all()


def test_specs_in_words():
    assert str(QuantizerSpec(Int(8))) == "int8"
    spec = QuantizerSpec(Int(8), MaxAbs("channel", True), Rounding.FLOOR)
    assert str(spec) == "int8 (max-abs per channel, power of two, floor)"
    assert str(QuantizerSpec(Int(8), Static(0.5))) == "int8 (static 0.5)"


@pytest.mark.parametrize(
    ("top", "scale"), [(127.0, 1.0), (127.5, 2.0), (60.0, 0.5), (63.5, 0.5), (64.0, 1.0)]
)
def test_power_of_two_scales_never_overflow(top, scale):
    q = Quantizer(QuantizerSpec(Int(8), MaxAbs(power_of_two=True)))
    assert float(q(torch.tensor([top])).scale) == scale
