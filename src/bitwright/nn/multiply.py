"""How each path of `arithmetic` multiplies: numbers go in, the exact sums come out.

TF32 and bfloat16 matrix products (`torch.set_float32_matmul_precision`, on CUDA and on CPUs with AMX) are
switched off around every product. On CUDA convolutions are matrix products of patches, which excludes
Winograd and FFT; that branch has not been run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch

from bitwright.kernels.dispatch import describe
from bitwright.nn.arithmetic import Halves, Operands, Speed
from bitwright.nn.geometry import Geometry, Kind

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def in_float(
    geometry: Geometry,
    kind: Kind,
    left: torch.Tensor,
    right: torch.Tensor,
    shape: list[int],
    dtype: torch.dtype,
) -> torch.Tensor:
    """The product with sums in `dtype`."""
    if left.dtype != dtype or right.dtype != dtype:
        left, right = left.to(dtype), right.to(dtype)
    settings = reduced_precision(left.device.type)
    with full_precision(settings) if settings else nullcontext():
        if left.is_cpu:
            return geometry.native(kind, left, right, shape)
        first, second = geometry.matrices(kind, left, right, shape, (dtype, dtype))
        return geometry.tensor(kind, first @ second, shape).contiguous()


def in_int8(
    geometry: Geometry,
    kind: Kind,
    left: torch.Tensor,
    right: torch.Tensor,
    shape: list[int],
    operands: Operands,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The product of 8-bit levels with sums in int32, as `dtype`."""
    numbers = []
    for tensor, operand in ((left, operands[0]), (right, operands[1])):
        numbers.append(tensor if operand.unit == 1.0 else tensor / operand.unit)
    types = (operands[0].byte, operands[1].byte)
    assert types[0] is not None
    assert types[1] is not None
    first, second = geometry.matrices(kind, numbers[0], numbers[1], shape, (types[0], types[1]))
    swapped = second.dtype is torch.uint8  # only the first may be unsigned
    sums = multiply_int8(second.mT, first.mT).mT if swapped else multiply_int8(first, second)
    result = torch.empty(shape, dtype=dtype, device=left.device)
    result.copy_(geometry.tensor(kind, sums, shape))
    unit = operands[0].unit * operands[1].unit
    return result if unit == 1.0 else result.mul_(unit)


def multiply_int8(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """[M, K] int8 or uint8 times [K, N] int8 -> [M, N] int32; of groups one by one, [G, ...]."""
    if left.dim() == 3:
        return torch.stack([multiply_int8(*pair) for pair in zip(left, right, strict=True)])
    return torch._int_mm(_dense(left), _dense(right))


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with the strides of a dense one, by rows or by columns.

    torch hands strides to oneDNN as they are, which refuses overlapping ones, and some that an axis of
    length 1 may have, and then leaves the result unwritten (pytorch issue 195066).
    """
    rows, columns = matrix.shape
    by_rows = matrix.stride() == (columns, 1)
    by_columns = matrix.stride() == (1, rows) and rows > 1 and columns > 1
    return matrix if by_rows or by_columns else matrix.clone(memory_format=torch.contiguous_format)


def in_halves(
    geometry: Geometry,
    kind: Kind,
    left: torch.Tensor,
    right: torch.Tensor,
    shape: list[int],
    operands: Operands,
    halves: Halves,
) -> torch.Tensor:
    """The product as the float64 sum of two float32 ones."""
    both = [left, right]
    whole = both[halves.side]
    step = halves.step * operands[halves.side].unit
    high = torch.round(whole / step).mul_(step)
    result: torch.Tensor | None = None
    for part in (high, whole - high):
        both[halves.side] = part
        sums = in_float(geometry, kind, both[0], both[1], shape, torch.float32)
        result = sums.double() if result is None else result.add_(sums)
    assert result is not None
    return result


class _Legacy:
    """The one setting of torch before 2.9, in the words of those that replaced it."""

    @property
    def fp32_precision(self) -> str:
        precision = torch.get_float32_matmul_precision()
        return "ieee" if precision == "highest" else precision

    @fp32_precision.setter
    def fp32_precision(self, value: str) -> None:
        torch.set_float32_matmul_precision("highest" if value == "ieee" else value)


def _precision_settings(device: str) -> tuple[Any, ...]:
    if not hasattr(torch.backends, "fp32_precision"):
        return (_Legacy(),)
    cpu: Any = torch.backends.mkldnn
    return (cpu.matmul, cpu.conv) if device == "cpu" else (torch.backends.cuda.matmul,)


_PRECISION = {device: _precision_settings(device) for device in ("cpu", "cuda")}


def reduced_precision(device: str) -> list[Any]:
    """The settings of torch that let float32 products on `device` ("cpu", "cuda") be less than float32."""
    # the value read is the one in force, also where it comes from a setting of wider scope
    return [s for s in _PRECISION[device] if s.fp32_precision not in ("none", "ieee")]


@contextmanager
def full_precision(settings: list[Any]) -> Iterator[None]:
    """A context in which these settings ask for IEEE float32."""
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@cache
def int8_speed() -> Speed:
    """What torch's 8-bit product on the CPU is good for; tried once per process.

    It has been silently wrong on CPUs without VNNI, whose 16-bit sums of two products saturate: hence
    extremes, of one sign and of alternating ones, in every tail that a kernel may have. CUDA's is left
    alone: it takes few shapes, and no one has tried it here.
    """
    if not _agrees(multiply_int8):
        return Speed.NONE
    return Speed.FAST if describe()["cpu_features"].get("avx512vnni") else Speed.SLOW


def _agrees(multiply: Multiply) -> bool:
    """Whether `multiply` is exact on adversarial matrices."""
    for low, high, dtype in ((-128, 127, torch.int8), (0, 255, torch.uint8)):
        for rows, terms, columns in ((1, 1, 1), (3, 67, 5), (17, 256, 33), (64, 515, 48)):
            left, right = (
                _extremes(rows, terms, low, high).to(dtype),
                _extremes(columns, terms, -128, 127).to(torch.int8).T,
            )
            expected = (left.double() @ right.double()).to(torch.int32)
            try:
                if not torch.equal(multiply(left, right), expected):
                    return False
            except (RuntimeError, AttributeError, NotImplementedError):
                return False
    return True


def _extremes(rows: int, columns: int, low: int, high: int) -> torch.Tensor:
    """[rows, columns] of `low` and `high`: constant rows, alternating ones, and rows of runs."""
    row, column = torch.arange(rows).view(-1, 1), torch.arange(columns)
    period = torch.tensor([1 << 20, 1 << 20, 1, 2, 3, 4, 8])[row % 7]
    up = (column // period + row) % 2 == 0
    return torch.where(up, high, low)
