"""A format in one slot changes exactly what it should and nothing else: each operand against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed
from bitwright.nn import OPERANDS
from bitwright.nn.product import ConvGeometry, LinearGeometry, accumulator_bound, exact_type
from bitwright.quantize import Quantizer

FORMAT = Fixed(6, 4)


def q(x):
    return FORMAT.quantize(x.detach())


class Linear:
    def layer(self):
        return nn.Linear(7, 5)

    x = (4, 7)

    def products(self, f, d, w, x, weight, bias, g):
        """Forward, dgrad, wgrad, each from its own two operands."""
        y = f["activation"](x) @ f["weight"](weight).T + bias
        return y, d["error"](g) @ d["weight"](weight), w["error"](g).T @ w["activation"](x)


class Conv:
    def layer(self):
        return nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 1))

    x = (2, 3, 6, 5)

    def products(self, f, d, w, x, weight, bias, g):
        def conv(x, w):
            return F.conv2d(x, w, stride=(2, 1), padding=(1, 1))

        y = conv(f["activation"](x), f["weight"](weight)) + bias[:, None, None]
        probe = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(conv(probe, d["weight"](weight)), probe, d["error"](g))
        probe = weight.clone().requires_grad_()
        (dw,) = torch.autograd.grad(conv(w["activation"](x), probe), probe, w["error"](g))
        return y, dx, dw


def run(case, roles):
    torch.manual_seed(11)
    plain = case.layer()
    x = torch.randn(case.x, requires_grad=True)
    model = nn.Sequential(plain)
    if roles:
        bw.quantize_(model, bw.recipe("float", **{r.replace(".", "_"): FORMAT for r in roles}), verbose=False)
    y = model(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(12))
    y.backward(g)
    parameters = dict(model[0].named_parameters())
    return y.detach(), x.grad, parameters["weight"].grad, parameters["bias"].grad, g


def expected(case, roles, g):
    torch.manual_seed(11)
    plain = case.layer()
    x = torch.randn(case.x)

    def operands(product):
        names = [o for o in OPERANDS if o.startswith(product)]
        return {
            n.split(".")[1]: q if n in roles or n.split(".")[1] in roles else (lambda t: t) for n in names
        }

    weight, bias = plain.weight.detach(), plain.bias.detach()
    return case.products(operands("forward"), operands("dgrad"), operands("wgrad"), x, weight, bias, g)


AFFECTED = {"forward": 0, "dgrad": 1, "wgrad": 2}


@pytest.mark.parametrize("role", OPERANDS)
@pytest.mark.parametrize("case", [Linear(), Conv()], ids=["linear", "conv"])
def test_one_operand_changes_its_product_and_nothing_else(case, role):
    base = run(case, [])
    got = run(case, [role])
    wanted = expected(case, [role], base[4])
    changed = AFFECTED[role.split(".")[0]]
    for index in range(3):
        # the operands are small fixed-point numbers, so all sums of a changed pair agree to rounding
        assert torch.allclose(got[index], wanted[index], atol=1e-5), (role, index)
        same = torch.allclose(got[index], base[index], atol=1e-6)
        assert same == (index != changed), (role, index)
    assert torch.allclose(got[3], base[3], atol=1e-6)  # the bias gradient never changes


@pytest.mark.parametrize("case", [Linear(), Conv()], ids=["linear", "conv"])
def test_products_of_levels_are_exact(case):
    got = run(case, ["activation", "weight", "error"])
    y, dx, dw = expected(case, ["activation", "weight", "error"], got[4])
    # multiples of 2^-8 of few bits: float32 holds these sums exactly, whatever their order
    assert torch.equal(got[1], dx)
    assert torch.equal(got[2], dw)
    assert torch.allclose(got[0], y, atol=1e-6)  # y has a float bias


@pytest.mark.parametrize(("role", "operands"), [("weight", 2), ("activation", 2), ("error", 2)])
def test_short_names_quantise_once(role, operands, monkeypatch):
    calls = []
    original = Quantizer.forward
    monkeypatch.setattr(Quantizer, "forward", lambda self, x: calls.append(1) or original(self, x))
    run(Linear(), [role])
    assert len(calls) == 1
    calls.clear()
    run(Linear(), [o for o in OPERANDS if o.endswith(role)])
    assert len(calls) == operands


def test_the_operand_wins_over_the_short_name():
    model = nn.Sequential(nn.Linear(3, 2))
    recipe = bw.recipe("float", weight="int8", dgrad_weight="int4")
    bw.quantize_(model, recipe, verbose=False)
    slots = model[0].slots
    assert str(slots.of("forward.weight").format) == "int8"
    assert str(slots.of("dgrad.weight").format) == "int4"
    assert slots.of("wgrad.error") is None


def test_per_channel_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3, bias=False))
    weight = model[0].weight.detach().clone()
    recipe = bw.recipe("float", weight={"format": "int4", "controller": "max-abs", "per": "channel"})
    bw.quantize_(model, recipe, verbose=False)
    x = torch.randn(5, 6, requires_grad=True)
    g = torch.randn(5, 3)
    y = model(x)
    y.backward(g)
    scale = weight.abs().amax(1, keepdim=True) / 7
    values = torch.round(weight / scale).clamp(-8, 7) * scale
    assert torch.allclose(y, x @ values.T, atol=1e-5)
    assert torch.allclose(x.grad, g @ values, atol=1e-5)


def test_scales_along_a_reduction_axis_are_refused():
    with pytest.raises(InvalidValueError, match="reduction axis"):
        bw.recipe("float", activation={"format": "int8", "controller": "max-abs", "per": "channel"})


def test_linear_takes_more_axes_and_none():
    model = nn.Sequential(nn.Linear(6, 3))
    bw.quantize_(model, bw.recipe("float", weight="fixed8.6", error="fixed8.4"), verbose=False)
    for shape in [(6,), (2, 6), (2, 3, 6)]:
        x = torch.randn(shape, requires_grad=True)
        y = model(x)
        assert y.shape == (*shape[:-1], 3)
        y.sum().backward()
        assert x.grad.shape == shape


def test_sums_beyond_float32_stay_exact():
    # 12-bit levels, K = 512: float32 sums would be wrong (2^22 a product)
    generator = torch.Generator().manual_seed(5)
    weight = torch.randint(-2048, 2048, (8, 512), generator=generator)
    x = torch.randint(-2048, 2048, (16, 512), generator=generator)
    model = nn.Sequential(nn.Linear(512, 8, bias=False))
    model[0].weight.data = weight.float()
    bw.quantize_(model, bw.recipe("float", weight="int12", activation="int12"), verbose=False)
    exact = x @ weight.T
    assert exact.abs().max() > 1 << 24
    assert torch.equal(model(x.float()), exact.double().float())
    assert torch.equal(model.eval()(x.float()), exact.double().float())


def test_bounds():
    weight = torch.zeros(4, 1000)
    weight[2, :10] = 100
    assert accumulator_bound(LinearGeometry(), weight, 128, 128) == 1000 * 128 * 128
    weight = torch.zeros(4, 4000)
    weight[2, :10] = 100  # the norm of the actual levels is tighter than the widths
    assert accumulator_bound(LinearGeometry(), weight, 128, 128) == 1000 * 128
    assert accumulator_bound(ConvGeometry((1, 1), (1, 1)), torch.zeros(2, 3, 3, 3), 1, 1) == 27
    assert exact_type(1 << 24, "") == torch.float32
    assert exact_type((1 << 24) + 1, "") == torch.float64
    with pytest.raises(InvalidValueError, match=r"2\^53.*fc9"):
        exact_type((1 << 53) + 1, "fc9")
