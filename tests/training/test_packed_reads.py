"""Stored codes beside all that reads and writes a weight: copies, files, lowering, other modes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from packed_runs import assert_in_codes, assert_same, batch, bits, built, train_step
from torch import nn
from torch.optim.swa_utils import AveragedModel

import bitwright as bw
from bitwright import training
from bitwright.training import load_checkpoint, save_checkpoint
from bitwright.training.packed import PackedParameter


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
