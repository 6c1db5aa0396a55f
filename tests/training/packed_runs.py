"""Runs whose stored tensors are codes, and what the tests ask of them."""

from __future__ import annotations

import math

import torch
from torch import nn

import bitwright as bw
from bitwright import models, training
from bitwright.optim import stored_tensors
from bitwright.recipes import recipe
from bitwright.training.packed import PackedParameter, PackedTensor


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
