"""What a format is: the base class of every number format, and what users call on one.

A format says which codes exist and what number each stands for; value = number * scale. A format holds no
scale, only the default worth of its numbers (1, or the step of a fixed point).

    code = the code of round(x / scale)          x / scale: one IEEE division
    value = number(code) * scale                 one IEEE multiplication

Both are taken in float32 where every number has at most 24 significant bits, else in float64. The integer
that a product multiplies, the level, is number / unit: the number itself for integers and fixed point,
multiples of the smallest subnormal for floating point.

The scalar code of this package is the specification; the torch twin and the C++ kernels equal it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats.random import Key, draw_scalar
from bitwright.formats.rounding import Draw, Overflow, Rounding

if TYPE_CHECKING:
    import torch


class Format(ABC):
    """A set of codes and what they mean. Subclasses are frozen dataclasses, equal by value."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The canonical name, which `bitwright.format` parses back."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits that store one code."""

    @property
    @abstractmethod
    def code_min(self) -> int:
        """The smallest code."""

    @property
    @abstractmethod
    def code_max(self) -> int:
        """The largest code."""

    @abstractmethod
    def number(self, code: int) -> float:
        """What a code stands for at scale 1, exactly; a code that does not exist is not checked."""

    @abstractmethod
    def code_of(self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None) -> int:
        """The code of the quotient q = x / scale, which may be infinite or NaN."""

    def codes(self) -> Sequence[int]:
        """Every code, in order."""
        return range(self.code_min, self.code_max + 1)

    @property
    def max_number(self) -> float:
        """The largest finite number at scale 1."""
        return float(self.code_max)

    @property
    def min_number(self) -> float:
        """The smallest finite number at scale 1: the most negative one, or 0."""
        return float(self.code_min)

    @property
    def unit(self) -> float:
        """The worth of one level in numbers; every number is an integer multiple of it."""
        return 1.0

    @property
    def level_max(self) -> int:
        """The largest |level|, an integer: bounds what a product can sum."""
        return int(max(abs(self.max_number), abs(self.min_number)) / self.unit)

    @property
    def integral(self) -> bool:
        """Whether codes and numbers are the same integers: what an integer network is made of."""
        return False

    @property
    def default_scale(self) -> float | None:
        """The worth of a number 1 where nothing else is said; None: the caller must say."""
        return 1.0

    @property
    def wide(self) -> bool:
        """Whether some number has more than 24 significant bits, so that values are float64."""
        return False

    def check_overflow(self, overflow: Overflow) -> None:
        """Raise where this format cannot overflow that way."""
        if overflow is Overflow.INFINITE:
            raise InvalidValueError(
                f"{self} has no infinity to overflow to", got=overflow.value, fix='use overflow="saturate"'
            )

    def __str__(self) -> str:
        return self.name

    # --- what users call: scalars go to the reference below, tensors to the fused kernels or their twin --

    def quantize(
        self,
        x: Any,
        *,
        scale: Any = None,
        zero_point: Any = None,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        overflow: Overflow | str = Overflow.SATURATE,
        key: Key | None = None,
        out: torch.Tensor | None = None,
    ) -> Any:
        """The values of the grid that stand for `x`: decode(encode(x)).

        Args:
            x: a number, or a float tensor of any shape.
            scale: worth of a number 1; a number, or a float32 tensor that broadcasts to x.
            zero_point: the code that stands for 0, an int or an int32 tensor that broadcasts to x;
                for integer formats (affine quantisation, as ONNX and TFLite mean it).
            rounding: see `Rounding`; "stochastic" needs `key`.
            overflow: see `Overflow`.
            key: names the random bits (there is no global generator).
            out: a tensor that receives the values; may be x itself.
        """
        how = self._how(rounding, overflow, key, zero_point)
        if isinstance(x, int | float | np.number):
            code = self._encode_scalar(float(x), scale, *how, key, zero_point)
            return self.decode(code, scale=scale, zero_point=zero_point)
        from bitwright.formats import tensors

        return tensors.quantize(self, x, scale, *how, key, zero_point, out)

    def encode(
        self,
        x: Any,
        *,
        scale: Any = None,
        zero_point: Any = None,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        overflow: Overflow | str = Overflow.SATURATE,
        key: Key | None = None,
    ) -> Any:
        """The codes of `x`: an int, or a tensor of the smallest integer type that holds them all."""
        how = self._how(rounding, overflow, key, zero_point)
        if isinstance(x, int | float | np.number):
            return self._encode_scalar(float(x), scale, *how, key, zero_point)
        from bitwright.formats import tensors

        return tensors.encode(self, x, scale, *how, key, zero_point)

    def decode(self, codes: Any, *, scale: Any = None, zero_point: Any = None) -> Any:
        """The values of `codes`, an int or an integer tensor; a code that does not exist is an error."""
        if zero_point is not None:
            self._check_affine()
        if isinstance(codes, int | np.integer):
            if int(codes) not in self.codes():  # an int, for which a range need not be walked
                raise InvalidValueError(
                    f"codes of {self} are {describe_codes(self)}", got=codes, where="decode"
                )
            real = self.float_type
            number = self.number(int(codes)) - (0 if zero_point is None else int(zero_point))
            with np.errstate(over="ignore"):
                return float(real(number) * real(self.scale_or_default(scale)))
        from bitwright.formats import tensors

        return tensors.decode(self, codes, scale, zero_point)

    def grid(self, scale: float | None = None) -> list[float]:
        """Every value, in the order of the codes."""
        return [self.decode(code, scale=scale) for code in self.codes()]

    def explain(
        self,
        x: float | Sequence[float],
        *,
        scale: float | None = None,
        zero_point: int | None = None,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        overflow: Overflow | str = Overflow.SATURATE,
        key: Key | None = None,
    ) -> str:
        """How `x` (for block formats the numbers of one block) becomes codes, step by step."""
        from bitwright.formats.explain import explain

        return explain(self, x, scale, zero_point, rounding, overflow, key)

    # --- the scalar reference ------------------------------------------------------------------------

    @property
    def float_type(self) -> type[np.float32] | type[np.float64]:
        """The type in which quotients and values of this format are taken."""
        return np.float64 if self.wide else np.float32

    def scale_or_default(self, scale: Any) -> Any:
        """`scale`, or the default where it is None; checked where it is a number."""
        if scale is None:
            default = self.default_scale
            if default is None:
                raise InvalidValueError(
                    f"{self} has no point of its own, so it needs a scale",
                    fix=f"pass scale=, or name the fraction, as in {self}.4",
                )
            return default
        if isinstance(scale, int | float | np.number):
            if not (np.isfinite(scale) and 0 < float(np.float32(scale)) < np.inf):
                raise InvalidValueError("a scale is positive and finite in float32", got=scale)
            return float(np.float32(scale))
        return scale

    def _how(
        self, rounding: Rounding | str, overflow: Overflow | str, key: Key | None, zero_point: Any
    ) -> tuple[Rounding, Overflow]:
        rounding, overflow = Rounding.of(rounding), Overflow.of(overflow)
        if rounding is Rounding.STOCHASTIC and key is None:
            raise InvalidValueError("stochastic rounding needs a key", fix="pass key=bw.Key(seed=0)")
        self.check_overflow(overflow)
        if zero_point is not None:
            self._check_affine()
        return rounding, overflow

    def _check_affine(self) -> None:
        raise InvalidTypeError(f"{self} has no zero point", fix="use an integer format, such as uint8")

    def _encode_scalar(
        self,
        x: float,
        scale: Any,
        rounding: Rounding,
        overflow: Overflow,
        key: Key | None,
        zero_point: Any,
        element: int = 0,
    ) -> int:
        real = self.float_type
        with np.errstate(over="ignore", under="ignore"):
            q = real(x) / real(self.scale_or_default(scale))
        draw = draw_scalar(key, element) if key else None
        if zero_point is None:
            return self.code_of(q, rounding, overflow, draw)
        return self.shifted_code(q, rounding, overflow, draw, int(zero_point))

    def shifted_code(
        self, q: np.floating, rounding: Rounding, overflow: Overflow, draw: Draw | None, zero_point: int
    ) -> int:
        """The code of round(q) + zero_point, for formats that have a zero point."""
        raise NotImplementedError  # _check_affine has refused it


def describe_codes(form: Format) -> str:
    """The codes of a format, for messages: "-128 to 127"."""
    codes = form.codes()
    return f"{codes[0]} and {codes[1]}" if len(codes) == 2 else f"{codes[0]} to {codes[-1]}"


def check_integer(what: str, value: Any, low: int, high: int, form: Format) -> None:
    """Raise where a format's field is not an int between low and high."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTypeError(f"{what} of {type(form).__name__} is an int", got=repr(value))
    if not low <= value <= high:
        raise InvalidValueError(f"{what} of {type(form).__name__} lies between {low} and {high}", got=value)
