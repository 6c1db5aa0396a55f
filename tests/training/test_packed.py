"""Weights and state stored as packed codes: the bits of training without, and the bytes of the codes."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from packed_runs import assert_in_codes, assert_same, batch, bits, built, held, in_floats, train_step
from torch import nn

import bitwright as bw
from bitwright import training
from bitwright.errors import InvalidValueError
from bitwright.formats import parse
from bitwright.optim import stored_tensors
from bitwright.recipes import names, recipe
from bitwright.training.packed import Packed
from bitwright.training.stored_codes import pack_bits, unpack_bits

WITH_PRIMAL = [name for name in names() if recipe(name).roles.get("primal") is not None]
STEPS = 5


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
