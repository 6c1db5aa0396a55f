"""Taps outside the image are left out of products; whatever the window, the interpreter computes the same."""

from __future__ import annotations

import pytest
from graph_networks import Builder, codes_of
from test_kernels_graph import check

from bitwright.formats import Binary, Int, Ternary, UInt
from bitwright.integer import Conv, Input

WINDOWS = [  # kernel, stride, pads, dilation
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 3), (2, 1), (1, 1, 1, 2), (1, 1)),
    ((5, 3), (1, 2), (4, 4, 0, 2), (2, 1)),  # rows of the kernel lie apart
    ((3, 3), (1, 1), (2, 2, 2, 2), (1, 2)),  # columns too: the margin is met
    ((2, 1), (1, 1), (3, 3, 1, 1), (1, 1)),  # corners without a single tap inside
    ((1, 1), (1, 1), (1, 0, 0, 1), (1, 1)),
    ((1, 5), (1, 1), (0, 0, 2, 2), (1, 1)),
]


@pytest.mark.parametrize("forms", [(Int(8), Int(8)), (UInt(8), Binary()), (Binary(), Binary()),
                                   (UInt(2), Int(2)), (Ternary(), Binary())], ids=str)  # fmt: skip
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 3)], ids=str)
def test_windows_over_borders(forms, size):
    """Channels that fill whole units and such that do not; more images than one group of rows."""
    taken, weight = forms
    for number, (kernel, stride, pads, dilation) in enumerate(WINDOWS):
        channels = (3, 4, 20)[number % 3]
        build = Builder(number, Input("input", "", (channels, *size), taken, 0.5))
        wide = build.weight((18, channels, *kernel), weight)
        build.add(Conv("conv", "input", wide, stride, pads, dilation))
        build.codes()
        network = build.finish()
        assert network.engine_problem is None
        batch = codes_of(network, 35 if size == (4, 4) and number < 2 else 3, number)
        check(network, batch)
        check(network, batch[:1], threads=3)
