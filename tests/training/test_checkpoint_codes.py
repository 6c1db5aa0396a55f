"""Checkpoints hold codes where a format is named, and a run resumes through them bit for bit."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bitwright as bw
from bitwright import data, models, training
from bitwright.errors import FileFormatError
from bitwright.formats import parse
from bitwright.optim import stored_tensors
from bitwright.recipes import names, recipe
from bitwright.training import CHECKPOINT, Settings, load_checkpoint, load_run, save_checkpoint, train
from bitwright.training.stored_codes import decode, describe, encode

SMALL = {"width": 16, "data": "digits", "epochs": 3, "batch": 50}
EVERY_FORMAT = ["fixed12", "fixed8.7", "int16", "flex16+5", "bf16", "e4m3fn", "log6", "mxfp8e4m3", "ternary"]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train").subset(300), data.load("digits", "test").subset(50)


def bits(model, optimizer=None):
    tensors = {name: t.clone() for name, t in model.state_dict().items()}
    states = optimizer.state_dict()["state"].items() if optimizer else ()
    return tensors | {f"{i}.{k}": v.clone() for i, state in states for k, v in state.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def header(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["bitwright"])


@pytest.mark.parametrize("name", [n for n in names() if n.startswith(("qnn", "fxpnet", "float"))])
def test_every_recipe_resumes_through_the_file(name, digits, tmp_path):
    settings = Settings(recipe=name, **SMALL)
    whole, _ = train(settings, *digits, tmp_path / "whole")
    train(settings, *digits, tmp_path / "parts", stop_after=1)
    parts, _ = train(settings, *digits, tmp_path / "parts", resume=True)
    assert same(bits(whole), bits(parts))
    assert same(*(load_file(tmp_path / run / CHECKPOINT) for run in ("whole", "parts")))
    loaded, _ = load_run(tmp_path / "whole", digits[1])
    assert same(bits(whole), bits(loaded))


def built(name="fxpnet", **roles):
    torch.manual_seed(0)
    model = models.build("mlp", 16, (1, 8, 8), 10)
    chosen = recipe(name, **roles)
    bw.quantize_(model, chosen, verbose=False)
    return model, chosen.optimizer(model)


def steps(model, optimizer, first, last):
    model.train()
    for step in range(first, last):
        x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(step)) * 2 - 1
        optimizer.zero_grad()
        training.loss("squared-hinge", model(x), torch.arange(40) % 10).backward()
        optimizer.step()


@pytest.mark.parametrize("form", EVERY_FORMAT)
def test_stored_weights_and_state_of_any_format_resume(form, tmp_path):
    spec = {"format": form}
    if form == "fixed12":
        spec |= {"controller": "overflow-rate"}
    elif form == "flex16+5":
        spec |= {"controller": "max-abs"}
    roles = {"primal": spec, "state": spec, "weight": "int8"}
    whole, optimizer = built("float", **roles)
    steps(whole, optimizer, 0, 5)
    half, half_optimizer = built("float", **roles)
    steps(half, half_optimizer, 0, 3)
    path = tmp_path / "c"
    save_checkpoint(path, half, half_optimizer, {"history": []})
    again, again_optimizer = built("float", **roles)
    load_checkpoint(path, again, again_optimizer)
    assert same(bits(half, half_optimizer), bits(again, again_optimizer))
    steps(again, again_optimizer, 3, 5)
    assert same(bits(whole, optimizer), bits(again, again_optimizer))


def test_the_file_of_fxpnet_holds_codes_and_scales_alone(tmp_path):
    model, optimizer = built()
    steps(model, optimizer, 0, 3)
    path = tmp_path / "c"
    sizes = save_checkpoint(path, model, optimizer, {"history": []})
    codes = header(path)["codes"]
    tensors = load_file(path)
    parameters = {f"model.{n}" for n, _ in model.named_parameters()}
    assert parameters < set(codes)
    assert {what["format"] for what in codes.values()} == {"fixed12", "fixed16"}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            # a scale of each tensor, and what its controller remembers: one number each
            assert tensor.numel() == 1, name
    weight = tensors["model.fc2.weight"]
    assert weight.dtype == torch.uint8
    assert weight.shape == (16, 16 * 12 // 8)
    assert tensors["model.norm1.running_mean"].dtype == torch.int64
    assert sizes.written == sum(t.numel() * t.element_size() for t in tensors.values())
    # 12 + 16 + 16 bits for 96, and counters
    assert sizes.written < 0.6 * sizes.plain


def test_writing_decoded_codes_over_every_stored_tensor_changes_nothing():
    plain, plain_optimizer = built()
    other, other_optimizer = built()
    for step in range(6):
        steps(plain, plain_optimizer, step, step + 1)
        steps(other, other_optimizer, step, step + 1)
        found = stored_tensors(other_optimizer)
        assert {id(s.parameter) for s in found if s.state is None} == set(map(id, other.parameters()))
        for stored in found:
            tensor = stored.parameter.data
            if stored.state is not None:
                tensor = other_optimizer.state[stored.parameter][stored.state]
            codes = stored.format.encode(tensor, scale=stored.scale)
            assert not codes.is_floating_point()
            tensor.fill_(math.nan)
            tensor.copy_(stored.format.decode(codes, scale=stored.scale))
    assert same(bits(plain, plain_optimizer), bits(other, other_optimizer))


def test_values_off_the_grid_stay_floats(tmp_path):
    model, optimizer = built()
    steps(model, optimizer, 0, 2)
    with torch.no_grad():
        model.fc1.weight += 0.123
    save_checkpoint(tmp_path / "c", model, optimizer, {"history": []})
    assert "model.fc1.weight" not in header(tmp_path / "c")["codes"]
    again, again_optimizer = built()
    load_checkpoint(tmp_path / "c", again, again_optimizer)
    assert torch.equal(again.fc1.weight, model.fc1.weight)


def test_checkpoints_of_version_1_are_read(tmp_path):
    model, optimizer = built("qnn")
    steps(model, optimizer, 0, 1)
    path = tmp_path / "c"
    save_checkpoint(path, model, optimizer, {"history": []})
    old = {k: v for k, v in header(path).items() if k != "codes"} | {"version": 1}
    save_file(load_file(path), path, metadata={"bitwright": json.dumps(old)})
    again, again_optimizer = built("qnn")
    load_checkpoint(path, again, again_optimizer)
    assert same(bits(model, optimizer), bits(again, again_optimizer))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "fixed11"},
        {"format": "nothing"},
        {"format": 3},
        {"shape": [16, 15]},
        {"shape": "x"},
        {"shape": [2**40, 2**40]},
        {"shape": []},
        {"type": "Tensor"},
        {"type": "int8x"},
    ],
)
def test_edited_headers_are_refused(change, tmp_path):
    model, optimizer = built()
    steps(model, optimizer, 0, 1)
    path = tmp_path / "c"
    save_checkpoint(path, model, optimizer, {"history": []})
    edited = header(path)
    edited["codes"]["model.fc2.weight"] |= change
    save_file(load_file(path), path, metadata={"bitwright": json.dumps(edited)})
    with pytest.raises(FileFormatError, match=r"model\.fc2\.weight"):
        load_checkpoint(path, *built())
    edited["codes"] = {"model.gone": {}}
    save_file(load_file(path), path, metadata={"bitwright": json.dumps(edited)})
    with pytest.raises(FileFormatError, match="names the tensors that are codes"):
        load_checkpoint(path, *built())


@pytest.mark.parametrize("form", ["fixed12.4", "int2", "uint3", "log5", "binary", "e2m1fn", "fixed24.3"])
@pytest.mark.parametrize("shape", [(3, 5), (7,), (2, 3, 3, 3), ()])
def test_encoding_is_undone(form, shape):
    form = parse(form)
    values = form.quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    parts = encode("t", values, form, None)
    restored = decode("t", parts, describe(values, form), "here")
    assert torch.equal(restored, values.float())
    assert restored.dtype == torch.float32 if not form.wide else True
