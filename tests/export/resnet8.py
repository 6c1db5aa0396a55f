"""MLPerf Tiny's ResNet-8 in integers with drawn weights: its shapes, its residual sums, its scales."""

from __future__ import annotations

import numpy as np

from bitwright.formats import Int, Rounding, UInt
from bitwright.integer import Add, Affine, AvgPool, Codes, Conv, Input, Linear, Network, Output, Reshape

SHIFT = 31


def resnet8(bits=8, seed=0):
    """Three stacks of 16, 32 and 64 channels over [3, 32, 32]; weights of so many bits, codes of 8."""
    generator = np.random.default_rng(seed)
    operations = [Input("image", "", (3, 32, 32), Int(8), 2.0**-6, -3)]

    def weight(*shape):
        return Codes.pack(Int(bits), generator.integers(-(1 << bits - 1), 1 << bits - 1, shape))

    def slopes(channels, inputs):
        """Multipliers that bring sums of so many products back to codes."""
        spread = 40 * (1 << bits) / 3.5 * np.sqrt(inputs)
        return np.rint(50 / spread * generator.uniform(0.5, 1.5, channels) * 2**SHIFT).astype(np.int64)

    def offsets(channels):
        return generator.integers(-20 << SHIFT, 20 << SHIFT, channels)

    def conv(name, x, inputs, outputs, size, stride, form):
        pads = (0, 0, 0, 0) if size == 1 else (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        operations.append(
            Conv(f"{name}.conv", x, weight(outputs, inputs, size, size), (stride, stride), pads)
        )
        m, b = slopes(outputs, inputs * size**2), offsets(outputs)
        operations.append(Affine(name, f"{name}.conv", m, b, SHIFT, form, Rounding.NEAREST_EVEN))
        return name

    x, channels = conv("stem", "image", 3, 16, 3, 1, UInt(8)), 16
    for stack, wider in enumerate((16, 32, 64)):
        stride = 1 if stack == 0 else 2
        a = conv(f"stack{stack}.a", x, channels, wider, 3, stride, UInt(8))
        b = conv(f"stack{stack}.b", a, wider, wider, 3, 1, Int(8))
        if stride == 2:
            x = conv(f"stack{stack}.shortcut", x, channels, wider, 1, 2, Int(8))
        terms = np.array([[3 << 20] * wider, [5 << 19] * wider])
        zero = np.zeros(wider, np.int64)
        operations.append(Add(f"stack{stack}", (b, x), terms, zero, 22, UInt(8), Rounding.NEAREST_EVEN))
        x, channels = f"stack{stack}", wider
    operations += [
        AvgPool("mean", x, (8, 8), (8, 8), (0, 0)),
        Affine("pooled", "mean", *(np.full(64, v) for v in (1, 0)), 6, UInt(8), Rounding.NEAREST_EVEN),
        Reshape("flat", "pooled", (64,)),
        Linear("fc", "flat", weight(10, 64)),
        Output("scores", "fc", slopes(10, 64), offsets(10), SHIFT),
    ]
    return Network(operations, {"classes": list("0123456789")})
