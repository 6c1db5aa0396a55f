"""MXFP4 and MXFP8 training: six quantisations a layer and step, each along its own reduction axis."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.nn import OPERANDS


def e2m1(x):
    """OCP FP4 by its table: round to nearest even, saturating."""
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    magnitude = x.abs().clamp(max=6.0)
    upper = torch.searchsorted(grid, magnitude).clamp(max=7)
    lower = torch.where(grid[upper] == magnitude, upper, upper - 1)
    below, above = magnitude - grid[lower], grid[upper] - magnitude
    even = torch.where(lower % 2 == 0, lower, upper)  # the code's last bit is the mantissa's
    chosen = torch.where(below < above, lower, torch.where(above < below, upper, even))
    return grid[chosen] * x.sign()


def mxfp4(x, axis):
    """OCP MX v1.0, section 6.3: blocks of 32 share the scale 2^(floor(log2 max|x|) - 2)."""
    x = x.movedim(axis, -1)
    width = x.shape[-1]
    blocks = nn.functional.pad(x, (0, -width % 32)).unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True)
    _, exponent = torch.frexp(largest)
    scale = torch.ldexp(torch.ones_like(largest), (exponent - 1 - 2).clamp(-127, 127))
    result = torch.where(largest > 0, e2m1(blocks / scale) * scale, torch.zeros(()))
    return result.flatten(-2)[..., :width].movedim(-1, axis)


RECIPE = {"weight": "mxfp4", "activation": "mxfp4", "error": "mxfp4"}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def linear_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(70, 45, bias=False))
    bw.quantize_(model, bw.recipe("float", **RECIPE), verbose=False)
    return model


def test_the_reference_is_the_format():
    x = torch.randn(5, 77) * torch.logspace(-3, 3, 77)
    for axis in (0, 1):
        assert torch.equal(mxfp4(x, axis), bw.format("mxfp4").quantize(x.movedim(axis, -1)).movedim(-1, axis))


def test_a_training_step_is_the_six_quantisations():
    """The products of a block format add in float32 in torch's order, and so does the reference."""
    model = linear_layer()
    weight = model[0].weight.detach().clone()
    x = torch.randn(40, 70, requires_grad=True)
    error = torch.randn(40, 45)
    y = model(x)
    y.backward(error)

    a, w, e = x.detach(), weight, error
    forward = nn.functional.linear(mxfp4(a, 1), mxfp4(w, 1))
    dgrad = mxfp4(e, 1) @ mxfp4(w, 0)
    wgrad = mxfp4(e, 0).T @ mxfp4(a, 0)
    assert torch.equal(y.detach(), forward)
    assert torch.equal(x.grad, dgrad)
    assert torch.equal(model[0].weight.grad, wgrad)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    optimizer.step()
    assert torch.equal(model[0].weight.detach(), weight - 0.25 * wgrad)


def test_the_two_operands_of_one_tensor_differ_by_axis():
    """Each tensor is quantised once along either axis; where rows differ in size, most numbers differ."""
    model = linear_layer()
    sizes = torch.logspace(-1, 1, 40)[:, None]
    x, error = torch.randn(40, 70) * sizes, torch.randn(40, 45) * sizes
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-1, 1, 45)[:, None])
    tensors = {"activation": x, "weight": model[0].weight.detach(), "error": error}
    seen = {}
    for operand in OPERANDS:
        quantizer = model[0].slots.of(operand)
        seen[operand] = quantizer(tensors[operand.rpartition(".")[2]]).levels
    assert len({id(model[0].slots.of(operand)) for operand in OPERANDS}) == 6
    pairs = [
        ("forward.activation", "wgrad.activation"),
        ("forward.weight", "dgrad.weight"),
        ("dgrad.error", "wgrad.error"),
    ]
    for first, second in pairs:
        different = (seen[first] != seen[second]).float().mean()
        assert different > 0.3, (first, second, different)


def test_a_convolution_takes_its_blocks_along_channels_and_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(40, 36, 3, padding=1, bias=False))
    bw.quantize_(model, bw.recipe("float", **RECIPE), verbose=False)
    weight = model[0].weight.detach().clone()
    x = torch.randn(34, 40, 5, 5, requires_grad=True)
    error = torch.randn(34, 36, 5, 5)
    y = model(x)
    y.backward(error)

    def conv(a, w):
        return nn.functional.conv2d(a, w, padding=1)

    a, w, e = x.detach(), weight, error
    assert torch.equal(y.detach(), conv(mxfp4(a, 1), mxfp4(w, 1)))
    dgrad = torch.nn.grad.conv2d_input(a.shape, mxfp4(w, 0), mxfp4(e, 1), padding=1)
    wgrad = torch.nn.grad.conv2d_weight(mxfp4(a, 0), w.shape, mxfp4(e, 0), padding=1)
    assert torch.equal(x.grad, dgrad)
    assert torch.equal(model[0].weight.grad, wgrad)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8"])
def test_the_recipes_learn(name):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    recipe = bw.recipe(name)
    bw.quantize_(model, recipe, verbose=False)
    optimizer = recipe.optimizer(model, lr=0.01)
    x, labels = torch.randn(128, 64), torch.arange(128) % 10
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2


def test_the_recipe_file_gives_every_layer_its_formats():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    report = bw.quantize_(model, "mxfp4", verbose=False)
    formats = {row.tensor: row.format for row in report.rows}
    assert formats["2:weight"].startswith("mxfp4")
    assert "stochastic" in formats["2:error"]
    assert formats["0:error"].startswith("mxfp8e5m2")
    assert formats["4:weight"].startswith("mxfp8e4m3")
