"""Which quantisers run, how they are forced, and that the caller's float settings change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantize_native import F32, GRIDS, INF, run, same_bits

from bitwright.errors import InvalidValueError
from bitwright.kernels import ISA_VARIABLE, Graph, available_isas, default_isa, describe, quantize_isas
from bitwright.kernels.quantize import RoundingCode


def test_every_engine_isa_has_quantisers():
    assert quantize_isas()[0] == "scalar"
    assert set(available_isas()) <= set(quantize_isas())


@pytest.mark.parametrize("isa", quantize_isas())
def test_forced(monkeypatch, isa):
    """The engine has no AVX2 or NEON kernels: it runs its scalar ones then."""
    monkeypatch.setenv(ISA_VARIABLE, isa)
    assert describe()["quantize_isa"] == isa
    assert default_isa() == (isa if isa in available_isas() else "scalar")
    assert Graph().isa == default_isa()


def test_unforced(monkeypatch):
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    assert describe()["quantize_isa"] == quantize_isas()[-1]


def test_unknown(monkeypatch):
    x, scale = np.ones((1, 1, 1), F32), np.ones(1, F32)
    with pytest.raises(InvalidValueError, match="scalar"):
        run(x, scale, GRIDS["int8"], RoundingCode.FLOOR, isa="sse9")
    monkeypatch.setenv(ISA_VARIABLE, "sse9")
    with pytest.raises(InvalidValueError, match=f"scalar.*{ISA_VARIABLE}"):
        run(x, scale, GRIDS["int8"], RoundingCode.FLOOR, isa=None)


@pytest.mark.parametrize("isa", quantize_isas())
def test_subnormals_are_not_flushed(isa):
    x = (np.arange(2**20, dtype=np.uint32) * 7).view(F32).reshape(1, 1, -1)  # all subnormal
    scale = np.ones(1, F32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush subnormals")
    try:
        for threads in (1, 3):
            got = run(x, scale, GRIDS["float32"], RoundingCode.NEAREST_EVEN, isa=isa, threads=threads)
            same_bits(got.output, x)
        assert float(torch.tensor(1e-40) * 1) == 0  # still as the caller had it
    finally:
        torch.set_flush_denormal(False)
    assert got.max_abs[0] == x.max() < INF
