"""From an integer network to the kernels' program: fused stages, called once for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Integers
from bitwright.integer.operations import (
    Clip,
    Conv,
    Input,
    Linear,
    MaxPool,
    Operation,
    Output,
    Reshape,
    TensorType,
    Threshold,
)
from bitwright.kernels import Program

INT32 = np.iinfo(np.int32)


class UnsupportedError(InvalidValueError):
    """The engine has no kernel for an operation; the interpreter runs it."""


class Engine:
    """The compiled form of one network for one ISA.

    It knows an 8-bit or binary input, linear and convolutional layers with binary weights, max-pools before
    or after a binary threshold, and a float32 output.
    """

    def __init__(
        self, operations: Sequence[Operation], types: Mapping[str, TensorType], isa: str | None
    ) -> None:
        self.types = types
        self.program = Program(isa)
        # stages of the program, by the operation whose tensor they make; None where it is fused away
        self.stages: list[str | None] = []
        self._shape: tuple[int, int, int] = (1, 1, 1)
        self._accumulating = False  # the newest tensor holds accumulators, not codes
        self._fused: Operation | None = None  # a threshold that an earlier max-pool took in
        for before, operation in pairwise(operations):
            if operation.inputs != (before.name,):
                raise _unsupported(operation, f"a branch: {operation.kind} of {', '.join(operation.inputs)}")
        for index, operation in enumerate(operations):
            try:
                self._add(operation, operations[index + 1 :])
            except UnsupportedError:
                raise
            except InvalidValueError as error:  # the program has no such stage in such a place
                raise _unsupported(operation, error) from error

    def run(self, x: np.ndarray, threads: int) -> np.ndarray:
        """The float32 output of a checked batch."""
        return self._named(list(self.types)[-1], self.program.run(self._images(x), threads=threads))

    def trace(self, x: np.ndarray, threads: int) -> dict[str, np.ndarray]:
        """The tensors that the stages make, by operation."""
        tensors = self.program.trace(self._images(x), threads=threads)
        return {
            name: self._named(name, tensor)
            for name, tensor in zip(self.stages, tensors, strict=True)
            if name is not None and tensor is not None
        }

    def _images(self, x: np.ndarray) -> np.ndarray:
        """A batch of any input shape as the program's [N, C, H, W]."""
        return x.reshape(len(x), *self.program.input_shape)

    def _named(self, name: str, tensor: np.ndarray) -> np.ndarray:
        return tensor.reshape(len(tensor), *self.types[name].shape)

    def _add(self, operation: Operation, following: Sequence[Operation]) -> None:
        match operation:
            case Input():
                self._input(operation)
            case Linear() | Conv():
                self._product(operation)
            case Threshold():
                self._threshold(operation)
            case MaxPool():
                self._max_pool(operation, following)
            case Output():
                self.program.output(operation.multiplier, operation.offset, operation.shift)
                self.stages.append(operation.name)
            case Reshape():
                pass  # a product over a flattened tensor is a convolution with a kernel of its size
            case Clip() if self.types[operation.name] == self.types[operation.input]:
                pass
            case _:
                raise _unsupported(operation)

    def _input(self, operation: Input) -> None:
        form = operation.format
        if operation.zero_point:
            raise _unsupported(operation, "a zero point")
        self._shape = _image_shape(operation.shape)
        if isinstance(form, Binary):
            self.program.input_binary(shape=self._shape)
        elif isinstance(form, Integers) and form.bits <= 8:
            self.program.input(
                shape=self._shape,
                scale=operation.scale,
                low=form.code_min,
                high=form.code_max,
            )
        else:
            raise _unsupported(operation, f"input in {form}")
        self.stages.append(operation.name)

    def _product(self, operation: Linear | Conv) -> None:
        if not isinstance(operation.weight.format, Binary):
            raise _unsupported(operation, f"weights in {operation.weight.format}")
        if self.types[operation.name].bound >= 1 << 30:
            raise _unsupported(operation, "accumulators beyond 30 bits")
        if isinstance(operation, Conv):
            if self.types[operation.input].shape != self._shape:
                raise _unsupported(operation, "a convolution over a reshaped tensor")
            if operation.groups > 1 or max(operation.dilations) > 1:
                raise _unsupported(operation, "groups and dilations")
            kernel = _pair(operation, operation.kernel)
            stride, padding = _pair(operation, operation.stride), _same_pads(operation)
        elif len(self.types[operation.input].shape) > 1:
            raise _unsupported(operation, "a linear operation over several places")
        else:
            kernel, stride, padding = self._shape[1:], (1, 1), (0, 0)
        weight = operation.weight
        self.program.product(
            weight.data,
            channels=weight.shape[0],
            kernel=kernel,
            stride=stride,
            padding=padding,
        )
        self._shape = _image_shape(self.types[operation.name].shape)
        self._accumulating = True
        self.stages.append(operation.name)

    def _threshold(self, operation: Threshold) -> None:
        if operation is self._fused:
            return
        limits, down = self._comparison(operation)
        self.program.threshold(limits, down)
        self._accumulating = False
        self.stages.append(operation.name)

    def _comparison(self, operation: Threshold) -> tuple[np.ndarray, np.ndarray]:
        """(T, flip) with code = +1 where (acc >= T) xor flip: -acc >= t is not (acc >= 1 - t)."""
        if not isinstance(operation.format, Binary):
            raise _unsupported(operation, f"codes in {operation.format}")
        down = operation.direction < 0
        # accumulators have 30 bits: a limit beyond 31 compares like one at 31
        t = np.clip(operation.thresholds[:, 0], INT32.min + 2, INT32.max)
        return np.where(down, 1 - t, t).astype(np.int32), down

    def _max_pool(self, operation: MaxPool, following: Sequence[Operation]) -> None:
        window: dict[str, Any] = {
            "kernel": _pair(operation, operation.kernel),
            "stride": _pair(operation, operation.stride),
            "padding": _same_pads(operation),
        }
        if not self._accumulating:
            self.program.max_pool(**window)
            self.stages.append(operation.name)
        elif following and isinstance(following[0], Threshold):
            # max commutes with >=: compare first, pool the bits, then flip
            self._fused = following[0]
            limits, down = self._comparison(following[0])
            self.program.threshold(limits, np.zeros_like(down))
            self.program.max_pool(**window, flip=down)
            self.stages += [None, following[0].name]
            self._accumulating = False
        else:
            raise _unsupported(operation, "a max-pool of accumulators that no threshold follows")
        self._shape = _image_shape(self.types[operation.name].shape)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return math.prod(shape), 1, 1


def _pair(operation: Operation, values: tuple[int, ...]) -> tuple[int, int]:
    if len(values) != 2:
        raise _unsupported(operation, "windows over one axis")
    return values[0], values[1]


def _same_pads(operation: Conv | MaxPool) -> tuple[int, int]:
    """The padding of rows and columns, where it is the same on both sides."""
    if any(before != after for before, after in operation.pads):
        raise _unsupported(operation, "a padding that differs between sides")
    return _pair(operation, tuple(before for before, _ in operation.pads))


def _unsupported(operation: Operation, what: object = None) -> UnsupportedError:
    return UnsupportedError(
        "the engine runs networks with binary weights and activations behind an 8-bit or binary input",
        got=what or operation.kind,
        where=f"operation {operation.name!r}",
        fix='run it with backend="interpreter"',
    )
