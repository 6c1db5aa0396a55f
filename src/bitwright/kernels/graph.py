"""A network as a native graph: tensors of packed codes, and stages between them, run in one native call.

What a tensor holds are *levels*, the integers that are multiplied. `Graph` derives shapes and layouts, the
native side packs weights, plans memory and runs; both refuse what does not fit. A graph is built once, by
one thread; `run` may be called from several at a time.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.kernels import _native
from bitwright.kernels.dispatch import check_isa, default_isa

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]

_MAX_THREADS = 1024
_FAULT_NAN = 1
_FAULT_CODE = 2


class Element(enum.Enum):
    """How a tensor is stored: planes of bits, bytes, or int32 sums (csrc/layout.h)."""

    BITS = 0
    BYTES = 1
    SUMS = 2


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph: level = factor * stored - zero.

    Args:
        index: its number in the graph.
        shape: (C, H, W).
        planes: of bits, least significant first.
    """

    index: int
    element: Element
    shape: Shape
    planes: int = 1
    factor: int = 1
    zero: int = 0


@dataclass(frozen=True)
class Window:
    """What slides over (H, W): kernel, stride, ((top, bottom), (left, right)), dilation."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)

    def output(self, shape: Shape, channels: int) -> Shape:
        """The result's shape; raises where the window does not fit."""
        numbers, pads = (*self.kernel, *self.stride, *self.dilation), (*self.pads[0], *self.pads[1])
        if min(numbers) < 1 or min(pads) < 0 or max(*numbers, *pads) > 1 << 16:
            raise InvalidValueError(
                "kernels, strides, dilations are positive, pads not negative, at most 2^16", got=self
            )
        height, width = (
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(
                shape[1:], self.kernel, self.stride, self.pads, self.dilation, strict=True
            )
        )
        if height < 1 or width < 1:
            raise InvalidValueError("a window fits into its padded input", got=f"{self} over {shape}")
        return channels, height, width

    @property
    def _native(self) -> tuple[int, ...]:
        (top, bottom), (left, right) = self.pads
        return (*self.kernel, *self.stride, top, left, bottom, right, *self.dilation)


@dataclass(frozen=True, eq=False)
class Sums:
    """The accumulator itself."""


@dataclass(frozen=True, eq=False)
class Bits:
    """Level +1 where (acc >= threshold) xor flip, else -1; thresholds int32 [N], flip bool [N]."""

    thresholds: Array
    flip: Array


@dataclass(frozen=True, eq=False)
class Levels:
    """level = first[n] + step[n] * (number of k with acc >= thresholds[k, n]), from low to high.

    thresholds int32 [K, N]; first and step int32 [N].
    """

    thresholds: Array
    first: Array
    step: Array
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Codes:
    """level = clip(round((acc M[n] + B[n]) 2^-shift), low, high), |acc M + B| < 2^53.

    multiplier, offset: int64 [N]; rounding: its name, such as "nearest-even".
    """

    multiplier: Array
    offset: Array
    shift: int
    rounding: str
    low: int
    high: int


Epilogue = Sums | Bits | Levels | Codes
_ROUNDINGS = ("nearest-even", "nearest-away", "floor", "ceil", "toward-zero")


def zero_of(low: int, high: int) -> int | None:
    """The byte of level 0 where bytes hold `low` to `high` and level 0; None where they cannot."""
    lowest = min(low, 0)
    return -lowest if max(high, 0) - lowest <= 255 else None


class Graph:
    """Tensors and stages; see the module. `isa`: one of `available_isas()`, or None for the default."""

    def __init__(self, isa: str | None = None) -> None:
        self.isa = default_isa() if isa is None else check_isa(isa, "Graph(isa=...)")
        self._native = _native.Graph(self.isa)
        self._input: Tensor | None = None
        self._output: Tensor | None = None
        self._levels = False
        self._code_type: npt.DTypeLike = np.int8
        self._codes = "-1 or 1"

    # --- building ------------------------------------------------------------------------------------

    def input(self, shape: Shape, *, scale: float, low: int, high: int, zero_point: int = 0) -> Tensor:
        """Bytes of level = clip(rint_half_even(x / scale), low, high); codes are level + zero_point."""
        zero = zero_of(low, high)
        single = float(np.float32(scale))
        if zero is None or low > high or not (math.isfinite(single) and single > 0):
            raise InvalidValueError(
                "an input has codes of 8 bits and a positive scale", got=f"{low} to {high}, {scale}"
            )
        self._input = self._tensor(Element.BYTES, shape, zero=zero)
        self._call(self._native.input, single, low, high, zero_point)
        self._code_type = np.int8 if low + zero_point < 0 else np.uint8
        self._codes = f"a code from {low + zero_point} to {high + zero_point}"
        return self._input

    def input_binary(self, shape: Shape) -> Tensor:
        """Bits of +1 where x >= 0, else -1."""
        self._input = self._tensor(Element.BITS, shape, factor=2, zero=1)
        return self._input

    def product(
        self,
        x: Tensor,
        weight: npt.NDArray[np.int8],
        epilogue: Epilogue,
        window: Window | None = None,
        groups: int = 1,
    ) -> Tensor:
        """acc[n, y, x] = sum over the taps inside of level * weight, then the epilogue.

        Args:
            x: bytes, or planes of bits (then groups is 1).
            weight: int8 [N, C / groups, kh, kw].
            window: whose kernel is the weight's; None slides by one, without padding.
        """
        if weight.dtype != np.int8 or weight.ndim != 4:
            raise InvalidTypeError("a weight is int8 [N, C, kh, kw]", got=f"{weight.dtype} {weight.shape}")
        channels, kernel = weight.shape[0], (weight.shape[2], weight.shape[3])
        window = replace(window or Window(), kernel=kernel)
        result = self._result(window.output(x.shape, channels), epilogue)
        native, flat = self._epilogue(epilogue, result), np.ascontiguousarray(weight).reshape(-1)
        if x.element is Element.BYTES:
            self._call(
                self._native.dot, x.index, result.index, flat, channels, window._native, groups, native
            )
            return result
        planes, exclusive, signed = weight_planes(weight)
        self._call(
            self._native.planes, x.index, result.index, flat, channels, window._native, planes, exclusive,
            signed, native,
        )  # fmt: skip
        return result

    def combine(
        self, xs: Sequence[Tensor], epilogue: Epilogue, multipliers: npt.NDArray[np.int64] | None = None
    ) -> Tensor:
        """An epilogue of one tensor; or Codes of the sum of x_i multipliers[i, c] (its own M is not used)."""
        result = self._result(xs[0].shape, epilogue)
        self._combine(xs, epilogue, multipliers, result, 0)
        return result

    def concat(self, xs: Sequence[Tensor], low: int, high: int) -> Tensor:
        """The channels of several tensors of bytes, one after the other; levels from low to high."""
        channels = sum(x.shape[0] for x in xs)
        result = self._bytes((channels, *xs[0].shape[1:]), low, high)
        first = 0
        for x in xs:
            ones = np.ones(x.shape[0], np.int64)
            copy = Codes(ones, np.zeros_like(ones), 0, "floor", low, high)
            self._combine([x], copy, None, result, first)
            first += x.shape[0]
        return result

    def max_pool(self, x: Tensor, window: Window, flip: Array | None = None) -> Tensor:
        """The largest level of each window, positions outside left out; of bits, then xor flip."""
        flags = np.zeros(x.shape[0], np.uint8) if flip is None else flip.astype(np.uint8)
        if flip is not None and x.element is not Element.BITS:
            raise InvalidValueError("only bits are flipped behind a pool", got=x.element)
        result = self._tensor(x.element, window.output(x.shape, x.shape[0]), 1, x.factor, x.zero)
        self._call(self._native.pool, x.index, result.index, window._native, False, flags)
        return result

    def sum_pool(self, x: Tensor, window: Window) -> Tensor:
        """The sum of the levels of each window; positions outside count 0."""
        result = self._tensor(Element.SUMS, window.output(x.shape, x.shape[0]))
        none = np.zeros(0, np.uint8)
        self._call(self._native.pool, x.index, result.index, window._native, True, none)
        return result

    def split(self, x: Tensor, high: int, binary: bool = False) -> Tensor:
        """Bytes as planes of bits; `high` is the largest level, `binary` says that levels are -1 and 1."""
        if binary:  # bytes 0 and 2
            result = self._tensor(Element.BITS, x.shape, 1, 2, 1)
        else:
            result = self._tensor(Element.BITS, x.shape, max(1, (high + x.zero).bit_length()), 1, x.zero)
        self._call(self._native.split, x.index, result.index, int(binary))
        return result

    def output(self, x: Tensor, multiplier: Array, offset: Array, shift: int) -> None:
        """Ends the graph: y = float32((level M[c] + B[c]) 2^-shift), every sum below 2^53."""
        self._output = x
        self._call(self._native.finish, x.index, multiplier, offset, shift)

    def output_levels(self, x: Tensor) -> None:
        """Ends the graph: the levels of `x`, int32."""
        none = np.zeros(0, np.int64)
        self._output, self._levels = x, True
        self._call(self._native.finish, x.index, none, none, 0)

    # --- running -------------------------------------------------------------------------------------

    def run(self, x: Array, threads: int = 1, captures: Sequence[Tensor] = ()) -> tuple[Array, list[Array]]:
        """The output of a batch, and the levels of the captured tensors, int32 [B, C, H, W].

        Args:
            x: [B, C, H, W]; float32, or codes of the input's format (int8 where they are signed or binary,
                uint8 otherwise).
            threads: a batch is cut into as many slices; one image is shared by all threads.

        Returns:
            float32 or int32 [B, N, H, W].
        """
        if self._input is None or self._output is None:
            raise InvalidValueError("a graph runs once it has an input and an output", got=repr(self))
        types = (np.dtype(np.float32), np.dtype(self._code_type))
        if not isinstance(x, np.ndarray) or x.dtype not in types or x.shape[1:] != self._input.shape:
            got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            wanted = f"{types[1]} [B, {', '.join(map(str, self._input.shape))}]"
            raise InvalidTypeError(f"x is an array of float32 or {wanted}", got=got, where="run(x)")
        if type(threads) is not int or not 1 <= threads <= _MAX_THREADS:
            raise InvalidValueError(f"threads lies between 1 and {_MAX_THREADS}", got=repr(threads))
        samples = np.ascontiguousarray(x)
        result: Array = np.empty((len(x), *self._output.shape), np.int32 if self._levels else np.float32)
        kept = [np.empty((len(x), *tensor.shape), np.int32) for tensor in captures]
        pairs = [(tensor.index, array) for tensor, array in zip(captures, kept, strict=True)]
        kind, image, element = self._native.run(samples, result, threads, pairs)
        where = f"image {image}, element {element}"
        if kind == _FAULT_NAN:
            raise InvalidValueError("a float input holds no NaN", got="nan", where=where)
        if kind == _FAULT_CODE:
            code = int(samples.reshape(len(x), -1)[image, element])
            raise InvalidValueError(f"an input code is {self._codes}", got=code, where=where)
        return result, kept

    @property
    def arena_bytes(self) -> int:
        """Bytes of all activations of one image."""
        return self._native.arena_bytes()

    # --- inside --------------------------------------------------------------------------------------

    def _tensor(
        self, element: Element, shape: Shape, planes: int = 1, factor: int = 1, zero: int = 0
    ) -> Tensor:
        index: int = self._call(self._native.tensor, element.value, shape, planes, factor, zero)
        return Tensor(index, element, shape, planes, factor, zero)

    def _bytes(self, shape: Shape, low: int, high: int) -> Tensor:
        zero = zero_of(low, high)
        if zero is None:
            raise InvalidValueError("levels fit into a byte, with level 0", got=f"{low} to {high}")
        return self._tensor(Element.BYTES, shape, zero=zero)

    def _result(self, shape: Shape, epilogue: Epilogue) -> Tensor:
        match epilogue:
            case Sums():
                return self._tensor(Element.SUMS, shape)
            case Bits():
                return self._tensor(Element.BITS, shape, 1, 2, 1)
        return self._bytes(shape, epilogue.low, epilogue.high)

    def _epilogue(self, epilogue: Epilogue, result: Tensor) -> _native.Epilogue:
        make: _native.Epilogue
        match epilogue:
            case Sums():
                make = _native.Epilogue.sums()
            case Bits(thresholds, flip):
                make = self._call(_native.Epilogue.bits, thresholds, flip.astype(np.uint8))
            case Levels(thresholds, first, step):
                base = (first + result.zero).astype(np.int32)
                flat = np.ascontiguousarray(thresholds).reshape(-1)
                make = self._call(_native.Epilogue.levels, flat, base, step)
            case Codes(multiplier, offset, shift, rounding, low, high):
                if rounding not in _ROUNDINGS:
                    raise InvalidValueError(f"a rounding is one of {', '.join(_ROUNDINGS)}", got=rounding)
                index = _ROUNDINGS.index(rounding)
                make = self._call(_native.Epilogue.codes, multiplier, offset, shift, index, low, high)
        return make

    def _combine(
        self, xs: Sequence[Tensor], epilogue: Epilogue, multipliers: Array | None, result: Tensor, first: int
    ) -> None:
        factors = [] if multipliers is None else multipliers.tolist()
        self._call(
            self._native.combine, [x.index for x in xs], result.index, first, xs[0].shape[0], factors,
            self._epilogue(epilogue, result),
        )  # fmt: skip

    @staticmethod
    def _call(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ValueError as error:
            raise InvalidValueError(str(error)) from error
        except TypeError as error:  # nanobind lists every signature
            raise InvalidTypeError("arrays and numbers have the stated types", got=str(error)) from error


def weight_planes(weight: npt.NDArray[np.int8]) -> tuple[int, bool, bool]:
    """(planes, exclusive, signed): one plane where every weight is +1 or -1, else two's complement."""
    low, high = int(weight.min()), int(weight.max())
    if low >= -1 and high <= 1 and bool((weight != 0).all()):
        return 1, True, False
    signed = low < 0
    width = max((~low).bit_length() if low < 0 else 0, high.bit_length()) + signed
    return max(1, width), False, signed
