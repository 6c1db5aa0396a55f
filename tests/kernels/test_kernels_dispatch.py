"""Which instruction set is chosen, and how it is forced."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.kernels import ISA_VARIABLE, Graph, available_isas, default_isa, describe


def test_scalar_is_always_there(monkeypatch):
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    assert available_isas()[0] == "scalar"
    assert default_isa() == available_isas()[-1]


@pytest.mark.parametrize("isa", available_isas())
def test_forced(monkeypatch, isa):
    monkeypatch.setenv(ISA_VARIABLE, isa)
    assert default_isa() == isa
    assert Graph().isa == isa
    assert describe()["isa"] == isa


def test_empty_variable_forces_nothing(monkeypatch):
    monkeypatch.setenv(ISA_VARIABLE, "")
    assert default_isa() == available_isas()[-1]


@pytest.mark.parametrize("name", ["avx", "sse9", "AVX512 "])
def test_unknown(monkeypatch, name):
    with pytest.raises(InvalidValueError, match="scalar"):
        Graph(isa=name)
    monkeypatch.setenv(ISA_VARIABLE, name)
    with pytest.raises(InvalidValueError, match=f"scalar.*{ISA_VARIABLE}"):
        default_isa()
    with pytest.raises(InvalidValueError, match=ISA_VARIABLE):
        Graph()


def test_not_a_string():
    with pytest.raises(InvalidTypeError, match="string"):
        Graph(isa=3)


@pytest.mark.parametrize("isa", available_isas())
def test_describe(monkeypatch, isa):
    monkeypatch.setenv(ISA_VARIABLE, isa)
    told = describe()
    assert told["isas"] == available_isas()
    assert all(isinstance(present, bool) for present in told["cpu_features"].values())
    assert set(told["kernels"]) == {
        "dot",
        "depthwise",
        "planes",
        "bgemm_bits",
        "bgemm_sums",
        "quantize",
        "sign",
    }
    own = told["kernels"] if isa != "avx2" else ["dot", "depthwise", "planes"]
    assert all(isa in told["kernels"][name] for name in own)


def test_import_brings_no_torch():
    code = "import bitwright.kernels, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
