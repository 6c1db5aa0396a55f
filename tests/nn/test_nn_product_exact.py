"""Layers whose dgrad and wgrad are exact too; the operators as torch sees them; compiled models."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.formats import parse
from bitwright.nn.arithmetic import Exact, Operand, Path
from bitwright.nn.geometry import ConvGeometry, Kind, LinearGeometry
from bitwright.nn.product import Products, product, sums
from bitwright.quantize import Quantized, QuantizerSpec
from bitwright.recipes import Recipe

LAYERS = {
    "linear": (lambda: nn.Linear(600, 700), (5, 600)),
    "linear 3d": (lambda: nn.Linear(600, 700, bias=False), (2, 3, 600)),
    "conv": (lambda: nn.Conv2d(30, 40, 3, stride=2, padding=1), (2, 30, 9, 10)),
}


def integers(form, shape, seed):
    """Mostly large levels, so that float32 sums are rounded."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(form.code_max // 2, form.code_max + 1, shape, generator=generator)
    return (x - (torch.rand(shape, generator=generator) < 0.1) * 2 * x).float()


def gradients(case, forms, exact):
    """y, dx and dw of a layer over levels, and the same in int64."""
    make, shape = LAYERS[case]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    layer = model[0]
    linear = isinstance(layer, nn.Linear)
    specs = {role: QuantizerSpec(form) for role, form in forms.items()}
    x, w = integers(forms["activation"], shape, 1), integers(forms["weight"], layer.weight.shape, 2)
    with torch.no_grad():
        layer.weight.copy_(w)
        if layer.bias is not None:
            layer.bias.zero_()
    bw.quantize_(model, Recipe("exact", roles=specs), verbose=False)
    model[0].exact = exact
    x.requires_grad_()
    y = model(x)
    e = integers(forms["error"], y.shape, 3)
    y.backward(e)
    a64, w64 = x.detach().double().requires_grad_(), w.double().requires_grad_()
    y64 = F.linear(a64, w64) if linear else F.conv2d(a64, w64, stride=2, padding=1)
    y64.backward(e.double())  # every sum is below 2^53
    return (y, x.grad, model[0].weight.grad), (y64.detach(), a64.grad, w64.grad)


@pytest.mark.parametrize("case", LAYERS)
@pytest.mark.parametrize("name", ["int8", "int12", "int16"])
def test_all_products_are_exact(case, name):
    forms = dict.fromkeys(("activation", "weight", "error"), parse(name))
    got, expected = gradients(case, forms, Exact.ALL)
    for result, integer in zip(got, expected, strict=True):
        assert torch.equal(result, integer.float())


def test_forward_is_the_default_and_rounds_gradients_only():
    forms = dict.fromkeys(("activation", "weight", "error"), parse("int12"))
    assert bw.nn.Linear.exact is bw.nn.Conv2d.exact is Exact.FORWARD
    for case in LAYERS:
        got, expected = gradients(case, forms, Exact.FORWARD)
        assert torch.equal(got[0], expected[0].float())
        assert not torch.equal(got[1], expected[1].float())  # dgrad sums 700 or 360 products of 22 bits


@pytest.mark.parametrize("exact", Exact)
def test_a_scale_per_output_channel_takes_the_values_in_dgrad(exact):
    """It varies along the reduction: nothing is exact there, and nothing is claimed."""
    a, w = torch.full((2, 3), 5.0, requires_grad=True), torch.full((4, 3), 7.0, requires_grad=True)
    scale = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1)
    eight = Operand(-128, 127)
    known = (eight, eight)
    one, two = Quantized(a, torch.tensor(0.5)), Quantized(w, scale)
    y = product((one, two), (one, two), Products(LinearGeometry(), "fc", exact, known, known, known))
    assert torch.equal(y, torch.full((2, 4), 105.0) * (0.5 * scale.flatten()))
    y.backward(torch.ones(2, 4))
    assert torch.equal(a.grad, torch.ones(2, 4) @ (w.detach() * scale))
    assert torch.equal(w.grad, torch.full((4, 3), 10.0) * 0.5)


def test_operands_that_nothing_quantises_are_float32():
    x, w = torch.randn(3, 5), torch.randn(4, 5)
    eight = Operand(-128, 127)
    for known in ((None, None), (eight, None), (None, eight)):
        got = sums(LinearGeometry(), Kind.FORWARD, x, w, None, known)
        assert torch.equal(got, F.linear(x, w))


def test_levels_wider_than_float32_pass_whole():
    """2^24 + 1 is split before it becomes float32."""
    known = Operand(-(2**25), 2**25), Operand(-1, 1)
    a = torch.full((1, 300), 2.0**24 + 1, dtype=torch.float64)
    got = sums(LinearGeometry(), Kind.FORWARD, a, torch.ones(1, 300), None, known)
    assert got.item() == 300 * (2**24 + 1)


# --- the operators ----------------------------------------------------------------------------------------

LINEAR, CONV = LinearGeometry(), ConvGeometry((2, 1), (1, 0))


@pytest.mark.parametrize(("geometry", "kind", "left", "right", "shape"), [
    (LINEAR, Kind.FORWARD, (4, 1100), (3, 1100), (4, 3)),
    (LINEAR, Kind.WGRAD, (2, 4, 3), (2, 4, 8), (3, 8)),
    (CONV, Kind.FORWARD, (2, 3, 7, 6), (4, 3, 3, 2), (2, 4, 4, 5)),
    (CONV, Kind.DGRAD, (2, 4, 4, 5), (4, 3, 3, 2), (2, 3, 7, 6)),
    (CONV, Kind.WGRAD, (2, 4, 4, 5), (2, 3, 7, 6), (4, 3, 3, 2)),
])  # fmt: skip
def test_opcheck_of_the_product(geometry, kind, left, right, shape):
    conv = geometry is CONV
    layout = torch.channels_last if conv else torch.contiguous_format
    tensors = [torch.ones(s).contiguous(memory_format=layout) for s in (left, right)]
    for ranges in ([], [-128, 127, -32768, 32767] if conv else [-128, 127, -128, 127]):
        units = [1.0, 1.0] if ranges else []
        arguments = (kind.value, *tensors, list(shape), geometry.numbers(), ranges, units, "fc", "")
        torch.library.opcheck(torch.ops.bitwright.product.default, arguments)


def test_opcheck_of_the_fold():
    acc, weight = torch.ones(2, 3, 4, 4), torch.ones(3, 2, 1, 1)
    line = torch.ones(3, dtype=torch.float64)
    arguments = ([acc], line[None], line * 0.5, weight, [128, 128], 2, 52, "conv")
    torch.library.opcheck(torch.ops.bitwright.fold.default, arguments)
    assert torch.equal(torch.ops.bitwright.fold(*arguments), acc.double() + 0.5)
    line = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    arguments = ([acc, acc * 3], line, line[0], None, [128, 384], 2, 31, "add")
    torch.library.opcheck(torch.ops.bitwright.fold.default, arguments)
    assert torch.equal(torch.ops.bitwright.fold(*arguments), acc.double() * 7)


def two_layers(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)]
    if norm:
        layers.insert(1, nn.BatchNorm2d(4))
    model = nn.Sequential(*layers)
    recipe = bw.recipe("float", weight="fixed8.6", activation="fixed12.8", error="fixed8.12")
    bw.quantize_(model, recipe, verbose=False)
    for layer in (model[0], model[-1]):
        layer.exact = Exact.ALL
    return model


# dynamo instantiates every autograd.Function that it meets, which torch itself warns of
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
def test_a_compiled_model_is_one_graph_and_computes_the_same_bits(training, norm):
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        model = two_layers(norm).train(training)
        call = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        y = call(torch.linspace(-1, 1, 216).view(2, 3, 6, 6))
        results.append([y.detach()])
        if training:
            y.square().sum().backward()
            results[-1] += [p.grad for p in model.parameters()]
    assert results[0][0].any()
    assert all(map(torch.equal, *results))


def test_the_norm_chooses_inside_the_compiled_graph():
    """The same graph takes another path as soon as the data bound does not hold, and stays exact."""
    torch._dynamo.reset()
    known = Operand(-2048, 2047), Operand(-2048, 2047)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def multiply(a, w):
        return sums(LinearGeometry(), Kind.FORWARD, a, w, None, known)

    a = torch.full((1, 512), 2047.0)
    for value in (3.0, 2047.0):
        w = torch.full((1, 512), value)
        assert multiply(a, w).item() == 512 * 2047 * int(value)


def test_path_by_name():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="int8 is exact"):
        sums(LinearGeometry(), Kind.FORWARD, x, x, None, (Operand(-500, 500),) * 2, path=Path.INT8)
    with pytest.raises(ValueError, match="split is exact"):
        sums(LinearGeometry(), Kind.FORWARD, x, x, None, (Operand(-(2**30), 2**30),) * 2, path=Path.SPLIT)
