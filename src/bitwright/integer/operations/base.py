"""What every operation is: a frozen value with a name, the tensors it takes, and the type that it makes.

Tensors are named after the operation that makes them. Shapes leave out the batch; the first axis is the
channel. A tensor holds levels: code - zero point of its format, or exact sums where it has no format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Format, Int, Rounding, Ternary, UInt, Uniform
from bitwright.integer.codes import Codes

SUM_LIMIT = 1 << 53
"""Every accumulator and affine sum stays below it in magnitude."""
MAX_AXES = 8
"""Of a shape."""


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor: its shape without the batch, the range of its integers, and their format.

    Args:
        shape: channels first.
        low, high: every level lies between them.
        format: of its codes; None for sums.
        zero_point: level = code - zero_point.
    """

    shape: tuple[int, ...]
    low: int
    high: int
    format: Format | None = None
    zero_point: int = 0

    @property
    def bound(self) -> int:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def elements(self) -> int:
        """How many numbers one example has."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation: `inputs` names the earlier operations whose tensors it takes, `input` the first."""

    kind: ClassVar[str]
    name: str

    if TYPE_CHECKING:  # a field or a property of the subclasses

        @property
        def inputs(self) -> tuple[str, ...]: ...
        @property
        def input(self) -> str: ...

    def infer(self, *sources: TensorType) -> TensorType:
        """The type of the result; raises where the operation does not fit its `sources`."""
        raise NotImplementedError

    def macs(self, *sources: TensorType) -> int:
        """Multiply-accumulates for one example."""
        return 0


@dataclass(frozen=True, eq=False)
class Unary(Operation):
    """An operation on one tensor."""

    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)

    def infer(self, *sources: TensorType) -> TensorType:
        (x,) = sources
        return self.result(x)

    def result(self, x: TensorType) -> TensorType:
        """The type that is made of `x`."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Join(Operation):
    """An operation on several tensors, in the order of `inputs`; one may come twice."""

    inputs: tuple[str, ...]

    @property
    def input(self) -> str:
        return self.inputs[0]


# --- checks that operations share -------------------------------------------------------------------


def check_fields(operation: Operation) -> None:
    """Every field has its declared type; a network built by hand is held to what a file can say."""
    for item in fields(operation):
        value, kind = getattr(operation, item.name), str(item.type)
        if not _fits(kind, value):
            got = f"{type(value).__name__} {value!r}" if kind not in ("Codes", "np.ndarray") else type(value)
            raise InvalidTypeError(f"{item.name} is {_KINDS[kind][0]}", got=got)
        if isinstance(value, np.ndarray) and not value.flags.c_contiguous:
            raise InvalidValueError(
                f"{item.name} is contiguous in C order",
                got=f"strides {value.strides}",
                fix="pass numpy.ascontiguousarray(...)",
            )
    if not operation.name or any(not name for name in operation.inputs):
        raise InvalidValueError("operations have names", got=repr(operation.name))


_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "str": ("a str", str),
    "int": ("an int", int),
    "float": ("a float", (float, int)),
    "Format": ("a format", Format),
    "Rounding": ("a Rounding", Rounding),
    "Codes": ("stored codes", Codes),
    "np.ndarray": ("a NumPy array", np.ndarray),
    "tuple[int, ...]": ("a tuple of ints", int),
    "tuple[str, ...]": ("a tuple of names", str),
}


def _fits(kind: str, value: object) -> bool:
    expected = _KINDS[kind][1]
    items: Sequence[object] = value if kind.startswith("tuple") and isinstance(value, tuple) else [value]
    if kind.startswith("tuple") and not isinstance(value, tuple):
        return False
    return all(isinstance(v, expected) and not isinstance(v, bool) for v in items)


def check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    """Raise where an operation's array has another type or shape."""
    if array.dtype != dtype or array.shape != shape:
        raise InvalidValueError(f"{name} is {np.dtype(dtype)} {shape}", got=f"{array.dtype} {array.shape}")


def check_shape(what: str, shape: tuple[int, ...]) -> None:
    """Raise where a shape has sizes below 1, no axes, or more than 8."""
    if not 1 <= len(shape) <= MAX_AXES or any(n < 1 for n in shape):
        raise InvalidValueError(f"{what} has a shape of 1 to {MAX_AXES} positive sizes", got=shape)


def check_channels(x: TensorType) -> int:
    """How many channels `x` has; raises where it has no axis."""
    if not x.shape:
        raise InvalidValueError("an operation on channels takes a tensor with axes", got=x.shape)
    return x.shape[0]


def code_type(shape: tuple[int, ...], form: Format, zero_point: int) -> TensorType:
    """The type of a tensor of activations: integers, fixed point, ternary or binary."""
    if not isinstance(form, Uniform | Ternary | Binary):
        raise InvalidValueError("activations are uniform, ternary or binary codes", got=form)
    if zero_point:
        if not isinstance(form, Int | UInt):
            raise InvalidValueError(
                "only int and uint formats have a zero point", got=f"{zero_point} of {form}"
            )
        if not form.code_min <= zero_point <= form.code_max:
            raise InvalidValueError(f"a zero point is a code of {form}", got=zero_point)
    return TensorType(shape, form.code_min - zero_point, form.code_max - zero_point, form, zero_point)


def rounded_type(
    shape: tuple[int, ...], form: Format, zero_point: int, shift: int, rounding: Rounding
) -> TensorType:
    """The type of clip(round(y 2^-shift) + zero_point) - zero_point."""
    check_shift(shift)
    if not isinstance(form, Uniform | Ternary):
        raise InvalidValueError("a rounded sum makes uniform codes", got=form)
    if rounding is Rounding.STOCHASTIC:
        raise InvalidValueError("an integer network draws no random numbers", got="stochastic")
    return code_type(shape, form, zero_point)


def check_shift(shift: int) -> None:
    """Raise where a shift is not one of int64."""
    if not 0 <= shift <= 62:
        raise InvalidValueError("a shift lies between 0 and 62", got=shift)


def check_sums(sources: Sequence[TensorType], multiplier: np.ndarray, offset: np.ndarray) -> None:
    """|sum over i of x_i multiplier[i, c]| + |offset[c]| stays below 2^53 in every channel c."""
    bounds = [x.bound for x in sources]
    if not multiplier.size:
        return
    rows = [(int(row.min()), int(row.max())) for row in multiplier]
    largest = sum(b * max(abs(low), abs(high)) for b, (low, high) in zip(bounds, rows, strict=True))
    largest += max(abs(int(offset.min())), abs(int(offset.max())))
    if largest >= SUM_LIMIT:  # the largest of each need not meet in one channel: ask every channel
        channels = zip(*multiplier.tolist(), strict=True)
        largest = max(
            sum(b * abs(m) for b, m in zip(bounds, terms, strict=True)) + abs(shift)
            for terms, shift in zip(channels, offset.tolist(), strict=True)
        )
    if largest >= SUM_LIMIT:
        raise InvalidValueError("acc M + B stays below 2^53", got=f"up to {largest}")


def sum_type(shape: tuple[int, ...], low: int, high: int) -> TensorType:
    """The type of exact sums."""
    if max(abs(low), abs(high)) >= SUM_LIMIT:
        raise InvalidValueError(
            "an accumulator stays below 2^53", got=f"a bound of {max(abs(low), abs(high))}"
        )
    return TensorType(shape, low, high)
