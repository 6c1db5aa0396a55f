"""A network under construction: operations, the types of their tensors, the order of their axes."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bitwright import integer
from bitwright.errors import InvalidValueError
from bitwright.formats import Binary, Int, Rounding
from bitwright.integer import Operation, TensorType
from bitwright.lowering.thresholds import find_thresholds
from bitwright.nn import Affine, eval_rounding
from bitwright.quantize import Quantizer

THRESHOLD_BITS = 4
"""Codes of up to this many bits are made by thresholds, wider ones by an affine map and a rounding."""


@dataclass
class Builder:
    """Operations, one by one.

    Args:
        reserved: names that only the layers called so may take.
    """

    reserved: Collection[str]
    operations: list[Operation] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    turns: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    """(tensor, axes) -> the same numbers with the axes in that order."""
    flattened: set[str] = field(default_factory=set)
    """Vectors made of tensors whose channels the model has last."""

    def free(self, name: str) -> str:
        """`name`, with an underscore for each layer or tensor that is called so too."""
        while name in self.reserved or name in self.types:
            name += "_"
        return name

    def append(self, operation: Operation) -> str:
        """The operation behind all others; returns its name."""
        try:
            made = operation.infer(*(self.types[name] for name in operation.inputs))
        except InvalidValueError as error:
            raise InvalidValueError(
                str(error), where=operation.name, fix="does the example have the model's input shape?"
            ) from error
        self.types[operation.name] = made
        self.operations.append(operation)
        return operation.name

    def close(self) -> list[Operation]:
        """The operations so far; the next one begins another network, whose names differ from these."""
        done, self.operations = self.operations, []
        return done

    def channels(self, name: str) -> int:
        """Of a tensor."""
        return self.types[name].shape[0]

    def rank(self, name: str) -> int:
        """How many axes a tensor has."""
        return len(self.types[name].shape)

    def turn(self, name: str, is_last: bool, last: bool) -> str:
        """The same numbers with another axis of the model's as channels: its last, or its first."""
        rank = self.rank(name)
        if rank == 1 or is_last == last:
            return name
        front, back = (rank - 1, *range(rank - 1)), (*range(1, rank), 0)
        axes, inverse = (front, back) if last else (back, front)
        if (name, axes) not in self.turns:
            turn = self.append(integer.Transpose(self.free(f"{name}.transpose"), name, axes))
            self.turns[name, axes], self.turns[turn, inverse] = turn, name
        return self.turns[name, axes]

    def flatten(self, held: str, name: str, axes: int = 0) -> str:
        """The first axes as one; 0: all."""
        shape = self.types[held].shape
        if len(shape) == 1:
            return held
        axes = axes or len(shape)
        name = name if name not in self.types else self.free(f"{name}.flatten")
        return self.append(integer.Reshape(name, held, (math.prod(shape[:axes]), *shape[axes:])))

    def sums(self, affine: Affine, inputs: Sequence[str], name: str) -> tuple[str, Affine]:
        """The exact sum of several tensors' numbers, as integers of 32 bits; and the map that remains."""
        multiplier, offset = self._constants(affine, inputs)
        total = integer.Add(name, tuple(inputs), multiplier, offset, 0, Int(32), Rounding.NEAREST_EVEN)
        ones, zeros = torch.ones(1, len(offset)), torch.zeros(len(offset))
        return self.append(total), Affine(ones.long(), zeros.long(), affine.shift)

    def codes(self, affine: Affine, inputs: Sequence[str], quantizer: Quantizer, name: str) -> str:
        """Raw numbers to the codes of a quantiser: an add, thresholds, or an affine map."""
        if len(inputs) > 1 and isinstance(quantizer.format, Binary):
            total, affine = self.sums(affine, inputs, name)
            inputs = [total]
        multiplier, offset = self._constants(affine, inputs)
        form, rounding, zero_point = quantizer.format, eval_rounding(quantizer), zero_point_of(quantizer)
        shift = affine.shift
        if len(inputs) > 1:
            return self.append(
                integer.Add(name, tuple(inputs), multiplier, offset, shift, form, rounding, zero_point)
            )
        (x,), multiplier = inputs, multiplier[0].copy()
        if form.bits <= THRESHOLD_BITS:
            thresholds, direction = find_thresholds(
                multiplier, offset, shift, form, rounding, self.types[x].bound, zero_point
            )
            name = self.free(f"{name}.threshold")
            return self.append(integer.Threshold(name, x, thresholds, direction, form, zero_point))
        name = self.free(f"{name}.affine")
        return self.append(integer.Affine(name, x, multiplier, offset, shift, form, rounding, zero_point))

    def _constants(self, affine: Affine, inputs: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """M [inputs, C] and B [C]."""
        channels = self.channels(inputs[0])
        multiplier = affine.multiplier.expand(len(inputs), channels).numpy().astype(np.int64)
        offset = affine.offset.expand(channels).numpy().astype(np.int64)
        return np.ascontiguousarray(multiplier), np.ascontiguousarray(offset)


def scale_of(quantizer: Quantizer) -> float:
    """Of one code."""
    scale = quantizer.current_scale()
    return 1.0 if scale is None else float(scale)


def zero_point_of(quantizer: Quantizer) -> int:
    """The code of level 0."""
    zero_point = quantizer.current_zero_point()
    return 0 if zero_point is None else int(zero_point)
