"""Preprocessing: how a pixel becomes the float32 that a model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidValueError

_LARGEST_SIDE = 2**16
_MOST_VALUES = 2**24
_SMALLEST_DIVISOR, _LARGEST = 2.0**-64, 2.0**64
_KEYS = ("shape", "divisor", "offset", "pixel_max")


@dataclass(frozen=True)
class Preprocessing:
    """The rule `x = float32(pixel) / float32(divisor) + float32(offset)`, with one pair or one a channel.

    Two IEEE 754 float32 operations, each rounded to nearest even, in this order: a division, then
    an addition. Never a multiplication by the reciprocal and never fused, so every machine gets the
    same bits. Model files carry this value as JSON.

    Args:
        shape: (channels, height, width) of one image.
        divisor: from 2^-64 to 2^64; rounded to float32 when used. A number, or one for each channel.
        offset: at most 2^64 in magnitude; rounded to float32 when used. A number, or one for each channel.
        pixel_max: the largest pixel of the data set, which white in an image file stands for.

    Raises:
        InvalidValueError: a field is of the wrong type or out of its range.
    """

    shape: tuple[int, int, int]
    divisor: float | tuple[float, ...]
    offset: float | tuple[float, ...]
    pixel_max: int = 255

    def __post_init__(self) -> None:
        shape: object = self.shape
        if (
            not isinstance(shape, tuple)
            or len(shape) != 3
            or not all(_is_integer(side) and 1 <= side <= _LARGEST_SIDE for side in shape)
        ):
            raise InvalidValueError(
                f"shape must be three integers from 1 to {_LARGEST_SIDE}: channels, height, width",
                got=_shown(shape),
                where="preprocessing.shape",
            )
        if math.prod(self.shape) > _MOST_VALUES:
            raise InvalidValueError(
                f"one image must have at most {_MOST_VALUES} values",
                got=self.shape,
                where="preprocessing.shape",
            )
        divisors, offsets = self._each("divisor"), self._each("offset")
        if not all(_is_number(d) and _SMALLEST_DIVISOR <= d <= _LARGEST for d in divisors):
            raise InvalidValueError(
                "divisor must be a number from 2^-64 to 2^64",
                got=_shown(self.divisor),
                where="preprocessing.divisor",
            )
        if not all(_is_number(o) and -_LARGEST <= o <= _LARGEST for o in offsets):
            raise InvalidValueError(
                "offset must be a number from -2^64 to 2^64",
                got=_shown(self.offset),
                where="preprocessing.offset",
            )
        if not _is_integer(self.pixel_max) or not 1 <= self.pixel_max <= 255:
            raise InvalidValueError(
                "pixel_max must be an integer from 1 to 255",
                got=_shown(self.pixel_max),
                where="preprocessing.pixel_max",
            )
        for name, values in (("divisor", divisors), ("offset", offsets)):
            numbers = tuple(float(value) for value in values)
            object.__setattr__(self, name, numbers if isinstance(getattr(self, name), tuple) else numbers[0])

    def _each(self, name: str) -> tuple[Any, ...]:
        """The values of a field, as they were given."""
        value: object = getattr(self, name)
        if not isinstance(value, tuple):
            return (value,)
        if len(value) != self.shape[0]:
            raise InvalidValueError(
                f"{name} must be a number, or one for each of {self.shape[0]} channels",
                got=f"{len(value)} numbers",
                where=f"preprocessing.{name}",
            )
        return value

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The model's inputs for the data set's own pixels.

        Args:
            pixels: uint8 [N, C, H, W], none above `pixel_max`.

        Returns:
            float32 [N, C, H, W], in memory of its own.
        """
        self._require_pixels(pixels)
        if self.pixel_max < 255 and pixels.size and int(pixels.max()) > self.pixel_max:
            image = int(np.argmax(pixels.reshape(len(pixels), -1).max(axis=1) > self.pixel_max))
            raise InvalidValueError(
                f"a pixel must be from 0 to {self.pixel_max}",
                got=int(pixels[image].max()),
                where=f"image {image}",
                fix="pixels from 0 to 255 go through from_image()",
            )
        return self._scaled(pixels.astype(np.float32))

    def from_image(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The model's inputs for a picture's values, where 255 is the pixel `pixel_max`.

        pixel = float32(value) * pixel_max / float32(255): the product is exact, the division is
        rounded once. 0 and 255 give exactly the pixels 0 and pixel_max; where pixel_max is 255 the
        result is the same bits as `self(values)`.

        Args:
            values: uint8 [N, C, H, W].
        """
        self._require_pixels(values)
        pixels = values.astype(np.float32)
        pixels *= np.float32(self.pixel_max)
        pixels /= np.float32(255)
        return self._scaled(pixels)

    def to_json(self) -> dict[str, Any]:
        """The value as JSON's types; `from_json` gives it back."""
        return {
            "shape": list(self.shape),
            "divisor": list(self.divisor) if isinstance(self.divisor, tuple) else self.divisor,
            "offset": list(self.offset) if isinstance(self.offset, tuple) else self.offset,
            "pixel_max": self.pixel_max,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """The value that `to_json` wrote.

        Raises:
            InvalidValueError: a key is missing or unknown, or a value is of the wrong type or out
                of its range.
        """
        given: object = value
        if not isinstance(given, Mapping):
            raise InvalidValueError(
                "preprocessing must be a JSON object",
                got=type(given).__name__,
                where="preprocessing",
            )
        missing = [key for key in _KEYS if key not in given]
        unknown = sorted(repr(key)[:40] for key in given if key not in _KEYS)
        if missing or unknown:
            raise InvalidValueError(
                f"preprocessing must have the keys {', '.join(_KEYS)} and no others",
                got=f"missing {', '.join(missing) or 'none'}, unknown {', '.join(unknown[:4]) or 'none'}",
                where="preprocessing",
            )
        shape = given["shape"]
        return cls(
            shape=tuple(shape) if isinstance(shape, list) and len(shape) == 3 else shape,
            divisor=_tupled(given["divisor"]),
            offset=_tupled(given["offset"]),
            pixel_max=given["pixel_max"],
        )

    def _scaled(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        pixels /= _by_channel(self.divisor)
        pixels += _by_channel(self.offset)
        return pixels

    def _require_pixels(self, pixels: object) -> None:
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
            got = f"{pixels.dtype} array" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise InvalidValueError("pixels must be a uint8 array", got=got)
        if pixels.shape[1:] != self.shape or pixels.ndim != 4:
            channels, height, width = self.shape
            raise InvalidValueError(
                f"pixels must be of shape [N, {channels}, {height}, {width}]",
                got=list(pixels.shape),
            )


def _by_channel(value: float | tuple[float, ...]) -> npt.NDArray[np.float32]:
    """[1 or C, 1, 1]."""
    return np.array(value, np.float32).reshape(-1, 1, 1)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """What a hostile file may hold, short enough for a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, or too deep a nest
        return f"{type(value).__name__} too long to show"
    return text if len(text) <= 60 else text[:57] + "..."
