"""Block formats: elements that share a scale, one for every `size` consecutive elements of a row."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats.floating import Float, Specials
from bitwright.formats.number import Format, check_integer
from bitwright.formats.random import Key, draw_scalar
from bitwright.formats.rounding import Draw, Overflow, Rounding
from bitwright.formats.uniform import Integers

if TYPE_CHECKING:
    import torch

E8M0 = Float(8, 0, Specials.FN, subnormals=False, signed=False, zero=False)
"""OCP's scale: 2^-127 to 2^127 and NaN."""


class ScaleRule(enum.Enum):
    """The scale s of a block.

    From a = max |x| over its finite elements, over the outer scale (at most the largest float32).

    With element_max the largest element value and emax = floor(log2 element_max):

    | rule   | s                                                | published as             |
    |--------|--------------------------------------------------|--------------------------|
    | floor  | 2^(floor(log2 a) - emax)                         | OCP MX v1.0, section 6.3 |
    | ceil   | 2^(ceil(log2 a) - emax)                          | torchao CEIL             |
    | rceil  | 2^ceil(log2(a / element_max)), never saturates   | torchao RCEIL            |
    | even   | 2^(floor(log2 a') - emax), a' = a rounded to the | torchao EVEN             |
    |        | element's mantissa, half up                      |                          |
    | divide | a / element_max, rounded to a float scale format | NVFP4                    |

    Exponents are clamped to the scale format's; a block of zeros has the smallest. Where a over the outer
    scale leaves float32, the scale is the largest.
    """

    FLOOR = "floor"
    CEIL = "ceil"
    RCEIL = "rceil"
    EVEN = "even"
    DIVIDE = "divide"


@dataclass(frozen=True)
class Block(Format):
    """Elements of one format under a scale for every `size` of them.

        value = number(element code) * s * outer                       s: number(scale code)

    A block runs along one axis, which belongs to the operand and not to the format; it never crosses a row,
    and a ragged end counts as padded with zeros. `quantize`, `encode` and `decode` take `axis`; `scale` is
    the outer scale (1 unless given; NVFP4's scale per tensor).

    Args:
        element: signed integers, fixed point with its fraction, or floating point.
        size: elements of a block.
        scale: format of the block scales: E8M0 or a float.
        rule: how a block's scale follows from it.
    """

    element: Format
    size: int = 32
    scale: Float = E8M0
    rule: ScaleRule = ScaleRule.FLOOR

    def __post_init__(self) -> None:
        check_integer("block size", self.size, 1, 1 << 20, self)
        if not isinstance(self.element, Integers | Float) or self.element.default_scale is None:
            raise InvalidTypeError(
                "elements of a block are integers, fixed point with a fraction, or floating point",
                got=self.element,
            )
        if self.element.wide or self.element.min_number == 0:
            raise InvalidValueError("elements of a block are signed, of at most 25 bits", got=self.element)
        if not isinstance(self.scale, Float):
            raise InvalidTypeError("scales of a block are powers of two or floats", got=self.scale)
        power = not self.scale.zero
        if power == (self.rule is ScaleRule.DIVIDE):
            kind = "a power of two" if power else "a float"
            raise InvalidValueError(
                f"the rule of a scale that is {kind} fits it", got=self.rule.value, where=str(self.scale)
            )

    @property
    def name(self) -> str:
        from bitwright.formats.names import block_name

        return block_name(self)

    @property
    def bits(self) -> int:
        return self.element.bits

    @property
    def bits_per_element(self) -> float:
        """Bits that store one element with its share of the scale."""
        return self.element.bits + self.scale.bits / self.size

    @property
    def code_min(self) -> int:
        return self.element.code_min

    @property
    def code_max(self) -> int:
        return self.element.code_max

    def codes(self) -> Sequence[int]:
        return self.element.codes()

    @property
    def step(self) -> float:
        """What an element's number 1 is worth at block scale 1."""
        assert self.element.default_scale is not None
        return self.element.default_scale

    def number(self, code: int) -> float:
        return self.element.number(code) * self.step

    @property
    def element_max(self) -> float:
        """The largest element value at block scale 1."""
        return self.element.max_number * self.step

    @property
    def max_number(self) -> float:
        """The largest value at outer scale 1: what a controller of the outer scale aims at."""
        return self.element_max * self.scale.max_number if self.scale.zero else self.element_max

    @property
    def min_number(self) -> float:
        return -self.max_number

    @property
    def unit(self) -> float:
        return self.element.unit * self.step

    @property
    def level_max(self) -> int:
        return self.element.level_max

    def check_overflow(self, overflow: Overflow) -> None:
        self.element.check_overflow(overflow)

    def code_of(self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None) -> int:
        return self.element.code_of(q, rounding, overflow, draw)

    # --- the scalar reference: one row -----------------------------------------------------------------

    def scale_code(self, largest: float) -> int:
        """The scale code of a block whose largest finite magnitude is `largest` (a float32)."""
        real = np.float32
        if self.rule is ScaleRule.DIVIDE:
            ratio = float(real(largest) / real(self.element_max))
            return int(self.scale.encode(min(ratio, self.scale.max_number)))
        lowest, highest = self.scale.emin, self.scale.max_exponent
        if largest == 0:
            return 0
        emax = _floor_log2(self.element_max)
        if self.rule is ScaleRule.RCEIL:
            with np.errstate(under="ignore"):
                exponent = _ceil_log2(float(real(largest) / real(self.element_max)))
        elif self.rule is ScaleRule.CEIL:
            exponent = _ceil_log2(largest) - emax
        elif self.rule is ScaleRule.EVEN:
            exponent = _half_up_log2(largest, self.mantissa) - emax
        else:
            exponent = _floor_log2(largest) - emax
        return min(max(exponent, lowest), highest) - lowest

    @property
    def mantissa(self) -> int:
        """Mantissa bits of the largest element."""
        if isinstance(self.element, Float):
            return self.element.mantissa
        return self.element.bits - 2

    def encode_row(
        self,
        row: Sequence[float],
        scale: float = 1.0,
        rounding: Rounding = Rounding.NEAREST_EVEN,
        overflow: Overflow = Overflow.SATURATE,
        key: Key | None = None,
        first: int = 0,
    ) -> tuple[list[int], list[int]]:
        """(element codes, scale codes) of one row; `first` is the draw index of its first element."""
        codes: list[int] = []
        scale_codes: list[int] = []
        real = np.float32
        for start in range(0, len(row), self.size):
            block = [real(x) for x in row[start : start + self.size]]
            largest = max((abs(x) for x in block if np.isfinite(x)), default=real(0))
            with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
                ratio = min(largest / real(scale), np.finfo(real).max)
                scale_codes.append(self.scale_code(float(ratio)))
                total = real(self.total_scale(scale_codes[-1], scale))
                for i, x in enumerate(block):
                    draw = draw_scalar(key, first + start + i) if key else None
                    q = x / total if total else real(0)
                    codes.append(self.element.code_of(q, rounding, overflow, draw))
        return codes, scale_codes

    def total_scale(self, scale_code: int, scale: float = 1.0) -> float:
        """What an element's number 1 is worth in a block: fl(fl(s * step) * outer)."""
        real = np.float32
        with np.errstate(over="ignore", under="ignore"):
            return float(real(real(self.scale.number(scale_code)) * real(self.step)) * real(scale))

    def decode_row(self, codes: Sequence[int], scale_codes: Sequence[int], scale: float = 1.0) -> list[float]:
        """The values of one row."""
        real = np.float32
        totals = [real(self.total_scale(code, scale)) for code in scale_codes]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return [
                float(real(self.element.number(code)) * totals[i // self.size])
                for i, code in enumerate(codes)
            ]

    # --- what users call ---------------------------------------------------------------------------------

    def quantize(  # type: ignore[override]
        self,
        x: Any,
        *,
        axis: int = -1,
        scale: float | None = None,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        overflow: Overflow | str = Overflow.SATURATE,
        key: Key | None = None,
        out: torch.Tensor | None = None,
    ) -> Any:
        """The values of the grid that stand for `x`; a number alone is a block of one.

        Args:
            x: a number, or a float tensor of any shape.
            axis: along which the blocks run.
            scale: the outer scale, a positive number.
            rounding, overflow, key, out: as for every format.
        """
        how = self._how(rounding, overflow, key, None)
        outer = self.scale_or_default(scale)
        if isinstance(x, int | float | np.number):
            return self.decode_row(*self.encode_row([float(x)], outer, *how, key), outer)[0]
        from bitwright.formats import tensors

        return tensors.quantize_blocks(self, x, axis, outer, *how, key, out)

    def encode(  # type: ignore[override]
        self,
        x: Any,
        *,
        axis: int = -1,
        scale: float | None = None,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        overflow: Overflow | str = Overflow.SATURATE,
        key: Key | None = None,
    ) -> Any:
        """(element codes of x's shape, scale codes: x's shape with one entry for each block along axis)."""
        how = self._how(rounding, overflow, key, None)
        outer = self.scale_or_default(scale)
        if isinstance(x, int | float | np.number):
            codes, scale_codes = self.encode_row([float(x)], outer, *how, key)
            return codes[0], scale_codes[0]
        from bitwright.formats import tensors

        return tensors.encode_blocks(self, x, axis, outer, *how, key)

    def decode(  # type: ignore[override]
        self, codes: Any, scale_codes: Any = None, *, axis: int = -1, scale: float | None = None
    ) -> Any:
        """The values of element codes under scale codes, as `encode` gives them."""
        if scale_codes is None:
            raise InvalidTypeError(
                f"decode of {self} takes the codes and the scale codes", fix="f.decode(*f.encode(x))"
            )
        outer = self.scale_or_default(scale)
        if isinstance(codes, int | np.integer):
            for form, code in ((self.element, codes), (self.scale, scale_codes)):
                form.decode(code)  # which raises where there is no such code
            return self.decode_row([int(codes)], [int(scale_codes)], outer)[0]
        from bitwright.formats import tensors

        return tensors.decode_blocks(self, codes, scale_codes, axis, outer)

    def grid(self, scale: float | None = None) -> list[float]:
        """Every element value at block scale 1 (times `scale`)."""
        return self.element.grid(self.step * self.scale_or_default(scale))

    def scale_or_default(self, scale: Any) -> float:
        if scale is not None and not isinstance(scale, int | float | np.number):
            if getattr(scale, "numel", lambda: 0)() != 1:
                raise InvalidTypeError(f"the outer scale of {self} is one number", got=type(scale).__name__)
            scale = float(scale)
        return float(super().scale_or_default(scale))


def _floor_log2(x: float) -> int:
    return math.frexp(x)[1] - 1


def _ceil_log2(x: float) -> int:
    if x == 0:
        return -150  # below every float32
    mantissa, exponent = math.frexp(x)
    return exponent - (mantissa == 0.5)


def _half_up_log2(x: float, mantissa: int) -> int:
    """floor(log2 x'), x' being x rounded half up to `mantissa` bits."""
    fraction, exponent = math.frexp(x)
    return exponent - 1 + int(2 * fraction + 0.5 ** (mantissa + 1) >= 2)
