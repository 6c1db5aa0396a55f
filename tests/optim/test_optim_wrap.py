"""bw.wrap beside all that a torch training loop does, against plain loops with quantisation by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import bitwright as bw
from bitwright.errors import InvalidValueError
from bitwright.formats import Fixed, Key, tensor_id

FORMS = {"weight_grad": Fixed(10, 8), "primal": Fixed(10, 7), "state": Fixed(14, 10)}
RECIPE = bw.recipe("float", weight="fixed8.5", activation="fixed8.5", **FORMS)
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.02, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, lr=0.02, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.02),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.02, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.02, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.02),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.3),
    "Adagrad fused": lambda p: torch.optim.Adagrad(p, lr=0.05, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.02),
}
SCHEDULERS = {
    "none": None,
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=6, cycle_momentum=False),
}
STEPS = 6


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Hardtanh(), nn.Linear(8, 3))
    bw.quantize_(model, RECIPE, verbose=False)
    return model


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def with_formats(model):
    """Weights and norms; biases have none."""
    return [p for name, p in model.named_parameters() if name not in ("0.bias", "3.bias")]


def tensors(state):
    return [v for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]


@torch.no_grad()
def store(model, optimizer):
    for p in with_formats(model):
        p.copy_(FORMS["primal"].quantize(p))
        for value in tensors(optimizer.state.get(p, {})):
            value.copy_(FORMS["state"].quantize(value))


@torch.no_grad()
def quantize_gradients(model):
    for p in with_formats(model):
        p.grad.copy_(FORMS["weight_grad"].quantize(p.grad))


def backward(model, step, parts, factor=1.0):
    for x, y in zip(*(t.chunk(parts) for t in batch(step)), strict=True):
        (nn.functional.cross_entropy(model(x), y) * factor).backward()


def assert_same(model, optimizer, plain, reference):
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q), name
        ours, theirs = optimizer.state[p], reference.state[q]
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(value)), (name, key)


def assert_on_grids(model, optimizer):
    for p in with_formats(model):
        assert torch.equal(p, FORMS["primal"].quantize(p.detach()))
        for value in tensors(optimizer.state[p]):
            assert torch.equal(value, FORMS["state"].quantize(value))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimiser_equals_a_plain_loop(make):
    """Two backwards, clipping and a scheduler, bit for bit; all that is stored lies on its grid."""
    model, plain = network(), network()
    optimizer = bw.wrap(make(model.parameters()), model, RECIPE)
    reference = make(plain.parameters())
    store(plain, reference)
    assert_same(model, optimizer, plain, reference)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in (optimizer, reference)]
    for step in range(STEPS):
        for one in (model, plain):
            one.zero_grad()
            backward(one, step, 2)
            nn.utils.clip_grad_norm_(one.parameters(), 0.5)
        optimizer.step()
        quantize_gradients(plain)
        reference.step()
        store(plain, reference)
        for scheduler in schedulers:
            scheduler.step()
        assert_same(model, optimizer, plain, reference)
        assert_on_grids(model, optimizer)


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_and_closures(make):
    """A closure's gradients are quantised, which do not exist before the step."""
    model, plain = network(), network()
    optimizer = bw.wrap(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, RECIPE)
    reference = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    store(plain, reference)
    schedulers = [] if make is None else [make(optimizer), make(reference)]

    for step in range(STEPS):

        def closure(step=step):
            optimizer.zero_grad()
            backward(model, step, 1)
            return step

        # positional and by name
        assert (optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)) == step
        reference.zero_grad()
        backward(plain, step, 1)
        quantize_gradients(plain)
        reference.step()
        store(plain, reference)
        for scheduler in schedulers:
            scheduler.step()
        assert_same(model, optimizer, plain, reference)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adam fused", "SGD fused"])
def test_gradients_are_unscaled_before_they_are_quantised(name):
    """A power of two as scale changes no bit; a step whose gradients are infinite changes nothing at all."""
    model, plain = network(), network()
    make = OPTIMIZERS[name]
    optimizer = bw.wrap(make(model.parameters()), model, RECIPE)
    reference = make(plain.parameters())
    store(plain, reference)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    for step in range(STEPS):
        optimizer.zero_grad()
        backward(model, step, 1, scaler.scale(torch.ones(())))
        if step == 3:
            model[0].weight.grad[0, 0] = torch.inf
            before = [p.detach().clone() for p in model.parameters()]
        scaler.step(optimizer)
        scaler.update()
        if step == 3:
            assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
            backward(plain, step, 1)  # its norm has seen the batch too
            continue
        reference.zero_grad()
        backward(plain, step, 1)
        quantize_gradients(plain)
        reference.step()
        store(plain, reference)
        assert_same(model, optimizer, plain, reference)


@pytest.mark.parametrize("average", ["mean", "ema"])
def test_weight_averaging_beside_it(average):
    """The average is of what is stored, and takes no part in training."""
    kwargs = {} if average == "mean" else {"multi_avg_fn": get_ema_multi_avg_fn(0.75)}
    model, alone = network(), network()
    optimizer, other = (bw.wrap(OPTIMIZERS["Adam"](m.parameters()), m, RECIPE) for m in (model, alone))
    averaged = AveragedModel(model, **kwargs)
    expected = None
    for step in range(STEPS):
        for one, its in ((model, optimizer), (alone, other)):
            its.zero_grad()
            backward(one, step, 1)
            its.step()
        averaged.update_parameters(model)
        stored = [p.detach().clone() for p in alone.parameters()]
        if expected is None:
            expected = stored
        elif average == "mean":
            expected = [e + (p - e) / (step + 1) for e, p in zip(expected, stored, strict=True)]
        else:
            expected = [e.lerp(p, 0.25) for e, p in zip(expected, stored, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(averaged.parameters(), expected, strict=True))
    averaged.eval()(batch(0)[0])  # its scales and norms came along


def test_stochastic_primal_and_state_draw_by_name_and_step():
    spec = {"format": "fixed8.5", "rounding": "stochastic"}
    recipe = bw.recipe("float", weight="fixed8.5", primal=spec, state=spec)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    bw.quantize_(model, recipe, verbose=False)
    optimizer = bw.wrap(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), model, recipe, seed=7)
    weight, momentum = model[0].weight.detach().clone(), torch.zeros(4, 6)
    form = Fixed(8, 5)
    for step in range(1, 5):
        optimizer.zero_grad()
        model(batch(step)[0]).square().sum().backward()
        optimizer.step()
        momentum = model[0].weight.grad if step == 1 else momentum * 0.5 + model[0].weight.grad
        for name in ("primal", "state.momentum_buffer"):
            key = Key(7, tensor_id(f"0.weight.{name}"), step)
            if name == "primal":
                weight = form.quantize(weight.add(momentum, alpha=-0.1), rounding="stochastic", key=key)
            else:
                momentum = form.quantize(momentum, rounding="stochastic", key=key)
        assert torch.equal(model[0].weight, weight)
        assert torch.equal(optimizer.state[model[0].weight]["momentum_buffer"], momentum)


def test_the_recipes_own_optimiser_is_the_same_thing():
    model, plain = network(), network()
    optimizer = bw.wrap(torch.optim.Adam(model.parameters(), lr=1e-3), model, RECIPE)
    reference = RECIPE.optimizer(plain)
    for step in range(3):
        for one, its in ((model, optimizer), (plain, reference)):
            its.zero_grad()
            backward(one, step, 1)
            its.step()
    assert_same(model, optimizer, plain, reference)


def test_clip_comes_from_the_recipe():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    bw.quantize_(model, "qnn", verbose=False)
    optimizer = bw.wrap(torch.optim.SGD(model.parameters(), lr=100.0), model, "qnn")
    model(batch(0)[0]).pow(3).sum().backward()
    optimizer.step()
    assert model[0].weight.abs().max() == 1
    assert model[1].weight.abs().max() > 1


def test_what_cannot_be_wrapped_is_refused():
    model = network()
    with pytest.raises(InvalidValueError, match="LBFGS"):
        bw.wrap(torch.optim.LBFGS(model.parameters()), model, RECIPE)
    with pytest.raises(InvalidValueError, match="formats once"):
        bw.wrap(RECIPE.optimizer(model), model, RECIPE)
    with pytest.raises(InvalidValueError, match="the model whose parameters"):
        bw.wrap(torch.optim.SGD(copy.deepcopy(model).parameters(), lr=1.0), model, RECIPE)
    with pytest.raises(InvalidValueError, match="give it weight_grad"):
        bw.wrap(torch.optim.SGD(model.parameters(), lr=1.0), model, bw.recipe("float", weight="int8"))
    assert not torch.optim.SGD(model.parameters(), lr=1.0)._optimizer_step_pre_hooks
