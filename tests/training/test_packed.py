"""Weights and state stored as packed codes: the bits of training without, and the bytes of the codes."""

from __future__ import annotations

import copy
import gc
import io
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import bitwright as bw
from bitwright import models, training
from bitwright.errors import InvalidValueError
from bitwright.formats import parse
from bitwright.optim import stored_tensors
from bitwright.recipes import names, recipe
from bitwright.training import load_checkpoint, save_checkpoint
from bitwright.training.packed import Packed, PackedParameter, PackedTensor
from bitwright.training.stored_codes import pack_bits, unpack_bits

WITH_PRIMAL = [name for name in names() if recipe(name).roles.get("primal") is not None]
STEPS = 5


def built(name, model="mlp", optimizer=None, **roles):
    torch.manual_seed(0)
    shape = (1, 8, 8) if model == "mlp" else (3, 32, 32)
    network = models.build(model, 16 if model == "mlp" else 4, shape, 10)
    chosen = recipe(name, **roles)
    bw.quantize_(network, chosen, verbose=False)
    if optimizer is None:
        return network, chosen.optimizer(network)
    return network, bw.wrap(optimizer(network.parameters()), network, chosen)


def batch(step, model="mlp"):
    generator = torch.Generator().manual_seed(step)
    shape = (1, 8, 8) if model == "mlp" else (3, 32, 32)
    return torch.rand(8, *shape, generator=generator) * 2 - 1, torch.arange(8) % 10


def train_step(network, optimizer, step, model="mlp", scheduler=None):
    """Two backwards, clipping, a step and a scheduler's."""
    network.train()
    optimizer.zero_grad()
    x, t = batch(step, model)
    for half, labels in zip(x.chunk(2), t.chunk(2), strict=True):
        training.loss("squared-hinge", network(half), labels).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    if scheduler is not None:
        scheduler.step()


def bits(network, optimizer):
    """Every tensor of model and optimiser, by name."""
    tensors = {name: t.clone() for name, t in network.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{key}": torch.as_tensor(v).clone() for key, v in state.items() if v is not None}
    return tensors


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor, b[name]), name


def held(optimizer):
    """(tensor, its stored form) of all that has a format."""
    for stored in stored_tensors(optimizer):
        yield (
            stored.parameter if stored.state is None else optimizer.state[stored.parameter][stored.state],
            stored,
        )


def assert_in_codes(optimizer, extra=0):
    """Each stored tensor is ceil(bits * numbers / 8) bytes and one scale; its float storage is one number."""
    total = 0
    for tensor, stored in held(optimizer):
        assert type(tensor) in (PackedParameter, PackedTensor)
        assert tensor.untyped_storage().nbytes() == tensor.element_size()
        packed = tensor.bitwright_codes
        assert packed.bits.untyped_storage().nbytes() == math.ceil(stored.format.bits * tensor.numel() / 8)
        assert packed.scale is None or packed.scale.untyped_storage().nbytes() == 4
        total += math.ceil(stored.format.bits * tensor.numel() / 8) + (packed.scale is not None) * 4
    assert total
    return total


def in_floats(optimizer):
    return not any(type(tensor) in (PackedParameter, PackedTensor) for tensor, _ in held(optimizer))


def test_there_are_recipes_with_primal():
    assert {"fxpnet", "gupta2015", "wage", "courbariaux2014"} <= set(WITH_PRIMAL)


@pytest.mark.parametrize(("name", "model"), [(name, "mlp") for name in WITH_PRIMAL] + [("fxpnet", "convnet")])
def test_every_recipe_trains_to_the_same_bits(name, model):
    plain, reference = built(name, model)
    network, optimizer = built(name, model)
    stored = bw.store_as_codes(optimizer)
    assert_in_codes(optimizer)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in (reference, optimizer)]
    for step in range(STEPS if model == "mlp" else 3):
        train_step(plain, reference, step, model, schedulers[0])
        train_step(network, optimizer, step, model, schedulers[1])
        assert_in_codes(optimizer)
        if step == 2:  # an evaluation reads floats, which go again with the next step
            x = batch(99, model)[0]
            assert torch.equal(network.eval()(x), plain.eval()(x))
        if step != 1:
            assert_same(bits(plain, reference), bits(network, optimizer))
            stored.pack()
            assert_in_codes(optimizer)
    stored.close()
    assert in_floats(optimizer)
    train_step(network, optimizer, STEPS, model)
    train_step(plain, reference, STEPS, model)
    assert in_floats(optimizer)
    assert_same(bits(plain, reference), bits(network, optimizer))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
        lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
        lambda p: torch.optim.Adagrad(p, lr=0.01, initial_accumulator_value=0.3),
    ],
    ids=["SGD", "SGD foreach", "AdamW foreach", "Adam fused", "Adagrad"],
)
@pytest.mark.parametrize("form", ["fixed10.7", "e4m3fn"])
def test_any_optimiser(make, form):
    roles = {"weight": "fixed8.6", "primal": form, "state": form}
    plain, reference = built("float", optimizer=make, **roles)
    network, optimizer = built("float", optimizer=make, **roles)
    with bw.store_as_codes(optimizer) as stored:
        for step in range(3):
            train_step(plain, reference, step)

            def closure(step=step):
                optimizer.zero_grad()
                x, t = batch(step)
                for half, labels in zip(x.chunk(2), t.chunk(2), strict=True):
                    training.loss("squared-hinge", network.train()(half), labels).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)

            optimizer.step(closure)
            assert_in_codes(optimizer)
        assert stored.nbytes < stored.float_nbytes / 2
    assert_same(bits(plain, reference), bits(network, optimizer))


def test_no_float_copy_is_left():
    """Of all float tensors alive between steps, none is as large as the smallest weight."""
    network, optimizer = built("fxpnet", "convnet")
    before = {id(t) for t in floats(1)}
    stored = bw.store_as_codes(optimizer)
    for step in range(2):
        train_step(network, optimizer, step, "convnet")
    optimizer.zero_grad()
    weights = [p for name, p in network.named_parameters() if p.dim() > 1]
    assert len(weights) == 9
    smallest = min(p.numel() for p in weights)
    assert [t.shape for t in floats(smallest) if id(t) not in before] == []
    assert all(t.untyped_storage().nbytes() == 4 for t in weights)
    numbers = sum(t.numel() for t, _ in held(optimizer))
    rest = stored.float_nbytes - 4 * numbers  # counters and scales
    assert stored.nbytes == assert_in_codes(optimizer) + rest
    assert str(stored).endswith(f"{stored.nbytes:,} bytes, {stored.float_nbytes:,} in floats")


def floats(numbers):
    """Float tensors alive whose storage holds so many numbers."""
    gc.collect()
    found = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor) and t.is_floating_point()]
    return [t for t in found if t.untyped_storage().nbytes() >= numbers * t.element_size()]


def test_copies_files_and_averages_have_floats(tmp_path):
    plain, reference = built("fxpnet")
    network, optimizer = built("fxpnet")
    stored = bw.store_as_codes(optimizer)
    averages = [AveragedModel(plain), AveragedModel(network)]
    for step in range(3):
        train_step(plain, reference, step)
        train_step(network, optimizer, step)
        for average, of in zip(averages, (plain, network), strict=True):
            average.update_parameters(of)
    assert_same(averages[0].state_dict(), averages[1].state_dict())
    stored.pack()
    copied = copy.deepcopy(network)
    assert all(type(p) is nn.Parameter for p in copied.parameters())
    assert_same(copied.state_dict(), plain.state_dict())
    stored.pack()
    file = io.BytesIO()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
    stored.pack()
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert_same(loaded["model"], plain.state_dict())
    for key, state in reference.state_dict()["state"].items():
        assert_same(state, loaded["optimizer"]["state"][key])
    state = copy.deepcopy(optimizer.state)
    stored.pack()
    kept = {p: dict(s) for p, s in optimizer.state.items()}
    file = io.BytesIO()
    torch.save(list(kept.values()), file)  # packed tensors themselves
    file.seek(0)
    again = torch.load(file, weights_only=True)
    for a, b, c in zip(again, state.values(), reference.state.values(), strict=True):
        assert_same(a, c)
        assert_same(b, c)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")])
def test_floats_that_come_back_in_another_mode_can_be_trained(mode):
    plain, reference = built("fxpnet")
    network, optimizer = built("fxpnet")
    stored = bw.store_as_codes(optimizer)
    x = batch(0)[0]
    for step in range(2):
        train_step(plain, reference, step)
        train_step(network, optimizer, step)
        with mode():
            network.norm1.weight.clone()
            stored.unpack()
            stored.pack()
            assert_in_codes(optimizer)
            stored.unpack()
        assert torch.equal(network.eval()(x), plain.eval()(x))
    assert_same(bits(plain, reference), bits(network, optimizer))


def test_loading_and_resuming(tmp_path):
    """A checkpoint of the one resumes the other; what was loaded is on its grid, and packed again."""
    plain, reference = built("fxpnet")
    network, optimizer = built("fxpnet")
    stored = bw.store_as_codes(optimizer)
    for step in range(3):
        train_step(plain, reference, step)
        train_step(network, optimizer, step)
    save_checkpoint(tmp_path / "plain", plain, reference, {"history": []})
    sizes = save_checkpoint(tmp_path / "codes", network, optimizer, {"history": []})
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "codes").read_bytes()
    assert sizes.written < 0.6 * sizes.plain
    train_step(plain, reference, 3)
    train_step(network, optimizer, 3)
    for of, its in ((plain, reference), (network, optimizer)):
        load_checkpoint(tmp_path / "codes", of, its)
    stored.pack()
    assert_in_codes(optimizer)
    fresh, its = built("fxpnet")
    handle = bw.store_as_codes(its)
    load_checkpoint(tmp_path / "codes", fresh, its)
    handle.pack()  # the scales came with the state
    assert_in_codes(its)
    for step in range(3, 5):
        for of, one in ((plain, reference), (network, optimizer), (fresh, its)):
            train_step(of, one, step)
    assert_same(bits(plain, reference), bits(network, optimizer))
    assert_same(bits(plain, reference), bits(fresh, its))


def test_lowering_reads_codes():
    plain, reference = built("fxpnet")
    network, optimizer = built("fxpnet")
    stored = bw.store_as_codes(optimizer)
    train_step(plain, reference, 0)
    train_step(network, optimizer, 0)
    x = batch(0)[0]
    lowered = bw.lower(network, x)
    stored.pack()
    assert bw.verify(network, lowered, [x]).differing == 0
    assert torch.equal(torch.from_numpy(lowered(x)), torch.from_numpy(bw.lower(plain, x)(x)))


def test_what_leaves_the_grid_stays_in_floats():
    """A program may write to a weight: its numbers are kept until the next step puts them on the grid."""
    plain, reference = built("gupta2015")
    network, optimizer = built("gupta2015")
    stored = bw.store_as_codes(optimizer)
    for of in (plain, network):
        with torch.no_grad():
            of.fc1.weight += 1e-6
    stored.pack()
    assert type(network.fc1.weight) is nn.Parameter
    assert torch.equal(network.fc1.weight, plain.fc1.weight)
    train_step(plain, reference, 0)
    train_step(network, optimizer, 0)
    assert_in_codes(optimizer)
    assert torch.equal(network.fc1.weight, plain.fc1.weight)


def test_asking_about_a_tensor_unpacks_nothing():
    network, optimizer = built("gupta2015")
    bw.store_as_codes(optimizer)
    weight = network.fc1.weight
    assert weight.shape == (16, 64)
    assert weight.grad is None
    assert weight.requires_grad
    assert weight.is_leaf
    weight.grad = None
    assert weight.numel() == 16 * 64
    assert {id(p) for p in network.parameters()} >= {id(weight)}
    optimizer.zero_grad()
    assert type(weight) is PackedParameter
    assert isinstance(weight, nn.Parameter)
    assert weight.detach().isfinite().all()
    assert type(weight) is nn.Parameter


def test_strides_come_back():
    values = parse("fixed8.4").quantize(torch.randn(3, 4, 5, 6)).to(memory_format=torch.channels_last)
    packed = Packed.of(values, parse("fixed8.4"), None)
    assert packed.values().stride() == values.stride()
    assert torch.equal(packed.values(), values)


@pytest.mark.parametrize(
    "form",
    [
        *("binary", "ternary", "int3", "uint12", "fixed12.4", "uint16", "fixed24.3", "log5"),
        *("e2m1fn", "e4m3fn", "bf16", "mxfp4", "mxfp6e2m3", "bfp8x32"),
    ],
)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 3, 3), (65, 64, 64)])
def test_bits_of_every_kind_of_format(form, shape):
    """One row of the layout: code i lies in bits i k to (i + 1) k - 1, as one large integer says."""
    form = parse(form)
    if not shape and hasattr(form, "element"):
        shape = (1,)
    values = form.quantize(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2).float()
    values = form.quantize(values)  # where a block's lowest code appears, its next scale is larger
    packed = Packed.of(values, form, None)
    assert torch.equal(packed.values(), values)
    codes = form.encode(values)
    codes = codes[0] if isinstance(codes, tuple) else codes
    stored = pack_bits(form, codes)
    assert stored.shape == (math.ceil(form.bits * values.numel() / 8),)
    assert torch.equal(unpack_bits(form, stored, codes.shape), codes)
    number = int.from_bytes(bytes(stored.tolist()), "little")
    for i in {0, 1, values.numel() // 2, values.numel() - 1} & set(range(values.numel())):
        code = codes.reshape(-1)[i].item()
        expected = int(code > 0) if str(form) == "binary" else code & (1 << form.bits) - 1
        assert number >> i * form.bits & (1 << form.bits) - 1 == expected


def test_what_cannot_be_stored_as_codes_is_refused():
    network, optimizer = built("qnn")
    for one in (optimizer, torch.optim.SGD(network.parameters(), lr=0.1)):
        with pytest.raises(InvalidValueError, match="no primal in a format"):
            bw.store_as_codes(one)
    _, optimizer = built("float", weight="int8", state="bf16")
    with pytest.raises(InvalidValueError, match="no primal in a format"):
        bw.store_as_codes(optimizer)
    _, optimizer = built("fxpnet")
    stored = bw.store_as_codes(optimizer)
    with pytest.raises(InvalidValueError, match="as codes once"):
        bw.store_as_codes(optimizer)
    stored.close()
    bw.store_as_codes(optimizer).close()


LINEAR = nn.Linear(64, 16)
READS = {
    "data_ptr": lambda w: torch.tensor([w.data_ptr() == w.detach().data_ptr()]).float(),
    "data": lambda w: w.data,
    "numpy": lambda w: torch.from_numpy(w.detach().numpy()),
    "tolist": lambda w: torch.tensor(w.tolist()),
    "from_dlpack": lambda w: torch.from_dlpack(w.detach()),
    "index": lambda w: w[2, 3:9],
    "right operand": lambda w: 1 + w,
    "list": lambda w: torch.stack([w, w]),
    "foreach": lambda w: torch.stack(torch._foreach_mul([w, w], 2.0)),
    "nested": lambda w: nn.utils.parameters_to_vector(iter([w])),
    "keyword": lambda w: torch.add(input=torch.zeros(16, 64), other=w),
    "iteration": lambda w: torch.stack(list(w)),
    "in place": lambda w: w.data.add_(1),
    "assigned": lambda w: setattr(w, "data", torch.ones(16, 64)) or w,
    "operator": lambda w: torch.ops.aten.mul(w, 2.0),
    "functional": lambda w: torch.func.functional_call(LINEAR, {"weight": w}, torch.eye(64)),
    "printed": lambda w: torch.tensor([ord(c) for c in repr(w)]),
    "strides": lambda w: torch.tensor(w.stride()),
    "storage": lambda w: torch.tensor(w.detach().untyped_storage().nbytes()),
}  # fmt: skip


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_every_way_of_reading_finds_the_floats(read):
    plain, _ = built("gupta2015")
    network, optimizer = built("gupta2015")
    bw.store_as_codes(optimizer)
    assert type(network.fc1.weight) is PackedParameter
    expected, got = read(plain.fc1.weight), read(network.fc1.weight)
    assert torch.equal(expected, got)
    assert not got.isnan().any()
    assert type(network.fc1.weight) is nn.Parameter


def test_formats_that_shed_bits_take_fewer_bytes():
    """The step's format, not the recipe's: what a controller drops is not stored."""
    shrinks = {"format": "fixed12", "controller": "overflow-rate", "window": 2, "patience": 1, "shrink": True}
    roles = {"primal": shrinks | {"clipped": "before"}, "state": shrinks}
    plain, reference = built("qnn", **roles)
    network, optimizer = built("qnn", **roles)
    stored = bw.store_as_codes(optimizer)
    for step in range(14):
        # gradients that become smaller: their moments need fewer bits
        for of, its in ((plain, reference), (network, optimizer)):
            its.zero_grad()
            (of.train()(batch(step)[0]) * torch.arange(10.0) * 0.5**step).sum().backward()
            its.step()
        assert_in_codes(optimizer)
    widths = {s.format.bits for s in stored_tensors(optimizer) if s.state is not None}
    assert min(widths) < 12
    assert_same(bits(plain, reference), bits(network, optimizer))
    assert stored.nbytes <= stored.float_nbytes


# torch's own tracer and compiler use what torch warns of
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_compiled_forward_pass_finds_floats_after_unpack():
    plain, reference = built("gupta2015")
    network, optimizer = built("gupta2015")
    stored = bw.store_as_codes(optimizer)
    torch._dynamo.reset()
    forwards = [torch.compile(of, backend="eager", fullgraph=True) for of in (plain, network)]
    for step in range(3):
        assert_in_codes(optimizer)
        stored.unpack()
        for forward, its in zip(forwards, (reference, optimizer), strict=True):
            its.zero_grad()
            x, t = batch(step)
            training.loss("cross-entropy", forward(x), t).backward()
            its.step()
    assert_same(bits(plain, reference), bits(network, optimizer))
