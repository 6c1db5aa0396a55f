"""The integer network: a graph of operations, checked as a whole; runs on the engine or the interpreter."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import InvalidTypeError, InvalidValueError, unknown_name
from bitwright.formats import describe_codes
from bitwright.integer import interpreter
from bitwright.integer.codes import Codes, storage_type
from bitwright.integer.engine import Engine, UnsupportedError
from bitwright.integer.operations import (
    OPERATIONS,
    Argmax,
    Input,
    Operation,
    Output,
    TensorType,
    check_fields,
)

BACKENDS = ("engine", "interpreter")
MAX_ELEMENTS = 1 << 31
"""Of one example's tensor."""


class Network:
    """A network of integer operations over tensors of codes. Immutable; knows nothing of torch.

    Args:
        operations: in execution order, each on tensors of earlier ones: one Input first; last one Output, one
            Argmax, or an Output and its Argmax.
        meta: JSON values that travel with it: preprocessing, class names, where it came from.

    Raises:
        InvalidTypeError: a field of an operation has another type than the operation says.
        InvalidValueError: an operation does not fit its inputs. Both messages name the operation.
    """

    def __init__(self, operations: Sequence[Operation], meta: Mapping[str, Any] | None = None) -> None:
        self.operations = tuple(operations)
        self.meta = dict(meta or {})
        self.types = _check(self.operations)
        self._engines: dict[str | None, Engine] = {}

    @property
    def input(self) -> Input:
        """The first operation."""
        first = self.operations[0]
        assert isinstance(first, Input)
        return first

    @cached_property
    def _stored(self) -> np.dtype:
        """The type of the input's codes."""
        return storage_type(self.input.format)

    @property
    def last(self) -> str:
        """The name of the operation whose tensor a call returns."""
        return self.operations[-1].name

    def operation(self, name: str) -> Operation:
        """The operation of that name."""
        for operation in self.operations:
            if operation.name == name:
                return operation
        raise unknown_name("operation", name, [o.name for o in self.operations])

    # --- running -------------------------------------------------------------------------------------

    def __call__(
        self,
        x: Any,
        *,
        backend: str | None = None,
        threads: int | None = None,
        isa: str | None = None,
    ) -> np.ndarray:
        """Run a batch.

        Args:
            x: float32 [N, *input shape] (or its elements in one row), or codes of the input's format, as
                integers of any type where a code is the number itself (tokens).
            backend: "engine" or "interpreter"; None takes the engine where it knows every operation.
            threads: of the engine; None follows torch where it is loaded, else the processors.
            isa: of the engine; None takes the best, or what BITWRIGHT_ISA said when this network first ran.

        Returns:
            float32 [N, *output shape]; int64 [N, ...] where the network ends in an argmax.
        """
        batch = self._batch(x)
        if self.backend(backend) == "interpreter":
            _check_numbers(batch)
            return interpreter.run(self, batch)
        try:
            return self.engine(isa).run(batch, _threads(threads))
        except InvalidValueError:  # the engine meets a NaN as it reads; this says where, in the caller's axes
            _check_numbers(batch)
            raise

    def trace(
        self,
        x: Any,
        *,
        backend: str | None = None,
        threads: int | None = None,
        isa: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Like a call, but returns the tensors that the backend makes, by operation.

        The engine fuses: it has no accumulators to show except the last layer's.
        """
        batch = self.check_batch(x)
        if self.backend(backend) == "interpreter":
            return interpreter.trace(self, batch)
        return self.engine(isa).trace(batch, _threads(threads))

    def backend(self, name: str | None = None) -> str:
        """The backend that would run: checked, and chosen where `name` is None."""
        if name is None:
            return "interpreter" if self.engine_problem else "engine"
        if name not in BACKENDS:
            raise unknown_name("backend", name, BACKENDS)
        return name

    def engine(self, isa: str | None = None) -> Engine:
        """The compiled engine; raises `UnsupportedError` naming the operation it does not know."""
        if isa in self._engines:
            return self._engines[isa]
        from bitwright.kernels import default_isa

        name = default_isa() if isa is None else isa
        if name not in self._engines:
            self._engines[name] = Engine(self.operations, self.types, name)
        self._engines[isa] = self._engines[name]  # None, too: small networks feel every microsecond of a call
        return self._engines[name]

    @cached_property
    def engine_problem(self) -> str | None:
        """Why the engine cannot run this network; None where it can."""
        try:
            self.engine()
        except UnsupportedError as error:
            return str(error)
        return None

    def check_batch(self, x: Any) -> np.ndarray:
        """`x` as a contiguous float32 batch or one of codes; everything else is an error."""
        batch = self._batch(x)
        _check_numbers(batch)
        return batch

    def _batch(self, x: Any) -> np.ndarray:
        """`check_batch` but for NaN among floats, which is left to who reads them."""
        try:
            array = np.asarray(x)
        except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors that NumPy cannot read
            raise InvalidTypeError("a batch is an array", got=error, where="the network's input") from error
        first, shape = self.input, self.input.shape
        fits = array.ndim >= 1 and (array.shape[1:] == shape or array.shape[1:] == (math.prod(shape),))
        if not fits:
            raise InvalidValueError(
                f"a batch has the shape (N, {', '.join(map(str, shape))})",
                got=array.shape,
                where="the network's input",
                fix="add the batch axis, even for one example",
            )
        if array.shape[1:] != shape:
            array = array.reshape(len(array), *shape)
        array = np.ascontiguousarray(array)
        stored = self._stored
        if array.dtype == stored or (first.counts and array.dtype.kind in "iu"):
            bad = (array < first.format.code_min) | (array > first.format.code_max)
            bad |= (array == 0) & (0 not in first.format.codes())
            if bad.any():
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                raise InvalidValueError(
                    f"codes of {first.format} are {describe_codes(first.format)}",
                    got=int(array[index]),
                    where=f"index {index} of the batch",
                )
            array = array.astype(stored, copy=False)
        elif array.dtype != np.float32:
            raise InvalidTypeError(
                f"a batch is float32, or {stored} codes of {first.format}",
                got=array.dtype,
                where="the network's input",
                fix="convert it: x.astype(numpy.float32)",
            )
        return array

    # --- what it is ----------------------------------------------------------------------------------

    def weights(self) -> dict[str, Codes]:
        """Operation name -> stored weight (or rows of an embedding)."""
        stored = {o.name: getattr(o, "weight", None) for o in self.operations}
        return {name: weight for name, weight in stored.items() if isinstance(weight, Codes)}

    def sources(self, operation: Operation) -> tuple[TensorType, ...]:
        """The types of the tensors that an operation takes."""
        return tuple(self.types[name] for name in operation.inputs)

    def macs(self, operation: Operation) -> int:
        """Multiply-accumulates of an operation for one example."""
        return operation.macs(*self.sources(operation))

    def save(self, path: str | Path) -> None:
        """Write the network to one file, whole or not at all."""
        from bitwright.integer.file import save

        save(self, path)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{o.name}: {o.kind}" for o in self.operations)
        return f"Network({kinds})"


def _check(operations: tuple[Operation, ...]) -> dict[str, TensorType]:
    """The type of every tensor; names unique, inputs present, its ends where they belong."""
    for operation in operations:
        if type(operation) not in OPERATIONS.values():
            raise InvalidTypeError(f"an operation is one of {', '.join(OPERATIONS)}", got=type(operation))
    ends = operations and isinstance(operations[0], Input) and isinstance(operations[-1], Output | Argmax)
    inner = operations[1:-1]
    if inner and isinstance(inner[-1], Output) and isinstance(operations[-1], Argmax):
        ends, inner = ends and operations[-1].inputs == (inner[-1].name,), inner[:-1]
    if not ends or any(isinstance(o, Input | Output | Argmax) for o in inner):
        raise InvalidValueError(
            "a network begins with its one input and ends with its one output, its one argmax, or both",
            got=[o.kind for o in operations],
        )
    types: dict[str, TensorType] = {}
    for operation in operations:
        where = f"operation {operation.name!r} ({operation.kind})"
        try:
            check_fields(operation)
            types[operation.name] = _type(operation, types)
        except InvalidTypeError as error:
            raise InvalidTypeError(str(error), where=where) from error
        except InvalidValueError as error:
            raise InvalidValueError(str(error), where=where) from error
    return types


def _type(operation: Operation, types: Mapping[str, TensorType]) -> TensorType:
    if operation.name in types:
        raise InvalidValueError("operation names are unique", got=operation.name)
    for name in operation.inputs:
        if name not in types:
            raise InvalidValueError("an operation takes the tensor of an earlier one", got=name)
    made = operation.infer(*(types[name] for name in operation.inputs))
    if made.elements > MAX_ELEMENTS:
        raise InvalidValueError("a tensor has at most 2^31 elements", got=made.shape)
    return made


def _check_numbers(batch: np.ndarray) -> None:
    if bool(np.isnan(batch).any()):  # False of every code
        index = tuple(int(i) for i in np.argwhere(np.isnan(batch))[0])
        raise InvalidValueError("a batch holds numbers", got="NaN", where=f"index {index} of the batch")


def _threads(threads: int | None) -> int:
    if threads is None:
        torch = sys.modules.get("torch")
        return int(torch.get_num_threads()) if torch else os.cpu_count() or 1
    if threads < 1:
        raise InvalidValueError("threads is at least 1", got=threads)
    return threads
