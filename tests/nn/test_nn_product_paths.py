"""Every path of a product gives the integers of its definition; the choice among them is as documented."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.nn.arithmetic import (
    FLOAT32_EXACT,
    FLOAT64_EXACT,
    INT32_EXACT,
    Operand,
    Path,
    fit_int8,
    split,
)
from bitwright.nn.geometry import ConvGeometry, Kind, LinearGeometry
from bitwright.nn.product import sums

INT8, UINT8 = Operand(-128, 127), Operand(0, 255)


# --- the reference: Python integers, one output at a time ---------------------------------------------


def reference(geometry, kind, left, right, shape):
    """The sums by their definition, in int64 (every bound here is below 2^63)."""
    left, right = left.to(torch.int64).numpy(), right.to(torch.int64).numpy()
    result = np.zeros(shape, np.int64)
    if isinstance(geometry, LinearGeometry):
        shapes = {Kind.FORWARD: "ni,oi->no", Kind.DGRAD: "no,oi->ni", Kind.WGRAD: "no,ni->oi"}
        flat = [t.reshape(-1, t.shape[-1]) for t in (left, right)]
        return torch.from_numpy(np.einsum(shapes[kind], *flat).reshape(shape))
    # every tap (n, o, c, y, x, i, j) joins a[n, c, y s + i - p, x s + j - p], w[o, c, i, j], y[n, o, y, x]
    if kind is Kind.FORWARD:
        (outputs, kernel, inputs) = shape[2:], right.shape[2:], left.shape[2:]
    elif kind is Kind.DGRAD:
        (outputs, kernel, inputs) = left.shape[2:], right.shape[2:], shape[2:]
    else:
        (outputs, kernel, inputs) = left.shape[2:], shape[2:], right.shape[2:]
    for y, x, i, j in itertools.product(*map(range, (*outputs, *kernel))):
        v = y * geometry.stride[0] + i - geometry.padding[0]
        u = x * geometry.stride[1] + j - geometry.padding[1]
        if not (0 <= v < inputs[0] and 0 <= u < inputs[1]):
            continue
        if kind is Kind.FORWARD:
            result[:, :, y, x] += left[:, :, v, u] @ right[:, :, i, j].T
        elif kind is Kind.DGRAD:
            result[:, :, v, u] += left[:, :, y, x] @ right[:, :, i, j]
        else:
            result[:, :, i, j] += left[:, :, y, x].T @ right[:, :, v, u]
    return torch.from_numpy(result)


@st.composite
def geometries(draw):
    """A geometry and the shapes of activation and weight."""
    size = st.integers(1, 5)
    if draw(st.booleans()):
        leading = draw(st.lists(size, min_size=0, max_size=2))
        inputs = draw(st.integers(1, 70))
        return LinearGeometry(), (*leading, inputs), (draw(size), inputs)
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    image = [draw(st.integers(max(1, k - 2 * p), 8)) for k, p in zip(kernel, padding, strict=True)]
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    channels = draw(size)
    return ConvGeometry(stride, padding), (draw(size), channels, *image), (draw(size), channels, *kernel)


def shapes_of(geometry, kind, a_shape, w_shape):
    """(left, right, result)."""
    y_shape = tuple(geometry.output(torch.Size(a_shape), torch.Size(w_shape)))
    return {
        Kind.FORWARD: (a_shape, w_shape, y_shape),
        Kind.DGRAD: (y_shape, w_shape, a_shape),
        Kind.WGRAD: (y_shape, a_shape, w_shape),
    }[kind]


def levels(operand, shape, seed, extreme=None):
    generator = torch.Generator().manual_seed(seed)
    if extreme is not None:
        ends = {"high": (operand.highest,) * 2, "low": (operand.lowest,) * 2}
        low, high = ends.get(extreme, (operand.lowest, operand.highest))
        return torch.where(torch.rand(shape, generator=generator) < 0.5, low, high).to(torch.float32)
    return torch.randint(operand.lowest, operand.highest + 1, shape, generator=generator).to(torch.float32)


def allowed(operands, reduction):
    """The paths that the widths alone prove."""
    widths = reduction * operands[0].level_max * operands[1].level_max
    if widths <= FLOAT32_EXACT:
        yield Path.FLOAT32
    if fit_int8(operands) and widths <= INT32_EXACT:
        yield Path.INT8
    if split(operands, tuple(reduction * o.level_max for o in operands)):
        yield Path.SPLIT
    if widths <= FLOAT64_EXACT:
        yield Path.FLOAT64


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    case=geometries(),
    kind=st.sampled_from(Kind),
    operands=st.sampled_from(
        [
            (INT8, INT8),
            (UINT8, INT8),
            (INT8, UINT8),
            (Operand(-2048, 2047), INT8),
            (Operand(-1, 1), Operand(-32768, 32767)),
            (Operand(-2048, 2047), Operand(-2048, 2047)),
            (Operand(-(2**20), 2**20), Operand(-(2**15), 2**15)),
        ]
    ),
    extreme=st.sampled_from([None, "high", "low", "ends"]),
    seed=st.integers(0, 2**16),
)
def test_every_path_gives_the_integers(case, kind, operands, extreme, seed):
    geometry, a_shape, w_shape = case
    left_shape, right_shape, shape = shapes_of(geometry, kind, a_shape, w_shape)
    left, right = (
        levels(operands[0], left_shape, seed, extreme),
        levels(operands[1], right_shape, seed + 1, extreme),
    )
    expected = reference(geometry, kind, left, right, shape)
    reduction = geometry.reduction(kind, left.shape, right.shape)
    assert expected.abs().max() <= reduction * operands[0].level_max * operands[1].level_max
    paths = [None, *allowed(operands, reduction)]
    assert len(paths) > 1
    for path in paths:
        got = sums(geometry, kind, left, right, list(shape), operands, path=path)
        assert got.dtype == (torch.float32 if Path.FLOAT32 in paths else torch.float64)
        assert got.is_contiguous()
        assert torch.equal(got.to(torch.int64), expected), path
