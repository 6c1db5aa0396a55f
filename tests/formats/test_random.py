"""Philox and stochastic rounding: known answers, twin = scalar, the right frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Fixed, Int, Key, tensor_id
from bitwright.formats.random import draw, draw_scalar, philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "rounds", "words"),
    [  # the known answers of Random123
        ((0, 0, 0, 0), (0, 0), 10, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES,) * 2, 10, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            10,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
        ((0, 0, 0, 0), (0, 0), 7, "5f6fb709 0d893f64 4f121f81 4f730a48"),
        ((ONES,) * 4, (ONES,) * 2, 7, "5207ddc2 45165e59 4d8ee751 8c52f662"),
    ],
)
def test_philox_known_answers(counter, key, rounds, words):
    assert " ".join(f"{w:08x}" for w in philox(counter, key, rounds)) == words


@pytest.mark.parametrize(
    "key", [Key(), Key(ONES, ONES, (1 << 48) - 1, ONES >> 16), Key(3, "layer.weight", 1 << 33, 2)]
)
def test_twin_draws_what_the_scalar_draws(key):
    drawn = draw(key, torch.Size((5, 7)), torch.device("cpu"))
    assert drawn.flatten().tolist() == [draw_scalar(key, n) for n in range(35)]


def test_every_part_of_the_key_matters():
    shape, device = torch.Size((64,)), torch.device("cpu")
    keys = [Key(), Key(seed=1), Key(tensor=1), Key(step=1), Key(call=1), Key(step=1 << 32), Key(tensor="a")]
    drawn = [draw(k, shape, device).tolist() for k in keys]
    assert len({tuple(d) for d in drawn}) == len(keys)
    assert drawn[0] == draw(Key(), shape, device).tolist()


def test_bits_do_not_depend_on_memory_format():
    x = torch.rand(2, 3, 4, 5)
    form, key = Int(4), Key(9)
    plain = form.encode(x, scale=0.1, rounding="stochastic", key=key)
    last = form.encode(x.to(memory_format=torch.channels_last), scale=0.1, rounding="stochastic", key=key)
    assert torch.equal(plain, last)


@pytest.mark.parametrize("form", [Fixed(8, 4), Int(3), Binary()], ids=str)
def test_stochastic_scalar_and_twin_agree(form):
    x = torch.linspace(-3, 3, 97)
    key = Key(5, "t", 6, 7)
    codes = form.encode(x, rounding="stochastic", key=key).tolist()
    from bitwright.formats import Rounding

    scalar = [form._encode_scalar(float(v), None, Rounding.STOCHASTIC, key, n) for n, v in enumerate(x)]
    assert codes == scalar


def test_integers_never_move():
    x = torch.arange(-100.0, 101.0).repeat(50)
    assert torch.equal(Int(8).quantize(x, rounding="stochastic", key=Key(1)), x)


@pytest.mark.parametrize("fraction", [2**-12, 0.25, 0.5, 0.75, 1 - 2**-12])
@pytest.mark.parametrize("base", [0.0, -3.0])
def test_rounds_up_as_often_as_it_should(fraction, base):
    n = 1 << 20
    x = torch.full((n,), base + fraction)
    up = (Int(8).quantize(x, rounding="stochastic", key=Key(2)) - base).double().mean().item()
    sigma = math.sqrt(fraction * (1 - fraction) / n)
    assert abs(up - fraction) < 4 * sigma + 2**-16


@pytest.mark.parametrize("x", [-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0])
def test_stochastic_sign_has_the_papers_probability(x):
    n = 1 << 18
    p = min(max((x + 1) / 2, 0), 1)  # QNN, section 1
    plus = (
        (Binary().quantize(torch.full((n,), x), rounding="stochastic", key=Key(3)) > 0).double().mean().item()
    )
    assert abs(plus - p) <= 4 * math.sqrt(p * (1 - p) / n) + 2**-16


def test_draws_are_uniform_and_uncorrelated():
    n = 1 << 18
    streams = [
        draw(Key(0, t, s), torch.Size((n,)), torch.device("cpu")).double().numpy()
        for t in (0, 1)
        for s in (0, 1)
    ]
    for stream in streams:
        counts = np.bincount((stream // 4096).astype(int), minlength=16)
        chi2 = ((counts - n / 16) ** 2 / (n / 16)).sum()
        assert chi2 < 45  # 15 degrees of freedom: beyond 1e-4
    correlations = np.corrcoef(streams)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 5 / math.sqrt(n)


@pytest.mark.parametrize(
    "bad", [{"seed": -1}, {"seed": 1 << 32}, {"step": 1 << 48}, {"call": 1 << 16}, {"tensor": -1}]
)
def test_keys_are_checked(bad):
    with pytest.raises(InvalidValueError, match="Key lies in"):
        Key(**bad)


def test_tensor_ids_are_stable():
    assert tensor_id("fc1.weight") == tensor_id("fc1.weight") != tensor_id("fc1.activation")
    assert 0 <= tensor_id("") < 1 << 32
