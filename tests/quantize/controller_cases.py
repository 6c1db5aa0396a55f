"""One case of every controller, and small helpers, for the tests of what all of them must do."""

from __future__ import annotations

import torch

from bitwright.formats import parse
from bitwright.quantize import (
    Autoflex,
    Estimator,
    LearntClip,
    LearntStep,
    MaxAbs,
    MinMax,
    MinMSE,
    OverflowRate,
    Percentile,
    Quantizer,
    QuantizerSpec,
    SqnrOptimal,
)

CASES = {
    "max-abs": (MaxAbs(), "int8"),
    "max-abs-channel": (MaxAbs("channel", power_of_two=True), "fixed8"),
    "min-max": (MinMax(), "uint8"),
    "percentile": (Percentile(99.0), "int8"),
    "percentile-channel": (Percentile(95.0, "channel"), "int4"),
    "percentile-held": (Percentile(95.0, hold=True), "int4"),
    "min-mse": (MinMSE(octaves=3, per_octave=4), "int4"),
    "min-mse-zero-point": (MinMSE(octaves=2, per_octave=4, zero_point=True), "uint4"),
    "min-mse-channel": (MinMSE("channel", power_of_two=True), "int4"),
    "sqnr": (SqnrOptimal(), "fixed6"),
    "sqnr-channel": (SqnrOptimal("laplacian", "channel", power_of_two=False), "int3"),
    "sqnr-unsigned": (SqnrOptimal(), "uint4"),
    "overflow-rate": (OverflowRate(rate=0.004, window=3), "fixed6"),
    "autoflex": (Autoflex(window=4), "flex8+5"),
    "lsq": (LearntStep(), "int4"),
    "pact": (LearntClip(), "uint4"),
}
MOVING = [name for name, (controller, _) in CASES.items() if not controller.settles]


def build(name, replicated=True):
    controller, form = CASES[name]
    estimator = Estimator.CLIPPED if controller.learns else Estimator.STRAIGHT_THROUGH
    spec = QuantizerSpec(parse(form), controller, estimator=estimator)
    return Quantizer(spec, "t", channel_axis=1, replicated=replicated)


def batch(index, rows=4, scale=None):
    """[rows, 3, 5] with a few large elements, whose size changes from batch to batch."""
    generator = torch.Generator().manual_seed(index)
    size = (1.0, 0.3, 5.0, 2.0)[index % 4] if scale is None else scale
    x = torch.randn(rows, 3, 5, generator=generator) * size
    x[0, 0, 0] *= 8
    return x


def copied(quantizer):
    return {name: tensor.detach().clone() for name, tensor in quantizer.state_dict().items()}


def equal(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor, b[name]), (name, tensor, b[name])
    return True
