"""From an integer network to the kernels' graph: fused stages, called once for a whole batch.

A product takes the affine map or threshold that alone reads it as its epilogue, and a clip after that; what
a tensor is stored as (bits, bytes, sums) follows from who reads it, and `choose` picks the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitwright.errors import InvalidValueError
from bitwright.formats import Binary
from bitwright.integer.epilogues import INT32, epilogue_of, known
from bitwright.integer.images import (
    check_moved,
    conv_window,
    dense,
    image_shape,
    image_weight,
    pool_window,
    spread,
)
from bitwright.integer.operations import (
    Add,
    Affine,
    Argmax,
    AvgPool,
    Clip,
    Concat,
    Conv,
    ConvTranspose,
    Embedding,
    Input,
    Linear,
    MaxPool,
    Operation,
    Output,
    Reshape,
    Table,
    TensorType,
    Threshold,
    Transpose,
)
from bitwright.integer.plan import Choice, choose
from bitwright.integer.wide import MAX_TERMS, wide_numbers
from bitwright.kernels.graph import Graph
from bitwright.kernels.tensors import (
    Bits,
    Codes,
    Element,
    Epilogue,
    Sums,
    Tensor,
    Window,
    zero_of,
)


class UnsupportedError(InvalidValueError):
    """A tensor or window is beyond the engine's sizes; the interpreter runs the network."""


@dataclass(frozen=True)
class Made:
    """What an operation made: its tensor in the graph, and its type, whose C order is the tensor's."""

    tensor: Tensor
    type: TensorType

    @property
    def flat(self) -> bool:
        """Whether a reshape made it a vector since."""
        return self.tensor.shape != image_shape(self.type.shape)


class Engine:
    """The compiled form of one network for one ISA.

    Codes and weights of at most 8 bits with accumulators below 2^31 run on kernels of their own; what is
    wider, and every operation that has none, on the wide stages. Images take less than 2^31 bytes.
    """

    def __init__(
        self, operations: Sequence[Operation], types: Mapping[str, TensorType], isa: str | None
    ) -> None:
        self.types = types
        self.graph = Graph(isa)
        self.last = operations[-1]
        self._result = types[self.last.name].shape
        self._scores: str | None = None
        """The output whose argmax is the end."""
        self._plan: list[dict[str, Any]] = []
        self._readers: dict[str, list[Operation]] = {name: [] for name in types}
        for operation in operations:
            for name in operation.inputs:
                self._readers[name].append(operation)
        self._made: dict[str, Made] = {}
        self._split: dict[int, Tensor] = {}
        self._widened: dict[int, Tensor] = {}
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
        if self._scores is not None:
            names, kept = [*names, self._scores], [*kept, y]
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
        return x if x.ndim == 4 else x.reshape(len(x), *image_shape(x.shape[1:]))

    def _final(self, y: np.ndarray) -> np.ndarray:
        if isinstance(self.last, Argmax):
            y = np.argmax(y, axis=1).astype(np.int64)
        return y.reshape(len(y), *self._result)

    # --- planning ------------------------------------------------------------------------------------

    def _add(self, operation: Operation) -> None:
        match operation:
            case Input():
                self._input(operation)
            case Linear() | Conv() | ConvTranspose():
                self._product(operation)
            case Affine() | Threshold() | Clip() | Add():
                self._pointwise(operation)
            case MaxPool() | AvgPool():
                self._pool(operation)
            case Concat():
                self._concat(operation)
            case Reshape() | Transpose():
                self._reorder(operation)
            case Table():
                self._table(operation)
            case Embedding():
                self._embedding(operation)
            case Output():
                source = self._solid(operation.input)
                self.graph.output(source.tensor, operation.multiplier, operation.offset, operation.shift)
                self._scores = operation.name if operation is not self.last else None
            case Argmax():  # taken of what the graph gives
                if self._scores is None:
                    self.graph.output_levels(self._solid(operation.input).tensor)

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
        form, made, shape = operation.format, self.types[operation.name], image_shape(operation.shape)
        if isinstance(form, Binary):
            tensor = self.graph.input_binary(shape)
        else:
            tensor = self.graph.input(
                shape,
                scale=operation.scale,
                low=made.low,
                high=made.high,
                zero_point=operation.zero_point,
                exact=form.wide,
            )
        self._keep(operation, tensor, "quantise", "float32 to codes, once")

    def _product(self, operation: Linear | Conv | ConvTranspose) -> None:
        source, window, groups = self._made[operation.input], Window(), 1
        weight = image_weight(operation.weight.levels)
        if isinstance(operation, Linear):
            if source.flat:  # a kernel of the image's size
                weight = weight.reshape(len(weight), *source.tensor.shape)
        else:
            source, window, groups = self._solid(operation.input), conv_window(operation), operation.groups
        if isinstance(operation, ConvTranspose):
            source, window = self._spread(operation, source, replace(window, kernel=weight.shape[2:]))
            weight = weight[:, :, ::-1, ::-1]
        macs, bound = operation.macs(self.types[operation.input]), self.types[operation.name].bound
        tensor, wide = source.tensor, _too_wide(weight, bound, source.tensor)
        if wide:
            result = self.graph.wide_product(tensor, weight.astype(np.int64), bound, window, groups)
            self._keep(operation, result, "wide", wide, macs)
            return
        weight = weight.astype(np.int8)
        choice = _choose(weight, source.type, groups)
        kernel, reason = choice.kernel, choice.reason
        if tensor.element is Element.BITS and kernel != "planes":
            kernel, reason = "planes", "the input exists as bits only"
            weight, groups = dense(weight, groups), 1
        if tensor.element is Element.BYTES and kernel == "planes":
            tensor = self._planes_of(source)
        last, pool, epilogue = self._epilogue(operation, groups == 1 or kernel == "depthwise")
        if pool is not None:
            flip = None
            if isinstance(epilogue, Bits):
                epilogue, flip = replace(epilogue, flip=np.zeros_like(epilogue.flip)), epilogue.flip
            unpooled = self.graph.product(tensor, weight, epilogue, window, groups)
            self._plan.append(_row(operation, kernel, unpooled, macs, reason))
            pooled = self.graph.max_pool(unpooled, pool_window(pool), flip)
            self._keep(last, pooled, "max_pool", "behind the epilogue, which is monotone")
            return
        result = self.graph.product(tensor, weight, epilogue, window, groups)
        self._keep(last, result, kernel, reason, macs)

    def _spread(self, operation: ConvTranspose, source: Made, window: Window) -> tuple[Made, Window]:
        """The input with zeros between, and the window of the plain convolution over it."""
        size = image_shape(self.types[operation.name].shape)[1:]
        elements, shape = spread(source.tensor.shape, window, size)
        tensor = self.graph.gather(self._bytes_of(source), elements, shape)
        self._plan.append(_row(operation, "copy", tensor, 0, "zeros between the input's positions"))
        low, high = min(source.type.low, 0), max(source.type.high, 0)
        return Made(tensor, TensorType(shape, low, high)), Window((1, 1), dilation=window.dilation)

    def _solid(self, name: str) -> Made:
        """What an operation made, laid out as its type says."""
        made = self._made[name]
        if made.flat:
            shape = image_shape(made.type.shape)
            tensor = self.graph.gather(self._bytes_of(made), self._order(name), shape)
            row = {"operation": name, "kernel": "copy", "layout": tensor.element.name.lower()}
            self._plan.append({**row, "macs": 0, "reason": "a reshape that moves numbers"})
            self._made[name] = made = Made(tensor, made.type)
        return made

    def _order(self, name: str) -> np.ndarray:
        """The elements of a tensor in C order."""
        return np.arange(check_moved(self.types[name].elements), dtype=np.int64)

    def _bytes_of(self, source: Made) -> Tensor:
        """Bits as bytes, made once; other tensors as they are."""
        tensor = source.tensor
        if tensor.element is not Element.BITS:
            return tensor
        if tensor.index not in self._widened:
            one = np.ones(tensor.shape[0], np.int64)
            low, high = source.type.low, source.type.high
            self._widened[tensor.index] = self.graph.wide_affine(
                [tensor], one[None], 0 * one, 0, "floor", low, high
            )
        return self._widened[tensor.index]

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
        epilogue = epilogue_of(reader, self.types[reader.name], bits and self._bits_suffice(reader))
        if epilogue is None:
            return operation, None, Sums()
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

    def _bits_suffice(self, operation: Operation) -> bool:
        """Whether it makes +1 and -1 whose readers take bits: products on planes, behind pools, reshapes."""
        if not isinstance(self.types[operation.name].format, Binary):
            return False
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
        sources = [self._solid(name) for name in operation.inputs]
        made: TensorType = self.types[operation.name]
        last: Operation = operation
        if isinstance(operation, Clip) and made == sources[0].type:
            self._made[operation.name] = sources[0]
            return
        clip = self._only_reader(operation)
        if isinstance(clip, Clip) and not isinstance(operation, Threshold):
            made, last = self.types[clip.name], clip
            self._fused.add(clip.name)
        tensors = [source.tensor for source in sources]
        epilogue = None
        if all(known(source.tensor, source.type) for source in sources) and len(sources) <= MAX_TERMS:
            epilogue = epilogue_of(operation, made, self._bits_suffice(operation))
        if epilogue is None:
            tensor = wide_numbers(self.graph, operation, tensors, made)
            self._keep(last, tensor, "wide", "numbers beyond bytes or 32-bit sums")
        else:
            multipliers = operation.multiplier if isinstance(operation, Add) else None
            tensor = self.graph.combine(tensors, epilogue, multipliers)
            self._keep(last, tensor, "combine", "one pass over its terms")

    def _pool(self, operation: MaxPool | AvgPool) -> None:
        tensor, window = self._solid(operation.input).tensor, pool_window(operation)
        made, sums = self.types[operation.name], isinstance(operation, AvgPool)
        if not sums and tensor.element in (Element.BITS, Element.BYTES, Element.SUMS):
            self._keep(operation, self.graph.max_pool(tensor, window), "max_pool", "")
        elif sums and tensor.element is Element.BYTES and made.bound <= INT32.max:
            self._keep(operation, self.graph.sum_pool(tensor, window), "sum_pool", "")
        else:
            pooled = self.graph.wide_pool(tensor, window, made.low, made.high, sums)
            self._keep(operation, pooled, "wide", "a pool of numbers beyond bytes")

    def _concat(self, operation: Concat) -> None:
        sources = [self._solid(name).tensor for name in operation.inputs]
        made = self.types[operation.name]
        codes = all(x.element is Element.BYTES for x in sources) and zero_of(made.low, made.high) is not None
        join = self.graph.concat if codes else self.graph.wide_concat
        kernel = "combine" if codes else "wide"
        self._keep(operation, join(sources, made.low, made.high), kernel, "a copy into each slice")

    def _reorder(self, operation: Reshape | Transpose) -> None:
        """Numbers stay where they are if the image is the same, or if a product takes it as a vector."""
        source, made = self._made[operation.input], self.types[operation.name]
        shape = image_shape(made.shape)
        vector = isinstance(operation, Reshape) and len(made.shape) == 1
        if isinstance(operation, Reshape) and (vector or shape == source.tensor.shape):
            self._made[operation.name] = Made(source.tensor, made)
            return
        order = self._order(operation.name)
        if isinstance(operation, Transpose):
            order = order.reshape(source.type.shape).transpose(operation.axes).reshape(-1)
        tensor = self.graph.gather(self._bytes_of(source), order, shape)
        self._keep(operation, tensor, "copy", "numbers in another order")

    def _table(self, operation: Table) -> None:
        source, made = self._solid(operation.input).tensor, self.types[operation.name]
        entries = operation.entries.T - operation.zero_point
        tensor = self.graph.wide_table(source, operation.first, entries, made.low, made.high)
        self._keep(operation, tensor, "table", "an entry for each level")

    def _embedding(self, operation: Embedding) -> None:
        """Each token is a pixel of one channel, and its row the channels there."""
        source, made = self._made[operation.input], self.types[operation.name]
        tensor, shape = source.tensor, (1, *image_shape(made.shape)[1:])
        if tensor.shape != shape:
            tensor = self.graph.gather(self._bytes_of(source), self._order(operation.input), shape)
        rows = operation.weight.levels.astype(np.int64) - operation.zero_point
        result = self.graph.wide_table(tensor, 0, rows, made.low, made.high)
        self._keep(operation, result, "table", "a row for each token")


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


def _too_wide(weight: np.ndarray, bound: int, x: Tensor) -> str:
    """Why a product takes the wide stages; empty where bytes and int8 weights serve."""
    if x.element not in (Element.BITS, Element.BYTES):
        return "an input beyond bytes"
    if int(weight.min()) < -128 or int(weight.max()) > 127:
        return "weights beyond int8"
    return "sums beyond 31 bits" if bound > INT32.max - 1 else ""


def _unsupported(operation: Operation, what: object) -> UnsupportedError:
    return UnsupportedError(
        "the engine runs tensors below 2^31 bytes and windows up to 2^16",
        got=what,
        where=f"operation {operation.name!r}",
        fix='run it with backend="interpreter"',
    )
