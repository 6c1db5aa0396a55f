"""Every path of a product gives the integers of its definition; the choice among them is as documented."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from products_reference import allowed, check_every_path, levels, reference, shapes_of

from bitwright.nn.arithmetic import Operand, Path
from bitwright.nn.geometry import ConvGeometry, Kind, LinearGeometry, TransposedGeometry
from bitwright.nn.product import sums

INT8, UINT8 = Operand(-128, 127), Operand(0, 255)


@st.composite
def geometries(draw):
    """A geometry and the shapes of activation and weight."""
    size = st.integers(1, 5)
    if draw(st.booleans()):
        leading = draw(st.lists(size, min_size=0, max_size=2))
        inputs = draw(st.integers(1, 70))
        return LinearGeometry(), (*leading, inputs), (draw(size), inputs)
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, stride, dilation = each(1, 4), each(1, 4), each(1, 3)
    padding = draw(st.sampled_from([each(0, 5), each(0, 5) + each(0, 5)]))
    channels, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    conv = ConvGeometry(stride, padding, dilation, groups)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if len(padding) == rank and draw(st.booleans()):
        more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        geometry = TransposedGeometry(conv, more)
        # enough places that something is left of them
        least = [
            max(1, -(-(1 + 2 * p - span - o) // s) + 1)
            for p, span, o, s in zip(padding, spans, more, stride, strict=True)
        ]
        image = [draw(st.integers(n, n + 4)) for n in least]
        return geometry, (draw(size), channels, *image), (channels, outputs // groups, *kernel)
    least = [max(1, span - sum(pair)) for span, pair in zip(spans, conv.pads, strict=True)]
    image = [draw(st.integers(n, n + 5)) for n in least]
    return conv, (draw(size), channels, *image), (outputs, channels // groups, *kernel)


@settings(deadline=None, derandomize=True, max_examples=200)
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
    check_every_path(geometry, kind, a_shape, w_shape, operands, seed, extreme)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("operands", "terms"),
    [
        ((INT8, INT8), 1024),  # 2^24, the last that float32 takes
        ((INT8, INT8), 1025),
        ((UINT8, INT8), 514),
        ((Operand(-2048, 2047), INT8), 4096),  # split: 2^24 in each part
        ((Operand(-128, 127), Operand(-2048, 2047)), 4096),
        ((Operand(-(2**15), 2**15), Operand(-(2**15), 2**15)), 999),
    ],
)
def test_bounds_are_tight_and_the_sums_at_them_exact(kind, operands, terms):
    """Everything at its extreme; and one element beside it, so that a rounded sum is seen."""
    geometry = LinearGeometry()
    a_shape, w_shape = {
        Kind.FORWARD: ((3, terms), (2, terms)),
        Kind.DGRAD: ((3, 2), (terms, 2)),
        Kind.WGRAD: ((terms, 3), (2, 3)),
    }[kind]
    left_shape, right_shape, shape = shapes_of(geometry, kind, a_shape, w_shape)
    left = torch.full(left_shape, float(operands[0].lowest or operands[0].highest))
    right = torch.full(right_shape, float(operands[1].lowest))
    expected = reference(geometry, kind, left, right, shape)
    reduction = geometry.reduction(kind, left.shape, right.shape)
    assert reduction == terms
    assert expected.abs().max() == terms * operands[0].level_max * operands[1].level_max
    left.view(-1)[0] += 1 if left.view(-1)[0] < 0 else -1  # and once beside it: an odd sum
    right.view(-1)[0] += 1
    for a, b in ((left, right), (left * 0 + left.view(-1)[-1], right * 0 + right.view(-1)[-1])):
        expected = reference(geometry, kind, a, b, shape)
        for path in [None, *allowed(operands, reduction)]:
            got = sums(geometry, kind, a, b, list(shape), operands, path=path)
            assert torch.equal(got.to(torch.int64), expected), path


def test_float32_would_be_wrong_where_it_is_not_chosen():
    """The tests above can fail: an odd sum beyond 2^24 is no float32."""
    known = Operand(-5000, 5000), INT8
    a, w = torch.full((1, 1025), 4999.0), torch.full((1, 1025), 127.0)
    exact = 1025 * 4999 * 127
    assert exact % 2
    assert exact > 2**24
    assert sums(LinearGeometry(), Kind.FORWARD, a, w, None, known).item() == exact
    assert sums(LinearGeometry(), Kind.FORWARD, a, w, None, known, path=Path.FLOAT32).item() != exact


@pytest.mark.parametrize("path", [None, Path.FLOAT32, Path.INT8, Path.SPLIT, Path.FLOAT64])
@pytest.mark.parametrize("kind", Kind)
def test_units_scale_the_integers(path, kind):
    """Floats pass numbers = level * unit: the same sums, times both units."""
    geometry = ConvGeometry((2, 1), (1, 0))
    left_shape, right_shape, shape = shapes_of(geometry, kind, (2, 3, 6, 5), (4, 3, 3, 2))
    left, right = levels(INT8, left_shape, 1), levels(INT8, right_shape, 2)
    units = (2.0**-9, 2.0**-3)
    known = tuple(Operand(-128, 127, unit) for unit in units)
    got = sums(geometry, kind, left * units[0], right * units[1], list(shape), known, path=path)
    expected = reference(geometry, kind, left, right, shape)
    assert torch.equal(got.double(), expected.double() * units[0] * units[1])


def test_units_reach_the_norm():
    generator = torch.Generator().manual_seed(0)
    w = torch.randint(-3, 4, (5, 4000), generator=generator).float()
    a = torch.randint(-2000, 2001, (3, 4000), generator=generator).float()
    known = Operand(-2048, 2047, 2.0**-6), Operand(-2048, 2047, 2.0**-5)
    got = sums(LinearGeometry(), Kind.FORWARD, a * 2.0**-6, w * 2.0**-5, None, known)
    assert torch.equal(got * 2.0**11, (a.long() @ w.long().T).double())


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("path", [Path.FLOAT32, Path.INT8, Path.SPLIT, Path.FLOAT64])
def test_an_empty_batch_is_empty(kind, path):
    for geometry, a_shape, w_shape in (
        (LinearGeometry(), (0, 4), (3, 4)),
        (ConvGeometry((1, 1), (1, 1)), (0, 2, 4, 4), (3, 2, 3, 3)),
    ):
        left_shape, right_shape, shape = shapes_of(geometry, kind, a_shape, w_shape)
        got = sums(
            geometry,
            kind,
            torch.zeros(left_shape),
            torch.zeros(right_shape),
            list(shape),
            (INT8, INT8),
            path=path,
        )
        assert got.shape == shape
        assert not got.any()


def test_strange_strides_are_no_matter():
    """Expanded errors, transposed activations, channels last."""
    e = torch.tensor(3.0).expand(5, 6)
    a = levels(INT8, (7, 5), 0).T
    for path in (Path.FLOAT32, Path.INT8, Path.SPLIT, Path.FLOAT64):
        got = sums(LinearGeometry(), Kind.WGRAD, e, a, [6, 7], (INT8, INT8), path=path)
        assert torch.equal(got.double(), e.double().T @ a.double())
        x = levels(INT8, (2, 3, 5, 5), 1).to(memory_format=torch.channels_last)
        w = levels(INT8, (3, 3, 2, 2), 2).transpose(0, 1)
        geometry = ConvGeometry((1, 1), (0, 0))
        got = sums(geometry, Kind.FORWARD, x, w, None, (INT8, INT8), path=path)
        assert torch.equal(got.long(), reference(geometry, Kind.FORWARD, x, w, (2, 3, 4, 4)))
