"""The six operands: a format in any one of them changes exactly what it should and nothing else.

The reference takes each product by itself in float64 with torch's own functions. The data lies on a fine
grid, so that every sum is exact and equality needs no tolerance.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.formats import Binary, Fixed, Int, Rounding, parse
from bitwright.nn import OPERANDS, SHORT_NAMES
from bitwright.quantize import Estimator, QuantizerSpec, quantizers
from bitwright.recipes import Recipe

FORM = Fixed(5, 2)  # steps of 1/4 from -4 to 3.75: both rounds and saturates the data below


def data(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-96, 97, shape, generator=generator) / 16


CASES = {
    "linear": (lambda: nn.Linear(6, 5), (7, 6)),
    "linear 3d": (lambda: nn.Linear(6, 5, bias=False), (2, 3, 6)),
    "conv": (lambda: nn.Conv2d(3, 4, 3), (2, 3, 7, 6)),
    "conv strided": (
        lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
        (2, 2, 6, 5),
    ),
    "conv same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (1, 2, 5, 5)),
}


def build(case):
    make, shape = CASES[case]
    layer = make()
    with torch.no_grad():
        layer.weight.copy_(data(*layer.weight.shape, seed=1) / 2)
        if layer.bias is not None:
            layer.bias.copy_(data(*layer.bias.shape, seed=2))
    return nn.Sequential(layer), data(*shape, seed=3)


def run(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    error = data(*y.shape, seed=4)
    y.backward(error)
    layer = model[0]
    bias = None if layer.bias is None else layer.bias.grad
    return {"y": y.detach(), "dx": x.grad, "dw": layer.weight.grad, "db": bias}, error


def reference(layer, x, error, roles):
    """Each of the three products by itself, in float64, from quantised operands."""

    def operand(name, tensor):
        form = roles.get(name, roles.get(name.split(".")[1]))
        return (tensor if form is None else form.quantize(tensor)).double()

    def forward(a, w):
        if isinstance(layer, nn.Linear):
            return F.linear(a, w)
        return F.conv2d(a, w, stride=layer.stride, padding=layer.padding)

    weight = layer.weight.detach()
    y = forward(operand("forward.activation", x), operand("forward.weight", weight))
    shape = (-1,) if isinstance(layer, nn.Linear) else (-1, 1, 1)
    if layer.bias is not None:
        y = y + layer.bias.detach().double().view(shape)
    a, w = x.double().requires_grad_(), operand("dgrad.weight", weight)
    (dx,) = torch.autograd.grad(forward(a, w), a, operand("dgrad.error", error))
    a, w = operand("wgrad.activation", x), weight.double().requires_grad_()
    (dw,) = torch.autograd.grad(forward(a, w), w, operand("wgrad.error", error))
    over = [axis for axis in range(y.dim()) if axis != (y.dim() - 1 if len(shape) == 1 else 1)]
    db = None if layer.bias is None else error.double().sum(over)
    return {"y": y, "dx": dx, "dw": dw, "db": db}


def same(got, expected):
    for key, value in expected.items():
        assert (got[key] is None) == (value is None)
        if value is not None:
            assert got[key].dtype == torch.float32
            assert torch.equal(got[key].double(), value), key


TOUCHES = {
    "forward.activation": {"y"},
    "forward.weight": {"y"},
    "dgrad.error": {"dx"},
    "dgrad.weight": {"dx"},
    "wgrad.error": {"dw"},
    "wgrad.activation": {"dw"},
    "activation": {"y", "dw"},
    "weight": {"y", "dx"},
    "error": {"dx", "dw"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("role", [*OPERANDS, *SHORT_NAMES])
def test_one_role_changes_its_own_products_and_nothing_else(case, role):
    plain, x = build(case)
    before, error = run(plain, x)
    same(before, reference(plain[0], x, error, {}))
    model, _ = build(case)
    bw.quantize_(model, Recipe("one", roles={role: QuantizerSpec(FORM)}), verbose=False)
    after, _ = run(model, x)
    same(after, reference(model[0], x, error, {role: FORM}))
    changed = {k for k, v in after.items() if v is not None and not torch.equal(v, before[k])}
    assert changed == TOUCHES[role]


@pytest.mark.parametrize("case", ["linear", "conv strided"])
def test_every_pair_and_all_six_at_once(case):
    forms = dict(
        zip(OPERANDS, (Fixed(5, 2), Fixed(4, 1), Int(4), Fixed(3, 0), Fixed(6, 3), Binary()), strict=True)
    )
    chosen = [*itertools.combinations(OPERANDS, 2), OPERANDS]
    for operands in chosen:
        roles = {operand: forms[operand] for operand in operands}
        model, x = build(case)
        specs = {operand: QuantizerSpec(form) for operand, form in roles.items()}
        bw.quantize_(model, Recipe("some", roles=specs), verbose=False)
        got, error = run(model, x)
        same(got, reference(model[0], x, error, roles))


def test_an_operands_own_name_wins_over_the_short_one():
    model, x = build("linear")
    roles = {"weight": Fixed(5, 2), "dgrad.weight": Fixed(4, 1)}
    specs = {role: QuantizerSpec(form) for role, form in roles.items()}
    bw.quantize_(model, Recipe("both", roles=specs), verbose=False)
    got, error = run(model, x)
    same(got, reference(model[0], x, error, {"forward.weight": Fixed(5, 2), "dgrad.weight": Fixed(4, 1)}))


@pytest.mark.parametrize(("roles", "calls"), [
    (("activation",), {"activation": 1}),
    (("weight",), {"weight": 1}),
    (("error",), {"error": 1}),
    (("forward.weight", "dgrad.weight"), {"forward_weight": 1, "dgrad_weight": 1}),
    (SHORT_NAMES, {"activation": 1, "weight": 1, "error": 1}),
    (("weight", "wgrad.error"), {"weight": 1, "wgrad_error": 1}),
])  # fmt: skip
def test_a_tensor_is_quantised_once_and_reused(roles, calls):
    model, x = build("conv")
    bw.quantize_(model, Recipe("count", roles={r: QuantizerSpec(FORM) for r in roles}), verbose=False)
    counted = {}
    for name, module in model[0].slots.named_children():
        module.register_forward_hook(
            lambda *_, name=name: counted.__setitem__(name, counted.get(name, 0) + 1)
        )
    run(model, x)
    assert counted == calls


def test_estimators_act_on_the_gradients_of_their_own_tensor():
    model, x = build("linear")
    spec = QuantizerSpec(FORM, estimator=Estimator.CLIPPED)
    bw.quantize_(model, Recipe("clip", roles={"activation": spec, "weight": spec}), verbose=False)
    got, error = run(model, x)
    expected = reference(model[0], x, error, {"activation": FORM, "weight": FORM})
    for key, tensor in (("dx", x), ("dw", model[0].weight.detach())):
        inside = (tensor >= -4) & (tensor <= 3.75)
        assert key == "dw" or not inside.all()
        expected[key] = expected[key] * inside
    same(got, expected)


@pytest.mark.parametrize("case", ["linear", "conv"])
@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_moving_scales_multiply_the_exact_integers(case, per):
    """One multiplication by the scales follows the integer sum, and the bias comes after it."""
    model, x = build(case)
    recipe = bw.recipe(
        "float",
        activation={"format": "int8", "controller": "max-abs"},
        weight={"format": "int8", "controller": "max-abs", "per": per},
        error={"format": "int8", "controller": "max-abs"},
    )
    bw.quantize_(model, recipe, verbose=False)
    got, error = run(model, x)
    layer, weight = model[0], model[0].weight.detach()
    form = Int(8)
    axes = tuple(range(1, weight.dim()))
    w_scale = weight.abs().amax(axes, keepdim=True) / 127 if per == "channel" else weight.abs().max() / 127
    a_scale, e_scale = x.abs().max() / 127, error.abs().max() / 127
    a, e = form.encode(x, scale=a_scale).double(), form.encode(error, scale=e_scale).double()
    w = form.encode(weight, scale=w_scale).double()
    product = F.linear if case == "linear" else F.conv2d
    shape = (-1,) if case == "linear" else (-1, 1, 1)
    acc = product(a, w).float()
    y = acc * (a_scale * w_scale.flatten()).view(shape) + layer.bias.detach().view(shape)
    assert torch.equal(got["y"], y)
    plain_w = w.clone().requires_grad_()
    (dw,) = torch.autograd.grad(product(a, plain_w), plain_w, e)
    assert torch.equal(got["dw"], dw.float() * (e_scale * a_scale))
    plain_a = a.clone().requires_grad_()
    if per == "tensor":
        (dx,) = torch.autograd.grad(product(plain_a, w), plain_a, e)
        assert torch.equal(got["dx"], dx.float() * (e_scale * w_scale))
    else:  # the scale varies along the reduction: float sums of values
        (dx,) = torch.autograd.grad(product(plain_a, w * w_scale), plain_a, e * e_scale)
        assert torch.allclose(got["dx"], dx.float(), rtol=1e-5, atol=1e-5)


def test_stochastic_errors_draw_by_role_and_step():
    spec = QuantizerSpec(FORM, rounding=Rounding.STOCHASTIC)

    def grads(seed, steps):
        model, x = build("linear")
        bw.quantize_(model, Recipe("s", roles={"error": spec}), seed=seed, verbose=False)
        for _ in range(steps):
            model.zero_grad()
            got, error = run(model, x)
        return got["dx"], model, error

    dx, model, error = grads(0, 1)
    key = bw.Key(0, "0.error", step=1)
    levels = FORM.quantize(error, rounding="stochastic", key=key)
    assert torch.equal(dx.double(), levels.double() @ model[0].weight.detach().double())
    assert torch.equal(dx, grads(0, 1)[0])
    assert not torch.equal(dx, grads(1, 1)[0])
    assert not torch.equal(dx, grads(0, 2)[0])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_forward_product_is_exact_beyond_float32(bits):
    """12 bits at K = 512 overflow float32's 24; 16 bits need 41."""
    generator = torch.Generator().manual_seed(bits)
    model = nn.Sequential(nn.Linear(512, 3, bias=False))
    bw.quantize_(model, bw.recipe("float", activation=f"int{bits}", weight=f"int{bits}"), verbose=False)
    high = 2 ** (bits - 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.randint(high // 2, high, (3, 512), generator=generator))
    x = torch.randint(high // 2, high, (4, 512), generator=generator).float()
    exact = x.to(torch.int64) @ model[0].weight.detach().to(torch.int64).T
    assert exact.max() > 2**24 or bits == 8
    assert torch.equal(model(x).double(), exact.double().float().double())
    model.eval()
    assert torch.equal(model(x), exact.double().float())


def test_a_bound_beyond_float64_is_an_error_that_names_the_layer():
    model = nn.Sequential(nn.Linear(64, 2))
    bw.quantize_(model, bw.recipe("float", activation="int32", weight="int32"), verbose=False)
    with torch.no_grad():
        model[0].weight.fill_(2.0**31)
    with pytest.raises(bw.formats.number.InvalidValueError, match=r"2\^53.*at 0"):
        model(torch.ones(1, 64))


@pytest.mark.parametrize(
    "role", ["activation", "error", "wgrad.activation", "dgrad.error", "forward.activation"]
)
def test_no_scale_varies_along_a_reduction(role):
    with pytest.raises(ValueError, match="reduction axis"):
        bw.recipe(
            "float", **{role.replace(".", "_"): {"format": "int8", "controller": "max-abs", "per": "channel"}}
        )


def test_gradients_flow_to_all_parameters_in_training():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Hardtanh(), nn.Flatten(), nn.Linear(16, 3)
    )
    bw.quantize_(model, "qnn", verbose=False)
    model(torch.rand(5, 1, 4, 4) * 2 - 1).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert len(list(quantizers(model))) == 4
    assert parse("fixed8.7") == model[0].slots.of("forward.activation").format


@pytest.mark.parametrize("case", ["linear", "conv"])
def test_autocast_is_off_inside_products(case):
    """bfloat16 has 8 bits: sums of integers need more."""
    results = []
    for enabled in (False, True):
        model, x = build(case)
        bw.quantize_(
            model, Recipe("a", roles={r: QuantizerSpec(Fixed(8, 4)) for r in SHORT_NAMES}), verbose=False
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            got, _ = run(model, x)
            got["eval"] = model.eval()(x).detach()
        results.append(got)
    for key, value in results[0].items():
        assert results[1][key].dtype == torch.float32
        assert torch.equal(results[1][key], value), key
