"""Random bits and stochastic rounding: known answers, twin equals reference, the distribution."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Key, Ternary, UInt, tensor_id
from bitwright.formats.random import draw, draw_scalar, philox

ONES = 0xFFFFFFFF
KEY = Key(seed=7, tensor="conv1.weight", step=3, call=1)


@pytest.mark.parametrize(
    ("rounds", "counter", "key", "answer"),
    [
        (10, (0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (10, (ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            10,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
        (7, (0, 0, 0, 0), (0, 0), "5f6fb709 0d893f64 4f121f81 4f730a48"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(rounds, counter, key, answer):
    assert " ".join(f"{word:08x}" for word in philox(counter, key, rounds)) == answer


def test_the_layout_of_counter_and_draws():
    """(block low, block high, step low, call + 2^16 step high); eight 16-bit draws, low halves first."""
    key = Key(seed=0x12345678, tensor=0x9ABCDEF0, step=(5 << 32) + 9, call=3)
    words = philox((2, 0, 9, 3 + (5 << 16)), (0x12345678, 0x9ABCDEF0))
    halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    assert [draw_scalar(key, 16 + lane).value for lane in range(8)] == halves


@pytest.mark.parametrize(
    "key",
    [Key(), KEY, Key(ONES, ONES, 2**48 - 1, 2**16 - 1), Key(1, 2, 2**32, 3)],
)
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (3, 5, 4), (0,)])
def test_draws_of_the_twin_equal_the_reference(key, shape):
    drawn = draw(key, torch.Size(shape), torch.device("cpu"))
    assert drawn.shape == shape
    assert drawn.dtype == torch.int32
    assert drawn.flatten().tolist() == [draw_scalar(key, i).value for i in range(math.prod(shape))]


def test_every_part_of_the_key_matters():
    size = torch.Size((64,))
    keys = [Key(), Key(seed=1), Key(tensor=1), Key(step=1), Key(step=2**32), Key(call=1), Key(tensor="a")]
    draws = [tuple(draw(key, size, torch.device("cpu")).tolist()) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draw(Key(tensor="a"), size, torch.device("cpu")).tolist() == list(draws[-1])
    assert tensor_id("a") != tensor_id("b")
    # as `printf a | b2sum -l 32` prints it, least byte first
    assert tensor_id("a") == 0x554C23CA


@pytest.mark.parametrize("form", [Fixed(8, 4), UInt(4), Ternary(), Binary(), Int(28)], ids=str)
def test_stochastic_twin_equals_reference_element_by_element(form):
    generator = torch.Generator().manual_seed(0)
    step = form.default_scale
    x = torch.randn(400, generator=generator) * 6 * step
    x[:8] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-30, -1e-30, 0.5 * step])
    codes = form.encode(x, rounding="stochastic", key=KEY)
    again = form.encode(x, rounding="stochastic", key=KEY)
    assert torch.equal(codes, again)
    assert codes.tolist() == [reference(form, v, i) for i, v in enumerate(x.tolist())]


def reference(form, value, element):
    """From the definition, in exact arithmetic where the twin's is exact enough to be."""
    real = torch.float64 if form.wide else torch.float32
    q = (torch.tensor(value, dtype=torch.float32).to(real) / form.default_scale).item()
    drawn = draw_scalar(KEY, element).value
    if math.isnan(q):
        q = 0.0
    if isinstance(form, Binary):
        # q + 1 in the format's own type
        return 1 if drawn < (torch.tensor(q, dtype=real) + 1).item() * 2**15 else -1
    if math.isinf(q):
        return form.code_max if q > 0 else form.code_min
    below = math.floor(q)
    fraction = (torch.tensor(q, dtype=real) - below).item()
    code = below + (drawn < fraction * 2**16)
    return min(max(code, form.code_min), form.code_max)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    x=st.floats(width=32, allow_nan=True),
    seed=st.integers(0, ONES),
    step=st.integers(0, 2**48 - 1),
    form=st.sampled_from([Int(1), Int(8), Fixed(12, 5), Fixed(6, -3), Ternary(), Binary(), Int(32)]),
)
def test_scalar_equals_twin_for_any_key(x, seed, step, form):
    key = Key(seed, "t", step)
    tensor = torch.tensor([x], dtype=torch.float32)
    assert form.encode(x, rounding="stochastic", key=key) == form.encode(
        tensor, rounding="stochastic", key=key
    )


@pytest.mark.parametrize("fraction", [0.0, 2**-16, 0.25, 0.5, 0.9, 1 - 2**-16])
@pytest.mark.parametrize("whole", [-3, 0, 5])
def test_rounding_up_has_the_probability_of_the_fraction(whole, fraction):
    count = 200_000
    x = torch.full((count,), whole + fraction)
    codes = Int(8).encode(x, rounding="stochastic", key=Key(11, "distribution"))
    assert set(codes.unique().tolist()) <= {whole, whole + 1}
    ups = int((codes == whole + 1).sum())
    p = math.ceil(2**16 * fraction) / 2**16
    assert abs(ups - count * p) <= 4 * math.sqrt(count * p * (1 - p)) + 1e-9


def test_the_draw_rounds_up_strictly_below_the_fraction():
    """R < 2^16 (q - floor(q)): with R = d, a fraction of d 2^-16 stays and the next one goes up."""
    for seed in range(20):
        key = Key(seed, "edge")
        d = draw_scalar(key, 0).value
        for whole in (3, -3, 0):
            for steps, up in ((d, 0), (d + 1, 1)):
                x = whole + steps / 2**16
                assert Int(8).encode(x, rounding="stochastic", key=key) == whole + up
                assert Int(8).encode(torch.tensor([x]), rounding="stochastic", key=key).item() == whole + up
        for steps, sign in ((d, -1), (d + 1, 1)):  # P(+1) = (x + 1) / 2
            x = steps / 2**15 - 1
            assert Binary().encode(x, rounding="stochastic", key=key) == sign
            assert Binary().encode(torch.tensor([x]), rounding="stochastic", key=key).item() == sign


def test_integers_never_move():
    codes = torch.arange(-128, 128)
    for call in range(20):
        key = Key(0, "whole", call=call)
        assert torch.equal(Int(8).encode(codes.float(), rounding="stochastic", key=key), codes.to(torch.int8))


@pytest.mark.parametrize("x", [-2.0, -1.0, -0.5, 0.0, 0.3, 1.0, 7.0])
def test_stochastic_sign_has_the_hard_sigmoids_probability(x):
    """QNN, section 1: P(+1) = clip((x + 1) / 2, 0, 1)."""
    count = 200_000
    codes = Binary().encode(torch.full((count,), x), rounding="stochastic", key=Key(5, "sign"))
    p = min(max((x + 1) / 2, 0), 1)
    ups = int((codes == 1).sum())
    # the draw has 16 bits: P is rounded up to a multiple of 2^-16
    assert abs(ups - count * p) <= 4 * math.sqrt(count * p * (1 - p)) + count * 2**-16 * (0 < p < 1)
    assert int((codes == -1).sum()) == count - ups


def test_draws_of_neighbouring_elements_are_uncorrelated():
    drawn = draw(Key(2), torch.Size((80_000,)), torch.device("cpu")).double()
    unit = (drawn - drawn.mean()) / drawn.std()
    for lag in (1, 2, 4, 8):
        assert abs((unit[:-lag] * unit[lag:]).mean()) < 4 / math.sqrt(80_000)
    assert abs(drawn.mean() - 32767.5) < 4 * 65536 / math.sqrt(12 * 80_000)


def test_bits_do_not_depend_on_memory_format():
    x = torch.rand(2, 3, 4, 5)
    form, key = Int(4), Key(9)
    plain = form.encode(x, scale=0.1, rounding="stochastic", key=key)
    last = form.encode(x.to(memory_format=torch.channels_last), scale=0.1, rounding="stochastic", key=key)
    assert torch.equal(plain, last)


@pytest.mark.parametrize(
    "bad", [{"seed": -1}, {"seed": 1 << 32}, {"step": 1 << 48}, {"call": 1 << 16}, {"tensor": -1}]
)
def test_keys_are_checked(bad):
    with pytest.raises(InvalidValueError, match="Key lies in"):
        Key(**bad)
