"""Networks with branches: emulation, interpreter and engine compute the same codes."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from branching_networks import (
    BasicBlock,
    Dense,
    Functional,
    Inception,
    Modules,
    PreActivation,
    ResNet,
)
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.integer import Affine, Conv, Threshold
from bitwright.nn import GlobalAvgPool, Shortcut
from bitwright.quantize import quantizers
from bitwright.recipes import LayerRule, Recipe, parse_spec
from bitwright.training.checkpoint import load_checkpoint, save_checkpoint


def spec(text, **more):
    """`int8` with the scale of what was measured; `int8!` with a zero point."""
    controller = "min-max" if text.endswith("!") else "max-abs"
    table = {"format": text.rstrip("!"), "controller": controller, **more}
    return parse_spec("binary" if text == "binary" else table, "activation", "test")


def recipe(weight="int8", activation="int8", **layers):
    rules = [LayerRule(key, {"activation": spec(text)}, optional=True) for key, text in layers.items()]
    per_channel = parse_spec(
        weight if weight == "binary" else {"format": weight, "controller": "max-abs", "per": "channel"},
        "weight",
        "test",
    )
    roles = {"weight": per_channel, "activation": spec(activation)}
    return Recipe("test", roles=roles, layers=tuple(rules), replace={"ReLU": "Hardtanh", "ReLU6": "Hardtanh"})


def prepared(model, found, shape=(3, 8, 8), steps=2, seed=0):
    """Quantised, with scales and norm statistics that some batches left; and a batch."""
    generator = torch.Generator().manual_seed(seed)
    bw.quantize_(model, found, verbose=False)
    for _ in range(steps):
        model(torch.randn(8, *shape, generator=generator))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(torch.randn(module.num_features, generator=generator))
                module.bias.copy_(torch.randn(module.num_features, generator=generator) / 2)
    return model, torch.randn(8, *shape, generator=generator) * 1.5


def same_codes(model, x):
    network = bw.lower(model, x)
    for backend in ("interpreter", "engine"):
        result = bw.verify(model, network, [x[:5], x[5:]], backend=backend)
        assert result.differing == 0, result
        assert result.examples == len(x)
    return network


def kinds(network):
    return [type(operation).__name__ for operation in network.operations]


RECIPES = {
    "int8": recipe(),
    "int4": recipe("int4", "int4"),
    "int4 and int8 sums": recipe("int4", "int4", Add="int8", Concat="int8"),
    "int8 and int5 sums": recipe("int8", "int8", Add="int5", Concat="int5"),
    "zero points": recipe("int8", "uint8!"),
    "zero points of several": recipe("int8", "int8!", Add="uint8!", Concat="int6!"),
    "binary and int8 sums": recipe(
        "binary", "binary", Add="int8", Concat="int8", AvgPool2d="int8", AdaptiveAvgPool2d="int8",
        GlobalAvgPool="int8", first="int8",
    ),
}  # fmt: skip
MODELS = {
    "option A": lambda: ResNet(1, 4),
    "option B": lambda: ResNet(1, 4, "B"),
    "pre-activation": PreActivation,
    "dense": Dense,
    "inception": Inception,
    "functional": Functional,
}


PAIRS = list(itertools.product(MODELS, RECIPES))
DEFAULT = PAIRS[:: len(RECIPES) // 2]  # each model and each recipe; the others are slow


@pytest.mark.parametrize(
    ("model", "found"),
    [pytest.param(*pair, marks=[] if pair in DEFAULT else pytest.mark.slow) for pair in PAIRS],
)
def test_branches_have_no_differing_codes(model, found):
    torch.manual_seed(1)
    built, x = prepared(MODELS[model](), RECIPES[found])
    same_codes(built, x)


def test_an_int8_resnet20_runs_on_the_engine():
    torch.manual_seed(0)
    model, x = prepared(ResNet(), recipe(), (3, 32, 32), steps=1)
    network = same_codes(model, x[:6])
    assert kinds(network).count("Conv") == 19 + 2  # two shortcuts are convolutions by an identity
    assert kinds(network).count("Add") == 9
    # a block's input, its sum and its first layer have one quantiser: nothing is rounded twice
    assert kinds(network).count("Affine") == 1 + 9 * 2 + 1


@pytest.mark.parametrize("found", ["int8", "int4 and int8 sums", "zero points of several"])
def test_functions_and_modules_give_the_same_bits(found):
    torch.manual_seed(0)
    functional, modules = Functional(), Modules()
    modules.load_state_dict(functional.state_dict())
    results = []
    for model in (functional, modules):
        built, x = prepared(model, RECIPES[found])
        built.zero_grad()
        loss = built(x).square().sum()
        loss.backward()
        gradients = [
            p.grad for n, p in sorted(built.named_parameters()) if n.startswith(("a.", "b.", "c.", "fc."))
        ]
        results.append([loss.detach(), *gradients, built.eval()(x).detach()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_one_spec_shares_one_quantiser_and_others_requantise():
    torch.manual_seed(0)
    block, x = prepared(nn.Sequential(BasicBlock(3, 3), BasicBlock(3, 3)), recipe())
    first, second = block
    shared = first.conv1.slots.of("forward.activation")
    assert first.add.slots.of("1.activation") is shared  # the skip
    assert first.add.slots.of("0.activation") is not shared
    assert second.conv1.slots.of("forward.activation") is second.add.slots.of("1.activation")
    assert not first.add.slots.primaries
    assert not first.conv1.slots.primaries

    mixed, x = prepared(nn.Sequential(BasicBlock(3, 3), BasicBlock(3, 3)), recipe("int8", "int4", Add="int8"))
    second = mixed[1]
    wide = second.add.slots.of("1.activation")
    assert second.conv1.slots.of("forward.activation") is not wide
    assert second.conv1.slots.primaries == {"forward.activation": wide}
    assert not second.add.slots.primaries
    # the 4-bit codes of the second block's first layer are thresholds of 8-bit codes
    mixed.append(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    torch.manual_seed(0)
    whole = nn.Sequential(BasicBlock(3, 3), BasicBlock(3, 3), nn.Flatten(), nn.Linear(192, 2))
    model, x = prepared(whole, recipe("int8", "int4", Add="int8"))
    network = same_codes(model, x)
    source = network.operation("1.conv1").input
    assert isinstance(network.operation(source), Threshold)
    assert network.operation(network.operation(source).input).name == network.operation("1.add").inputs[1]


class Signs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(x.relu()))


def test_a_signed_quantiser_is_primary_before_an_unsigned_one():
    model, x = prepared(Signs(), recipe("int8", "int8", b="uint8"), (5,))
    assert model.b.slots.primaries["forward.activation"] is model.add.slots.of("0.activation")
    network = same_codes(model, x)
    assert isinstance(network.operation(network.operation("b").input), Affine)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("kernel", [2, 3, (3, 2)])
def test_average_pools(kernel, stride, padding):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 1), nn.AvgPool2d(kernel, stride, padding), nn.BatchNorm2d(3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(3, 4, 1), nn.AvgPool2d(2, divisor_override=3))
    model, x = prepared(model, recipe("int8", "uint8!"), (2, 7, 6))
    network = same_codes(model, x)
    assert network.operations[-1].kind == "output"
    assert network(x).shape == model(x).shape


def test_pools_over_sequences():
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.pool, self.last = nn.MaxPool1d(2), nn.AvgPool1d(3, 2, 1), nn.AdaptiveAvgPool1d(1)
            self.mean = GlobalAvgPool((2,), keepdim=True)
            self.join, self.fc = nn.Flatten(), nn.Linear(8, 3)

        def forward(self, x):
            y = self.pool(self.first(x))
            return self.fc(self.join(torch.cat([self.last(y), self.mean(x)], 1)))

    model, x = prepared(Sequences(), recipe(), (4, 13))
    same_codes(model, x)


ENDS = {
    "sum": lambda x, y: x + y,
    "flat sum": lambda x, y: (x + y).flatten(1),
    "mean": lambda x, y: (x + y).mean((2, 3)),
    "kept mean": lambda x, y: (x + y).mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_what_a_network_can_end_in(end, norm):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
            self.norm = nn.BatchNorm2d(3) if norm and end != "mean" else nn.Identity()

        def forward(self, x):
            if end == "flat sum":
                return self.norm(self.a(x) + self.b(x)).flatten(1)
            return self.norm(ENDS[end](self.a(x), self.b(x)))

    model, x = prepared(Net(), recipe(), (2, 5, 4))
    network = same_codes(model, x)
    assert network(x).shape == model(x).shape


def test_a_flattened_layer_can_be_the_output():
    model, x = prepared(
        nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten()), recipe(), (2, 4, 4)
    )
    network = same_codes(model, x)
    assert network(x).shape == (8, 27)


class Classes(nn.Module):
    def __init__(self, bias, call):
        super().__init__()
        self.fc, self.call = nn.Linear(7, 5, bias=bias), call

    def forward(self, x):
        return self.call(self.fc(x))


@pytest.mark.parametrize("call", [lambda x: x.argmax(1), lambda x: torch.argmax(x, dim=1)])
@pytest.mark.parametrize("bias", [False, True])
def test_an_argmax_ends_a_network(call, bias):
    """Of the accumulators where they are in the scores' order, of the scores where not."""
    found = bw.recipe("float", weight="int8", activation={"format": "int8", "controller": "max-abs"})
    model, x = prepared(Classes(bias, call), found, (7,))
    with torch.no_grad():
        model.fc.weight.mul_(100)
    network = same_codes(model, x)
    assert kinds(network)[-3:] == (["Linear", "Output", "Argmax"] if bias else ["Input", "Linear", "Argmax"])


def test_scores_become_an_argmax_where_lower_is_told_so(tmp_path):
    model, x = prepared(ResNet(1, 4), recipe(), (3, 8, 8))
    network = bw.lower(model, x, output="argmax")
    for backend in ("interpreter", "engine"):
        result = bw.verify(model, network, [x], backend=backend)
        assert result.differing == 0
        assert result.elements["output"] == len(x)
    network.save(tmp_path / "classes.bw")
    again = bw.load(tmp_path / "classes.bw")
    scores = bw.lower(model, x)(x)
    assert again(x).tolist() == scores.argmax(1).tolist()
    assert (again.trace(x)["scores"] == scores).all()
    with pytest.raises(InvalidValueError, match="did you mean 'scores'"):
        bw.lower(model, x, output="score")


def test_shortcuts_move_levels_to_any_slot():
    """In front of a layer, a pool and a concat; its zero channels are level 0, also with zero points."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.short = nn.Conv2d(2, 3, 1), Shortcut(2, 1, 2)
            self.conv, self.pool = nn.Conv2d(6, 4, 1), nn.AvgPool2d(2)
            self.same = nn.Conv2d(3, 6, 1, 2)

        def forward(self, x):
            x = self.stem(x)
            y = self.short(x)
            return torch.cat(
                [self.pool(y), self.pool2(self.conv(y)), self.pool3(torch.cat([y, self.same(x)], 1))], 1
            )

    class Ended(Net):
        def __init__(self):
            super().__init__()
            self.pool2, self.pool3 = nn.AvgPool2d(2), nn.AvgPool2d(2)
            self.end = nn.Conv2d(22, 2, 1)

        def forward(self, x):
            return self.end(super().forward(x))

    model, x = prepared(Ended(), recipe("int8", "uint8!"), (2, 8, 8))
    network = same_codes(model, x)
    shortcut = network.operation("short")
    assert isinstance(shortcut, Conv)
    assert str(shortcut.weight.format) == "ternary"
    model, x = prepared(Ended(), recipe("binary", "binary"), (2, 8, 8))
    with pytest.raises(
        InvalidValueError, match="zeros of a Shortcut or ZeroPad2d have no code in a binary slot"
    ):
        bw.lower(model, x)


def test_the_input_may_be_pooled_and_read_in_several_formats():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.MaxPool2d(2)
            self.a, self.b, self.norm = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(3)
            self.c = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            x = self.pool(x)
            return self.a(x) + self.b(x) + self.c(self.norm(x).relu())

    model, x = prepared(Net(), recipe("int8", "int8", a="int4"), (3, 6, 6))
    network = same_codes(model, x)
    assert str(network.input.format) == "int8"


REFUSED = {
    "two norms of one sum": (lambda m, x: m.n1(x + m.a(x)) + m.n2(x + m.a(x)), "called more than once"),
    "norms alone": (lambda m, x: m.b(m.n1(y := m.a(x))) + m.c(m.n2(y)), r"a: n1 .*is not directly behind it"),
    "output and slot": (lambda m, x: (y := m.a(x), m.b(y))[0], "one output|output and other|nothing"),
    "in place": (lambda m, x: m.b(y := m.a(x)) + m.inplace(y), "inplace .*works in place on a tensor"),
    "product": (lambda m, x: m.a(x) * m.b(x), "function mul"),
    "scaled sum": (lambda m, x: torch.add(m.a(x), m.b(x), alpha=2), "function add"),
    "sum with a number": (lambda m, x: m.b(m.a(x) + 1), "function add"),
    "concat of positions": (lambda m, x: torch.cat([m.a(x), m.b(x)], 2), "function cat|method cat|built"),
    "concat at the end": (lambda m, x: torch.cat([m.a(x), m.b(x)], 1), "no result of arithmetic"),
    "partial mean": (lambda m, x: m.a(x).mean((2,)), "a mean is taken over all positions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
    forward, message = REFUSED[name]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
            self.n1, self.n2, self.inplace = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.ReLU(inplace=True)

        def forward(self, x):
            return forward(self, x)

    model, x = prepared(Net(), recipe(), (3, 4, 4))
    with pytest.raises(InvalidValueError, match=message):
        bw.lower(model, x)


def test_copies_states_and_dequantised_models(tmp_path):
    torch.manual_seed(0)
    plain = nn.Sequential(BasicBlock(3, 6, 2), nn.Flatten(), nn.Linear(96, 3))
    model, x = prepared(copy.deepcopy(plain), recipe("int8", "int4", Add="int8"))
    twin = copy.deepcopy(model)
    assert twin[0].conv1.slots.of("forward.activation") is not model[0].conv1.slots.of("forward.activation")
    assert len(list(quantizers(twin))) == len(list(quantizers(model)))
    assert bw.verify(twin, bw.lower(model, x), [x]).differing == 0
    with torch.no_grad():
        assert torch.equal(model.eval()(x), twin.eval()(x))

    fresh = copy.deepcopy(plain)
    bw.quantize_(fresh, recipe("int8", "int4", Add="int8"), verbose=False)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model(x), fresh.eval()(x))

    # DDP leaves every quantiser's buffers alone, by each of their names
    ignored = set(model._ddp_params_and_buffers_to_ignore)
    held = {name for name, _ in model.named_buffers(remove_duplicate=False) if ".slots." in name}
    assert held
    assert held <= ignored

    save_checkpoint(tmp_path / "checkpoint", model, torch.optim.SGD(model.parameters()), {"history": []})
    resumed = copy.deepcopy(plain)
    bw.quantize_(resumed, recipe("int8", "int4", Add="int8"), verbose=False)
    load_checkpoint(tmp_path / "checkpoint", resumed)
    assert torch.equal(model(x), resumed.eval()(x))

    bw.dequantize_(twin)
    assert type(twin[0]) is BasicBlock
    assert list(twin.state_dict()) == list(plain.state_dict())
    twin.load_state_dict(plain.state_dict())
    assert torch.equal(twin.train()(x), plain.train()(x))
    bw.quantize_(twin, recipe(), verbose=False)


class Requantised(nn.Module):
    """A flattened image that two layers take in different formats."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(2, 3, 2), nn.Linear(27, 5), nn.Linear(27, 5)

    def forward(self, x):
        x = self.conv(x).flatten(1)
        return self.a(x) + self.b(x)


class Shortcuts(nn.Module):
    """A shortcut behind a shortcut."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 3, 2), nn.Conv2d(9, 4, 2)
        self.first, self.second = Shortcut(1, 1, 2), Shortcut(2, 1, 2)

    def forward(self, x):
        return self.out(self.second(self.first(self.conv(x))))


class BinarySum(nn.Module):
    """A sum in front of a binary slot."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 2)

    def forward(self, x):
        return self.out(self.a(x) + self.b(x))


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (Requantised, recipe(a="int4", b="int8")),
        (Requantised, recipe(a="binary", b="int12")),
        (Shortcuts, recipe()),
        (Shortcuts, recipe("int4", "int4")),
        (BinarySum, recipe(out="binary")),
        (BinarySum, recipe("binary", "binary", Add="int8", first="int8")),
    ],
)
def test_rare_joints_run_on_the_engine(model, found):
    network = same_codes(*prepared(model(), found, (2, 4, 4)))
    assert network.engine_problem is None
