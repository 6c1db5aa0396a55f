"""Stored codes in one canonical layout: k bits a code, rows of one output channel each.

A code has the format's k bits, in two's complement where codes are signed; binary has 1 for +1 and 0 for -1;
a logarithmic code is its bit pattern. Code i of a row sits in bits i k to (i + 1) k - 1 of the row, least
significant first. Each row starts at a new byte; padding bits are 0. Where k is 8, 16 or 32 that is the
little-endian integer array, and it is kept as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bitwright.errors import FileFormatError, InvalidTypeError, InvalidValueError
from bitwright.formats import Binary, Format, Log, Ternary, Uniform, describe_codes

WHOLE = (8, 16, 32)
"""Widths that are integer types."""
BLOCK = 1 << 18
"""Codes unpacked at a time."""
LEVEL_LIMIT = 1 << 31
"""No stored level exceeds it."""


@dataclass(frozen=True)
class Declared:
    """What a file says of stored codes that nobody has read yet."""

    norm: int
    origin: str
    """Where the codes lie, for messages."""


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of one stored tensor, packed.

    Args:
        format: of the codes: uniform, ternary, binary or logarithmic with levels of at most 32 bits.
        shape: [rows, ...] of the tensor.
        packed: the packed layout: uint8 [rows, ceil(K k / 8)], or an integer array of `shape` where the
            width k is 8, 16 or 32. It may be a mapped file.
        declared: given, the contents are checked when they are first read, not now.
    """

    format: Format
    shape: tuple[int, ...]
    packed: np.ndarray
    declared: Declared | None = None

    @staticmethod
    def pack(form: Format, array: np.ndarray) -> Codes:
        """From an integer array of codes with at least one axis; a code that does not exist is an error."""
        check_format(form)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
            got = array.dtype if isinstance(array, np.ndarray) else type(array)
            raise InvalidTypeError("codes are an integer array", got=got)
        _check_layout_shape(array.shape)
        _check_range(form, array)
        if form.bits in WHOLE:
            return Codes(form, array.shape, np.ascontiguousarray(array.astype(storage_type(form))))
        rows = array.reshape(array.shape[0], -1)
        step = max(1, BLOCK // rows.shape[1])
        parts = [_pack(form, rows[i : i + step]) for i in range(0, len(rows), step)]
        return Codes(form, array.shape, np.concatenate(parts))

    def __post_init__(self) -> None:
        check_format(self.format)
        _check_layout_shape(self.shape)
        whole = self.format.bits in WHOLE
        shape = self.shape if whole else (self.shape[0], -(-self.columns * self.format.bits // 8))
        dtype = storage_type(self.format) if whole else np.dtype(np.uint8)
        if self.packed.shape != shape or self.packed.dtype != dtype or not self.packed.flags.c_contiguous:
            raise InvalidValueError(
                f"codes of {self.format} with shape {self.shape} are stored as contiguous {dtype} {shape}",
                got=f"{self.packed.dtype} {self.packed.shape}",
            )
        if self.declared is None:
            self.check()

    @property
    def columns(self) -> int:
        """Codes in a row."""
        return math.prod(self.shape[1:])

    @property
    def bits(self) -> int:
        """Bits of all codes, without padding."""
        return math.prod(self.shape) * self.format.bits

    @property
    def data(self) -> np.ndarray:
        """The packed layout, checked."""
        self.check()
        return self.packed

    @cached_property
    def array(self) -> np.ndarray:
        """The codes as integers of `shape`."""
        self.check()
        if self.format.bits in WHOLE:
            return self.packed
        codes = np.empty((self.shape[0], self.columns), storage_type(self.format))
        for rows, columns, block in self._blocks():
            codes[rows, columns] = block
        return codes.reshape(self.shape)

    @property
    def levels(self) -> np.ndarray:
        """The integers that are multiplied, of `shape`: the codes, or signed powers for logarithmic ones."""
        return to_levels(self.format, self.array)

    @property
    def norm(self) -> int:
        """The largest sum of |level| over a row: what a product can sum, per unit of its input."""
        return self.declared.norm if self.declared else self._norm

    @cached_property
    def _norm(self) -> int:
        if isinstance(self.format, Binary):
            return self.columns
        sums = np.zeros(self.shape[0], np.int64)
        if 8 % self.format.bits == 0:
            sizes, _ = _byte_tables(self.format)
            for rows, octets in self._octets():
                sums[rows] += sizes[octets].sum(axis=1)
        else:
            for rows, _, block in self._blocks():
                sums[rows] += np.abs(to_levels(self.format, block).astype(np.int64)).sum(axis=1)
        return int(sums.max())

    def check(self) -> None:
        """Every stored code exists, padding is 0, and the declared norm is that of the levels. Once."""
        assert self._checked

    @cached_property
    def _checked(self) -> bool:
        try:
            bits = self.columns * self.format.bits % 8
            if bits and self.format.bits not in WHOLE and bool((self.packed[:, -1] >> bits).any()):
                raise InvalidValueError("padding bits are zero", got="a set bit behind a row's last code")
            if self._may_hold_others():
                for rows, columns, block in self._blocks():
                    _check_range(self.format, block, (rows.start, columns.start), self.shape)
            if self.declared is not None and self._norm != self.declared.norm:
                raise InvalidValueError(f"the norm of these codes is {self._norm}", got=self.declared.norm)
        except InvalidValueError as error:
            if self.declared is None:
                raise
            raise FileFormatError(str(error), where=self.declared.origin) from error
        return True

    def _may_hold_others(self) -> bool:
        """Whether some bits could be no code; a quick look that lets most contents pass."""
        if len(self.format.codes()) == 1 << self.format.bits:
            return False  # every pattern is a code
        if 8 % self.format.bits:
            return True
        _, wrong = _byte_tables(self.format)
        return any(bool(wrong[octets].any()) for _, octets in self._octets())

    def _octets(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their packed bytes, a block at a time."""
        flat = self.packed.reshape(self.shape[0], -1).view(np.uint8)
        step = max(1, BLOCK // flat.shape[1])
        for row in range(0, len(flat), step):
            for column in range(0, flat.shape[1], BLOCK):
                yield slice(row, row + step), flat[row : row + step, column : column + BLOCK]

    def _blocks(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Rows, columns and unpacked codes, a block at a time: it takes no memory to speak of."""
        width = self.format.bits
        step = max(1, BLOCK // self.columns)
        flat = self.packed.reshape(self.shape[0], -1)
        for row in range(0, self.shape[0], step):
            rows = slice(row, min(row + step, self.shape[0]))
            for column in range(0, self.columns, BLOCK):  # a multiple of 8, so whole bytes
                columns = slice(column, min(column + BLOCK, self.columns))
                if width in WHOLE:
                    yield rows, columns, flat[rows, columns]
                    continue
                packed = flat[rows, column * width // 8 : -(-columns.stop * width // 8)]
                yield rows, columns, _unpack(self.format, packed, columns.stop - column)


def storage_type(form: Format) -> np.dtype:
    """The smallest NumPy integer type that holds every code."""
    signed = form.code_min < 0
    for bits in WHOLE:
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if low <= form.code_min and form.code_max <= high:
            return np.dtype(f"{'' if signed else 'u'}int{bits}")
    raise InvalidValueError("codes have at most 32 bits", got=form)


def check_format(form: Format) -> None:
    """Raise where codes of a format cannot be stored: no integer levels, or levels beyond 32 bits."""
    known = isinstance(form, Uniform | Ternary | Binary | Log)
    if not known or form.level_max >= 2 * LEVEL_LIMIT:
        raise InvalidValueError(
            "stored codes are uniform, ternary, binary or logarithmic, with levels of at most 32 bits",
            got=form,
        )


def level_range(form: Format) -> tuple[int, int]:
    """The smallest and the largest level."""
    if isinstance(form, Log):
        return -form.level_max, form.level_max
    return form.code_min, form.code_max


def to_levels(form: Format, codes: np.ndarray) -> np.ndarray:
    """Level of each code: the code itself, or by a table where codes are bit patterns."""
    if not isinstance(form, Log):
        return codes
    table = np.zeros(1 << form.bits, np.int64)
    for code in form.codes():
        table[code] = int(form.number(code) / form.unit)
    levels: np.ndarray = table[codes]
    return levels


def _byte_tables(form: Format) -> tuple[np.ndarray, np.ndarray]:
    """Of each byte of a width that divides 8: the sum of its codes' |level|, and whether one is no code."""
    codes = _unpack(form, np.arange(256, dtype=np.uint8)[:, None], 8 // form.bits)
    sizes: np.ndarray = np.abs(to_levels(form, codes).astype(np.int64)).sum(axis=1)
    wrong: np.ndarray = _outside(form, codes)
    return sizes, np.logical_or.reduce(wrong, axis=1)


def _pack(form: Format, rows: np.ndarray) -> np.ndarray:
    """[rows, K] codes -> uint8 [rows, ceil(K k / 8)]."""
    codes = (rows > 0) if isinstance(form, Binary) else rows
    width, groups = form.bits, -(-rows.shape[1] // 8)
    wide = np.zeros((len(rows), groups * 8), np.uint8 if width <= 8 else np.uint32)
    wide[:, : rows.shape[1]] = codes  # a negative one wraps around
    wide &= wide.dtype.type((1 << width) - 1)
    eights = wide.reshape(len(rows), groups, 8)
    octets = np.empty((len(rows), groups, width), np.uint8)
    for place in range(width):
        # the byte's first bit lies so far inside the code that it begins with
        first, inside = divmod(8 * place, width)
        value = eights[:, :, first] >> inside
        for extra in range(1, -(-(inside + 8) // width)):
            value |= eights[:, :, first + extra] << (extra * width - inside)
        octets[:, :, place] = value
    return octets.reshape(len(rows), -1)[:, : -(-rows.shape[1] * width // 8)]


def _unpack(form: Format, packed: np.ndarray, count: int) -> np.ndarray:
    """uint8 [rows, bytes] -> [rows, count] codes. Eight codes fill as many bytes as a code has bits."""
    width, storage = form.bits, storage_type(form)
    groups = -(-count // 8)
    padded = np.zeros((len(packed), groups * width), np.uint8)
    padded[:, : packed.shape[1]] = packed
    octets = padded.reshape(len(packed), groups, width)
    wide = np.dtype(np.uint16 if width <= 9 else np.uint32 if width <= 25 else np.uint64)
    codes = np.empty((len(packed), groups, 8), f"<u{storage.itemsize}")
    for place in range(8):
        first, shift = divmod(place * width, 8)
        value = octets[:, :, first] >> wide.type(shift)
        for extra in range(1, -(-(shift + width) // 8)):
            value |= octets[:, :, first + extra].astype(wide) << wide.type(8 * extra - shift)
        codes[:, :, place] = value & wide.type((1 << width) - 1)
    codes = codes.reshape(len(packed), -1)[:, :count]
    if isinstance(form, Binary):
        return codes.astype(np.int8) * 2 - 1
    if form.code_min < 0:  # the sign: shift it to the type's own, and back
        rest = 8 * storage.itemsize - width
        return (codes << rest).view(storage) >> rest
    return codes


def _check_layout_shape(shape: tuple[int, ...]) -> None:
    if not 1 <= len(shape) <= 8 or any(type(n) is not int or n < 1 for n in shape):
        raise InvalidValueError("stored codes have a shape of 1 to 8 positive sizes", got=shape)


def _outside(form: Format, array: np.ndarray) -> np.ndarray:
    """Where an array holds what is no code."""
    bad: np.ndarray = (array < form.code_min) | (array > form.code_max)
    if isinstance(form, Binary):
        bad |= array == 0
    if isinstance(form, Log):
        bad |= array == form.fields + 1  # -0
    return bad


def _check_range(
    form: Format, array: np.ndarray, start: tuple[int, int] = (0, 0), shape: tuple[int, ...] | None = None
) -> None:
    """Raise where an array holds something that is no code; a block of rows names its place in `shape`."""
    bad = _outside(form, array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        got = int(array[index])
        if shape is not None:
            place = (index[0] + start[0]) * math.prod(shape[1:]) + index[1] + start[1]
            index = tuple(int(i) for i in np.unravel_index(place, shape))
        raise InvalidValueError(
            f"codes of {form} are {describe_codes(form)}", got=got, where=f"index {index}"
        )
