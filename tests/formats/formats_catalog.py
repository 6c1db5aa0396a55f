"""Which formats are tested, by which implementations, on which values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from formats_definition import grid_of

from bitwright.errors import InvalidValueError
from bitwright.formats import (
    Binary,
    Block,
    Fixed,
    Flex,
    Float,
    Int,
    Log,
    Overflow,
    Rounding,
    Specials,
    Ternary,
    UFixed,
    UInt,
    block_twin,
    parse,
    twin,
)
from bitwright.kernels import ISA_VARIABLE, quantize_isas

DETERMINISTIC = [r for r in Rounding if r is not Rounding.STOCHASTIC]

UNIFORM = [
    *[kind(width) for kind in (Int, UInt) for width in range(1, 17)],
    *[
        kind(width, fraction)
        for kind in (Fixed, UFixed)
        for width in range(1, 17)
        for fraction in (-2, 0, width, width + 3)
    ],
    *[Flex(*fields) for fields in ((2, 1), (8, 5), (16, 5), (12, 8), (16, 5, 0), (5, 3, -3))],
    Binary(),
    Ternary(),
]
LOGS = [Log(width, root) for width in range(2, 9) for root in (False, True)]


def small_floats(widest=10):
    """Every Float(e, m) of 1 + e + m <= widest under each Specials, with and without subnormals and sign."""
    refused = []
    for e in range(1, 9):
        for m in range(widest - e):
            for specials in Specials:
                for subnormals in (True, False):
                    for signed in (True, False):
                        try:
                            yield Float(e, m, specials, subnormals=subnormals, signed=signed)
                        except InvalidValueError as error:
                            refused.append(str(error))
    assert len(refused) < 400
    rules = ("needs a mantissa bit", "needs a sign", "finite number beside 0", "are float32 numbers")
    assert all(any(rule in text for rule in rules) for text in refused)


FLOATS = [*small_floats()]
HALVES = [Float(5, 10), Float(8, 7)]
WIDE_FLOATS = [Float(8, 10), Float(8, 23)]
ODD_FLOATS = [
    parse(name)
    for name in ("e8m0fnu", "e4m3b11fnuz", "e2m1fnan", "e4m3b0f", "e5m2b30", "ue5m3b0fn", "e3m4b146f-flush")
]
BLOCKS = [
    parse(name)
    for name in (
        *(
            "mxfp8e4m3",
            "mxfp8e5m2",
            "mxfp6e3m2",
            "mxfp6e2m3",
            "mxfp4",
            "mxint8",
            "nvfp4",
            "bfp8x32",
            "bfp4x3",
        ),
        *(
            f"block16-{e}-e8m0fnu-{r}"
            for e in ("e4m3fn", "e2m1f", "fixed5.2")
            for r in ("ceil", "rceil", "even")
        ),
        *("block16-e4m3-e5m2-divide", "block7-int6-bf16-divide", "block5-fixed4.-3-ue4m4fn-divide"),
    )
]


# --- implementations ---------------------------------------------------------------------------------------


def implementations(form):
    """(name, quantise) of each implementation of `form` there is on this machine; every test runs on all.

    quantise(x, **options) takes a float32 tensor and the options of `Format.quantize`, and returns the
    values. The C++ kernels count once for each instruction set that this machine executes.
    """
    yield "scalar", lambda x, **options: scalar_values(form, x, **options)
    yield "twin", lambda x, **options: twin_values(form, x, **options)
    for isa in quantize_isas():
        yield isa, lambda x, isa=isa, **options: kernel_values(form, isa, x, **options)


def kernel_values(form, isa, x, **options):
    """`quantize` on the kernels of one instruction set; formats that they leave to the twin pass too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ISA_VARIABLE, isa)
        return form.quantize(x, **options)


def scalar_values(form, x, *, scale=None, rounding="nearest-even", overflow="saturate", key=None, axis=-1):
    """The scalar reference, element by element (row by row for blocks)."""
    how = (Rounding.of(rounding), Overflow.of(overflow), key)
    form.check_overflow(how[1])
    if isinstance(form, Block):
        outer = form.scale_or_default(scale)
        moved = x.movedim(axis, -1)
        assert key is None or moved.is_contiguous()  # draws go by the row-major index
        rows = moved.reshape(-1, moved.shape[-1]).tolist()
        rows = [
            form.decode_row(*form.encode_row(row, outer, *how, first=i * len(row)), outer)
            for i, row in enumerate(rows)
        ]
        return torch.tensor(rows, dtype=torch.float32).reshape(moved.shape).movedim(-1, axis)
    codes = [form._encode_scalar(v, scale, *how, None, i) for i, v in enumerate(x.flatten().tolist())]
    values = [form.decode(code, scale=scale) for code in codes]
    return torch.tensor(values, dtype=twin.value_type(form)).reshape(x.shape)


def twin_values(form, x, *, scale=None, rounding="nearest-even", overflow="saturate", key=None, axis=-1):
    """The torch twin, with nothing dispatched."""
    how = (Rounding.of(rounding), Overflow.of(overflow), key)
    if isinstance(form, Block):
        outer = form.scale_or_default(scale)
        return block_twin.values(form, *block_twin.numbers(form, x, axis, outer, *how), axis, outer)
    number = twin.numbers(form, x, scale, *how)
    return number * twin.as_tensor(form.scale_or_default(scale), number.dtype, x.device)


def overflows(form):
    """The overflow modes that a format takes."""
    for overflow in Overflow:
        try:
            form.check_overflow(overflow)
        except InvalidValueError:
            continue
        yield overflow


def modes(form):
    """(rounding, overflow): every pair; but where "symmetric" is documented to saturate, one of its own."""
    for overflow in overflows(form):
        alike = overflow is Overflow.SYMMETRIC and form.min_number == -form.max_number
        for rounding in DETERMINISTIC[:1] if alike else DETERMINISTIC:
            yield rounding, overflow


def same(a, b):
    """Whether two float tensors have the same bits; all NaN count as one."""
    a, b = (torch.as_tensor(t) for t in (a, b))
    nan = a.isnan() & b.isnan()
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and bool((nan | (a == b) & (a.signbit() == b.signbit())).all())
    )


def differing(x, a, b, count=5):
    """The first places where two results differ, for messages."""
    nan = a.isnan() & b.isnan()
    at = (~(nan | (a == b) & (a.signbit() == b.signbit()))).nonzero().flatten()[:count].tolist()
    return [(float(x.flatten()[i]).hex(), float(a.flatten()[i]), float(b.flatten()[i])) for i in at]


# --- values ------------------------------------------------------------------------------------------------

SPECIAL = np.array(
    [0.0, math.inf, math.nan, 1e-45, 2e-45, 1.1754942e-38, 1.1754944e-38, 1.0, 1.5, 3.0, 1e38, 3.4028235e38],
    np.float32,
)


def trying_values(form, most=1500):
    """Float32 that try a Float or a Log: what is special, every number, tie and the float32 beside.

    Above `most` of one sign, the largest and smallest and an even sample of the others stay.
    """
    grid = grid_of(form)
    magnitudes, middles = grid.magnitudes[np.isfinite(grid.magnitudes)], grid.middles
    if not np.isfinite(middles[-1]):  # logarithms: turns in the place of ties
        middles = np.append(magnitudes * 2**0.25, magnitudes * 2**0.5)
    exact = np.unique(np.concatenate([magnitudes, middles, magnitudes[-1:] * 2]))
    with np.errstate(over="ignore"):
        exact = exact.astype(np.float32)
    exact = exact[np.isfinite(exact)]
    if 3 * len(exact) > most:
        ends, inner = 40, np.linspace(40, len(exact) - 41, (most // 3) - 80).astype(int)
        # odd and even places: numbers and ties
        exact = np.concatenate([exact[:ends], exact[inner], exact[-ends:]])
    with np.errstate(all="ignore"):
        around = [np.nextafter(exact, np.float32(way)) for way in (-np.inf, np.inf)]
    positive = np.unique(np.concatenate([exact, *around, SPECIAL[~np.isnan(SPECIAL)]]))
    return torch.from_numpy(np.concatenate([positive, -positive, [np.float32(math.nan)]]).astype(np.float32))


def stride(values, count):
    """The odd step that leaves about `count` of the values."""
    return len(values) // count | 1


def thinned(values, count):
    """About `count` of the values, evenly."""
    return values[:: stride(values, count)]
