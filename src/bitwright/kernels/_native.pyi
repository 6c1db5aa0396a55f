# The C++ extension. Private: every check that a user meets is in bitwright.kernels.
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Shape = tuple[int, int, int]

def isas() -> list[str]: ...
def kernels(isa: str) -> dict[str, str]: ...
def cpu_features() -> dict[str, bool]: ...
def quantize_isas() -> list[str]: ...

# addresses as integers, in the order of csrc/module-emulate.cc
def quantize(isa: str, /, *arguments: int | bool | bytes) -> None: ...
def quantize_blocks(isa: str, /, *arguments: int | float | bool | bytes) -> None: ...
def gate(isa: str, /, *arguments: int | float) -> None: ...
def row_abs_sum(isa: str, /, *arguments: int) -> None: ...

# the integer engine's graph: csrc/module-graph.cc
_Sliding = tuple[int, ...]  # kernel, stride, top, left, bottom, right, dilation

class Epilogue:
    @staticmethod
    def sums() -> Epilogue: ...
    @staticmethod
    def bits(thresholds: npt.NDArray[np.int32], flips: npt.NDArray[np.uint8], /) -> Epilogue: ...
    @staticmethod
    def levels(
        thresholds: npt.NDArray[np.int32], base: npt.NDArray[np.int32], step: npt.NDArray[np.int32], /
    ) -> Epilogue: ...
    @staticmethod
    def codes(
        multiplier: npt.NDArray[np.int64],
        offset: npt.NDArray[np.int64],
        shift: int,
        rounding: int,
        low: int,
        high: int,
        /,
    ) -> Epilogue: ...

class Graph:
    def __init__(self, isa: str) -> None: ...
    def tensor(self, element: int, shape: _Shape, planes: int, factor: int, zero: int, /) -> int: ...
    def input(self, scale: float, exact: bool, low: int, high: int, zero_point: int, /) -> None: ...
    def dot(
        self,
        source: int,
        output: int,
        weights: npt.NDArray[np.int8],
        channels: int,
        window: _Sliding,
        groups: int,
        epilogue: Epilogue,
        /,
    ) -> None: ...
    def planes(
        self,
        source: int,
        output: int,
        weights: npt.NDArray[np.int8],
        channels: int,
        window: _Sliding,
        planes: int,
        exclusive: bool,
        signed: bool,
        epilogue: Epilogue,
        /,
    ) -> None: ...
    def combine(
        self,
        inputs: Sequence[int],
        output: int,
        first_channel: int,
        channels: int,
        multipliers: Sequence[Sequence[int]],
        epilogue: Epilogue,
        /,
    ) -> None: ...
    def pool(
        self, source: int, output: int, window: _Sliding, summed: bool, flips: npt.NDArray[np.uint8], /
    ) -> None: ...
    def split(self, source: int, output: int, first: int, /) -> None: ...
    def wide_product(
        self,
        source: int,
        output: int,
        weights: npt.NDArray[np.int64],
        channels: int,
        window: _Sliding,
        groups: int,
        /,
    ) -> None: ...
    def wide_affine(
        self,
        inputs: Sequence[int],
        output: int,
        first_channel: int,
        multiplier: npt.NDArray[np.int64],
        offset: npt.NDArray[np.int64],
        shift: int,
        rounding: int,
        low: int,
        high: int,
        /,
    ) -> None: ...
    def wide_steps(
        self,
        source: int,
        output: int,
        limits: npt.NDArray[np.int64],
        direction: npt.NDArray[np.int8],
        levels: npt.NDArray[np.int64],
        /,
    ) -> None: ...
    def wide_table(
        self, source: int, output: int, first: int, rows: int, entries: npt.NDArray[np.uint8], /
    ) -> None: ...
    def wide_pool(self, source: int, output: int, window: _Sliding, summed: bool, /) -> None: ...
    def gather(self, source: int, output: int, elements: npt.NDArray[np.int64], /) -> None: ...
    def finish(
        self,
        tensor: int,
        multipliers: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        shift: int,
        /,
    ) -> None: ...
    def arena_bytes(self) -> int: ...
    def run(
        self,
        samples: npt.NDArray[np.float32] | npt.NDArray[np.integer],
        output: npt.NDArray[np.float32] | npt.NDArray[np.int64],
        threads: int,
        captures: Sequence[tuple[int, npt.NDArray[np.int64]]],
    ) -> tuple[int, int, int]: ...
