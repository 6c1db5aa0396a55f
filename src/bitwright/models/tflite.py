"""The tensors of a TensorFlow Lite file: as much of FlatBuffers as they need."""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from

import numpy as np
import numpy.typing as npt

_FLOAT32 = 0
# places of fields in TensorFlow Lite's schema (schema.fbs, version 3)
_SUBGRAPHS, _BUFFERS, _TENSORS = 2, 4, 0
_SHAPE, _TYPE, _BUFFER, _NAME = 0, 1, 2, 3
_DATA = 0


def read_tflite(data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 constants of the first subgraph by name, of a file whose checksum is known.

    Weights of convolutions are [O, kh, kw, C], of dense layers [O, I].
    """
    model = _Table(data, unpack_from("<I", data)[0])
    buffers = model.tables(_BUFFERS)
    constants = {}
    for tensor in model.tables(_SUBGRAPHS)[0].tables(_TENSORS):
        values = buffers[tensor.number(_BUFFER, "<I")].vector(_DATA, "u1").view("<f4")
        if tensor.number(_TYPE, "<b") == _FLOAT32 and values.size:
            name = tensor.vector(_NAME, "u1").tobytes().decode()
            constants[name] = values.reshape(tensor.vector(_SHAPE, "<i4"))
    return constants


@dataclass(frozen=True)
class _Table:
    """A FlatBuffers table: an offset to its vtable, which says where each field lies (0: nowhere)."""

    data: bytes
    start: int

    def _field(self, index: int) -> int | None:
        vtable = self.start - unpack_from("<i", self.data, self.start)[0]
        place = 4 + 2 * index
        if place >= unpack_from("<H", self.data, vtable)[0]:
            return None
        offset = unpack_from("<H", self.data, vtable + place)[0]
        return self.start + offset if offset else None

    def number(self, index: int, kind: str) -> int:
        """A number; 0 where it is absent."""
        field = self._field(index)
        return 0 if field is None else int(unpack_from(kind, self.data, field)[0])

    def vector(self, index: int, dtype: str) -> npt.NDArray[np.generic]:
        """A vector of numbers; empty where it is absent."""
        field = self._field(index)
        if field is None:
            return np.empty(0, dtype)
        start = field + unpack_from("<I", self.data, field)[0]
        return np.frombuffer(self.data, dtype, unpack_from("<I", self.data, start)[0], start + 4)

    def tables(self, index: int) -> list[_Table]:
        """A vector of tables."""
        field = self._field(index)
        assert field is not None
        start = field + unpack_from("<I", self.data, field)[0]
        places = range(start + 4, start + 4 + 4 * unpack_from("<I", self.data, start)[0], 4)
        return [_Table(self.data, place + unpack_from("<I", self.data, place)[0]) for place in places]
