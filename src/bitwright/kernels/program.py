"""A network as a native program: input, products, thresholds, pools, output.

Everything a caller can get wrong is checked here; the native side keeps memory safe.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.kernels import _native
from bitwright.kernels.dispatch import check_isa, default_isa

Array = npt.NDArray[Any]

_MAX_IMAGE_BYTES = 2**31 - 1  # offsets within an image are 32-bit
_MAX_K = (2**31 - 1) // 256  # accumulators are 32-bit, bytes at most 255
_MAX_SHIFT = 960  # 2^-shift and every product with it stay normal doubles
_EXACT_DOUBLE = 2**53
_FAULT_NAN = 1
_FAULT_CODE = 2

# What may follow what: the state after a stage -> the stages that may come next.
_NEXT = {
    "nothing": ("input", "input_binary"),
    "input": ("product",),
    "product": ("threshold", "output"),
    "bits": ("product", "max_pool"),
    "output": (),
}


def _integer(value: object, name: str, where: str, low: int, high: int) -> int:
    """`value` as an int within [low, high]."""
    if isinstance(value, bool | np.bool_):
        raise InvalidTypeError(f"{name} is an integer", got="bool", where=where)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidTypeError(f"{name} is an integer", got=type(value).__name__, where=where) from error
    if not low <= number <= high:
        raise InvalidValueError(f"{name} lies between {low} and {high}", got=number, where=where)
    return number


def _integers(values: Sequence[int], length: int, name: str, where: str, low: int) -> tuple[int, ...]:
    """`values` as `length` ints, each at least `low`."""
    if not isinstance(values, tuple | list) or len(values) != length:
        raise InvalidTypeError(f"{name} is a tuple of {length} integers", got=repr(values), where=where)
    return tuple(_integer(value, name, where, low, 2**31 - 1) for value in values)


def _array(
    value: object,
    dtypes: tuple[type[np.generic], ...],
    shape: tuple[int, ...],
    name: str,
    where: str,
) -> Array:
    """`value` as a contiguous array of one of `dtypes` and of `shape`."""
    wanted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    if not isinstance(value, np.ndarray):
        raise InvalidTypeError(f"{name} is a NumPy array of {wanted}", got=type(value).__name__, where=where)
    if value.dtype not in [np.dtype(dtype) for dtype in dtypes]:
        raise InvalidTypeError(f"{name} is an array of {wanted}", got=value.dtype, where=where)
    if value.shape != shape:
        raise InvalidValueError(f"{name} has shape {shape}", got=value.shape, where=where)
    return np.ascontiguousarray(value)


def _flags(value: object, channels: int, where: str) -> npt.NDArray[np.uint8]:
    """One 0 or 1 per channel."""
    flags = _array(value, (np.bool_, np.uint8), (channels,), "flip", where).astype(np.uint8)
    if flags.size and flags.max() > 1:
        raise InvalidValueError("flip holds 0 and 1", got=int(flags.max()), where=where)
    return flags


class Program:
    """A network of packed bits, built stage by stage, run in one native call.

    The order is `input` or `input_binary`, then `product` and `threshold`, any number of
    `max_pool`, again `product` and `threshold` ..., and last `product` and `output`. Building is
    for one thread; `run` and `trace` may be called from several at a time.

    Args:
        isa: one of `available_isas()`; the default is `default_isa()`.
    """

    def __init__(self, isa: str | None = None) -> None:
        self._isa = default_isa() if isa is None else check_isa(isa, "Program(isa=...)")
        self._native = _native.Program(self._isa)
        self._state = "nothing"
        self._stages: list[str] = []
        self._input_shape = (0, 0, 0)
        self._shape = (0, 0, 0)  # of what the next stage reads
        self._binary_input = False
        self._captured: list[tuple[int, tuple[int, int, int], type[np.generic]]] = []
        self._code_dtype: type[np.generic] = np.int8
        self._max_code = 1
        self._input_codes = "-1 or 1"
        self._weight: npt.NDArray[np.uint8] | None = None
        self._geometry = (1, 1, 1, 1, 0, 0)
        self._acc_bound = 0

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._isa

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages so far, in order."""
        return tuple(self._stages)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image of the input."""
        return self._input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one image of the output: (N,), or (N, H, W) where there are several pixels."""
        return self._shape if self._shape[1:] != (1, 1) else self._shape[:1]

    def __repr__(self) -> str:
        return f"Program(isa={self._isa!r}, stages=[{', '.join(self._stages)}])"

    def input(self, *, shape: Sequence[int], scale: float, low: int, high: int) -> None:
        """8-bit codes: code = clip(rint_half_even(x / scale), low, high), float32 division.

        Ties go to the even code: 0.5 -> 0, 1.5 -> 2, -2.5 -> -2. Infinities saturate; a NaN is an
        error of `run`.

        Args:
            shape: (C, H, W).
            scale: what one code is worth, a float32.
            low: the lowest code: at least -128 with `high` at most 127, or 0 and above.
            high: the highest code; at most 255 where `low` is not negative.
        """
        where = self._begin("input")
        low = _integer(low, "low", where, -128, 255)
        high = _integer(high, "high", where, low, 127 if low < 0 else 255)
        try:
            with np.errstate(over="ignore", under="ignore"):
                single = float(np.float32(scale))
        except (TypeError, ValueError) as error:
            raise InvalidTypeError("scale is a number", got=repr(scale), where=where) from error
        if not (math.isfinite(single) and single > 0):
            raise InvalidValueError("scale is positive and finite in float32", got=scale, where=where)
        self._set_input_shape(shape, False, where)
        self._native.input(self._input_shape, single, low, high)
        signed = low < 0
        self._code_dtype = np.int8 if signed else np.uint8
        self._max_code = max(abs(low), abs(high))
        self._input_codes = f"a code from {low} to {high}"
        self._end("input", "input", np.int8 if signed else np.uint8)

    def input_binary(self, *, shape: Sequence[int]) -> None:
        """Binary codes: +1 if x >= 0 (also for -0.0), else -1. A NaN is an error of `run`."""
        where = self._begin("input_binary")
        self._set_input_shape(shape, True, where)
        self._native.input_binary(self._input_shape)
        self._end("input_binary", "input", np.int8)

    def product(
        self,
        weight: npt.NDArray[np.uint8],
        *,
        channels: int,
        kernel: Sequence[int] = (1, 1),
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
    ) -> None:
        """acc[n, y, x] = sum over the taps inside the image of code * weight; weights are +1 or -1.

        A Linear over a flattened (C, H, W) is a product with `kernel=(H, W)`. Padding pads level
        0: a tap outside the image contributes nothing.

        Args:
            weight: [channels, ceil(K / 8)], K = C * kh * kw. Bit i of a row, at byte i // 8 and
                bit i % 8, is the tap i of torch's order (C, kh, kw): 1 = +1, 0 = -1. The bits
                beyond K are zero.
            channels: the output channels N.
        """
        where = self._begin("product")
        channels = _integer(channels, "channels", where, 1, 2**31 - 1)
        self._geometry = self._window(kernel, stride, padding, self._input_pixel_bytes(), where)
        k = self._shape[0] * self._geometry[0] * self._geometry[1]
        if k > _MAX_K:
            raise InvalidValueError(f"K = C * kh * kw is at most {_MAX_K}", got=k, where=where)
        row = -(-k // 8)
        bits = _array(weight, (np.uint8,), (channels, row), "weight", where)
        if k % 8 and bool((bits[:, -1] >> (k % 8)).any()):
            index = int(np.flatnonzero(bits[:, -1] >> (k % 8))[0])
            raise InvalidValueError(
                f"the bits of a weight row beyond K = {k} are zero",
                got=f"last byte {int(bits[index, -1]):#04x}",
                where=f"{where}, row {index}",
            )
        self._weight = bits.copy()  # packed by the threshold or output that follows
        self._acc_bound = k * self._max_code
        self._stages.append("product")
        self._state = "product"

    def threshold(
        self, thresholds: npt.NDArray[np.int32], flip: npt.NDArray[np.uint8] | npt.NDArray[np.bool_]
    ) -> None:
        """bit = (acc >= threshold) xor flip, per channel; bit 1 is the code +1, bit 0 is -1."""
        where = self._begin("threshold")
        assert self._weight is not None
        channels = self._weight.shape[0]
        limits = _array(thresholds, (np.int32,), (channels,), "thresholds", where)
        self._add_product(limits, _flags(flip, channels, where), where)
        self._max_code = 1
        self._end("threshold", "bits", np.int8)

    def max_pool(
        self,
        *,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int] = (0, 0),
        flip: npt.NDArray[np.uint8] | npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """The maximum of the codes inside the image (an OR of bits), then xor `flip`."""
        where = self._begin("max_pool")
        geometry = self._window(kernel, stride, padding, self._input_pixel_bytes(), where)
        if 2 * geometry[4] > geometry[0] or 2 * geometry[5] > geometry[1]:
            raise InvalidValueError(
                "the padding of a pool is at most half its kernel",
                got=f"padding {geometry[4:]} of kernel {geometry[:2]}",
                where=where,
            )
        channels = self._shape[0]
        none = np.zeros(channels, np.uint8)
        flags = none if flip is None else _flags(flip, channels, where)
        self._shape = self._native.pool(geometry, flags)
        self._end("max_pool", "bits", np.int8)

    def output(self, multiplier: npt.NDArray[np.int64], offset: npt.NDArray[np.int64], shift: int) -> None:
        """y = float32(double(acc * multiplier + offset) * 2^-shift), per channel; ends the program.

        |acc * multiplier + offset| stays below 2^53 for every accumulator that can occur.
        """
        where = self._begin("output")
        assert self._weight is not None
        channels = self._weight.shape[0]
        factors = _array(multiplier, (np.int64,), (channels,), "multiplier", where)
        offsets = _array(offset, (np.int64,), (channels,), "offset", where)
        shift = _integer(shift, "shift", where, -_MAX_SHIFT, _MAX_SHIFT)
        for n, (m, b) in enumerate(zip(factors.tolist(), offsets.tolist(), strict=True)):
            bound = self._acc_bound * abs(m) + abs(b)
            if bound >= _EXACT_DOUBLE:
                raise InvalidValueError(
                    "|acc * multiplier + offset| stays below 2^53",
                    got=f"up to {bound} (|acc| <= {self._acc_bound}, M = {m}, B = {b})",
                    where=f"{where}, channel {n}",
                    fix="use a smaller shift",
                )
        self._add_product(None, None, where)
        self._captured.append((len(self._stages) - 1, self._shape, np.int32))
        self._native.finish(factors, offsets, shift)
        self._stages.append("output")
        self._state = "output"

    def run(self, x: Array, threads: int = 1) -> npt.NDArray[np.float32]:
        """The network's output for a batch; the same bits for any number of threads.

        Args:
            x: [B, C, H, W] or [B, C * H * W]; float32, or codes of the input's format (int8 where
                they are signed or binary, uint8 otherwise).
            threads: into how many slices the batch is cut, each on its own thread.

        Returns:
            float32 [B, N], or [B, N, H, W] where the output has several pixels.
        """
        samples = self._samples(x)
        output = np.empty((samples.shape[0], *self.output_shape), np.float32)
        self._run(samples, output, threads, ())
        return output

    def trace(self, x: Array, threads: int = 1) -> list[Array | None]:
        """What every stage of `stages` produced, by the same kernels as `run`.

        Input codes, bits as int8 -1 and +1, the last accumulators as int32 (each [B, C, H, W]),
        the float32 output; None for a product whose threshold follows.
        """
        samples = self._samples(x)
        images = samples.shape[0]
        output = np.empty((images, *self.output_shape), np.float32)
        captures = [np.empty((images, *shape), dtype) for _, shape, dtype in self._captured]
        self._run(samples, output, threads, captures)
        arrays: list[Array | None] = [None] * len(self._stages)
        for (stage, _, _), array in zip(self._captured, captures, strict=True):
            arrays[stage] = array
        arrays[-1] = output
        return arrays

    def _begin(self, stage: str) -> str:
        """Checks that `stage` may come now; returns where errors happen."""
        where = f"stage {len(self._stages)} ({stage})"
        allowed = _NEXT[self._state]
        if stage not in allowed:
            after = f"after {self._stages[-1]}" if self._stages else "at the start"
            rule = f"{after} comes {' or '.join(allowed)}" if allowed else f"{after} comes nothing"
            raise InvalidValueError(rule, got=stage, where=where)
        return where

    def _end(self, stage: str, state: str, dtype: type[np.generic]) -> None:
        """Records a stage whose codes `trace` shows."""
        self._captured.append((len(self._stages), self._shape, dtype))
        self._stages.append(stage)
        self._state = state

    def _set_input_shape(self, shape: Sequence[int], binary: bool, where: str) -> None:
        channels, height, width = _integers(shape, 3, "shape", where, 1)
        self._input_shape = self._shape = (channels, height, width)
        self._binary_input = binary
        self._check_image((channels, height, width), self._input_pixel_bytes(), where)

    def _input_pixel_bytes(self) -> int:
        """Bytes of one pixel of what the next stage reads (layout.h)."""
        channels = self._shape[0]
        is_bytes = self._state in {"nothing", "input"} and not self._binary_input
        return channels if is_bytes else 8 * -(-channels // 64)

    @staticmethod
    def _check_image(shape: tuple[int, int, int], pixel_bytes: int, where: str) -> None:
        size = shape[1] * shape[2] * pixel_bytes
        if size >= _MAX_IMAGE_BYTES:
            raise InvalidValueError(
                f"an image of activations takes less than {_MAX_IMAGE_BYTES} bytes",
                got=f"{size} for shape {shape}",
                where=where,
            )

    def _window(
        self,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        pixel_bytes: int,
        where: str,
    ) -> tuple[int, int, int, int, int, int]:
        kernel_h, kernel_w = _integers(kernel, 2, "kernel", where, 1)
        stride_h, stride_w = _integers(stride, 2, "stride", where, 1)
        padding_h, padding_w = _integers(padding, 2, "padding", where, 0)
        channels, height, width = self._shape
        padded = (channels, height + 2 * padding_h, width + 2 * padding_w)
        if kernel_h > padded[1] or kernel_w > padded[2]:
            raise InvalidValueError(
                f"the kernel fits into the padded input, {padded[1]} x {padded[2]}",
                got=f"{kernel_h} x {kernel_w}",
                where=where,
            )
        self._check_image(padded, pixel_bytes, where)
        return kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w

    def _add_product(
        self,
        thresholds: npt.NDArray[np.int32] | None,
        flips: npt.NDArray[np.uint8] | None,
        where: str,
    ) -> None:
        assert self._weight is not None
        channels = self._weight.shape[0]
        kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w = self._geometry
        height = (self._shape[1] + 2 * padding_h - kernel_h) // stride_h + 1
        width = (self._shape[2] + 2 * padding_w - kernel_w) // stride_w + 1
        pixel_bytes = 4 * (channels + 15) if thresholds is None else (channels + 63) // 8
        self._check_image((channels, height, width), pixel_bytes, where)
        try:
            self._shape = self._native.product(self._weight, self._geometry, thresholds, flips)
        except ValueError as error:
            raise InvalidValueError(str(error), where=where) from error
        self._weight = None

    def _samples(self, x: object) -> Array:
        if self._state != "output":
            raise InvalidValueError(
                "a program runs once it has its output",
                got=repr(self),
                fix="end it with product() and output()",
            )
        where = "run(x)"
        codes = np.dtype(self._code_dtype)
        if not isinstance(x, np.ndarray):
            raise InvalidTypeError("x is a NumPy array", got=type(x).__name__, where=where)
        if x.dtype not in (np.dtype(np.float32), codes):
            raise InvalidTypeError(
                f"x is float32, or {codes.name} codes",
                got=x.dtype,
                where=where,
                fix="convert it with x.astype(np.float32)",
            )
        size = math.prod(self._input_shape)
        if x.shape[1:] not in (self._input_shape, (size,)):
            raise InvalidValueError(
                f"x has shape [B, {', '.join(map(str, self._input_shape))}] or [B, {size}]",
                got=x.shape,
                where=where,
            )
        return np.ascontiguousarray(x)

    def _run(
        self,
        samples: Array,
        output: npt.NDArray[np.float32],
        threads: int,
        captures: Sequence[Array],
    ) -> None:
        threads = _integer(threads, "threads", "run(threads=...)", 1, 1024)
        kind, image, element = self._native.run(samples, output, threads, captures)
        if kind == _FAULT_NAN:
            raise InvalidValueError(
                "a float input holds no NaN", got="nan", where=f"image {image}, element {element}"
            )
        if kind == _FAULT_CODE:
            raise InvalidValueError(
                f"an input code is {self._input_codes}",
                got=int(samples.reshape(samples.shape[0], -1)[image, element]),
                where=f"image {image}, element {element}",
            )
