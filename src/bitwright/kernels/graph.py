"""A network as a native graph: tensors of packed codes, and stages between them, run in one native call.

What a tensor holds are *levels*, the integers that are multiplied. `Graph` derives shapes and layouts, the
native side packs weights, plans memory and runs; both refuse what does not fit. A graph is built once, by
one thread; `run` may be called from several at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.kernels import _native
from bitwright.kernels.dispatch import check_isa, default_isa
from bitwright.kernels.tensors import (
    ROUNDINGS,
    Array,
    Bits,
    Codes,
    Element,
    Epilogue,
    Levels,
    Shape,
    Sums,
    Tensor,
    Window,
    element_of,
    stored,
    zero_of,
)

_MAX_THREADS = 1024
_FAULT_NAN = 1
_FAULT_CODE = 2


class Graph:
    """Tensors and stages; see the module. `isa`: one of `available_isas()`, or None for the default."""

    def __init__(self, isa: str | None = None) -> None:
        self.isa = default_isa() if isa is None else check_isa(isa, "Graph(isa=...)")
        self._native = _native.Graph(self.isa)
        self._input: Tensor | None = None
        self._output: Tensor | None = None
        self._levels = False
        self._types = _sample_types(np.int8)
        self._codes = "-1 or 1"

    # --- building ------------------------------------------------------------------------------------

    def input(
        self, shape: Shape, *, scale: float, low: int, high: int, zero_point: int = 0, exact: bool = False
    ) -> Tensor:
        """Levels clip(rint_half_even(x / scale), low, high); codes are level + zero_point.

        The division is float32, or float64 where `exact`.
        """
        scale = scale if exact else float(np.float32(scale))
        if low > high or not (math.isfinite(scale) and scale > 0):
            raise InvalidValueError(
                "an input has codes and a positive scale", got=f"{low} to {high}, {scale}"
            )
        self._input = self._levels_tensor(shape, low, high)
        self._call(self._native.input, scale, exact, low, high, zero_point)
        first, last = low + zero_point, high + zero_point
        self._types = _sample_types(_code_type(first, last))
        self._codes = f"a code from {first} to {last}"
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
            self._call(self._native.dot, x.index, result.index, flat, channels, window.native, groups, native)
            return result
        planes, exclusive, signed = weight_planes(weight)
        self._call(
            self._native.planes, x.index, result.index, flat, channels, window.native, planes, exclusive,
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
        self._call(self._native.pool, x.index, result.index, window.native, False, flags)
        return result

    def sum_pool(self, x: Tensor, window: Window) -> Tensor:
        """The sum of the levels of each window; positions outside count 0."""
        result = self._tensor(Element.SUMS, window.output(x.shape, x.shape[0]))
        none = np.zeros(0, np.uint8)
        self._call(self._native.pool, x.index, result.index, window.native, True, none)
        return result

    def split(self, x: Tensor, high: int, binary: bool = False) -> Tensor:
        """Bytes as planes of bits; `high` is the largest level, `binary` says that levels are -1 and 1."""
        if binary:  # bytes 0 and 2
            result = self._tensor(Element.BITS, x.shape, 1, 2, 1)
        else:
            result = self._tensor(Element.BITS, x.shape, max(1, (high + x.zero).bit_length()), 1, x.zero)
        self._call(self._native.split, x.index, result.index, int(binary))
        return result

    # --- stages over any element (csrc/engine-wide.h) --------------------------------------------------

    def wide_product(
        self, x: Tensor, weight: npt.NDArray[np.int64], bound: int, window: Window, groups: int = 1
    ) -> Tensor:
        """acc[n, y, x] = sum over the taps inside of level * weight; no |acc| is larger than `bound`.

        Args:
            weight: int64 [N, C / groups, kh, kw].
        """
        window = replace(window, kernel=(weight.shape[2], weight.shape[3]))
        wide = max(bound, int(weight.max()), -int(weight.min())) > np.iinfo(np.int32).max
        shape = window.output(x.shape, len(weight))
        result = self._tensor(Element.LONGS if wide else Element.SUMS, shape)
        flat = np.ascontiguousarray(weight, np.int64).reshape(-1)
        self._call(self._native.wide_product, x.index, result.index, flat, len(weight), window.native, groups)
        return result

    def wide_affine(
        self, xs: Sequence[Tensor], multiplier: Array, offset: Array, shift: int, rounding: str,
        low: int, high: int,
    ) -> Tensor:  # fmt: skip
        """Levels clip(round((sum of x_i multiplier[i, c] + offset[c]) 2^-shift), low, high).

        multiplier: int64 [terms, C], offset: int64 [C].
        """
        result = self._levels_tensor(xs[0].shape, low, high)
        self._wide_affine(xs, multiplier, offset, shift, rounding, low, high, result)
        return result

    def wide_concat(self, xs: Sequence[Tensor], low: int, high: int) -> Tensor:
        """The channels of several tensors, one after the other; levels from low to high."""
        result = self._levels_tensor((sum(x.shape[0] for x in xs), *xs[0].shape[1:]), low, high)
        first = 0
        for x in xs:
            one, none = np.ones((1, x.shape[0]), np.int64), np.zeros(x.shape[0], np.int64)
            self._wide_affine([x], one, none, 0, "floor", low, high, result, first)
            first += x.shape[0]
        return result

    def wide_steps(self, x: Tensor, limits: Array, direction: Array, levels: Array) -> Tensor:
        """levels[number of k with direction[c] x >= limits[c, k]]; limits int64 [C, K], ascending."""
        result = self._levels_tensor(x.shape, int(levels.min()), int(levels.max()))
        flat = np.ascontiguousarray(limits).reshape(-1)
        self._call(self._native.wide_steps, x.index, result.index, flat, direction, levels)
        return result

    def wide_table(self, x: Tensor, first: int, entries: Array, low: int, high: int) -> Tensor:
        """Levels entries[x - first, c] from low to high; int [n, C], or [n, 1] for all; of one channel
        makes C."""
        channels = x.shape[0] if entries.shape[1] == 1 else entries.shape[1]
        result = self._levels_tensor((channels, *x.shape[1:]), low, high)
        flat = np.ascontiguousarray(stored(entries, result)).reshape(-1).view(np.uint8)
        self._call(self._native.wide_table, x.index, result.index, first, entries.shape[1], flat)
        return result

    def wide_pool(self, x: Tensor, window: Window, low: int, high: int, sums: bool) -> Tensor:
        """The largest level of each window, or the sum; positions outside left out. Levels low to high."""
        result = self._levels_tensor(window.output(x.shape, x.shape[0]), low, high)
        self._call(self._native.wide_pool, x.index, result.index, window.native, sums)
        return result

    def gather(self, x: Tensor, elements: npt.NDArray[np.int64], shape: Shape) -> Tensor:
        """Element i of the result, in C order, is element elements[i] of `x`, or level 0 where that is -1."""
        result = self._tensor(x.element, shape, 1, x.factor, x.zero)
        self._call(self._native.gather, x.index, result.index, np.ascontiguousarray(elements))
        return result

    def output(self, x: Tensor, multiplier: Array, offset: Array, shift: int) -> None:
        """Ends the graph: y = float32((level M[c] + B[c]) 2^-shift), every sum below 2^53."""
        self._output = x
        self._call(self._native.finish, x.index, multiplier, offset, shift)

    def output_levels(self, x: Tensor) -> None:
        """Ends the graph: the levels of `x`, int64."""
        none = np.zeros(0, np.int64)
        self._output, self._levels = x, True
        self._call(self._native.finish, x.index, none, none, 0)

    # --- running -------------------------------------------------------------------------------------

    def run(self, x: Array, threads: int = 1, captures: Sequence[Tensor] = ()) -> tuple[Array, list[Array]]:
        """The output of a batch, and the levels of the captured tensors, int64 [B, C, H, W].

        Args:
            x: [B, C, H, W]; float32, or codes of the input's format in the smallest integer type.
            threads: a batch is cut into as many slices; one image is shared by all threads.

        Returns:
            float32 or int64 [B, N, H, W].
        """
        if self._input is None or self._output is None:
            raise InvalidValueError("a graph runs once it has an input and an output", got=repr(self))
        types = self._types
        if not isinstance(x, np.ndarray) or x.dtype not in types or x.shape[1:] != self._input.shape:
            got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            wanted = f"{types[1]} [B, {', '.join(map(str, self._input.shape))}]"
            raise InvalidTypeError(f"x is an array of float32 or {wanted}", got=got, where="run(x)")
        if type(threads) is not int or not 1 <= threads <= _MAX_THREADS:
            raise InvalidValueError(f"threads lies between 1 and {_MAX_THREADS}", got=repr(threads))
        samples = np.ascontiguousarray(x)
        result: Array = np.empty((len(x), *self._output.shape), np.int64 if self._levels else np.float32)
        kept = [np.empty((len(x), *tensor.shape), np.int64) for tensor in captures]
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

    def _levels_tensor(self, shape: Shape, low: int, high: int) -> Tensor:
        element = element_of(low, high)
        return self._tensor(element, shape, zero=(zero_of(low, high) or 0))

    def _wide_affine(
        self, xs: Sequence[Tensor], multiplier: Array, offset: Array, shift: int, rounding: str,
        low: int, high: int, result: Tensor, first: int = 0,
    ) -> None:  # fmt: skip
        flat = np.ascontiguousarray(multiplier).reshape(-1)
        self._call(
            self._native.wide_affine, [x.index for x in xs], result.index, first, flat, offset, shift,
            _rounding(rounding), low, high,
        )  # fmt: skip

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
                index = _rounding(rounding)
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


def _rounding(name: str) -> int:
    if name not in ROUNDINGS:
        raise InvalidValueError(f"a rounding is one of {', '.join(ROUNDINGS)}", got=name)
    return ROUNDINGS.index(name)


def _sample_types(codes: npt.DTypeLike) -> tuple[np.dtype[Any], np.dtype[Any]]:
    return np.dtype(np.float32), np.dtype(codes)


def _code_type(low: int, high: int) -> npt.DTypeLike:
    """The smallest integer type of codes from `low` to `high`, signed where some are."""
    for bits in (8, 16, 32):
        limits = np.iinfo(f"{'int' if low < 0 else 'uint'}{bits}")
        if limits.min <= low and high <= limits.max:
            return limits.dtype
    raise InvalidValueError("input codes have at most 32 bits", got=f"{low} to {high}")


def weight_planes(weight: npt.NDArray[np.int8]) -> tuple[int, bool, bool]:
    """(planes, exclusive, signed): one plane where every weight is +1 or -1, else two's complement."""
    low, high = int(weight.min()), int(weight.max())
    if low >= -1 and high <= 1 and bool((weight != 0).all()):
        return 1, True, False
    signed = low < 0
    width = max((~low).bit_length() if low < 0 else 0, high.bit_length()) + signed
    return max(1, width), False, signed
