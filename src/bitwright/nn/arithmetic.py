"""Which arithmetic makes a product of integers exact, and the proof: a bound of every partial sum.

    widths    K max|a| max|w|                                            reads no data
    norm      max over outputs of (sum over the reduction |w|) max|a|    reads one operand

    float32   a bound is at most 2^24
    int8      both operands fit into 8 bits, and a bound is below 2^31
    split     one operand in two parts, high + low, each of whose products passes in float32; their exact
              sum is taken in float64
    float64   a bound is at most 2^53

Every path gives the same integers, so which one is taken is a matter of cost, and `preference` orders them
by what was measured (docs/products.md). Operands that no quantiser made, and float formats whose levels
exceed 2^26 (e5m2, bf16, fp16), are multiplied in float32 and claim no exact sum.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bitwright.errors import InvalidValueError
from bitwright.formats import Block, Format
from bitwright.nn.geometry import Geometry, Kind, LinearGeometry

FLOAT32_EXACT = 1 << 24
INT32_EXACT = (1 << 31) - 1
FLOAT64_EXACT = 1 << 53
EMULATED_ABOVE = 1 << 26
INT8_SIDE = 64
"""The 8-bit product pays where both sides of the result and the reduction are at least this long."""


class Exact(enum.Enum):
    """Which products of a training step are exact: the forward one, or dgrad and wgrad too."""

    FORWARD = "forward"
    ALL = "all"


class Path(enum.Enum):
    """The arithmetic of one product."""

    FLOAT32 = "float32"
    INT8 = "int8"
    SPLIT = "split"
    FLOAT64 = "float64"


_LIMITS = {Path.FLOAT32: FLOAT32_EXACT, Path.INT8: INT32_EXACT, Path.FLOAT64: FLOAT64_EXACT}


class Speed(enum.Enum):
    """What 8-bit products are on this machine: absent or wrong, right, right and fast."""

    NONE = "none"
    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True)
class Operand:
    """What is known of a quantised tensor on its way to a product: number = level * unit.

    Args:
        lowest: the smallest level.
        highest: the largest level.
        unit: the number that one level stands for, a power of two: 1 for integers. What a product takes are
            numbers; a power of two changes no rounding, so bounds are those of the levels.
    """

    lowest: int
    highest: int
    unit: float = 1.0

    @staticmethod
    def of(form: Format, zero_point: bool = False) -> Operand | None:
        """What a format says of its levels; None where no exact sum is claimed.

        With a zero point, levels are codes less any code.
        """
        if isinstance(form, Block) or not (form.integral or form.level_max <= EMULATED_ABOVE):
            return None
        if zero_point:
            spread = form.code_max - form.code_min
            return Operand(-spread, spread)
        return Operand(int(form.min_number / form.unit), int(form.max_number / form.unit), form.unit)

    @property
    def level_max(self) -> int:
        """max |level|."""
        return max(-self.lowest, self.highest)

    @property
    def byte(self) -> torch.dtype | None:
        """The 8-bit type that holds every level, signed if possible."""
        if self.lowest >= -128 and self.highest <= 127:
            return torch.int8
        return torch.uint8 if self.lowest >= 0 and self.highest <= 255 else None


Operands = tuple[Operand, Operand]


@dataclass(frozen=True)
class Halves:
    """A split of one operand (0: left, 1: right) into high + low, high a multiple of `step` levels.

    high = step * round(level / step), |low| <= step / 2.
    """

    side: int
    step: int


@dataclass(frozen=True)
class Choice:
    """The arithmetic chosen for one product."""

    path: Path
    halves: Halves | None = None


def preference(
    geometry: Geometry, kind: Kind, reduction: int, shape: Sequence[int], cpu: bool, int8: Speed
) -> tuple[Path, ...]:
    """The paths in the order of their cost, for a result of this shape.

    On a CPU with VNNI the 8-bit product beats float32 wherever the matrices are not small: casts and patches
    are then little beside the sums. For linear layers one float64 product costs less than two float32 ones;
    for convolutions, and on GPUs, more. Groups are one 8-bit product each, so small ones are left to torch's
    own convolutions.
    """
    last = (Path.SPLIT, Path.FLOAT64)
    if not cpu:
        return Path.FLOAT32, *last
    if isinstance(geometry, LinearGeometry):
        last = (Path.FLOAT64, Path.SPLIT)
    pays = min(reduction, *geometry.sides(kind, shape)) >= INT8_SIDE
    if int8 is Speed.NONE or (geometry.groups > 1 and not pays):
        return Path.FLOAT32, *last
    if int8 is Speed.FAST and pays:
        return Path.INT8, Path.FLOAT32, *last
    return Path.FLOAT32, Path.INT8, *last


def choose(
    operands: Operands,
    reduction: int,
    norm: Callable[[], tuple[int, int]],
    order: Sequence[Path],
    where: str = "",
) -> Choice:
    """The first path that is proved exact.

    Args:
        operands: what is known of (left, right).
        reduction: how many products one output sums.
        norm: reads the data: (side, largest sum of |level| that one output takes of that operand). Called
            only where the widths prove neither float32 nor int8: that costs more than an 8-bit product.
        order: the paths, see `preference`.
        where: the layer, for messages.

    Raises:
        InvalidValueError: no path is exact: an accumulator may exceed 2^53.
    """
    sums = reduction * operands[0].level_max, reduction * operands[1].level_max
    for path in order:
        if path in (Path.FLOAT32, Path.INT8) and (choice := prove(path, operands, sums)):
            return choice
    side, total = norm()
    sums = (min(sums[0], total), sums[1]) if side == 0 else (sums[0], min(sums[1], total))
    for path in order:
        if choice := prove(path, operands, sums):
            return choice
    bound = _bound(operands, sums)
    raise InvalidValueError(
        "an accumulator stays below 2^53", got=f"a bound of 2^{bound.bit_length() - 1}", where=where
    )


def prove(path: Path, operands: Operands, sums: tuple[int, int]) -> Choice | None:
    """The choice of `path`, if it is exact; `sums` bound the sum of |level| of either operand."""
    if path is Path.SPLIT:
        halves = split(operands, sums)
        return None if halves is None else Choice(path, halves)
    if path is Path.INT8 and not fit_int8(operands):
        return None
    return Choice(path) if _bound(operands, sums) <= _LIMITS[path] else None


def _bound(operands: Operands, sums: tuple[int, int]) -> int:
    return min(sums[0] * operands[1].level_max, sums[1] * operands[0].level_max)


def split(operands: Operands, sums: tuple[int, int]) -> Halves | None:
    """The split whose two products pass in float32; None where there is none. Wider operand first."""
    for side in sorted((0, 1), key=lambda s: -operands[s].level_max):
        largest = operands[side].level_max
        step = 1 << (largest.bit_length() + 1) // 2  # each part has half the bits
        part = max((largest + step // 2) // step, step // 2)
        if sums[1 - side] * part <= FLOAT32_EXACT:
            return Halves(side, step)
    return None


def fit_int8(operands: Operands) -> bool:
    """Whether both have 8 bits, and at most one of them is unsigned."""
    types = [operand.byte for operand in operands]
    return None not in types and types != [torch.uint8, torch.uint8]


def largest_sum(rows: torch.Tensor, unit: float = 1.0) -> int:
    """max over the rows of sum |level|, exactly (up to 2^53), of numbers [R, K] = level * unit.

    Float32 sums need no margin: rounding is monotone and 2^24 is a float32, so a sum of integers whose true
    value exceeds 2^24 comes out at 2^24 at least, in whatever order it is added; one that comes out below
    was never rounded. Only above that are the sums taken again in float64, a few rows at a time, since
    memory never touched before costs more than the sums.
    """
    if rows.numel() == 0:
        return 0
    total = float(torch.linalg.vector_norm(rows, ord=1, dim=1).max()) / unit
    if rows.dtype == torch.float32 and total >= FLOAT32_EXACT:
        chunk = max(1, (1 << 18) // rows.shape[1])
        total = max(float(part.double().abs_().sum(dim=1).max()) for part in torch.split(rows, chunk)) / unit
    return int(total)


def accumulator_bound(weight: torch.Tensor, max_a: int, max_w: int, unit: float = 1.0) -> int:
    """An upper bound of |accumulator| of the forward product, hence of every partial sum.

    The widths' bound K max|a| max|w|; where that exceeds 2^24, the norm of the actual weight levels,
    max over outputs of sum |w|, times max|a|, if smaller. The same integer on every machine.

    Args:
        weight: numbers [O, ...] = level * unit.
        max_a: the largest |level| of an activation.
        max_w: the largest |level| of a weight.
        unit: of the weight.
    """
    widths = weight.shape[1:].numel() * max_a * max_w
    if widths <= FLOAT32_EXACT:
        return widths
    return min(widths, largest_sum(weight.detach().flatten(1), unit) * max_a)
