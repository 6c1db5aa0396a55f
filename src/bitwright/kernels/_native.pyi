# The C++ extension. Private: every check that a user meets is in bitwright.kernels.
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Shape = tuple[int, int, int]
_Geometry = tuple[int, int, int, int, int, int]

def isas() -> list[str]: ...
def kernels(isa: str) -> dict[str, str]: ...
def cpu_features() -> dict[str, bool]: ...
def quantize_isas() -> list[str]: ...

class Grid:
    def __init__(
        self,
        kind: int,
        low: float,
        high: float,
        wrap: bool,
        mantissa_bits: int,
        emin: int,
        max: float,
        beyond: float,
        at_infinity: float,
        at_nan: float,
        negative_zero: bool,
        subnormals: bool,
        is_unsigned: bool,
        fields: int,
        /,
    ) -> None: ...

# addresses as integers, in the order of csrc/module-emulate.cc
def quantize(isa: str, /, *arguments: int | bool | Grid) -> None: ...
def quantize_blocks(isa: str, /, *arguments: int | float | bool | Grid) -> None: ...
def gate(isa: str, /, *arguments: int | float) -> None: ...
def row_abs_sum(isa: str, /, *arguments: int) -> None: ...

class Program:
    def __init__(self, isa: str) -> None: ...
    def input(self, shape: _Shape, scale: float, low: int, high: int) -> None: ...
    def input_binary(self, shape: _Shape) -> None: ...
    def product(
        self,
        weights: npt.NDArray[np.uint8],
        geometry: _Geometry,
        thresholds: npt.NDArray[np.int32] | None,
        flips: npt.NDArray[np.uint8] | None,
    ) -> _Shape: ...
    def pool(self, geometry: _Geometry, flips: npt.NDArray[np.uint8]) -> _Shape: ...
    def finish(
        self,
        multipliers: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        shift: int,
    ) -> None: ...
    def run(
        self,
        samples: npt.NDArray[np.float32] | npt.NDArray[np.int8] | npt.NDArray[np.uint8],
        output: npt.NDArray[np.float32],
        threads: int,
        captures: Sequence[npt.NDArray[np.int8] | npt.NDArray[np.uint8] | npt.NDArray[np.int32]],
    ) -> tuple[int, int, int]: ...
