"""Convolutions of every small shape: each path gives the integers of the definition, and torch agrees."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from products_reference import check_every_path
from torch import nn

import bitwright as bw
from bitwright.formats import parse
from bitwright.nn.arithmetic import Exact, Operand, Path, Speed, preference
from bitwright.nn.geometry import ConvGeometry, Kind, LinearGeometry, TransposedGeometry, geometry_of
from bitwright.nn.product import sums
from bitwright.quantize import QuantizerSpec
from bitwright.recipes import Recipe

EIGHT = Operand(-128, 127)
CHANNELS = 4
WINDOWS = list(itertools.product((1, 2, 3), (1, 2), (0, 1, 2), (1, 2), (1, 2, CHANNELS)))
"""Kernel, stride, padding, dilation, groups."""


def geometries(kernel, stride, padding, dilation, groups):
    """One and two axes, even and uneven padding, there and back: (geometry, shape of a, shape of w)."""
    size = dilation * (kernel - 1) + 2  # two places without padding
    one = ConvGeometry((stride,), (padding,), (dilation,), groups)
    two = ConvGeometry((stride, 1), (padding, padding, 1, 0), (dilation, 1), groups)
    yield one, (2, CHANNELS, size), (CHANNELS, CHANNELS // groups, kernel)
    yield two, (1, CHANNELS, size, 3), (2 * CHANNELS, CHANNELS // groups, kernel, 2)
    for more in range(max(stride, dilation)):
        places = 2 + 2 * padding
        back = TransposedGeometry(one, (more,))
        yield back, (2, CHANNELS, places), (CHANNELS, CHANNELS // groups, kernel)
    alike = ConvGeometry((stride, 1), (padding, 1), (dilation, 2), groups)
    back = TransposedGeometry(alike, (stride - 1, 1))
    yield back, (1, CHANNELS, places, 2), (CHANNELS, 2 * CHANNELS // groups, kernel, 3)


@pytest.mark.parametrize("kind", Kind)
def test_every_small_window(kind):
    seen = 0
    for window in WINDOWS:
        for geometry, a_shape, w_shape in geometries(*window):
            expected = check_every_path(geometry, kind, a_shape, w_shape, (EIGHT, EIGHT))
            seen += bool(expected.any())
            assert geometry_of(geometry.numbers()).numbers() == geometry.numbers()
    assert seen > 4 * len(WINDOWS)


def test_the_bound_of_a_reduction_is_reached_in_the_middle():
    """All levels at their largest: some output sums as many products as `reduction` says, in each."""
    for kernel, stride, _, dilation, groups in WINDOWS:
        conv = ConvGeometry((stride,), (0,), (dilation,), groups)
        for geometry in (conv, TransposedGeometry(conv, (0,))):
            places = 4 * kernel * stride * dilation
            a = torch.ones(2, CHANNELS, places)
            w = torch.ones(CHANNELS, CHANNELS // groups, kernel)
            y = torch.ones(geometry.output(a.shape, w.shape))
            for kind, left, right, shape in (
                (Kind.FORWARD, a, w, y.shape), (Kind.DGRAD, y, w, a.shape), (Kind.WGRAD, y, a, w.shape),
            ):  # fmt: skip
                most = sums(geometry, kind, left, right, list(shape)).max()
                assert most == geometry.reduction(kind, left.shape, right.shape)
                side, rows = geometry.terms(kind, left, right)
                bound = rows.abs().sum(1).max() * (left, right)[1 - side].max()
                assert most <= bound


# --- layers against torch's own, in float64 ---------------------------------------------------------------

LAYERS = {
    "conv1d": lambda: nn.Conv1d(24, 30, 5, stride=2, padding=3),
    "conv1d same": lambda: nn.Conv1d(24, 30, 4, padding="same", dilation=3),
    "conv1d groups": lambda: nn.Conv1d(24, 30, 3, groups=3),
    "even same": lambda: nn.Conv2d(24, 20, (4, 3), padding="same"),
    "dilated": lambda: nn.Conv2d(24, 20, 3, padding=2, dilation=(2, 1)),
    "groups": lambda: nn.Conv2d(24, 20, 3, padding=1, groups=4),
    "depthwise": lambda: nn.Conv2d(24, 24, 5, stride=2, padding=2, groups=24),
    "multiplier": lambda: nn.Conv2d(24, 48, 3, groups=24),
    "transposed": lambda: nn.ConvTranspose2d(24, 20, 3, stride=2, padding=1, output_padding=1),
    "transposed groups": lambda: nn.ConvTranspose2d(24, 20, (3, 2), stride=(1, 3), groups=4, dilation=2),
    "transposed depthwise": lambda: nn.ConvTranspose2d(24, 24, 4, stride=2, padding=1, groups=24),
}


def a_shape_of(layer):
    return (2, 24, 13) if isinstance(layer, nn.Conv1d) else (2, 24, 9, 10)


def integers(form, shape, seed):
    """Mostly large levels, so that float32 sums would be rounded."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(form.code_max // 2, form.code_max + 1, shape, generator=generator)
    return (x - (torch.rand(shape, generator=generator) < 0.1) * 2 * x).float()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own layer
@pytest.mark.parametrize("name", ["int8", "int12", "int16"])
@pytest.mark.parametrize("case", LAYERS)
def test_all_products_of_a_layer_are_exact(case, name):
    form = parse(name)
    plain = LAYERS[case]().double()
    model = nn.Sequential(LAYERS[case]())
    shape = a_shape_of(model[0])
    x, w = integers(form, shape, 1), integers(form, model[0].weight.shape, 2)
    with torch.no_grad():
        model[0].weight.copy_(w)
        plain.weight.copy_(w)
        model[0].bias.zero_()
        plain.bias.zero_()
    roles = dict.fromkeys(("activation", "weight", "error"), QuantizerSpec(form))
    bw.quantize_(model, Recipe("exact", roles=roles, exact=Exact.ALL), verbose=False)
    assert type(model[0]).__module__.startswith("bitwright")
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = model(a), plain(b)
    e = integers(form, expected.shape, 3)
    y.backward(e)
    expected.backward(e.double())  # every sum is below 2^53
    assert torch.equal(y, expected.detach().float())
    assert torch.equal(a.grad, b.grad.float())
    assert torch.equal(model[0].weight.grad, plain.weight.grad.float())
    assert torch.equal(model[0].bias.grad, plain.bias.grad.float())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", LAYERS)
def test_scales_per_channel_and_bias(case):
    """The weight has a scale for each output channel, or for each index of axis 1 that groups share."""
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[case]())
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    axis = 1 if isinstance(model[0], nn.ConvTranspose2d) else 0
    plain = LAYERS[case]().double()
    recipe = bw.recipe("float", weight={"format": "int4", "controller": "max-abs", "per": "channel"})
    bw.quantize_(model, recipe, verbose=False)
    x = torch.randint(-8, 8, a_shape_of(model[0])).float()
    y = model(x)
    others = [i for i in range(weight.dim()) if i != axis]
    scale = weight.abs().amax(others, keepdim=True) / 7
    quotients = torch.round(weight / scale).clamp(-8, 7)
    plain.load_state_dict({"weight": quotients, "bias": torch.zeros_like(bias)})
    count = scale.flatten()
    channels = count if axis == 0 else count.repeat(model[0].groups)
    shape = (-1,) + (1,) * (weight.dim() - 2)
    expected = plain(x.double()).float() * channels.view(shape) + bias.view(shape)
    assert torch.equal(y, expected.detach())
    y.sum().backward()
    assert model[0].weight.grad.any()


MX_AXES = {
    "conv1d": (1, 1, 1, 0, 0, 0),
    "groups": (1, 1, 1, 0, 0, 0),
    "depthwise": (-1, -1, -1, -1, 0, 0),
    "transposed": (1, 0, 1, 1, 0, 0),
    "transposed depthwise": (-1, -1, -1, -1, 0, 0),
}


@pytest.mark.parametrize("case", MX_AXES)
def test_blocks_run_along_each_reduction(case):
    """Every operand is what blocks along that axis make of it; sums of such small integers are exact."""
    torch.manual_seed(1)
    model = nn.Sequential(LAYERS[case]())
    plain, form = LAYERS[case](), parse("mxfp4")
    draw = torch.Generator().manual_seed(2)

    def integers(shape):
        return torch.randint(-31, 32, shape, generator=draw).float()

    weight, bias = integers(model[0].weight.shape), torch.zeros_like(model[0].bias)
    model[0].load_state_dict({"weight": weight, "bias": bias})
    recipe = bw.recipe("float", weight="mxfp4", activation="mxfp4", error="mxfp4")
    bw.quantize_(model, recipe, verbose=False)

    def blocks(x, axis):
        return form.quantize(x.movedim(axis, -1).contiguous()).movedim(-1, axis)

    a, w, e_dgrad, w_dgrad, e_wgrad, a_wgrad = MX_AXES[case]
    x = integers(a_shape_of(model[0])).requires_grad_()
    y = model(x)
    e = integers(y.shape)
    y.backward(e)

    def judged(x, w, e):
        x = x.clone().requires_grad_()
        plain.load_state_dict({"weight": w.contiguous(), "bias": bias})
        plain.zero_grad()
        y = plain(x)
        y.backward(e)
        return y.detach(), x.grad, plain.weight.grad

    values = x.detach()
    assert torch.equal(y.detach(), judged(blocks(values, a), blocks(weight, w), e)[0])
    assert torch.equal(x.grad, judged(values, blocks(weight, w_dgrad), blocks(e, e_dgrad))[1])
    assert torch.equal(model[0].weight.grad, judged(blocks(values, a_wgrad), weight, blocks(e, e_wgrad))[2])


def test_an_output_size_is_refused_by_name():
    model = nn.Sequential(nn.ConvTranspose2d(1, 1, 2, stride=2))
    bw.quantize_(model, bw.recipe("float", weight="int8"), verbose=False)
    with pytest.raises(ValueError, match=r"one output padding; got output_size=\[5, 5\]; at 0"):
        model[0](torch.zeros(1, 1, 2, 2), output_size=[5, 5])


def test_numbers_given_to_a_layer_later_count():
    """Dilation set after the layer was made, as segmentation networks do, as a number or a pair."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    bw.quantize_(model, bw.recipe("float", weight="int8", activation="int8"), verbose=False)
    x = torch.randint(-9, 9, (1, 2, 9, 9)).float()
    for dilation in (2, (2, 2)):
        model[0].dilation = dilation
        weight = model[0].slots.of("forward.weight")(model[0].weight).levels
        assert torch.equal(model(x), F.conv2d(x, weight, dilation=2) + model[0].bias.view(-1, 1, 1))


# --- the choice -------------------------------------------------------------------------------------------


def test_int8_in_groups_only_where_each_of_them_pays():
    conv = ConvGeometry((1, 1), (1, 1), (), 4)
    shape = (8, 256, 8, 8)
    assert preference(conv, Kind.FORWARD, 64 * 9, shape, True, Speed.FAST)[0] is Path.INT8
    assert Path.INT8 not in preference(conv, Kind.FORWARD, 63, shape, True, Speed.FAST)
    assert Path.INT8 not in preference(conv, Kind.FORWARD, 64 * 9, (8, 252, 8, 8), True, Speed.FAST)
    assert preference(conv, Kind.FORWARD, 576, shape, True, Speed.SLOW)[:2] == (Path.FLOAT32, Path.INT8)
    depthwise = ConvGeometry((1, 1), (1, 1), (), 256)
    assert Path.INT8 not in preference(depthwise, Kind.WGRAD, 4096, (256, 1, 3, 3), True, Speed.FAST)
    assert LinearGeometry().groups == 1
