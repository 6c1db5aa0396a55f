"""Every layer with six operands, in every width that lowers: emulation = interpreter = engine."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import bitwright as bw
from bitwright import models
from bitwright.errors import InvalidValueError
from bitwright.integer import Conv, ConvTranspose
from bitwright.kernels import available_isas
from bitwright.recipes import recipe

MOVING = {"controller": "max-abs"}


def both(form, **options):
    """A recipe that gives weights and activations one format."""
    spec = {"format": form, **options}
    return recipe("float", weight=spec, activation=spec)


RECIPES = {
    "int8": recipe(
        "float",
        weight={"format": "int8", "per": "channel", **MOVING},
        activation={"format": "uint8", "controller": "min-max"},
    ),
    "binary": recipe("qnn"),
    "ternary": recipe("qnn", weight={"format": "ternary", **MOVING}, activation={"format": "int4", **MOVING}),
    "log4": recipe("float", weight={"format": "log4", **MOVING}, activation={"format": "int8", **MOVING}),
    "log4-sqrt2": recipe(
        "float",
        weight={"format": "log4-sqrt2", "per": "channel", **MOVING},
        activation={"format": "int8", **MOVING},
    ),
    "log5": recipe("float", weight="log5", activation={"format": "int16", **MOVING}),
    "fixed12": both("fixed12", controller="overflow-rate"),
    "fixed12.6": recipe("float", weight="fixed12.10", activation="fixed12.6", error="fixed12.9"),
    "int16": both("int16", **MOVING),
    "flex16+5": recipe(
        "float",
        **{
            role: {"format": "flex16+5", "controller": "autoflex"}
            for role in ("weight", "activation", "error", "primal")
        },
    ),
}


def images(channels=2):
    """All two-dimensional layers in one chain."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, (3, 2), padding="same", dilation=(1, 3)), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=3), nn.ReLU(),
        nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1, groups=4),
        nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 4 * 4, 5), nn.BatchNorm1d(5),
    )  # fmt: skip


def sequences(channels=2):
    """One-dimensional layers: norm and pools over [N, C, L]."""
    return nn.Sequential(
        nn.Conv1d(channels, 6, 4, padding="same"), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2, padding=1),
        nn.Conv1d(6, 6, 3, stride=2, padding=1, groups=6), nn.MaxPool1d(2, stride=1), nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Conv1d(6, 9, 3, padding=2, dilation=2, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 5),
    )  # fmt: skip


CHAINS = {"images": (images, (2, 8, 8)), "sequences": (sequences, (2, 12))}


def trained(model, shape, found, steps=3):
    """A quantised model after some steps of training, and a batch."""
    torch.manual_seed(0)
    bw.quantize_(model, found, verbose=False)
    assert not any(type(m).__module__.startswith("torch.nn.modules.conv") for m in model.modules())
    x, labels = torch.rand(12, *shape) * 2 - 1, torch.arange(12) % 5
    optimizer = found.optimizer(model, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model, x


def same_codes(model, x):
    """The lowered network, after each backend that runs it was compared."""
    network = bw.lower(model, x)
    isas = available_isas() if network.engine_problem is None else ()
    for backend, isa in (("interpreter", None), *(("engine", isa) for isa in isas)):
        result = bw.verify(model, network, [x, -x[:2]], backend=backend, isa=isa)
        assert result.differing == 0, result
    return network


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("chain", CHAINS)
def test_every_layer_in_every_width_has_no_differing_codes(chain, name):
    make, shape = CHAINS[chain]
    model, x = trained(make(), shape, RECIPES[name])
    network = same_codes(model, x)
    assert network(x.numpy()).any()
    if chain == "sequences":  # eight bits at most run on the engine
        assert (network.engine_problem is None) == (name in ("int8", "binary", "ternary", "log4"))


@pytest.mark.parametrize("name", ["binary", "int8"])
@pytest.mark.parametrize(("net", "shape"), [
    ("dscnn", (3, 11, 9)), ("dscnn", (1, 8, 8)), ("convnet1d", (1, 8, 8)), ("convnet1d", (3, 1, 20)),
])  # fmt: skip
def test_the_networks_lower(net, shape, name):
    model, x = trained(models.build(net, 4, shape, 5), shape, RECIPES[name], steps=1)
    same_codes(model, x)


def test_operations_are_what_the_layers_were():
    found = RECIPES["int8"]
    model, x = trained(images(), (2, 8, 8), found, steps=1)
    operations = [o for o in bw.lower(model, x).operations if isinstance(o, Conv | ConvTranspose)]
    same, depthwise, groups, transposed, last = operations
    assert (same.padding, same.dilation, same.groups) == ((1, 1, 1, 2), (1, 3), 1)
    assert (depthwise.stride, depthwise.groups, depthwise.weight.shape) == ((2, 2), 6, (6, 1, 3, 3))
    assert (groups.dilation, groups.groups, groups.weight.shape) == ((2, 2), 3, (12, 2, 3, 3))
    assert (transposed.groups, transposed.weight.shape) == (4, (8, 3, 3, 3))  # output channels first
    assert (transposed.stride, transposed.padding, transposed.output_padding) == ((2, 2), (1, 1), (1, 1))
    assert last.weight.shape == (4, 8, 2, 2)


@st.composite
def chains(draw):
    """A random chain of convolutions, its recipe and the shape of its input."""
    rank = draw(st.integers(1, 2))
    conv, norm, pool = (
        (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d) if rank == 1 else (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
    )

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    channels, size = draw(st.integers(1, 4)), each(5, 8)
    shape, layers = (channels, *size), []
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride, padding, dilation = each(1, 3), each(1, 2), each(0, 2), each(1, 2)
        groups = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
        out = groups * draw(st.integers(1, 5))
        bias = draw(st.booleans())
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if rank == 2 and draw(st.booleans()):
            more = tuple(draw(st.integers(0, s - 1)) for s in stride)
            after = [
                (n - 1) * s + span + o - 2 * p
                for n, s, span, o, p in zip(size, stride, spans, more, padding, strict=True)
            ]
            layer = nn.ConvTranspose2d(channels, out, kernel, stride, padding, more, groups, bias, dilation)
        else:
            after = [
                (n + 2 * p - span) // s + 1
                for n, p, span, s in zip(size, padding, spans, stride, strict=True)
            ]
            layer = conv(channels, out, kernel, stride, padding, dilation, groups, bias)
        if min(after) < 1 or max(after) > 20:
            continue
        layers.append(layer)
        channels, size = out, after
        if min(size) > 1 and draw(st.booleans()):
            layers.append(pool(2))
            size = [n // 2 for n in size]
        layers += [norm(out)] if draw(st.booleans()) else []
        layers.append(draw(st.sampled_from([nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.3, 0.6)])))
    features = channels * torch.Size(size).numel()
    layers += [nn.Flatten(), nn.Linear(features, 5)]
    name = draw(st.sampled_from([n for n in RECIPES if n != "binary"]))
    return nn.Sequential(*layers), RECIPES[name], shape


def check_chain(case):
    model, found, shape = case
    torch.manual_seed(1)
    bw.quantize_(model, found, verbose=False)
    x = torch.rand(5, *shape) * 2 - 1
    model(x), model(x)
    same_codes(model, x)


common = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@settings(common, max_examples=40)
@given(chains())
def test_random_chains_have_no_differing_codes(case):
    check_chain(case)


@pytest.mark.slow
@settings(common, max_examples=1000)
@given(chains())
def test_many_random_chains_have_none(case):
    check_chain(case)


# --- what does not lower ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("roles", "message"), [
    ({"weight": "e4m3fn", "activation": "int8"}, "weight is e4m3fn, whose numbers are no integers"),
    ({"weight": "log6", "activation": "int8"}, r"weight is log6, whose powers span more than 2\^26"),
    ({"weight": "int8", "activation": "log4"}, "activation is log4, whose numbers are no integers"),
    ({"weight": "mxint8", "activation": "int8"}, "weight is mxint8, whose numbers are no integers"),
])  # fmt: skip
def test_formats_that_are_no_integers_are_named(roles, message):
    model = nn.Sequential(nn.Conv1d(2, 3, 3))
    bw.quantize_(model, recipe("float", **roles), verbose=False)
    with pytest.raises(InvalidValueError, match=r"0: its forward\." + message):
        bw.lower(model, torch.zeros(1, 2, 8))


def test_accumulators_beyond_2_53_are_named():
    model = nn.Sequential(nn.Conv1d(2, 3, 3))
    with torch.no_grad():
        model[0].weight.fill_(2.0**25)
    bw.quantize_(model, both("int28"), verbose=False)
    with pytest.raises(InvalidValueError, match=r"2\^5"):
        bw.lower(model, torch.zeros(1, 2, 8))


def test_a_flatten_that_keeps_axes():
    model = nn.Sequential(
        nn.Flatten(1, 2), nn.Conv1d(6, 4, 3), nn.ReLU(), nn.Flatten(1, -1), nn.Linear(16, 2)
    )
    bw.quantize_(model, both("int8", **MOVING), verbose=False)
    x = torch.rand(3, 2, 3, 6)
    model(x)
    assert [o.kind for o in same_codes(model, x).operations][:3] == ["input", "reshape", "conv"]
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 3))
    bw.quantize_(model, both("int8"), verbose=False)
    with pytest.raises(InvalidValueError, match="flatten keeps the batch axis, and none behind it"):
        bw.lower(model, x)


# --- quantize_, recipes, compile --------------------------------------------------------------------------


def test_recipe_files_name_the_layers(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("""
name = "mine"
[roles]
weight = "int8"
activation = "int8"
[layers.Conv1d]
weight = "log4"
optional = true
[layers.ConvTranspose2d]
weight = "fixed12.10"
optional = true
""")
    for model, kind, form in ((sequences(), "Conv1d", "log4"), (images(), "ConvTranspose2d", "fixed12.10")):
        named = {name for name, m in model.named_modules() if type(m).__name__ == kind}
        report = bw.quantize_(model, recipe(path), verbose=False)
        formats = {
            row.tensor.removesuffix(":weight"): row.format
            for row in report.rows
            if row.tensor.endswith(":weight")
        }
        assert {name for name, f in formats.items() if f.startswith(form)} == named
        assert {f for name, f in formats.items() if name not in named} == {"int8"}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("make", [images, sequences])
def test_there_and_back(make):
    plain = make()
    model = copy.deepcopy(plain)
    bw.quantize_(model, RECIPES["int16"], verbose=False)
    model.load_state_dict(plain.state_dict(), strict=True)  # a float checkpoint
    bw.dequantize_(model)
    assert [type(m) for m in model] == [type(m) for m in plain]
    x = torch.rand(2, 2, 12) if make is sequences else torch.rand(2, 2, 8, 8)
    assert torch.equal(model.eval()(x), plain.eval()(x))


def small(static):
    """Each new layer once, with scales that stand still: quick to compile."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(2), nn.Conv1d(2, 4, 2, padding="same", groups=2), nn.ReLU(), nn.Unflatten(2, (4, 4)),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
    )  # fmt: skip
    bw.quantize_(model, static, verbose=False)
    return model, torch.rand(3, 2, 4, 4) * 2 - 1


# dynamo instantiates every autograd.Function that it meets, which torch itself warns of
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    "case", ["small", *(pytest.param(chain, marks=pytest.mark.slow) for chain in CHAINS)]
)
def test_a_compiled_model_is_one_graph_and_computes_the_same_bits(case):
    torch._dynamo.reset()
    if case == "small":
        model, x = small(
            recipe("float", weight={"format": "log4-sqrt2", "scale": 2**-4}, activation="fixed8.6")
        )
    else:
        make, shape = CHAINS[case]
        model, x = trained(make(), shape, RECIPES["int8"], steps=1)
    model.zero_grad()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for call in (compiled, twin):
        call(x).square().sum().backward()
    for (key, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert p.grad.any(), key
        assert torch.equal(p.grad, q.grad), key
    with torch.no_grad():
        assert torch.equal(compiled.eval()(x), twin.eval()(x))
