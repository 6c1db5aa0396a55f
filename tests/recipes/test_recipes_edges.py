"""Recipes and quantize_ at their edges: strict files, precedence of keys, ReLUs by other names, copies."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.errors import BitwrightError, FileFormatError, InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Fixed, Int
from bitwright.optim import STEP_BUFFER
from bitwright.quantize import MaxAbs, QuantizerSpec, Static, quantizers
from bitwright.recipes import LayerRule, Recipe, is_quantised, layer_specs, recipe

INT8 = QuantizerSpec(Int(8))


WEIGHT = "[roles]\nweight = {format = 'int8', "


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roles = 3", "roles is a table; got 3"),
        ("layers = [1]", "layers is a table"),
        ("training = 'x'", "training is a table"),
        ("optimizer = 1", "optimizer is a table"),
        ("replace = 'ReLU'", "replace is a table"),
        ("[layers]\nfirst = 'int8'", "layers.first is a table"),
        ("[roles]\nweigth = 'int8'", "unknown role 'weigth': the valid ones are weight"),
        ("[roles]\nweight = 'in8'", "unknown format 'in8'"),
        ("[roles]\nweight = 8", "a spec is a format's name or a table; got 8"),
        ("[roles]\nweight = {}", "names its format"),
        ("[roles]\nweight = {format = 8}", "a format's name is a string"),
        (WEIGHT + "estmator = 'none'}", "unknown key 'estmator'"),
        (WEIGHT + "estimator = 'non'}", "unknown estimator 'non': the valid ones are none"),
        (WEIGHT + "rounding = 'flor'}", "unknown rounding 'flor': the valid ones are floor"),
        (WEIGHT + "rounding = 3}", "unknown rounding 3"),
        (WEIGHT + "controller = 'maxabs'}", "unknown controller 'maxabs': the valid ones are max-abs"),
        (WEIGHT + "per = 'channel'}", "unknown key 'per'"),
        (WEIGHT + "controller = 'max-abs', per = 'row'}", "per tensor or channel"),
        (WEIGHT + "controller = 'max-abs', scale = 1.0}", "sets its scale itself"),
        (WEIGHT + "controller = 'max-abs', power_of_two = 'no'}", "power_of_two is true or false; got 'no'"),
        (WEIGHT + "scale = 'x'}", "a scale is a number"),
        (WEIGHT + "scale = true}", "a scale is a number"),
        (WEIGHT + "scale = -1.0}", "a scale is positive"),
        ("[roles]\nweight = 'fixed12'", "fixed12 has no point of its own"),
        ("[roles]\nerror = {format = 'int8', controller = 'max-abs', per = 'channel'}", "reduction axis"),
        ("[layers.last]\noptional = 'no'", "optional is true or false"),
        ("[layers.last]\nwieght = 'int8'", "unknown role 'wieght'"),
        ("[optimizer]\nname = 'adam'", "unknown optimizer 'adam': the valid ones are Adam"),
        ("[optimizer]\nlr = 'fast'", "lr is a number; got 'fast'"),
        ("[optimizer]\nlr_final = true", "lr_final is a number"),
        ("[optimizer]\nclip = [1.0]", "clip is a list of two numbers"),
        ("[optimizer]\nclip = 1.0", "clip is a list of two numbers"),
        ("[optimizer]\nclip = ['a', 'b']", "clip is a list of two numbers"),
        ("[optimizer]\nmomentum = 0.9", "unknown key 'momentum'"),
        ("[optimizer]\nstep_scale = 'he'", "unknown step_scale 'he'"),
        ("[training]\nloss = 'hinge'", "unknown loss 'hinge': the valid ones are squared-hinge"),
        ("[training]\nepochs = 3", "unknown key 'epochs'"),
        ("[training]\ninitial_weights = 'normal'", "unknown initial_weights 'normal'"),
        ("wieght = 'int8'", "unknown key 'wieght'"),
        ("[roles", "a recipe is a TOML file"),
    ],
)
def test_recipe_files_are_strict(tmp_path, text, message):
    with pytest.raises(BitwrightError) as info:
        read(tmp_path, text)
    assert message in str(info.value)
    assert "mine.toml" in str(info.value)


def test_recipe_files_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("none.toml", "bytes.toml"):
        with pytest.raises(FileFormatError, match=name):
            recipe(tmp_path / name)
        with pytest.raises(FileFormatError, match=name):
            recipe(str(tmp_path / name))
    with pytest.raises(InvalidValueError, match="unknown recipe 'qn': the valid ones are qnn"):
        recipe("qn")
    with pytest.raises(InvalidValueError, match="unknown role 'weights': the valid ones are weight"):
        recipe("qnn", weights="int8")


def test_a_recipe_file_says_what_it_says(tmp_path):
    found = read(
        tmp_path,
        """
        name = "mine"
        [roles]
        weight = { format = "int4", controller = "max-abs", per = "channel", rounding = "floor" }
        "wgrad.error" = { format = "fixed12", scale = 0.25 }
        primal = "fixed12.8"
        [layers."fc*"]
        weight = "float"
        optional = true
        [optimizer]
        name = "SGD"
        clip = [-1, 1]
        """,
    )
    assert found.roles["weight"].controller == MaxAbs("channel")
    assert found.roles["wgrad.error"] == QuantizerSpec(Fixed(12), Static(0.25))
    assert found.roles["primal"] == QuantizerSpec(Fixed(12, 8))
    assert found.layers == (LayerRule("fc*", {"weight": None}, optional=True),)
    assert found.optimizer_rule.clip == (-1.0, 1.0)
    changed = recipe(found, weight="float", wgrad_error=Int(4))
    assert changed.roles["weight"] is None
    assert changed.roles["wgrad.error"] == QuantizerSpec(Int(4))
    assert found.roles["weight"] is not None  # the first is as it was


def test_the_qnn_recipe_is_the_papers():
    qnn = recipe("qnn")
    assert qnn.roles["weight"].format == Binary() == qnn.roles["activation"].format
    assert qnn.roles["activation"].estimator.value == "clipped"
    assert qnn.specs("fc1", "Linear", frozenset({"first"}))["activation"].format == Fixed(8, 7)
    assert qnn.loss == "squared-hinge"
    assert qnn.optimizer_rule.clip == (-1.0, 1.0)
    assert qnn.optimizer_rule.step_scale == "glorot"
    assert not recipe("float").quantises


KEYS = ("first", "Linear", "*1", "fc1")
"""From the least to the most specific, all of which match fc1."""


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_most_specific_key_wins_in_any_order(order):
    for count in range(1, 5):
        rules = tuple(LayerRule(KEYS[k], {"weight": QuantizerSpec(Int(k + 2))}) for k in order[:count])
        chosen = Recipe("r", roles={"weight": QuantizerSpec(Int(1))}, layers=rules)
        specs = chosen.specs("fc1", "Linear", frozenset({"first"}))
        assert specs["weight"].format == Int(max(order[:count]) + 2)
    # a key that does not match says nothing
    other = Recipe("r", roles={"weight": INT8}, layers=(LayerRule("fc2", {"weight": None}),))
    assert other.specs("fc1", "Linear", frozenset())["weight"] == INT8


class Chain(nn.Module):
    """Declared in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(6, 2)
        self.a = nn.Linear(4, 6)

    def forward(self, x):
        return self.b(F.hardtanh(self.a(x)))


def test_first_and_last_go_by_execution():
    rules = (
        LayerRule("first", {"activation": QuantizerSpec(Int(7))}),
        LayerRule("last", {"activation": QuantizerSpec(Int(3))}),
    )
    specs = layer_specs(Chain(), Recipe("r", roles={"weight": INT8}, layers=rules))
    assert specs["a"]["activation"].format == Int(7)
    assert specs["b"]["activation"].format == Int(3)
    one = nn.Sequential(nn.Linear(2, 2))
    assert layer_specs(one, Recipe("r", layers=rules))["0"]["activation"].format == Int(3)  # the later rule


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0, 1)])
@pytest.mark.parametrize("between", [[], [nn.Dropout(0.1)], [nn.Identity(), nn.Dropout(0.1)]])
def test_whatever_leaves_nothing_negative_may_not_feed_a_sign(relu, between):
    model = nn.Sequential(nn.Linear(4, 4), relu, *between, nn.Linear(4, 2))
    before = list(model)
    plain = Recipe("mine", roles={"weight": QuantizerSpec(Binary()), "activation": QuantizerSpec(Binary())})
    with pytest.raises(InvalidValueError, match=rf"would be constant; got 1 \({type(relu).__name__}\)"):
        bw.quantize_(model, plain, verbose=False)
    assert list(model) == before  # nothing was changed
    assert not is_quantised(model)
    name = type(relu).__name__
    named = Recipe("mine", roles=plain.roles, replace={name: "Hardtanh"})
    report = bw.quantize_(model, named, verbose=False)
    assert (report.replaced[0].tensor, report.replaced[0].format) == ("1", f"{name} -> Hardtanh")
    assert type(model[1]) is nn.Hardtanh
    assert model[1].min_val == -1


@pytest.mark.parametrize("call", [F.relu, torch.relu, lambda x: x.relu(), lambda x: F.relu(x).flatten(1)])
def test_functional_relus_are_replaced_too(call):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(call(self.a(x)))

    model = Net()
    report = bw.quantize_(model, "qnn", verbose=False)
    assert [(row.tensor, row.format) for row in report.replaced] == [("relu", "ReLU -> Hardtanh")]
    x = torch.randn(3, 4)
    assert model(x).shape == (3, 2)
    assert bw.verify(model, bw.lower(model, x), [x]).differing == 0


def test_a_relu_in_front_of_integers_stays():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    bw.quantize_(model, recipe("float", activation="int8", weight="binary"), verbose=False)
    assert type(model[1]) is nn.ReLU


def quantised():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    moving = {"format": "int8", "controller": "max-abs"}
    bw.quantize_(model, recipe("float", activation=moving, weight=moving), verbose=False)
    return model


def test_a_deepcopy_counts_folds_and_dequantizes_on_its_own():
    model = quantised()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    model(x)
    other = copy.deepcopy(model)
    assert other[0].fold is not model[0].fold
    assert other[0].fold.source.layer is other[0]
    assert other[0].fold.norm is other[1]
    assert other[0].fold.consumer is other[3].slots.of("forward.activation")
    other(x)
    assert int(getattr(model, STEP_BUFFER)) == 1
    assert int(getattr(other, STEP_BUFFER)) == 2
    bw.dequantize_(other)
    other(x)  # no hook is left to look for the counter
    assert not hasattr(other, STEP_BUFFER)
    assert [type(m) for m in other] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    model(x)
    assert int(getattr(model, STEP_BUFFER)) == 2


def test_dequantize_gives_the_plain_model_back():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Hardtanh(), nn.Flatten(), nn.Linear(48, 2)
    )
    model = copy.deepcopy(plain)
    parameters = dict(model.named_parameters())
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    bw.quantize_(model, "qnn", verbose=False)
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(p is parameters[n] for n, p in model.named_parameters())
    with pytest.raises(InvalidValueError, match=r"bitwright\.dequantize_\(model\)"):
        bw.quantize_(model, "qnn")
    assert bw.dequantize_(model) is model
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict(), strict=True)
    model.eval(), plain.eval()
    assert torch.equal(model(x), plain(x))
    assert all(p is parameters[n] for n, p in model.named_parameters())
    with pytest.raises(InvalidValueError, match="got a plain one"):
        bw.dequantize_(model)
    bw.quantize_(model, "qnn", verbose=False)  # and again


def test_checkpoints_load_strictly_and_leave_the_file_alone():
    plain = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    model = quantised()
    state = plain.state_dict()
    keys = list(state)
    model.load_state_dict(state, strict=True)
    assert list(state) == keys
    assert torch.equal(model[0].weight, plain[0].weight)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    model(x), model(x * 2)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh = quantised()
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert int(getattr(fresh, STEP_BUFFER)) == 2
    model.eval(), fresh.eval()
    assert torch.equal(fresh(x), model(x))
    bad = dict(model.state_dict(), extra=torch.ones(1))
    with pytest.raises(RuntimeError, match="extra"):
        fresh.load_state_dict(bad, strict=True)
    short = dict(plain.state_dict())
    del short["0.weight"]
    with pytest.raises(RuntimeError, match=r"0\.weight"):
        fresh.load_state_dict(short, strict=True)


def test_a_quantised_model_inside_another():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = quantised()

        def forward(self, x):
            return self.net(x)

    outer = Outer()
    x = torch.randn(8, 4)
    outer(x)
    assert int(getattr(outer.net, STEP_BUFFER)) == 1
    assert is_quantised(outer)
    with pytest.raises(InvalidValueError, match="dequantize_"):
        bw.quantize_(outer, "qnn", verbose=False)
    state = {
        f"net.{k}": v
        for k, v in nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
        .state_dict()
        .items()
    }
    outer.load_state_dict(state, strict=True)


def test_tied_parameters_stay_one_and_step_once():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 4, bias=False),
        nn.Hardtanh(),
        nn.Linear(4, 4, bias=False),
        nn.Hardtanh(),
        nn.Linear(4, 2),
    )
    model[2].weight = model[0].weight
    bw.quantize_(model, "qnn", verbose=False)
    assert model[0].weight is model[2].weight
    optimizer = recipe("qnn").optimizer(model)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_what_cannot_be_quantised_is_listed_and_left():
    class Mine(nn.Linear):
        pass

    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 2, padding="same"),
        nn.Conv2d(4, 4, 1),
        nn.PReLU(),
        nn.Flatten(),
        Mine(4, 4),
        nn.Sigmoid(),
        nn.Linear(4, 2),
    )
    types = [type(m) for m in model]
    report = bw.quantize_(model, recipe("float", weight="int8", activation="int8"), verbose=False)
    reasons = {s.name: s.reason for s in report.skipped}
    # "linear": torch.fx looks into a class that is not torch's own
    assert set(reasons) == {"0", "1", "2", "3", "5", "7", "8", "linear"}
    for name, word in zip(
        "0123578", ("groups", "dilation", "reflect", "odd kernels", "twin", "subclass", "twin"), strict=True
    ):
        assert word in reasons[name]
    changed = [i for i, m in enumerate(model) if type(m) is not types[i]]
    assert changed == [4, 9]
    text = str(report)
    assert all(f" {s.reason}" in " ".join(text.split()) for s in report.skipped)


def test_only_what_the_recipe_speaks_of_gets_a_quantiser():
    model = nn.Sequential(nn.Linear(4, 4), nn.Hardtanh(), nn.Linear(4, 2))
    rules = (LayerRule("0", {"weight": None}),)
    report = bw.quantize_(model, Recipe("r", roles={"weight": INT8}, layers=rules), verbose=False)
    assert type(model[0]) is nn.Linear
    assert [q.spec for q in quantizers(model)] == [INT8]
    assert [(s.name, s.reason) for s in report.skipped] == [("0", "the recipe gives it no format")]
    assert [r.tensor for r in report.rows] == ["2:weight"]


def test_not_a_model():
    with pytest.raises(InvalidTypeError, match=r"torch\.nn\.Module; got dict"):
        bw.quantize_({}, "qnn")
    with pytest.raises(InvalidValueError, match=r"wrap a single layer in nn\.Sequential"):
        bw.quantize_(nn.Linear(2, 2), "qnn")
    with pytest.raises(InvalidValueError, match="finds a layer to quantise"):
        bw.quantize_(nn.Sequential(nn.ReLU()), Recipe("r", roles={"weight": INT8}))


def test_the_step_buffers_name_must_be_free():
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer(STEP_BUFFER, torch.zeros(()))
    with pytest.raises(InvalidValueError, match="is free on the root module"):
        bw.quantize_(model, "qnn", verbose=False)
    assert type(model[0]) is nn.Linear
