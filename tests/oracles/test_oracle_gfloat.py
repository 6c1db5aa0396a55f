"""gfloat (Graphcore's reference of IEEE, OCP and P3109 formats) as a judge of codes, rounding and saturation.

Its `sat=True` is our overflow="saturate", `sat=False` our "infinite". What differs, with the reason:

- Infinity under sat=True. gfloat saturates it too; ours stays infinity where the format has one, since it is
  a number of the format and nothing overflows.
- Ties without mantissa bits (P3109's p = 1, e8m0). A neighbour is even here when it is an even multiple of
  the quantum, so the upper one; P3109 takes the one whose code is even.
- Below 2^-127 in e8m0. gfloat returns powers of two that the format does not have; ours is 2^-127.
- NaN in formats without one: gfloat raises, ours counts as 0. What overflows those under sat=False: gfloat
  raises, ours saturates.
- What is negative in unsigned formats: gfloat gives it back, ours becomes the smallest number.
- The canonical NaN: gfloat takes the largest code, ours the quiet one without sign.
- A quotient x / scale below 2^-150, in a block. gfloat divides in float64, where ceil finds it; ours is one
  float32 division, which gives 0.
- A NaN or infinity in a block: gfloat's scale becomes NaN; ours counts the finite elements only.
"""

from __future__ import annotations

import gfloat
import numpy as np
import pytest
import torch
from gfloat import Domain, RoundMode, Signedness
from gfloat import formats as published
from oracles_draws import NONE, disagreements, drawn

from bitwright.formats import Fixed, Float, Key, Specials, parse
from bitwright.formats.random import draw

ROUNDINGS = {
    "nearest-even": RoundMode.TiesToEven,
    "nearest-away": RoundMode.TiesToAway,
    "floor": RoundMode.TowardNegative,
    "ceil": RoundMode.TowardPositive,
    "toward-zero": RoundMode.TowardZero,
}
STOCHASTIC = (
    RoundMode.Stochastic,
    RoundMode.StochasticOdd,
    RoundMode.StochasticFast,
    RoundMode.StochasticFastest,
)


def p3109(width, precision, domain):
    """P3109's signed formats: extended ones have infinities."""
    specials = Specials.UZ if domain is Domain.Extended else Specials.FNUZ
    info = published.format_info_p3109(width, precision, Signedness.Signed, domain)
    return info, Float(width - precision, precision - 1, specials)


def p3109_unsigned(precision):
    """P3109's unsigned finite formats of 8 bits."""
    info = published.format_info_p3109(8, precision, Signedness.Unsigned, Domain.Finite)
    return info, Float(9 - precision, precision - 1, Specials.FN, bias=1 << 8 - precision, signed=False)


PAIRS = [
    (published.format_info_ocp_e5m2, parse("e5m2")),
    (published.format_info_ocp_e4m3, parse("e4m3fn")),
    (published.format_info_ocp_e2m3, parse("e2m3fn")),
    (published.format_info_ocp_e3m2, parse("e3m2fn")),
    (published.format_info_ocp_e2m1, parse("e2m1fn")),
    (published.format_info_ocp_e8m0, parse("e8m0fnu")),
    (published.format_info_binary16, parse("fp16")),
    (published.format_info_bfloat16, parse("bf16")),
    *(p3109(8, p, domain) for p in range(1, 8) for domain in Domain),
    *(p3109(*kp, domain) for kp in ((3, 2), (4, 2), (6, 3), (6, 4), (10, 4), (16, 8)) for domain in Domain),
    *(p3109_unsigned(p) for p in range(2, 9)),
]
pairs = pytest.mark.parametrize(("info", "form"), PAIRS, ids=[f"{i.name}-{f}" for i, f in PAIRS])


@pytest.mark.parametrize("precision", range(1, 8))
def test_p3109_names(precision):
    assert parse(f"binary8p{precision}") == p3109(8, precision, Domain.Extended)[1]
    assert parse(f"binary8p{precision}se") == p3109(8, precision, Domain.Extended)[1]


@pairs
def test_every_code_decodes_and_encodes_alike(info, form):
    codes = np.arange(1 << form.bits)
    values = form.decode(torch.from_numpy(codes))
    assert disagreements(codes, values, gfloat.decode_ndarray(info, codes).astype(np.float32)) == NONE
    number = ~np.isnan(values.numpy())
    theirs = gfloat.encode_ndarray(info, values.double().numpy()[number])
    assert np.array_equal(form.encode(values).numpy()[number], theirs.astype(np.int64))
    assert (info.max, info.min) == (form.max_number, form.min_number)


def check(info, form, x, rounding, saturate):
    has_infinity, has_nan = info.domain is Domain.Extended, info.num_nans > 0
    if not has_nan:
        x = x[~np.isnan(x)]
        if not saturate and not has_infinity:
            x = x[np.abs(x) <= info.max]
    if not form.signed:
        x = x[(x >= 0) | np.isnan(x)]
    if not form.zero:
        x = x[(x >= form.min_number) | np.isnan(x)]
    if saturate and has_infinity:
        infinite = torch.from_numpy(x[np.isinf(x)])
        assert torch.equal(form.quantize(infinite, rounding=rounding), infinite)
        x = x[~np.isinf(x)]
    if not form.mantissa and rounding == "nearest-even":
        x = check_ties_go_up(form, x)
    assert len(x)
    overflow = "saturate" if saturate else "infinite"
    ours = form.quantize(torch.from_numpy(x), rounding=rounding, overflow=overflow).numpy()
    with np.errstate(all="ignore"):  # signalling NaN
        theirs = gfloat.round_ndarray(info, x.astype(np.float64), ROUNDINGS[rounding], saturate)
        theirs = theirs.astype(np.float32)
    assert disagreements(x, ours, theirs) == NONE


def check_ties_go_up(form, x):
    """Ours on ties between powers of two; returns the others, and the tie between 0 and the smallest."""
    tie = np.abs(np.frexp(x)[0]) == 0.75
    tie &= (np.abs(x) > 2.0**form.emin) & (np.abs(x) < form.max_number)
    assert np.array_equal(form.quantize(torch.from_numpy(x[tie])).numpy(), x[tie] / np.float32(0.75))
    return x[~tie & ~((np.abs(x) > form.max_number) & (np.abs(x) <= 1.5 * form.max_number))]


@pairs
def test_a_million_floats_round_alike(info, form):
    """A million in all modes together."""
    for i, rounding in enumerate(ROUNDINGS):
        for saturate in (True, False):
            check(info, form, drawn(form, 100_000, seed=2 * i + saturate), rounding, saturate)


@pytest.mark.slow
@pairs
def test_a_million_floats_round_alike_in_every_mode(info, form):
    """About two minutes for all."""
    for rounding in ROUNDINGS:
        for saturate in (True, False):
            check(info, form, drawn(form, seed=7), rounding, saturate)


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
@pytest.mark.parametrize(("info", "form"), PAIRS[:5], ids=[i.name for i, _ in PAIRS[:5]])
def test_stochastic_rounding_where_the_bits_suffice(info, form, bits):
    """Where 2^bits (q - floor(q)) is an integer no bits are lost, and all of gfloat's four schemes are one.

    Ours goes up when R < 2^bits f, gfloat's when 2^bits f + s >= 2^bits, so that s = 2^bits - 1 - R.
    """
    generator = np.random.default_rng(bits)
    codes = torch.from_numpy(generator.integers(0, 1 << form.bits - 1, 20_000))
    low = form.decode(codes).double().numpy()
    low = low[np.isfinite(low) & (low < form.max_number)]
    high = form.decode(form.encode(torch.from_numpy(low).float()).long() + 1).double().numpy()
    x = low + (high - low) * generator.integers(0, (1 << bits) + 1, len(low)) / (1 << bits)
    x = np.where(generator.integers(0, 2, len(x)), -x, x)
    key = Key(1, form.name, bits=bits)
    single = torch.from_numpy(x).float()
    kept = single.double().numpy() == x  # what float32 holds
    ours = form.quantize(single, rounding="stochastic", key=key).numpy()[kept]
    chance = (1 << bits) - 1 - draw(key, single.shape, single.device).numpy().astype(np.int64)
    for mode in STOCHASTIC:
        theirs = gfloat.round_ndarray(info, x, mode, True, chance, bits).astype(np.float32)[kept]
        assert disagreements(x[kept], ours, theirs) == NONE, mode
    assert kept.mean() > 0.9


BLOCKS = {
    "mxfp8e5m2": published.format_info_mxfp8_e5m2,
    "mxfp8e4m3": published.format_info_mxfp8_e4m3,
    "mxfp6e3m2": published.format_info_mxfp6_e3m2,
    "mxfp6e2m3": published.format_info_mxfp6_e2m3,
    "mxfp4": published.format_info_mxfp4_e2m1,
    "mxint8": published.format_info_mxint8,
}


def their_codes(form, codes):
    """Our element codes as gfloat counts them: two's complement as unsigned."""
    return codes.numpy().astype(np.int64) & (1 << form.bits) - 1


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_decode_alike_under_every_scale(name):
    form, info = parse(name), BLOCKS[name]
    codes = torch.tensor(list(form.codes()))
    rows = -(-len(codes) // form.size)
    codes = torch.nn.functional.pad(codes, (0, rows * form.size - len(codes))).view(rows, form.size)
    for scale_code in range(256):
        ours = form.decode(codes, torch.full((rows, 1), scale_code))
        scale = float(gfloat.decode_float(info.stype, scale_code).fval)
        theirs = gfloat.decode_ndarray(info.etype, their_codes(form, codes)) * scale
        with np.errstate(over="ignore"):
            assert disagreements(codes.flatten(), ours.flatten(), theirs.astype(np.float32).flatten()) == NONE
        if scale_code % 50 == 0:
            for row, values in zip(their_codes(form, codes).tolist(), theirs, strict=True):
                one = list(gfloat.decode_block(info, [scale_code, *row]))
                assert np.array_equal(one, values, equal_nan=True)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_quantise_alike(name):
    """Scale, element codes and values, of every magnitude; zeros, subnormals, blocks pinned at a limit."""
    form, info = parse(name), BLOCKS[name]
    generator = np.random.default_rng(3)
    x = generator.standard_normal((60, form.size)) * 2.0 ** generator.integers(-140, 120, (60, 1))
    x = x.astype(np.float32)
    x[0] = 0
    x[1:20, 5] = 2.0 ** generator.integers(-140, 120, 19)
    x[20:30] = np.float32(1e-44)
    x[30, 0] = 3.4028235e38
    if isinstance(form.element, Fixed):
        x[31:36, :4] = -np.abs(x[31:36]).max() * 1.9999  # beside -2
    codes, scale_codes = form.encode(torch.from_numpy(x))
    for row, code, scale_code in zip(
        x.astype(np.float64), codes, scale_codes.flatten().tolist(), strict=True
    ):
        scale = float(gfloat.compute_scale_amax(info.etype.emax, row))
        theirs = list(gfloat.encode_block(info, scale, row / scale))
        assert theirs[0] == scale_code
        ours = their_codes(form, code)
        assert np.array_equal(ours, theirs[1:])
    for rounding, mode in ROUNDINGS.items():
        part = x[::6]
        values = form.quantize(torch.from_numpy(part), rounding=rounding)
        for row, ours in zip(part, values, strict=True):
            double = row.astype(np.float64)
            theirs = gfloat.quantize_block(info, double, gfloat.compute_scale_amax, mode).astype(np.float32)
            lost = (row / np.float32(gfloat.compute_scale_amax(info.etype.emax, double)) == 0) & (row != 0)
            assert not ours.numpy()[lost].any()
            assert lost.sum() <= 1
            assert disagreements(row[~lost], ours.numpy()[~lost], theirs[~lost]) == NONE
