"""From an integer network to the kernels' graph: fused stages, called once for a whole batch.

A product takes the affine map or threshold that alone reads it as its epilogue, and a clip after that; what
a tensor is stored as (bits, bytes, sums) follows from who reads it, and `choose` picks the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Ternary, Uniform
from bitwright.integer.operations import (
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Concat,
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
from bitwright.integer.plan import Choice, choose
from bitwright.kernels.graph import (
    Bits,
    Codes,
    Element,
    Epilogue,
    Graph,
    Levels,
    Sums,
    Tensor,
    Window,
    zero_of,
)

INT32 = np.iinfo(np.int32)


class UnsupportedError(InvalidValueError):
    """The engine has no kernel for an operation; the interpreter runs it."""


@dataclass(frozen=True)
class Made:
    """What an operation made: its tensor in the graph; `flat` where a reshape made it a vector since."""

    tensor: Tensor
    type: TensorType
    flat: bool = False


class Engine:
    """The compiled form of one network for one ISA.

    It runs 8-bit and binary inputs, linear layers and convolutions with weights of at most 8 bits over
    codes of at most 8 bits, affine maps, thresholds, clips, sums, concats, pools, and ends in float32 or
    argmax. Accumulators stay below 2^31.
    """

    def __init__(
        self, operations: Sequence[Operation], types: Mapping[str, TensorType], isa: str | None
    ) -> None:
        self.types = types
        self.graph = Graph(isa)
        self.last = operations[-1]
        self._plan: list[dict[str, Any]] = []
        self._readers: dict[str, list[Operation]] = {name: [] for name in types}
        for operation in operations:
            for name in operation.inputs:
                self._readers[name].append(operation)
        self._made: dict[str, Made] = {}
        self._split: dict[int, Tensor] = {}
        self._fused: set[str] = set()
        self._shown: dict[str, Tensor] = {}
        for operation in operations:
            if operation.name in self._fused:
                continue
            try:
                self._add(operation)
            except UnsupportedError:
                raise
            except InvalidValueError as error:  # the graph has no such stage in such a place
                raise _unsupported(operation, error) from error

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self.graph.isa

    def run(self, x: np.ndarray, threads: int) -> np.ndarray:
        """The output of a checked batch."""
        y, _ = self.graph.run(self._images(x), threads)
        return self._final(y)

    def trace(self, x: np.ndarray, threads: int) -> dict[str, np.ndarray]:
        """The tensors that the stages make, by operation; the last is the output."""
        names = list(self._shown)
        y, kept = self.graph.run(self._images(x), threads, list(self._shown.values()))
        tensors = {
            name: array.reshape(len(x), *self.types[name].shape)
            for name, array in zip(names, kept, strict=True)
        }
        return {**tensors, self.last.name: self._final(y)}

    def explain(self) -> list[dict[str, Any]]:
        """The plan, one row a stage: operation, kernel, layout, macs, reason."""
        return [dict(row) for row in self._plan]

    # --- running -------------------------------------------------------------------------------------

    def _images(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), *_image_shape(x.shape[1:]))

    def _final(self, y: np.ndarray) -> np.ndarray:
        if isinstance(self.last, Argmax):
            y = np.argmax(y, axis=1).astype(np.int64)
        return y.reshape(len(y), *self.types[self.last.name].shape)

    # --- planning ------------------------------------------------------------------------------------

    def _add(self, operation: Operation) -> None:
        match operation:
            case Input():
                self._input(operation)
            case Linear() | Conv():
                self._product(operation)
            case Affine() | Threshold() | Clip() | Add():
                self._pointwise(operation)
            case MaxPool() | AvgPool():
                self._pool(operation)
            case Concat():
                self._concat(operation)
            case Reshape():
                self._reshape(operation)
            case Output() | Argmax():
                self._output(operation)
            case _:
                raise _unsupported(operation)

    def _keep(self, operation: Operation, tensor: Tensor, kernel: str, reason: str, macs: int = 0) -> None:
        """Records what an operation made."""
        kind = self.types[operation.name]
        self._made[operation.name] = Made(tensor, kind)
        self._shown[operation.name] = tensor
        layout = tensor.element.name.lower()
        row = {
            "operation": operation.name,
            "kernel": kernel,
            "layout": layout,
            "macs": macs,
            "reason": reason,
        }
        self._plan.append(row)

    def _input(self, operation: Input) -> None:
        form, made, shape = operation.format, self.types[operation.name], _image_shape(operation.shape)
        if isinstance(form, Binary):
            tensor = self.graph.input_binary(shape)
        elif isinstance(form, Uniform | Ternary) and not form.wide and form.bits <= 8:
            tensor = self.graph.input(
                shape,
                scale=operation.scale,
                low=made.low,
                high=made.high,
                zero_point=operation.zero_point,
            )
        else:
            raise _unsupported(operation, f"input in {form}")
        self._keep(operation, tensor, "quantise", "float32 to codes, once")

    def _product(self, operation: Linear | Conv) -> None:
        source = self._made[operation.input]
        weight, window, groups = self._weight(operation, source), Window(), 1
        if isinstance(operation, Conv):
            pads = operation.pads
            window = Window((1, 1), _pair(operation.stride), _pads(pads), _pair(operation.dilations))
            groups = operation.groups
        if self.types[operation.name].bound > INT32.max - 1:
            raise _unsupported(operation, "accumulators beyond 31 bits")
        macs = operation.macs(self.types[operation.input])
        choice = _choose(weight, source.type, groups)
        tensor, kernel, reason = source.tensor, choice.kernel, choice.reason
        if tensor.element is Element.SUMS:
            raise _unsupported(operation, "a product of accumulators")
        if tensor.element is Element.BITS and kernel != "planes":
            kernel, reason = "planes", "the input exists as bits only"
            weight, groups = _dense(weight, groups), 1
        if tensor.element is Element.BYTES and kernel == "planes":
            tensor = self._planes_of(source)
        last, pool, epilogue = self._epilogue(operation, groups == 1 or kernel == "depthwise")
        if pool is not None:
            flip = None
            if isinstance(epilogue, Bits):
                epilogue, flip = replace(epilogue, flip=np.zeros_like(epilogue.flip)), epilogue.flip
            unpooled = self.graph.product(tensor, weight, epilogue, window, groups)
            self._plan.append(_row(operation, kernel, unpooled, macs, reason))
            pooled = self.graph.max_pool(unpooled, _pool_window(pool), flip)
            self._keep(last, pooled, "max_pool", "behind the epilogue, which is monotone")
            return
        result = self.graph.product(tensor, weight, epilogue, window, groups)
        self._keep(last, result, kernel, reason, macs)

    def _weight(self, operation: Linear | Conv, source: Made) -> np.ndarray:
        """int8 levels [N, C, kh, kw]; a linear operation over an image has a kernel of its size."""
        levels = operation.weight.levels
        if int(levels.min()) < -128 or int(levels.max()) > 127:
            raise _unsupported(operation, f"weights in {operation.weight.format}")
        levels = levels.astype(np.int8)
        if isinstance(operation, Conv):
            if source.flat:
                raise _unsupported(operation, "a convolution over a reshaped tensor")
            return levels if operation.rank == 2 else levels[:, :, None, :]
        if source.flat:
            return levels.reshape(len(levels), *source.tensor.shape)
        return levels[:, :, None, None]

    def _planes_of(self, source: Made) -> Tensor:
        """The bits of a tensor of bytes, split once."""
        index = source.tensor.index
        if index not in self._split:
            binary = isinstance(source.type.format, Binary)
            self._split[index] = self.graph.split(source.tensor, source.type.high, binary)
        return self._split[index]

    def _epilogue(self, operation: Operation, bits: bool) -> tuple[Operation, MaxPool | None, Epilogue]:
        """What a product takes in: (the operation whose tensor results, a pool to run behind, the epilogue).

        Products of several groups make no bits.
        """
        reader, pool = self._only_reader(operation), None
        if isinstance(reader, MaxPool):
            pool, reader = reader, self._only_reader(reader)
        if not isinstance(reader, Affine | Threshold):
            return operation, None, Sums()
        epilogue = self._epilogue_of(reader, bits)
        if pool is not None and not (isinstance(epilogue, Bits) or _ascending(reader)):
            return operation, None, Sums()  # the maximum cannot be taken behind it
        last: Operation = reader
        clip = self._only_reader(reader)
        if isinstance(clip, Clip) and isinstance(epilogue, Codes):
            made = self.types[clip.name]
            epilogue, last = replace(epilogue, low=made.low, high=made.high), clip
        self._fused |= {o.name for o in (pool, reader, last) if o is not None}
        return last, pool, epilogue

    def _only_reader(self, operation: Operation) -> Operation | None:
        readers = self._readers[operation.name]
        return readers[0] if len(readers) == 1 else None

    def _epilogue_of(self, operation: Affine | Threshold, bits: bool = True) -> Epilogue:
        made = self.types[operation.name]
        if isinstance(operation, Threshold):
            return self._thresholds(operation, made, bits)
        if zero_of(made.low, made.high) is None:
            raise _unsupported(operation, f"codes in {operation.format}")
        return Codes(
            operation.multiplier,
            operation.offset,
            operation.shift,
            operation.rounding.value,
            made.low,
            made.high,
        )

    def _thresholds(self, operation: Threshold, made: TensorType, bits: bool) -> Epilogue:
        """-acc >= t is not (acc >= 1 - t). A limit beyond int32 compares like one at its end."""
        codes = operation.format.codes()
        steps = {b - a for a, b in pairwise(codes)}
        if len(steps) > 1 or zero_of(made.low, made.high) is None:
            raise _unsupported(operation, f"codes in {operation.format}")
        down = operation.direction < 0
        t = np.clip(operation.thresholds, INT32.min + 2, INT32.max)
        limits = np.where(down[:, None], 1 - t, t).T.astype(np.int32)
        if bits and isinstance(operation.format, Binary) and self._bits_suffice(operation):
            return Bits(limits[0].copy(), down)
        step = np.where(down, -1, 1).astype(np.int32) * (steps.pop() if steps else 1)
        first = np.where(down, made.high, made.low).astype(np.int32)
        return Levels(limits, first, step.astype(np.int32), made.low, made.high)

    def _bits_suffice(self, operation: Operation) -> bool:
        """Every reader takes bits: products that run on planes, behind pools and reshapes."""
        made = self.types[operation.name]
        for reader in self._readers[operation.name]:
            if isinstance(reader, MaxPool | Reshape):
                if not self._bits_suffice(reader):
                    return False
            elif not isinstance(reader, Linear | Conv):
                return False
            else:
                groups = reader.groups if isinstance(reader, Conv) else 1
                levels = reader.weight.levels
                weight = levels.reshape(*levels.shape[:2], 1, -1)
                if _choose(weight, made, groups).kernel != "planes":
                    return False
        return True

    def _pointwise(self, operation: Affine | Threshold | Clip | Add) -> None:
        sources = [self._made[name] for name in operation.inputs]
        made, multipliers = self.types[operation.name], None
        if any(source.flat for source in sources):
            raise _unsupported(operation, "numbers of a reshaped image")
        if any(abs(source.type.low) > INT32.max or source.type.high > INT32.max for source in sources):
            raise _unsupported(operation, "numbers beyond 31 bits")
        epilogue: Epilogue
        match operation:
            case Clip() if made == sources[0].type:
                self._made[operation.name] = sources[0]
                return
            case Clip():
                ones = np.ones(made.shape[0], np.int64)
                epilogue = Codes(ones, np.zeros_like(ones), 0, "floor", made.low, made.high)
            case Add():
                multipliers = operation.multiplier
                epilogue = Codes(
                    multipliers[0].copy() if len(sources) == 1 else np.zeros_like(operation.offset),
                    operation.offset,
                    operation.shift,
                    operation.rounding.value,
                    made.low,
                    made.high,
                )
            case _:
                epilogue = self._epilogue_of(operation)
        last: Operation = operation
        clip = self._only_reader(operation)
        if isinstance(clip, Clip) and isinstance(epilogue, Codes):
            clipped = self.types[clip.name]
            epilogue, last = replace(epilogue, low=clipped.low, high=clipped.high), clip
            self._fused.add(clip.name)
        tensor = self.graph.combine([source.tensor for source in sources], epilogue, multipliers)
        self._keep(last, tensor, "combine", "one pass over its terms")

    def _pool(self, operation: MaxPool | AvgPool) -> None:
        source = self._made[operation.input]
        if source.flat:
            raise _unsupported(operation, "a pool over a reshaped tensor")
        window = _pool_window(operation)
        if isinstance(operation, MaxPool):
            self._keep(operation, self.graph.max_pool(source.tensor, window), "max_pool", "")
        elif source.tensor.element is not Element.BYTES or self.types[operation.name].bound > INT32.max:
            raise _unsupported(operation, "a sum of accumulators or of bits")
        else:
            self._keep(operation, self.graph.sum_pool(source.tensor, window), "sum_pool", "")

    def _concat(self, operation: Concat) -> None:
        sources = [self._made[name] for name in operation.inputs]
        made = self.types[operation.name]
        if any(s.flat or s.tensor.element is not Element.BYTES for s in sources):
            raise _unsupported(operation, "a concat of anything but codes")
        tensor = self.graph.concat([s.tensor for s in sources], made.low, made.high)
        self._keep(operation, tensor, "combine", "a copy into each slice")

    def _reshape(self, operation: Reshape) -> None:
        source, shape = self._made[operation.input], operation.shape
        image = source.tensor.shape
        if _image_shape(shape) == image:
            self._made[operation.name] = replace(source, flat=False)
        elif len(shape) == 1:
            self._made[operation.name] = replace(source, flat=True)
        else:
            raise _unsupported(operation, f"a reshape of {image} to {shape}")

    def _output(self, operation: Output | Argmax) -> None:
        source = self._made[operation.input]
        if source.flat:
            raise _unsupported(operation, "an output of a reshaped image")
        if isinstance(operation, Argmax):
            self.graph.output_levels(source.tensor)
        else:
            self.graph.output(source.tensor, operation.multiplier, operation.offset, operation.shift)


def _choose(weight: np.ndarray, x: TensorType, groups: int) -> Choice:
    return choose(weight, x.low, x.high, isinstance(x.format, Binary), groups)


def _row(operation: Operation, kernel: str, tensor: Tensor, macs: int, reason: str) -> dict[str, Any]:
    layout = tensor.element.name.lower()
    return {"operation": operation.name, "kernel": kernel, "layout": layout, "macs": macs, "reason": reason}


def _ascending(operation: Affine | Threshold) -> bool:
    """Whether larger accumulators never give smaller codes."""
    if isinstance(operation, Affine):
        return bool((operation.multiplier >= 0).all())
    return bool((operation.direction > 0).all())


def _dense(weight: np.ndarray, groups: int) -> np.ndarray:
    """A grouped weight [N, C / groups, kh, kw] as [N, C, kh, kw], 0 between groups."""
    channels, width = weight.shape[:2]
    dense = np.zeros((channels, groups * width, *weight.shape[2:]), weight.dtype)
    for n in range(channels):
        first = n * groups // channels * width
        dense[n, first : first + width] = weight[n]
    return dense


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of one example: vectors are one pixel, (C, L) is one row."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return math.prod(shape), 1, 1


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _pads(pads: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    return ((0, 0), pads[0]) if len(pads) == 1 else (pads[0], pads[1])


def _pool_window(operation: MaxPool | AvgPool) -> Window:
    return Window(_pair(operation.kernel), _pair(operation.stride), _pads(operation.pads))


def _unsupported(operation: Operation, what: object = None) -> UnsupportedError:
    return UnsupportedError(
        "the engine runs networks of codes and weights of at most 8 bits",
        got=what or operation.kind,
        where=f"operation {operation.name!r}",
        fix='run it with backend="interpreter"',
    )
