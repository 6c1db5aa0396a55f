"""On a Cortex-M under QEMU: the interpreter's numbers, and what they take."""

from __future__ import annotations

import numpy as np
import pytest
from integer_networks import levels_for, residual_network
from resnet8 import resnet8

from bitwright.errors import InvalidValueError
from bitwright.export import cortex_m
from bitwright.export.cortex_m import BOARDS, ToolError, measure, missing_tools

needs_tools = pytest.mark.skipif(
    bool(missing_tools()),
    reason=f"no {', '.join(missing_tools())}: Debian's gcc-arm-none-eabi, qemu-system-arm",
)


def images(count, seed=0):
    return np.random.default_rng(seed).integers(-128, 128, (count, 3, 32, 32)).astype(np.int8)


@needs_tools
@pytest.mark.parametrize("cpu", BOARDS)
def test_every_operation_gives_the_same_numbers_on_every_core(cpu):
    network = residual_network()
    measured = measure(network, levels_for(network, 5, 0), cpu)
    assert (measured.examples, measured.numbers, measured.differing) == (5, 10, 0)
    assert measured.constants < measured.flash < 10_000
    assert measured.ram == measured.arena + measured.stack + measured.buffers


@needs_tools
def test_a_residual_network_with_4_bit_weights():
    network = resnet8(4)
    measured = measure(network, images(1))
    assert (measured.numbers, measured.differing) == (10, 0)
    assert measured.macs == 12_501_632  # MLPerf Tiny's
    assert measured.flash < 50_000  # half a byte a weight, multipliers, 4 kB of code
    assert measured.instructions < 5 * measured.macs


@needs_tools
def test_a_difference_is_counted(monkeypatch):
    """The interpreter is asked about other examples than the microcontroller."""
    network, trace = residual_network(), cortex_m.interpreter.trace
    x = levels_for(network, 4, 0)

    def other(network, batch):
        tensors = trace(network, batch)
        last = network.operations[-1].name
        return tensors | {last: tensors[last] + 1}

    monkeypatch.setattr(cortex_m.interpreter, "trace", other)
    measured = measure(network, x)
    assert measured.differing == measured.numbers == 8


@needs_tools
@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_fifty_images(bits):
    measured = measure(resnet8(bits), images(50, seed=bits))
    assert (measured.examples, measured.numbers, measured.differing) == (50, 500, 0)


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert len(missing_tools()) == 3
    with pytest.raises(ToolError, match=r"arm-none-eabi-gcc.*install"):
        measure(residual_network(), levels_for(residual_network(), 1, 0))


def test_an_unknown_core_is_named():
    with pytest.raises(InvalidValueError, match="cortex-m4"):
        measure(residual_network(), levels_for(residual_network(), 1, 0), "cortex-m44")
