"""Two ranks: equal scales, those of one process with both batches, and checkpoints."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from controller_cases import CASES, batch, build, copied, equal
from torch import nn

import bitwright as bw
from bitwright.formats import Fixed, Rounding
from bitwright.quantize import Quantizer, QuantizerSpec, calibrate, quantizers, tick

RANKS = 2
STEPS = 10


def part(step, rank):
    """A rank's half of a batch; halves differ in size."""
    return batch(step)[:2] if rank == 0 else batch(step)[2:] * 3


def run(rank, port, results):
    torch.set_num_threads(1)
    init = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=RANKS)
    try:
        found = {name: build(name, replicated=False) for name in CASES}
        saved = {}
        for step in range(STEPS):
            tick(found.values(), step)
            for quantizer in found.values():
                quantizer(part(step, rank))
            if step == STEPS // 2:
                saved = {name: copied(q) for name, q in found.items()}
        tick(found.values(), STEPS)
        results[rank, "states"] = {name: copied(q) for name, q in found.items()}

        resumed = {name: build(name, replicated=False) for name in CASES}
        for name, quantizer in resumed.items():
            quantizer.load_state_dict(saved[name])
        for step in range(STEPS // 2 + 1, STEPS):
            tick(resumed.values(), step)
            for quantizer in resumed.values():
                quantizer(part(step, rank))
        tick(resumed.values(), STEPS)
        results[rank, "resumed"] = {name: copied(q) for name, q in resumed.items()}

        calibrated = nn.ModuleDict({name: build(name) for name in CASES})
        own = [part(step, rank) for step in (0, 1, 2)]
        calibrate(calibrated, own, lambda model, x: [q(x) for q in model.values()])
        results[rank, "calibrated"] = {name: copied(q) for name, q in calibrated.items()}

        results[rank, "draws"] = draws()
        results[rank, "model"] = train(rank)
    finally:
        dist.destroy_process_group()


def draws():
    spec = QuantizerSpec(Fixed(8, 2), rounding=Rounding.STOCHASTIC)
    levels = {}
    for replicated in (True, False):
        quantizer = Quantizer(spec, "t", replicated=replicated)
        quantizer.tick(3)
        levels[replicated] = quantizer(torch.full((100,), 0.1)).levels
    return levels


def train(rank):
    """A DDP step or three; returns the model's state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Hardtanh(), nn.Linear(7, 2))
    moving = {"format": "int8", "controller": "max-abs"}
    learnt = {"format": "int4", "controller": "lsq", "estimator": "clipped"}
    rate = {"format": "fixed8", "controller": "overflow-rate", "window": 2}
    recipe = bw.recipe("float", activation=moving, weight=learnt, error=rate, primal=moving)
    bw.quantize_(model, recipe, verbose=False)
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = recipe.optimizer(model, lr=0.05)
    for step in range(6):
        generator = torch.Generator().manual_seed(10 * step + rank)
        x = torch.randn(4, 5, generator=generator) * (1 + 4 * rank)
        optimizer.zero_grad()
        wrapped(x).square().mean().backward()
        optimizer.step()
    tick(quantizers(model), 7)
    return {n: t.clone() for n, t in model.state_dict().items() if "running" not in n}


@pytest.fixture(scope="module")
def results():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        shared = manager.dict()
        mp.spawn(run, (port, shared), nprocs=RANKS)
        yield dict(shared)


@pytest.mark.parametrize("name", CASES)
def test_ranks_end_alike(results, name):
    for kind in ("states", "resumed", "calibrated"):
        assert equal(results[0, kind][name], results[1, kind][name])


@pytest.mark.parametrize("name", CASES)
def test_ranks_measure_what_one_process_would(results, name):
    """All states but sums in another order are those of a process that sees both halves in each step."""
    one = build(name)
    for step in range(STEPS):
        one.tick(step)
        both = torch.cat([part(step, 0), part(step, 1)])
        one(both)
    one.tick(STEPS)
    for key, value in copied(one).items():
        got = results[0, "states"][name][key]
        exact = name not in ("sqnr", "sqnr-channel", "sqnr-unsigned", "lsq", "min-mse")
        assert torch.equal(got, value) if exact else torch.allclose(got, value, rtol=1e-6), key


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_each_rank_resumes_bit_for_bit(results, name):
    for rank in range(RANKS):
        assert equal(results[rank, "states"][name], results[rank, "resumed"][name])


def test_replicated_tensors_draw_alike_and_others_by_rank(results):
    first, second = results[0, "draws"], results[1, "draws"]
    assert torch.equal(first[True], second[True])
    assert torch.equal(first[True], first[False])  # rank 0 draws as one process does
    assert not torch.equal(first[False], second[False])


def test_a_model_under_ddp_has_one_state(results):
    first, second = results[0, "model"], results[1, "model"]
    assert first.keys() == second.keys()
    assert any("slots" in name and "scale" in name for name in first)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
