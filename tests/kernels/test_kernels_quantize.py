"""The emulation quantisers equal their NumPy reference in every bit, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from quantize_native import F32, GRIDS, INF, KEY, NAN, hard_quotients, key_for, run, same, same_bits
from quantize_reference import draws, quantize

from bitwright.kernels import quantize_isas
from bitwright.kernels.quantize import Grid, GridKind, RoundingCode

isas = pytest.mark.parametrize("isa", quantize_isas())
roundings = pytest.mark.parametrize("rounding", list(RoundingCode), ids=lambda r: r.name.lower())


def one(value):
    return np.array([value], F32)


@pytest.mark.parametrize("name", GRIDS)
@roundings
def test_hard_quotients(name, rounding):
    grid = GRIDS[name]
    x = hard_quotients(grid).reshape(1, 1, -1)
    settings = {"key": key_for(rounding), "bits": 16}
    expected = quantize(x, one(1), grid, rounding, **settings)
    for isa in quantize_isas():
        same(run(x, one(1), grid, rounding, isa=isa, **settings), expected, x)


@pytest.mark.parametrize("scale", [2.0**-4, 2.0**100, 0.3, 2.0**-127, 2.0**127, 3e-40, 1e-5])
@pytest.mark.parametrize("scaled", [True, False])
@isas
def test_scales(scale, scaled, isa):
    """Powers of two with and without a normal reciprocal, others, subnormal ones."""
    for name in ("int8", "e4m3fn", "logsqrt2", "sign"):
        with np.errstate(all="ignore"):
            x = np.concatenate(
                [hard_quotients(GRIDS[name], 100) * F32(scale), hard_quotients(GRIDS[name], 10)]
            ).reshape(1, 1, -1)
        expected = quantize(x, one(scale), GRIDS[name], RoundingCode.NEAREST_EVEN, scaled=scaled)
        same(run(x, one(scale), GRIDS[name], RoundingCode.NEAREST_EVEN, isa=isa, scaled=scaled), expected, x)


@pytest.mark.parametrize("bits", [1, 2, 7, 15, 16])
@pytest.mark.parametrize("name", ["int8", "wrapu4", "e4m3fn", "log2", "logsqrt2", "sign"])
@isas
def test_random_bits(name, bits, isa):
    x = np.random.default_rng(1).standard_normal((1, 1, 1000)).astype(F32) * F32(3)
    settings = {"key": (1, 2, 3, 4), "bits": bits}
    expected = quantize(x, one(1), GRIDS[name], RoundingCode.STOCHASTIC, **settings)
    same(run(x, one(1), GRIDS[name], RoundingCode.STOCHASTIC, isa=isa, **settings), expected, x)


@isas
def test_draws(isa):
    """The draw itself: a fraction of k / 2^16 is rounded up where R < k."""
    wanted = draws(300, KEY, 16)
    for step in (0, 1):  # up where R < R + step: nowhere, and everywhere
        x = ((wanted + step) / 2**16).astype(F32).reshape(1, 1, -1)
        got = run(x, one(1), GRIDS["int8"], RoundingCode.STOCHASTIC, isa=isa, key=KEY)
        assert (got.output == step).all()


@isas
def test_sizes(isa):
    """Around every vector and window, aligned or not, in place or not."""
    x = np.random.default_rng(2).standard_normal(140).astype(F32) * F32(60)
    for name, rounding in (("int8", RoundingCode.NEAREST_EVEN), ("e4m3fn", RoundingCode.STOCHASTIC)):
        for size in (*range(35), *range(60, 70), *range(125, 134)):
            part = x[:size].reshape(1, 1, -1)
            expected = quantize(part, one(0.5), GRIDS[name], rounding, key=KEY)
            for offset in (0, 1, 7):
                for in_place in (False, True):
                    same(
                        run(
                            part,
                            one(0.5),
                            GRIDS[name],
                            rounding,
                            isa=isa,
                            key=key_for(rounding),
                            offset=offset,
                            in_place=in_place,
                        ),
                        expected,
                        part,
                    )


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 0), (0, 3, 5), (2, 3, 0), (3, 1, 7), (2, 3, 1), (5, 1, 1), (40, 7, 1), (3, 300, 1), (2, 259, 1),
     (2, 3, 5), (4, 5, 9), (2, 3, 63), (2, 3, 64), (3, 2, 65), (2, 4, 130), (1, 300, 2)],
)  # fmt: skip
@pytest.mark.parametrize("rounding", [RoundingCode.NEAREST_EVEN, RoundingCode.STOCHASTIC])
@isas
def test_layouts(shape, rounding, isa):
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape).astype(F32) * F32(40)
    x.ravel()[::17] = NAN
    x.ravel()[5::23] = INF
    scale = rng.uniform(0.01, 2, shape[1]).astype(F32)
    scale[::2] = 0.25
    zero_point = rng.integers(-100, 100, shape[1]).astype(np.int32)
    for name, zero in (("int8", None), ("int8", zero_point), ("e4m3fn", None)):
        settings = {"key": key_for(rounding), "zero_point": zero}
        expected = quantize(x, scale, GRIDS[name], rounding, **settings)
        for offset, in_place in ((0, False), (3, True)):
            same(
                run(x, scale, GRIDS[name], rounding, isa=isa, offset=offset, in_place=in_place, **settings),
                expected,
                x,
            )


@pytest.mark.parametrize("zero_point", [-128, -3, 0, 127])
@roundings
def test_zero_points(zero_point, rounding):
    x = hard_quotients(GRIDS["int8"], 200).reshape(1, 1, -1)
    zeros = np.array([zero_point], np.int32)
    for name in ("int8", "wrap8"):
        settings = {"key": key_for(rounding), "zero_point": zeros}
        expected = quantize(x, one(1), GRIDS[name], rounding, **settings)
        for isa in quantize_isas():
            same(run(x, one(1), GRIDS[name], rounding, isa=isa, **settings), expected, x)


@pytest.mark.parametrize(
    "shape", [(1, 1, 3 * 2**20 + 77), (3, 2**18 + 5, 1), (2, 3, 2**18 + 9), (2**16, 3, 5)]
)
@isas
def test_threads_and_streams(shape, isa):
    """Large enough to be cut, and to bypass the caches: the same as the elements one by one."""
    if isa == "scalar" and shape[1] != 1:
        pytest.skip("slow, and cut like the others")
    rng = np.random.default_rng(4)
    x = rng.standard_normal(shape, F32)
    x.ravel()[-3] = 1e30
    scale = (2.0 ** rng.integers(-6, -3, shape[1])).astype(F32)
    for rounding in (RoundingCode.NEAREST_EVEN, RoundingCode.STOCHASTIC):
        settings = {"isa": isa, "key": key_for(rounding)}
        alone = run(x, scale, GRIDS["int8"], rounding, **settings)
        same(run(x, scale, GRIDS["int8"], rounding, threads=3, offset=5, **settings), alone)
        same(run(x, scale, GRIDS["int8"], rounding, threads=2, in_place=True, **settings), alone)
        if rounding == RoundingCode.NEAREST_EVEN:
            same(alone, quantize(x, scale, GRIDS["int8"], rounding))
        elif isa != "scalar":
            same(alone, run(x, scale, GRIDS["int8"], rounding, key=KEY, isa=quantize_isas()[1]))


@pytest.mark.parametrize("name", ["int8", "wrap8", "e4m3fn", "e5m2", "e2m1", "bfloat16", "log2", "logsqrt2"])
def test_every_upper_half(name):
    """All 2^16 float32 whose lower half is zero."""
    x = (np.arange(2**16, dtype=np.uint32) << 16).view(F32).reshape(1, 1, -1)
    expected = quantize(x, one(1), GRIDS[name], RoundingCode.NEAREST_EVEN)
    for isa in quantize_isas():
        same(run(x, one(1), GRIDS[name], RoundingCode.NEAREST_EVEN, isa=isa), expected, x)


@isas
def test_ml_dtypes(isa):
    """A foreign judge for the floating grids."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = hard_quotients(GRIDS["e5m2"]).reshape(1, 1, -1)
    for name, dtype in (
        ("e5m2", ml_dtypes.float8_e5m2),
        ("e4m3fn", ml_dtypes.float8_e4m3fn),
        ("bfloat16", ml_dtypes.bfloat16),
        ("float16", np.float16),
    ):
        with np.errstate(all="ignore"):
            judged = x.astype(dtype).astype(F32)
        judged[np.isnan(judged)] = F32(NAN)
        same_bits(run(x, one(1), GRIDS[name], RoundingCode.NEAREST_EVEN, isa=isa).output, judged, x)


def test_grid_survives_pickling():
    import copy
    import pickle

    for grid in (GRIDS["e4m3 saturating"], Grid(GridKind.LOG2, fields=7)):
        assert pickle.loads(pickle.dumps(grid)) == grid
        assert copy.deepcopy(grid) == grid
        assert len({grid, pickle.loads(pickle.dumps(grid))}) == 1
