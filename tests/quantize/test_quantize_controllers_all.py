"""What every controller must do: delay, merge, stay in eval, resume, and survive odd tensors."""

from __future__ import annotations

import math

import pytest
import torch
from controller_cases import CASES, MOVING, batch, build, copied, equal
from torch import nn

from bitwright.quantize import calibrate, tick


@pytest.mark.parametrize("name", CASES)
def test_the_scale_of_a_step_does_not_know_the_step(name):
    """What is used at step n is what the state said before the data of step n came."""
    quantizer = build(name)
    for step in range(8):
        quantizer.tick(step)
        if step:
            held = quantizer.current_scale().clone()
        used = quantizer(batch(step)).scale
        if step:
            assert torch.equal(used, held)


@pytest.mark.parametrize("name", MOVING)
def test_calls_of_a_step_merge_into_what_one_call_would_measure(name):
    """Two calls of half a batch each are one call of the whole, in every later state."""
    whole, halves = build(name), build(name)
    for quantizer in (whole, halves):
        quantizer.tick(0)
        quantizer(batch(0))
    for step in range(1, 10):
        x = batch(step)
        for quantizer in (whole, halves):
            quantizer.tick(step)
        whole(x)
        halves(x[:1])
        halves(x[1:])
        for key, value in copied(whole).items():
            if value.dtype == torch.float64:  # sums in another order
                assert torch.allclose(value, copied(halves)[key], rtol=1e-12)
            else:
                assert torch.equal(value, copied(halves)[key]), key


@pytest.mark.parametrize("name", CASES)
def test_scales_that_move_together_move_as_each_alone(name):
    """21 quantisers at once, enough for vector instructions and what they leave over, against one by one."""
    together, alone = ([build(name) for _ in range(21)] for _ in range(2))
    elementwise = {"max-abs", "min-max", "overflow-rate"}
    for step in range(12):
        tick(together, step)
        for quantizer in alone:
            quantizer.tick(step)
        for index, (a, b) in enumerate(zip(together, alone, strict=True)):
            # tensors of their own, some of zeros, some without data in this step
            x = batch(step * 21 + index) * 2.0 ** (index % 5 - 2) * (0 if index == 7 and step else 1)
            if index != 11 or step % 3 == 0:
                assert torch.equal(a(x).levels, b(x).levels)
            assert equal(copied(a), copied(b))
    assert all((quantizer.joins() is not None) == (name in elementwise) for quantizer in together)
    if name in elementwise:
        assert len({float(quantizer.current_scale()) for quantizer in together}) > 3


@pytest.mark.parametrize("name", CASES)
def test_some_scale_moves_in_training_and_none_in_eval(name):
    quantizer = build(name)
    scales = []
    for step in range(10):
        quantizer.tick(step)
        scales.append(quantizer(batch(step)).scale.clone())
    moved = any(not torch.equal(scales[0], s) for s in scales)
    assert moved == (name in MOVING)
    quantizer.eval()
    before = copied(quantizer)
    for index in range(4):
        quantizer(batch(index) * 100)
    assert equal(before, copied(quantizer))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("after_forward", [False, True])
def test_a_checkpoint_resumes_bit_for_bit_in_the_middle_of_a_window(name, after_forward):
    whole = build(name)
    for step in range(5):
        whole.tick(step)
        if step < 4 or after_forward:
            whole(batch(step))
    resumed = build(name)
    resumed.load_state_dict(whole.state_dict())
    for step in range(4, 12):
        results = []
        for quantizer in (whole, resumed):
            if step > 4:
                quantizer.tick(step)
            results.append(quantizer(batch(step)))
        assert torch.equal(results[0].levels, results[1].levels)
        assert equal(copied(whole), copied(resumed))


@pytest.mark.parametrize("name", CASES)
def test_a_float_checkpoint_loads_strictly(name):
    quantizer = build(name)
    quantizer(batch(0))
    before = copied(quantizer)
    quantizer.load_state_dict({}, strict=True)
    assert equal(before, copied(quantizer))


@pytest.mark.parametrize("name", CASES)
def test_zeros_move_nothing_and_give_a_lawful_scale(name):
    quantizer = build(name)
    result = quantizer(torch.zeros(2, 3, 5))
    assert (result.levels == 0).all()
    assert (result.scale > 0).all()
    if name != "autoflex":  # whose history takes a zero as it is
        quantizer = build(name)
        quantizer(batch(0))
        quantizer.tick(1)
        held = quantizer.current_scale().clone()
        for step in range(2, 12):
            quantizer(torch.zeros(2, 3, 5))
            quantizer.tick(step)
        assert torch.equal(quantizer.current_scale(), held)


@pytest.mark.parametrize("name", CASES)
def test_steps_without_data_move_nothing(name):
    quantizer = build(name)
    quantizer(batch(0))
    quantizer.tick(1)
    held = quantizer.current_scale().clone()
    for step in range(2, 12):
        quantizer.tick(step)
    assert torch.equal(quantizer.current_scale(), held)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, 1e-45])
def test_odd_elements_leave_finite_positive_scales(name, bad):
    quantizer = build(name)
    for step in range(8):
        x = batch(step)
        x[1, :, 2] = bad
        if step == 5:
            x = torch.full_like(x, bad)
        quantizer.tick(step)
        result = quantizer(x)
        assert result.scale.isfinite().all()
        assert (result.scale > 0).all()
        assert result.levels.isfinite().all()
    empty = build(name)
    assert empty(torch.empty(0, 3, 5)).scale.min() > 0


@pytest.mark.parametrize("name", [n for n in MOVING if n not in ("overflow-rate",)])
def test_what_is_not_finite_does_not_reach_the_statistics(name):
    """NaN and infinity measure as 0 does."""
    clean, dirty = build(name), build(name)
    for step in range(6):
        x = batch(step)
        x[1, :, 2] = 0
        clean.tick(step)
        clean(x)
        x[1, 0, 2], x[1, 1, 2], x[1, 2, 2] = math.nan, math.inf, -math.inf
        dirty.tick(step)
        dirty(x)
        if "histogram" not in copied(clean):  # zeros count in a histogram
            assert equal(copied(clean), copied(dirty))


@pytest.mark.parametrize("name", CASES)
def test_calibration_takes_all_batches_and_only_them(name):
    model = nn.Sequential(build(name))

    def forward(module, x):
        return module[0](x)

    batches = [batch(i) for i in (1, 0, 2)]
    calibrate(model, batches, forward)
    quantizer = model[0]
    first = copied(quantizer)
    assert quantizer(torch.cat(batches)).scale.min() > 0
    # independent of the order where no batch is special, and of what training did in between
    for step in range(1, 6):
        quantizer.train()
        quantizer.tick(step)
        quantizer(batch(step) * 50)
    calibrate(model, batches, forward)
    again = copied(quantizer)
    for key, value in first.items():
        assert torch.equal(value, again[key]), key
    # a controller whose candidates do not hang on the first batch sees one batch in three
    if "min-mse" not in name:
        one = nn.Sequential(build(name))
        calibrate(one, [torch.cat(batches)], forward)
        for key, value in copied(one[0]).items():
            assert torch.allclose(value.double(), first[key].double(), rtol=1e-6), key


def test_a_quantiser_that_no_batch_reaches_keeps_its_scale():
    model = nn.ModuleList([build("max-abs"), build("overflow-rate"), build("autoflex")])
    model[1](batch(2))
    model[1].tick(1)
    before = copied(model[1])
    calibrate(model, [batch(0)], lambda m, x: m[0](x))
    assert equal(before, copied(model[1]))
    assert not model[2].initialized


def test_a_failed_calibration_sets_nothing():
    quantizer = build("max-abs")
    quantizer(batch(0))
    quantizer.tick(1)
    held = quantizer.scale.clone()

    def forward(module, x):
        module[0](x)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        calibrate(nn.Sequential(quantizer), [batch(2)], forward)
    assert torch.equal(quantizer.scale, held)
    assert not quantizer.calibrating


def test_a_scale_in_use_outlives_the_tick():
    """Gradient accumulation: forward, forward, backward, backward."""
    quantizer = build("max-abs")
    quantizer.tick(1)
    first = quantizer(batch(0))
    held = first.scale.clone()
    quantizer.tick(2)
    quantizer(batch(2))
    quantizer.tick(3)
    assert torch.equal(first.scale, held)
    assert not torch.equal(quantizer.scale, held)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own tracer
@pytest.mark.parametrize("name", CASES)
def test_one_compiled_graph_serves_every_step(name):
    """No graph break, hence nothing read on the host; one more graph after the first batch; equal results."""
    from torch._dynamo.testing import CompileCounter

    def run(compiled):
        quantizer = build(name)

        def step(x, n):
            quantizer.tick(n)
            return quantizer(x).value()

        counter = CompileCounter()
        call = torch.compile(step, fullgraph=True, backend=counter) if compiled else step
        results = []
        for n in range(6):
            x = batch(n).requires_grad_()
            y = call(x, torch.tensor(n))
            y.sum().backward()
            results += [y.detach(), x.grad]
        return results, copied(quantizer), counter.frame_count

    torch._dynamo.reset()
    eager, state, _ = run(False)
    compiled, compiled_state, frames = run(True)
    assert all(torch.equal(a, b) for a, b in zip(eager, compiled, strict=True))
    assert equal(state, compiled_state)
    assert frames == 2
