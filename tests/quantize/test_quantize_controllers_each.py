"""Each controller against a plain implementation of its rule."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
import torch

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Fixed, Flex, Int, Ternary, UInt, parse
from bitwright.quantize import (
    Autoflex,
    Density,
    MinMax,
    MinMSE,
    OverflowRate,
    Percentile,
    Quantizer,
    QuantizerSpec,
    SqnrOptimal,
)
from bitwright.quantize.densities import grid, mid_rise


def quantizer(form, controller, axis=0):
    return Quantizer(QuantizerSpec(form, controller), "t", axis)


def random(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def powers(x):
    return 2.0 ** math.ceil(math.log2(x))


# --- min-max ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [UInt(8), Int(8), UInt(4), Int(2)], ids=str)
@pytest.mark.parametrize("limits", [(-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (-1e-3, 1e3), (0.0, 1e-40)])
def test_min_max_covers_the_range_and_holds_zero(form, limits):
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    x = torch.linspace(limits[0], limits[1], 100)
    result = quantizer(form, MinMax())(x)
    codes = form.code_max - form.code_min
    scale = np.float32(max((float(np.float32(high)) - float(np.float32(low))) / codes, 2.0**-126))
    assert result.scale.item() == scale
    zero_point = min(max(round(form.code_min - low / float(scale)), form.code_min), form.code_max)
    assert result.zero_point.item() == zero_point
    assert result.zero_point.dtype == torch.int32
    assert ((result.codes() >= form.code_min) & (result.codes() <= form.code_max)).all()
    expected = form.encode(x, scale=result.scale, zero_point=zero_point)
    assert torch.equal(result.codes(), expected.to(torch.int64))
    assert torch.equal(result.levels, expected.float() - zero_point)
    assert torch.equal(result.value(), form.quantize(x, scale=result.scale, zero_point=zero_point))
    zero = quantizer(form, MinMax())
    zero(x)
    assert zero(torch.zeros(1)).value() == 0


def test_min_max_follows_the_step_before_and_reaches_products():
    q = quantizer(UInt(8), MinMax())
    q.tick(0)
    q(torch.tensor([-1.0, 4.1]))
    q(torch.tensor([-2.0, 0.0]))
    q.tick(1)
    result = q(torch.tensor([100.0, -100.0, 0.0]))
    assert result.scale.item() == pytest.approx(6.1 / 255)
    assert result.zero_point.item() == round(2 / (6.1 / 255))
    assert result.value().tolist() == pytest.approx([4.1, -2.0, 0.0], abs=6.1 / 255)
    assert q.level_max == 255
    x = torch.tensor([-3.0, -1.0, 5.0]).requires_grad_()
    clipped = Quantizer(QuantizerSpec(UInt(8), MinMax(), estimator=_clipped()))
    clipped(torch.tensor([-2.0, 4.0]))
    clipped(x).value().sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_levels_of_a_quotient_are_those_of_the_tensor():
    from bitwright.formats import Overflow, Rounding

    x = random(0, 200, scale=3.0)
    for form, controller in ((UInt(4), MinMax()), (Fixed(4), SqnrOptimal()), (Int(3), MinMSE())):
        for overflow in (Overflow.SATURATE, Overflow.SYMMETRIC):
            for rounding in (Rounding.FLOOR, Rounding.STOCHASTIC):
                q = Quantizer(QuantizerSpec(form, controller, rounding, overflow=overflow))
                q(x)
                result = q.eval()(x)
                assert torch.equal(q.eval_levels(x / result.scale), result.levels)
                assert result.levels.abs().max() <= q.level_max


def _clipped():
    from bitwright.quantize import Estimator

    return Estimator.CLIPPED


# --- percentile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("axis", [None, 1])
def test_percentile_lies_within_a_bin_of_the_sorted_one(percent, axis):
    x = random(3, 1000, 4) * torch.tensor([1.0, 10.0, 0.01, 3e4])
    per = "tensor" if axis is None else "channel"
    q = quantizer(Int(8), Percentile(percent, per), 1)
    threshold = q(x).scale.flatten().double() * 127
    columns = [x.flatten()] if axis is None else list(x.unbind(1))
    for got, column in zip(threshold.tolist(), columns, strict=True):
        ordered = column.abs().sort().values.tolist()
        exact = ordered[math.ceil(len(ordered) * percent / 100 - 1e-9) - 1]
        assert exact * (1 - 1e-6) <= got <= exact * (1 + 1 / 32) * (1 + 1e-6)
        assert got <= ordered[-1] * (1 + 1e-6)
        share = sum(v <= got * (1 + 1e-6) for v in ordered) / len(ordered)
        assert share * 100 >= percent - 1e-9
    if percent == 100.0:
        assert threshold.max().item() == pytest.approx(x.abs().max().item(), rel=1e-6)


def test_percentile_of_calls_is_that_of_their_union():
    q = quantizer(Int(8), Percentile(95.0))
    q.tick(0)
    q(random(0, 5))
    q.tick(1)
    parts = [random(i, 300, scale=s) for i, s in enumerate((1.0, 5.0, 0.2))]
    for part in parts:
        q(part)
    q.tick(2)
    together = quantizer(Int(8), Percentile(95.0))
    assert torch.equal(q.scale, together(torch.cat(parts)).scale)


# --- least squares ---------------------------------------------------------------------------------------


def squared_error(form, x, scale):
    return ((form.encode(x, scale=scale).double() * scale - x.double()) ** 2).sum().item()


@pytest.mark.parametrize(
    "form", [Int(2), Int(4), Int(8), UInt(4), Ternary(), Binary(), parse("log4")], ids=str
)
@pytest.mark.parametrize("power_of_two", [False, True])
def test_min_mse_is_the_best_of_its_candidates_and_beats_max_abs(form, power_of_two):
    x = random(1, 4000).pow(3) if form is not UInt(4) else random(1, 4000).abs()
    controller = MinMSE(power_of_two=power_of_two, octaves=6, per_octave=8)
    got = quantizer(form, controller)(x).scale.item()

    def error(scale):
        value = form.quantize(x, scale=scale).double()
        return ((value - x.double()) ** 2).sum().item()

    largest = x.abs().max().item() / form.max_number
    if power_of_two:
        trials = [powers(largest) * 2.0**-j for j in range(-1, 7)]
        assert math.frexp(got)[0] == 0.5
    else:
        trials = [largest * 2 ** (1 - j / 8) for j in range(57)]
    best = min(error(t) for t in trials)
    assert error(got) <= best * (1 + 1e-6)
    assert error(got) <= error(largest if not power_of_two else powers(largest)) * (1 + 1e-6)


@pytest.mark.parametrize("form", [UInt(4), Int(3), UInt(8)], ids=str)
@pytest.mark.parametrize("shift", [0.0, 0.7, 10.0])
def test_min_mse_with_a_zero_point_shrinks_the_range_about_0(form, shift):
    x = random(2, 3000).pow(3) + shift
    q = quantizer(form, MinMSE(octaves=3, per_octave=8, zero_point=True))
    result = q(x)
    whole = quantizer(form, MinMax())(x)
    assert torch.equal(result.zero_point, whole.zero_point)
    trials = [torch.tensor(whole.scale.item() * 2 ** (1 - j / 8), dtype=torch.float32) for j in range(33)]
    zero = int(whole.zero_point)
    errors = [
        (form.quantize(x, scale=t, zero_point=zero).double() - x.double()).square().sum().item()
        for t in trials
    ]
    assert result.scale.item() == pytest.approx(trials[int(np.argmin(errors))].item(), rel=1e-6)
    assert torch.equal(result.value(), form.quantize(x, scale=result.scale, zero_point=zero))


def test_min_mse_without_a_negative_number_uses_every_code():
    result = quantizer(UInt(4), MinMSE(zero_point=True))(random(3, 5000).relu())
    assert result.zero_point == 0
    assert result.codes().unique().tolist() == list(range(16))


def test_min_mse_of_a_calibration_sums_over_batches():
    from torch import nn

    from bitwright.quantize import calibrate

    batches = [random(0, 500), random(1, 500, scale=1.7), random(2, 500, scale=0.1)]
    model = nn.Sequential(quantizer(Int(3), MinMSE(octaves=4, per_octave=8)))
    calibrate(model, batches, lambda m, x: m[0](x))
    base = batches[0].abs().max().item() / 3
    trials = [base * 2 ** (1 - j / 8) for j in range(41)]
    errors = [sum(squared_error(Int(3), b, t) for b in batches) for t in trials]
    assert model[0].scale.item() == pytest.approx(trials[int(np.argmin(errors))], rel=1e-6)


def test_min_mse_per_channel_is_each_channels_own():
    x = random(5, 3, 400) * torch.tensor([[1.0], [20.0], [0.01]])
    scale = quantizer(Int(4), MinMSE("channel"))(x).scale
    for row, got in zip(x, scale.flatten(), strict=True):
        assert quantizer(Int(4), MinMSE())(row).scale == got


def test_equal_errors_take_the_larger_scale():
    assert quantizer(Int(8), MinMSE(power_of_two=True))(torch.tensor([64.0, -32.0])).scale == 2.0


@pytest.mark.parametrize("density", Density)
@pytest.mark.parametrize(
    ("form", "limits"),
    [
        (Int(4), (-8, 7)),
        (Fixed(6), (-32, 31)),
        (UInt(3), (0, 7)),
        (Ternary(), (-1, 1)),
        (Flex(8, 5), (-128, 127)),
    ],
    ids=str,
)
def test_sqnr_step_is_spread_times_table(density, form, limits):
    x = random(2, 5000, scale=0.3) + 0.1
    x = x.abs() if limits[0] == 0 else x
    spread = x.double().square().mean().sqrt() if limits[0] == 0 else x.double().std(correction=0)
    step = float(spread) * grid(density, *limits).step
    exact = quantizer(form, SqnrOptimal(density, power_of_two=False))(x).scale.item()
    paper = quantizer(form, SqnrOptimal(density.value))(x).scale.item()
    assert paper == powers(step)  # n = -ceil(log2 s)
    if not isinstance(form, Flex):
        assert exact == pytest.approx(step, rel=1e-6)
        mid = quantizer(form, SqnrOptimal(density, power_of_two=False, mid_rise=True))(x).scale.item()
        assert mid == pytest.approx(float(spread) * mid_rise(density, form.bits).step, rel=1e-6)


def test_sqnr_is_near_the_best_search_for_its_own_density():
    x = random(7, 20000)
    table = quantizer(Int(4), SqnrOptimal(power_of_two=False))(x).scale.item()
    search = quantizer(Int(4), MinMSE(per_octave=64))(x).scale.item()
    assert squared_error(Int(4), x, table) <= 1.01 * squared_error(Int(4), x, search)
    binary = quantizer(Binary(), SqnrOptimal(power_of_two=False))(x).scale.item()
    assert binary == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)  # E|x|


# --- overflow rate ---------------------------------------------------------------------------------------


def overflow_reference(batches, form, rate, window, patience):
    """Section 2 of fxpnet.md in plain Python: the scale in use at each step."""
    scale, used = powers(max(abs(v) for v in batches[0]) / form.max_number), []
    count = over = half = streak = ticks = 0
    for step, batch in enumerate(batches):
        if step:
            ticks += 1
            if ticks == window:
                if over / count > rate:
                    scale, streak = scale * 2, 0
                elif half / count <= rate:
                    streak += 1
                    if streak == patience:
                        scale, streak = scale / 2, 0
                else:
                    streak = 0
                count = over = half = ticks = 0
        used.append(scale)
        count += len(batch)
        over += sum(not form.min_number <= v / scale <= form.max_number for v in batch)
        half += sum(not form.min_number <= 2 * v / scale <= form.max_number for v in batch)
    return used


@pytest.mark.parametrize(
    ("window", "patience", "rate"), [(1, 1, 0.0), (3, 2, 0.01), (5, 2, 0.05), (4, 3, 0.2)]
)
def test_overflow_rate_is_the_papers_rule(window, patience, rate):
    sizes = [1.0] * 12 + [9.0] * 20 + [0.05] * 40 + [2.0] * 20
    batches = [random(i, 64, scale=s) for i, s in enumerate(sizes)]
    q = quantizer(Fixed(8), OverflowRate(rate, window, patience))
    used = []
    for step, x in enumerate(batches):
        q.tick(step)
        used.append(q(x).scale.item())
    assert used == overflow_reference([b.tolist() for b in batches], Fixed(8), rate, window, patience)
    assert len(set(used)) > 3


def test_values_at_the_limit_do_not_overflow_and_saturated_ones_do():
    q = quantizer(Int(4), OverflowRate(rate=0.0, window=1, patience=10))
    q(torch.tensor([-8.0, 7.0]))
    q.tick(1)
    assert q.scale == 2.0  # -8 needs no more than 1, but max |x| / 7 is above it
    q.scale.fill_(1.0)
    q(torch.tensor([-8.0, 7.0]))
    q.tick(2)
    assert q.scale == 1.0
    q(torch.tensor([7.0, math.inf]))
    q.tick(3)
    assert q.scale == 2.0


def test_a_scale_that_could_halve_waits_for_its_patience():
    q = quantizer(Int(8), OverflowRate(window=2, patience=2))
    scales = []
    for step in range(9):
        q.tick(step)
        scales.append(q(torch.full((4,), 100.0 if step == 0 else 1.0)).scale.item())
    # step 0 keeps its window from halving; then every second window halves
    assert scales == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


def test_the_exponent_of_flex_stays_in_its_window():
    form = Flex(8, 2)
    low, high = 2.0 ** -form.exponents[-1], 2.0 ** -form.exponents[0]
    for controller in (OverflowRate(window=1, patience=1), Autoflex(), SqnrOptimal(), MinMSE(), Percentile()):
        q = quantizer(form, controller)
        for step, size in enumerate([1.0] * 3 + [1e6] * 20 + [1e-6] * 20):
            q.tick(step)
            scale = q(random(step, 20, scale=size)).scale.item()
            assert low <= scale <= high
            assert math.frexp(scale)[0] == 0.5


# --- autoflex --------------------------------------------------------------------------------------------


class AutoflexReference:
    """flexpoint.md, Algorithms 1 and 2, with a deque."""

    def __init__(self, bits, alpha=2.0, beta=3.0, gamma=100.0, window=16, low=-126, high=127):
        self.bits, self.alpha, self.beta, self.gamma = bits, alpha, beta, gamma
        self.top = 2 ** (bits - 1) - 1
        self.limits = (2.0**low, 2.0**high)
        self.f = deque(maxlen=window)
        self.overflows = []
        self.used = []

    def start(self, phi):
        n, kappa, done = self.bits, 1.0, False
        while not done:
            gamma = min(round(phi / kappa), self.top)
            if gamma >= self.top:
                kappa *= 2.0 ** ((n - 1) // 2)
            elif gamma < 2 ** (n - 2):
                kappa *= 2.0 ** (math.ceil(math.log2(max(gamma, 1))) - (n - 2))
                done = gamma > 2 ** ((n - 1) // 2 - 2)
            else:
                done = True
            if not self.limits[0] <= kappa <= self.limits[1]:
                kappa, done = min(max(kappa, self.limits[0]), self.limits[1]), True
        self.kappa = min(max(kappa, self.limits[0]), self.limits[1])

    def step(self, phi):
        gamma = min(round(phi / self.kappa), self.top)
        overflow = gamma >= self.top
        self.overflows.append(overflow)
        self.used.append(math.log2(max(gamma, 1)) + 1)  # with the sign
        if overflow:
            self.f.clear()
            gamma *= 2
        self.f.append(gamma * self.kappa)
        chi = self.alpha * (max(self.f) + self.beta * float(np.std(self.f)) + self.gamma * self.kappa)
        self.kappa = 2.0 ** (math.ceil(math.log2(chi)) - self.bits + 1)
        self.kappa = min(max(self.kappa, self.limits[0]), self.limits[1])


def maxima(sigma, count=4000, seed=0):
    return np.exp(np.random.default_rng(seed).normal(0, sigma, count)).astype(np.float32)


def follow(phis, form, controller, reference):
    """Step by step: our scale equals the reference's. Returns the reference."""
    q = quantizer(form, controller)
    reference.start(float(phis[0]))
    for step, phi in enumerate(phis):
        q.tick(step)
        scale = q(torch.tensor([phi, -phi / 2])).scale.item()
        assert scale == reference.kappa, step
        reference.step(float(phi))
    return reference


@pytest.mark.parametrize(("sigma", "overflows", "bits"), [(0.2, 0, 13.5), (0.5, 0, 12.5), (1.0, 3, 11.1)])
def test_autoflex_meets_the_papers_page(sigma, overflows, bits):
    phis = maxima(sigma)
    reference = follow(phis[:1500], Fixed(16), Autoflex(), AutoflexReference(16))
    for phi in phis[1500:]:
        reference.step(float(phi))
    assert abs(sum(reference.overflows) - overflows) <= (2 if overflows else 0)
    assert np.mean(reference.used) == pytest.approx(bits, abs=0.06)


@pytest.mark.parametrize(
    "settings", [{}, {"window": 3}, {"alpha": 1.0, "beta": 1.0, "gamma": 10.0}, {"beta": 0.0}]
)
@pytest.mark.parametrize("form", [Flex(16, 5), Flex(8, 5), Fixed(12)], ids=str)
def test_autoflex_equals_a_deque(form, settings):
    phis = np.concatenate(
        [maxima(0.5, 60), maxima(0.3, 60, 1) * 50, maxima(1.0, 60, 2) * 1e-4, maxima(0.1, 20, 3) * 1e9]
    )
    window = (-form.exponents[-1], -form.exponents[0]) if isinstance(form, Flex) else (-126, 127)
    reference = AutoflexReference(form.bits, **settings, low=window[0], high=window[1])
    assert any(follow(phis, form, Autoflex(**settings), reference).overflows)


def test_a_jump_of_50_costs_the_overflows_that_the_formulas_give():
    """Each overflow multiplies the range by 8 (2 Gamma, alpha = 2 and ceil): 4 to 32 to 256, that is 2."""
    phis = np.concatenate([np.ones(50), np.full(20, 50.0)]).astype(np.float32)
    reference = follow(phis, Fixed(16), Autoflex(), AutoflexReference(16))
    assert [i for i, o in enumerate(reference.overflows) if o] == [50, 51]


@pytest.mark.parametrize("phi", [1e-37, 1e-20, 1e-3, 0.9, 1.0, 3.7, 127.0, 32767.0, 1e6, 1e20, 3e38])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_algorithm_1_leaves_at_most_two_bits_unused(phi, bits):
    scale = quantizer(Fixed(bits), Autoflex())(torch.tensor([phi])).scale.item()
    reference = AutoflexReference(bits)
    reference.start(float(np.float32(phi)))
    assert scale == reference.kappa
    if scale > 2.0**-126:
        assert 2 ** (bits - 3) <= round(phi / scale) < 2 ** (bits - 1)


def test_zeros_drive_the_exponent_to_the_end_of_its_window_and_no_further():
    """Pitfall 1: chi = alpha gamma kappa for zeros; the window holds it."""
    form = Flex(16, 5)
    q = quantizer(form, Autoflex())
    for step in range(30):
        q.tick(step)
        scale = q(torch.ones(2) if step == 0 else torch.zeros(2)).scale.item()
    assert scale == 2.0 ** -form.exponents[-1]


# --- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QuantizerSpec(Fixed(8), MinMax()), "fixed8 has no zero point"),
        (lambda: QuantizerSpec(Binary(), OverflowRate()), "two levels do not overflow"),
        (lambda: QuantizerSpec(UInt(8), Autoflex()), "two's-complement"),
        (lambda: QuantizerSpec(parse("e4m3fn"), SqnrOptimal()), "equally spaced formats of at most 16 bits"),
        (lambda: QuantizerSpec(Int(24), SqnrOptimal()), "at most 16 bits"),
        (lambda: SqnrOptimal("gaus"), "unknown density"),
        (lambda: SqnrOptimal(per="row"), "per tensor or channel"),
        (lambda: Percentile(0), "percent is above 0 and at most 100; got 0"),
        (lambda: Percentile(101), "percent is above 0"),
        (lambda: Percentile("99"), "percent is a number"),
        (lambda: Percentile(math.nan), "percent is above 0"),
        (lambda: MinMSE(octaves=0), "octaves is at least 1"),
        (lambda: MinMSE("channel", zero_point=True), "per tensor"),
        (lambda: MinMSE(power_of_two=True, zero_point=True), "any scale"),
        (lambda: QuantizerSpec(Fixed(8), MinMSE(zero_point=True)), "fixed8 has no zero point"),
        (lambda: MinMSE(per_octave=1.5), "per_octave is an int"),
        (lambda: OverflowRate(rate=-0.1), "rate is at least 0"),
        (lambda: OverflowRate(window=0), "window is at least 1"),
        (lambda: OverflowRate(clipped="no"), "clipped is freeze or before"),
        (lambda: Autoflex(alpha=0), "alpha is above 0"),
        (lambda: Autoflex(window=True), "window is an int"),
    ],
)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        build()


def test_in_words():
    words = {
        MinMax(): "min-max",
        Percentile(99.5, hold=True): "percentile 99.5 per tensor, held",
        MinMSE("channel", True): "min-mse per channel, power of two",
        SqnrOptimal(): "sqnr gaussian per tensor, power of two",
        OverflowRate(): "overflow rate 0.0001 every 100",
        Autoflex(): "autoflex",
        Autoflex(beta=2.0, window=8): "autoflex, beta 2, window 8",
    }
    assert {c: str(c) for c in words} == words
