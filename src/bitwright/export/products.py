"""What a product needs: its window, its weights as they lie in flash, and memory to unpack both into.

Every product is one loop: the levels under the windows of a few places are gathered side by side, a row of
weights is unpacked, and their dot products are taken. Transposed convolutions gather too, from the inputs
that reach an output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bitwright.export.memory import SIZES, Tensor, c_type, value_type
from bitwright.formats import Log
from bitwright.integer import Codes, ConvTranspose, Linear, MaxPool, TensorType
from bitwright.integer.codes import WHOLE, level_range
from bitwright.integer.operations.products import Convolution, Product

TILE, UNPACKED_TILE = 4, 8
"""Places at a time: a weight that was read, or unpacked, is multiplied so often."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Stored codes in flash, a row for each output channel or token.

    Args:
        codes: in the order in which rows are read.
    """

    codes: Codes

    @property
    def direct(self) -> bool:
        """Whether the stored codes are the levels, in an integer type."""
        return self.codes.format.bits in WHOLE and not isinstance(self.codes.format, Log)

    @property
    def stored(self) -> np.ndarray:
        """What flash holds: [rows, codes], or [rows, bytes]."""
        return self.codes.data.reshape(self.codes.shape[0], -1)

    @property
    def c_type(self) -> str:
        """Of the levels of a row."""
        if self.direct:
            return f"{self.codes.data.dtype.name}_t"
        return c_type(*level_range(self.codes.format))

    @property
    def scratch(self) -> int:
        """Bytes of an unpacked row."""
        return 0 if self.direct else self.codes.columns * SIZES[self.c_type]


@dataclass(frozen=True, eq=False)
class Window:
    """How outputs look at an image: two axes each."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    dilation: tuple[int, int]

    @staticmethod
    def of(
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        pads: tuple[tuple[int, int], ...],
        dilation: tuple[int, ...],
    ) -> Window:
        """Of one axis or two; one is a row of an image."""
        first = (1,) if len(kernel) == 1 else ()
        before = tuple(p for p, _ in pads)
        zero = (0,) if first else ()
        return Window(
            _pair(first + kernel), _pair(first + stride), _pair(zero + before), _pair(first + dilation)
        )


@dataclass(frozen=True, eq=False)
class ProductPlan:
    """One product, with the pool that runs inside it."""

    source: Tensor
    made: TensorType
    rows: Rows
    window: Window
    transposed: bool
    groups: int
    pool: Window | None
    pooled: tuple[int, int]

    @property
    def direct(self) -> bool:
        """Whether the inputs of a place already lie side by side, as levels."""
        w, x = self.window, self.source
        whole = (w.kernel, w.stride, w.before, self.groups) == ((1, 1), (1, 1), (0, 0), 1)
        side_by_side = x.channel_stride == 1 and x.place_stride == x.channels and x.base == 0
        return whole and side_by_side and self.pool is None and not self.transposed

    @property
    def outputs(self) -> int:
        """Channels made."""
        return self.rows.codes.shape[0]

    @property
    def image(self) -> tuple[int, int]:
        """Rows and columns of the sums, before a pool."""
        rest = self.made.shape[1:]
        return (rest[0], rest[1]) if len(rest) == 2 else (1, math.prod(rest))

    @property
    def length(self) -> int:
        """Products in a sum."""
        return self.rows.codes.columns

    @property
    def tile(self) -> int:
        """Places gathered at a time."""
        if self.pool:
            return math.prod(self.pool.kernel)
        return min(TILE if self.rows.direct else UNPACKED_TILE, math.prod(self.image))

    @property
    def patch_type(self) -> str:
        """Of the levels that are multiplied; 0 is one of them, outside."""
        x = self.source.type
        return self.source.c_type if self.direct else c_type(min(x.low, 0), max(x.high, 0))

    @property
    def sum_type(self) -> str:
        """Of the sums."""
        return value_type(self.made.bound)

    @property
    def scratch(self) -> dict[str, int]:
        """Bytes by purpose."""
        gathered = 0 if self.direct else self.tile * self.length * SIZES[self.patch_type]
        wanted = {"patch": gathered, "row": self.rows.scratch}
        return {name: size for name, size in wanted.items() if size}


def plan_product(
    operation: Product, source: Tensor, made: TensorType, pool: MaxPool | None, pooled: TensorType
) -> ProductPlan:
    """The plan of a product over a tensor in memory."""
    window, transposed, groups = Window((1, 1), (1, 1), (0, 0), (1, 1)), False, 1
    if isinstance(operation, Convolution):
        window = Window.of(operation.kernel, operation.stride, operation.pads, operation.dilations)
        transposed, groups = isinstance(operation, ConvTranspose), operation.groups
    inside, size = None, (0, 0)
    if pool is not None:
        inside = Window.of(pool.kernel, pool.stride, pool.pads, (1,) * len(pool.kernel))
        size = Tensor(pooled, "", 0, 0, 0, None).image
    return ProductPlan(
        source,
        made,
        Rows(_reordered(operation, source)),
        window,
        transposed,
        groups,
        inside,
        size,
    )


def _reordered(operation: Product, source: Tensor) -> Codes:
    """Weights in the order of memory: channels innermost, or that of a flattened image."""
    weight = operation.weight
    if isinstance(operation, Linear):
        if source.order is None:
            return weight
        return Codes.pack(weight.format, np.ascontiguousarray(weight.array[:, source.order]))
    if math.prod(weight.shape[2:]) == 1 or weight.shape[1] == 1:
        return weight
    return Codes.pack(weight.format, np.ascontiguousarray(np.moveaxis(weight.array, 1, -1)))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second
