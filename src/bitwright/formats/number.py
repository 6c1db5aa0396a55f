"""Number formats as frozen values, and their scalar reference (which is the specification).

A format says which codes exist and what level each stands for; value = level * scale. For every format
of this file the level is the code itself. A format holds no scale, only the default worth of one step.

    code = clip(round(x / scale), code_min, code_max)          x / scale: one IEEE division
    value = code * scale                                       one IEEE multiplication

Both are taken in float32 where every level has at most 24 significant bits, else in float64.
NaN counts as 0; infinities saturate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from bitwright.errors import InvalidTypeError, InvalidValueError
from bitwright.formats.random import Key, draw_scalar
from bitwright.formats.rounding import Rounding, round_scalar

if TYPE_CHECKING:
    import torch

MAX_BITS = 32
MAX_FRACTION = 100  # 2^-100 and 2^(32 + 100) are ordinary float64, and float32 wherever it is used


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

    def codes(self) -> Sequence[int]:
        """Every code, in order."""
        return range(self.code_min, self.code_max + 1)

    def code_of(self, q: np.floating, rounding: Rounding, draw: int | None) -> int:
        """The code of the finite quotient q = x / scale."""
        return min(max(round_scalar(q, rounding, draw), self.code_min), self.code_max)

    @property
    def default_scale(self) -> float | None:
        """The worth of one level where nothing else is said; None: the caller must say."""
        return 1.0

    @property
    def wide(self) -> bool:
        """Whether some level has more than 24 significant bits, so that values are float64."""
        return max(abs(self.code_min), abs(self.code_max)) > 1 << 24

    def __str__(self) -> str:
        return self.name

    # --- what users call: scalars go to the reference below, tensors to its torch twin -------------

    @overload
    def quantize(
        self, x: float, *, scale: Any = None, rounding: Rounding | str = ..., key: Key | None = None
    ) -> float: ...
    @overload
    def quantize(
        self,
        x: torch.Tensor,
        *,
        scale: Any = None,
        rounding: Rounding | str = ...,
        key: Key | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor: ...
    def quantize(
        self,
        x: Any,
        *,
        scale: Any = None,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        key: Key | None = None,
        out: Any = None,
    ) -> Any:
        """The values of the grid that stand for `x`: decode(encode(x)).

        Args:
            x: a number, or a float tensor of any shape.
            scale: worth of one level; a number, or a float32 tensor that broadcasts to x.
            rounding: see `Rounding`; "stochastic" needs `key`.
            key: names the random bits (there is no global generator).
            out: a tensor that receives the values; may be x itself.
        """
        rounding = Rounding.of(rounding)
        if isinstance(x, int | float | np.number):
            return self.decode(self.encode(float(x), scale=scale, rounding=rounding, key=key), scale=scale)
        from bitwright.formats import twin

        return twin.quantize(self, x, scale, rounding, key, out)

    @overload
    def encode(
        self, x: float, *, scale: Any = None, rounding: Rounding | str = ..., key: Key | None = None
    ) -> int: ...
    @overload
    def encode(
        self,
        x: torch.Tensor,
        *,
        scale: Any = None,
        rounding: Rounding | str = ...,
        key: Key | None = None,
    ) -> torch.Tensor: ...
    def encode(
        self,
        x: Any,
        *,
        scale: Any = None,
        rounding: Rounding | str = Rounding.NEAREST_EVEN,
        key: Key | None = None,
    ) -> Any:
        """The codes of `x`: an int, or a tensor of the smallest integer type that holds them all."""
        rounding = Rounding.of(rounding)
        if isinstance(x, int | float | np.number):
            return self._encode_scalar(float(x), scale, rounding, key, element=0)
        from bitwright.formats import twin

        return twin.encode(self, x, scale, rounding, key)

    @overload
    def decode(self, codes: int, *, scale: Any = None) -> float: ...
    @overload
    def decode(self, codes: torch.Tensor, *, scale: Any = None) -> torch.Tensor: ...
    def decode(self, codes: Any, *, scale: Any = None) -> Any:
        """The values of `codes`; a code that does not exist is an error."""
        if isinstance(codes, int | np.integer):
            if int(codes) not in self.codes():  # an int, for which a range need not be walked
                raise InvalidValueError(
                    f"codes of {self} are {describe_codes(self)}", got=codes, where="decode"
                )
            return float(self.float_type(codes) * self.float_type(self.scale_or_default(scale)))
        from bitwright.formats import twin

        return twin.decode(self, codes, scale)

    def grid(self, scale: float | None = None) -> list[float]:
        """Every value, in the order of the codes."""
        return [self.decode(code, scale=scale) for code in self.codes()]

    def explain(self, x: float, *, scale: float | None = None) -> str:
        """How `x` becomes a code, step by step, with the numbers."""
        from bitwright.formats.explain import explain

        return explain(self, x, scale)

    # --- the scalar reference ------------------------------------------------------------------------

    @property
    def float_type(self) -> type[np.float32] | type[np.float64]:
        """The type in which quotients and values of this format are taken."""
        return np.float64 if self.wide else np.float32

    def scale_or_default(self, scale: Any) -> Any:
        """`scale`, or the default where it is None; checked where it is a number."""
        if scale is None:
            scale = self.default_scale
        if scale is None:
            raise InvalidValueError(
                f"{self} has no point of its own, so it needs a scale",
                fix=f"pass scale=, or name the fraction, as in {self}.4",
            )
        if isinstance(scale, int | float | np.number):
            if not (np.isfinite(scale) and float(np.float32(scale)) > 0):
                raise InvalidValueError("a scale is positive and finite in float32", got=scale)
            return float(np.float32(scale))
        return scale

    def _encode_scalar(self, x: float, scale: Any, rounding: Rounding, key: Key | None, element: int) -> int:
        real = self.float_type
        with np.errstate(over="ignore"):
            q = real(x) / real(self.scale_or_default(scale))
        if np.isnan(q):
            q = real(0)
        if rounding is Rounding.STOCHASTIC and key is None:
            raise InvalidValueError("stochastic rounding needs a key", fix="pass key=bw.Key(seed=0)")
        # beyond 2^33 everything saturates, and infinity has no integer part
        q = real(min(max(float(q), -(2.0**33)), 2.0**33))
        return self.code_of(q, rounding, draw_scalar(key, element) if key else None)


@dataclass(frozen=True)
class Uniform(Format):
    """Equally spaced levels: the consecutive integers from code_min to code_max."""

    width: int

    def __post_init__(self) -> None:
        _check_integer("bits", self.width, 1, MAX_BITS, self)

    @property
    def bits(self) -> int:
        return self.width

    @property
    def signed(self) -> bool:
        return True

    @property
    def code_min(self) -> int:
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def code_max(self) -> int:
        return (1 << self.bits - 1) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Int(Uniform):
    """Two's-complement integers: `Int(8)` has codes -128 to 127. One step is worth 1 by default."""

    @property
    def name(self) -> str:
        return f"int{self.width}"


@dataclass(frozen=True)
class UInt(Uniform):
    """Unsigned integers: `UInt(4)` has codes 0 to 15. One step is worth 1 by default."""

    @property
    def name(self) -> str:
        return f"uint{self.width}"

    @property
    def signed(self) -> bool:
        return False


@dataclass(frozen=True)
class Fixed(Uniform):
    """Two's-complement fixed point: `Fixed(8, 4)` has steps of 2^-4 and reaches from -8 to 7.9375.

    The fraction may be negative (steps above 1) or larger than the width (all values below 1). Without
    a fraction (`fixed12`) the point is left to a controller, and a scale is needed.
    """

    fraction: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction is not None:
            _check_integer("fraction", self.fraction, -MAX_FRACTION, MAX_FRACTION, self)

    @property
    def name(self) -> str:
        point = "" if self.fraction is None else f".{self.fraction}"
        return f"{'' if self.signed else 'u'}fixed{self.width}{point}"

    @property
    def default_scale(self) -> float | None:
        return None if self.fraction is None else 2.0**-self.fraction


@dataclass(frozen=True)
class UFixed(Fixed):
    """Unsigned fixed point: `UFixed(8, 8)` has steps of 2^-8 and reaches from 0 to 255/256."""

    @property
    def signed(self) -> bool:
        return False


@dataclass(frozen=True)
class Ternary(Format):
    """Levels -1, 0, 1: round(x / scale), clipped. Two bits store one code."""

    @property
    def name(self) -> str:
        return "ternary"

    @property
    def bits(self) -> int:
        return 2

    @property
    def code_min(self) -> int:
        return -1

    @property
    def code_max(self) -> int:
        return 1


@dataclass(frozen=True)
class Binary(Format):
    """Levels -1 and +1 (QNN, section 1): +1 where x >= 0, so sign(0) = +1; also NaN and -0 give +1.

    Every deterministic rounding gives the sign. The stochastic one gives +1 with probability
    clip((x / scale + 1) / 2, 0, 1), in units of 2^-16.
    """

    @property
    def name(self) -> str:
        return "binary"

    @property
    def bits(self) -> int:
        return 1

    @property
    def code_min(self) -> int:
        return -1

    @property
    def code_max(self) -> int:
        return 1

    def codes(self) -> Sequence[int]:
        return (-1, 1)

    def code_of(self, q: np.floating, rounding: Rounding, draw: int | None) -> int:
        if rounding is not Rounding.STOCHASTIC:
            return 1 if q >= 0 else -1
        # P(+1) = (q + 1) / 2: the draw, in [0, 2^16), lies below (q + 1) 2^15
        half = type(q)(2**15)
        return 1 if draw is not None and draw < (q + type(q)(1)) * half else -1


def describe_codes(form: Format) -> str:
    """The codes of a format, for messages: "-128 to 127"."""
    codes = form.codes()
    return f"{codes[0]} and {codes[1]}" if len(codes) == 2 else f"{codes[0]} to {codes[-1]}"


def _check_integer(what: str, value: Any, low: int, high: int, form: Format) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidTypeError(f"{what} of {type(form).__name__} is an int", got=repr(value))
    if not low <= value <= high:
        raise InvalidValueError(f"{what} of {type(form).__name__} lies between {low} and {high}", got=value)
