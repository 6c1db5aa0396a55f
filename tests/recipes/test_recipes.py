"""quantize_ in place, what it reports, what it refuses; recipes as data."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.errors import FileFormatError, InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Fixed
from bitwright.recipes import names, recipe


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip


def quantised(model, name="qnn", **roles):
    return bw.quantize_(model, recipe(name, **roles), verbose=False)


def test_it_changes_the_model_in_place_and_keeps_parameters():
    model = network()
    before = dict(model.named_parameters())
    report = quantised(model)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[n] is after[n] for n in before)
    assert isinstance(model[0], nn.Conv2d)
    assert [type(m).__module__.split(".")[0] for m in model] == (
        [
            "bitwright",
            "bitwright",
            "torch",
            "torch",
            "torch",
            "torch",
            "bitwright",
            "bitwright",
            "torch",
            "bitwright",
        ]
    )
    assert {(r.tensor, r.format) for r in report.rows} == {
        ("0:weight", "binary"), ("0:activation", "fixed8.7"), ("6:weight", "binary"),
        ("6:activation", "binary"), ("9:weight", "binary"), ("9:activation", "binary"),
    }  # fmt: skip
    assert [r.tensor for r in report.replaced] == ["2", "8"]
    assert all(isinstance(model[i], nn.Hardtanh) for i in (2, 8))
    text = str(report)
    for word in ("fixed8.7", "forward.weight + dgrad.weight", "ReLU -> Hardtanh", "in front of 6"):
        assert word in text


def test_it_prints_its_table(capsys):
    bw.quantize_(network(), "qnn")
    assert "ReLU -> Hardtanh" in capsys.readouterr().out


def test_float_checkpoints_load_strictly_and_back():
    plain, model = network(), network()
    quantised(model)
    state = plain.state_dict()
    model.load_state_dict(state)
    assert set(model.state_dict()) - set(state) == {"bitwright_step"}
    moving = network()
    spec = {"format": "int8", "controller": "max-abs"}
    quantised(moving, "float", weight=spec, activation=spec)
    moving.load_state_dict(state)
    moving(torch.rand(2, 1, 8, 8))
    other = network()
    quantised(other, "float", weight=spec, activation=spec)
    other.load_state_dict(moving.state_dict())
    moving.eval(), other.eval()
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(moving(x), other(x))


def test_twice_is_an_error_and_dequantize_goes_back():
    model, plain = network(), network()
    quantised(model)
    with pytest.raises(InvalidValueError, match="dequantize_"):
        quantised(model)
    bw.dequantize_(model)
    assert all(type(m).__module__.startswith("torch.") for m in model.modules())
    assert set(model.state_dict()) == set(plain.state_dict())
    assert "bitwright_step" not in dict(model.named_buffers())
    model[2], model[8] = nn.ReLU(), nn.ReLU()
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    with pytest.raises(InvalidValueError, match="plain"):
        bw.dequantize_(model)
    quantised(model)


def test_float_recipe_leaves_plain_torch():
    model = network()
    report = quantised(model, "float")
    assert all(type(m).__module__.startswith("torch.") for m in model.modules())
    assert len(report.skipped) == 5
    assert not report.rows


def test_training_forwards_are_counted_and_deepcopies_stand_alone():
    model = network()
    quantised(model)
    x = torch.rand(4, 1, 8, 8)
    model(x), model(x)
    twin = copy.deepcopy(model)
    twin(x)
    model.eval()(x)
    assert (int(model.bitwright_step), int(twin.bitwright_step)) == (2, 3)
    assert twin[0].fold.source.layer is twin[0]
    assert twin[0].fold.norm is twin[1]
    assert twin[0].fold.consumer is twin[6].slots.of("forward.activation")


def test_relu_without_replacement_raises_and_changes_nothing():
    model = network()
    with pytest.raises(InvalidValueError, match=r"2 \(ReLU\).*in front of 6.*Hardtanh"):
        bw.quantize_(model, recipe("float", activation=Binary(), weight=Binary()), verbose=False)
    assert all(type(m).__module__.startswith("torch.") for m in model.modules())
    assert isinstance(model[2], nn.ReLU)


class Functional(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)
        self.act = act

    def forward(self, x):
        return self.b(self.act(self.a(x)))


@pytest.mark.parametrize("act", [F.relu, torch.relu, lambda x: x.relu()])
def test_functional_relu_in_front_of_a_binary_slot_is_replaced_too(act):
    model = Functional(act)
    report = quantised(model)
    assert [(r.tensor, r.format) for r in report.replaced] == [("relu", "ReLU -> Hardtanh")]
    assert isinstance(model.relu, nn.Hardtanh)
    other = Functional(act)
    with pytest.raises(InvalidValueError, match=r"relu \(ReLU\).*in front of b"):
        bw.quantize_(other, recipe("float", activation=Binary(), weight=Binary()), verbose=False)
    assert type(other) is Functional
    assert [n for n, _ in other.named_children()] == ["a", "b"]


def test_other_functional_operations_are_listed():
    report = quantised(Functional(torch.sigmoid), weight="int8", activation="int8")
    assert [(s.kind, s.reason) for s in report.skipped] == [
        ("function sigmoid", "a functional operation has no slot")
    ]


def test_what_it_cannot_quantise_is_listed_with_a_reason():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.GroupNorm(2, 4), nn.Flatten(),
        Own(16, 8), nn.Sigmoid(), nn.Linear(8, 2),
    )  # fmt: skip
    report = quantised(model)
    reasons = {s.name: s.reason for s in report.skipped}
    assert reasons.keys() == {"0", "1", "3", "4", "linear"}  # what 3 calls inside
    for name, word in {"0": "reflect", "1": "twin", "3": "subclass"}.items():
        assert word in reasons[name]


@pytest.mark.parametrize("model", [nn.Sequential(nn.ReLU()), nn.Linear(3, 2), nn.Sequential(nn.GRU(2, 2))])
def test_matching_nothing_is_an_error(model):
    with pytest.raises(InvalidValueError, match="finds a layer to quantise"):
        quantised(model)


def test_not_a_module():
    with pytest.raises(InvalidTypeError, match=r"nn\.Module"):
        bw.quantize_([1], "qnn")


def test_tied_modules_stay_tied():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Hardtanh(), shared)
    quantised(model)
    assert model[0] is model[2]
    with pytest.raises(InvalidValueError, match="called more than once"):
        bw.lower(model, torch.zeros(1, 4))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        y = self.act(self.a(x))
        return self.b(y) if x.sum() > 0 else -self.b(y)


def test_untraceable_models_get_swapped_modules_and_a_note():
    model = Branching()
    report = quantised(model)
    assert "cannot be lowered" in report.notes[0]
    assert isinstance(model.act, nn.Hardtanh)
    model(torch.ones(2, 4)).sum().backward()
    with pytest.raises(InvalidValueError, match=r"traced by torch\.fx"):
        bw.lower(model, torch.zeros(1, 4))


def layered(tmp_path, layers, roles='weight = "int8"'):
    path = tmp_path / "layered.toml"
    path.write_text(f'name = "layered"\n[roles]\n{roles}\n{layers}')
    return recipe(path)


def weight_formats(model, found):
    bw.quantize_(model, found, verbose=False)
    return {
        n: str(m.slots.of("forward.weight").format) for n, m in model.named_modules() if hasattr(m, "slots")
    }


def test_the_most_specific_key_wins(tmp_path):
    found = layered(
        tmp_path,
        '[layers.last]\nweight = "int5"\n[layers.first]\nweight = "int4"\n[layers.Linear]\nweight = "int3"\n'
        '[layers."[69]"]\nweight = "int2"\n[layers.9]\nweight = "int7"\n',
    )
    assert weight_formats(network(), found) == {"0": "int4", "6": "int2", "9": "int7"}
    found = layered(tmp_path, '[layers.last]\nweight = "int5"\n[layers.Linear]\nweight = "int3"\n')
    assert weight_formats(network(), found) == {"0": "int8", "6": "int3", "9": "int3"}


def test_a_layer_can_stay_in_float(tmp_path):
    model = network()
    bw.quantize_(model, layered(tmp_path, '[layers.first]\nweight = "float"\n'), verbose=False)
    assert type(model[0]) is nn.Conv2d


def test_a_key_that_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(InvalidValueError, match=r"'head\.\*', which matches none of 0, 1, 6"):
        quantised(network(), layered(tmp_path, '[layers."head.*"]\nweight = "int4"\n'))
    quantised(network(), layered(tmp_path, '[layers."head.*"]\nweight = "int4"\noptional = true\n'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[roles]\nwieght = 'int8'", "did you mean 'weight'"),
        ("[roles]\nweight = 'in8'", "did you mean 'int8'"),
        ("[roles]\nweight = { format = 'int8', controler = 'max-abs' }", "did you mean 'controller'"),
        ("[roles]\nweight = { format = 'int8', controller = 'maxabs' }", "did you mean 'max-abs'"),
        ("[roles]\nweight = { controller = 'max-abs' }", "names its format"),
        ("[roles]\nweight = 'fixed12'", "needs a scale"),
        ("[roles]\nweight = 8", "a spec is"),
        ("[role]\nweight = 'int8'", "did you mean 'roles'"),
        ("[optimizer]\nname = 'Adm'", "did you mean 'Adam'"),
        ("[optimizer]\nstep_scale = 'gloro'", "did you mean 'glorot'"),
        ("[training]\nloss = 'hinge'", "squared-hinge"),
        ("[roles", "TOML"),
    ],
)
def test_recipe_files_are_checked(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        recipe(path)


def test_recipes_by_name():
    assert list(names()) == sorted(names())
    assert {"float", "qnn", "binaryconnect", "gupta2015", "courbariaux2014", "mxfp8", "mxfp4"} <= set(names())
    assert {"float", "qnn", "qnn-shift", "qnn-gradients", "fxpnet"} <= set(names())
    with pytest.raises(InvalidValueError, match="did you mean 'qnn'"):
        recipe("qn")
    with pytest.raises(FileFormatError, match="readable"):
        recipe("missing.toml")
    with pytest.raises(InvalidValueError, match="did you mean 'error'"):
        recipe("qnn", eror="int8")
    changed = recipe("qnn", error=Fixed(12, 11), activation="float", forward_weight="int8")
    assert str(changed.roles["error"].format) == "fixed12.11"
    assert changed.roles["activation"] is None
    assert str(changed.roles["forward.weight"].format) == "int8"
    assert recipe("qnn").roles != changed.roles


def test_more_specific_short_names_win_over_operands(tmp_path):
    roles = 'weight = "int8"\n"dgrad.weight" = "int4"'
    found = layered(tmp_path, '[layers.first]\nweight = "int2"\n[layers.last]\nweight = "float"\n', roles)
    specs = [found.specs("x", "Linear", frozenset(p)) for p in ([], ["first"], ["last"])]
    assert [{role: str(spec) for role, spec in s.items()} for s in specs] == [
        {"weight": "int8", "dgrad.weight": "int4"},
        {"weight": "int2"},
        {},
    ]


def test_an_operand_can_stay_in_float_beside_its_short_name():
    found = recipe("float", weight="int8", dgrad_weight="float")
    model = nn.Sequential(nn.Linear(3, 2))
    bw.quantize_(model, found, verbose=False)
    assert model[0].slots.of("dgrad.weight") is None
    assert str(model[0].slots.of("forward.weight").format) == "int8"


def test_a_recipe_on_a_base_says_what_is_different(tmp_path):
    path = tmp_path / "mine.toml"
    changes = '[roles]\nweight = "int3"\n[layers.first]\nactivation = "float"\n'
    path.write_text('name = "mine"\nbase = "w4a8"\n' + changes)
    mine, base = recipe(path), recipe("w4a8")
    assert (mine.name, mine.title) == ("mine", base.title)
    assert str(mine.roles["weight"]) == "int3"
    assert mine.roles["activation"] == base.roles["activation"]
    first, below = (next(r for r in found.layers if r.key == "first") for found in (mine, base))
    assert first.roles == {**below.roles, "activation": None}
    assert mine.optimizer_rule == base.optimizer_rule
    path.write_text('base = "mine"\n')
    with pytest.raises(InvalidValueError, match=r"unknown recipe 'mine'.*base of"):
        recipe(path)


@pytest.mark.parametrize(("name", "weight", "activation"), [("int8", 8, 8), ("w4a8", 4, 8), ("int4", 4, 4)])
def test_integer_recipes_keep_8_bits_at_both_ends(name, weight, activation):
    found = recipe(name)
    for position, bits in ((set(), (weight, activation)), ({"first"}, (8, 8)), ({"last"}, (8, 8))):
        specs = found.specs("x", "Conv2d", frozenset(position))
        assert (specs["weight"].format.bits, specs["activation"].format.bits) == bits
    assert found.specs("x", "Add", frozenset())["activation"].format.bits == 8
