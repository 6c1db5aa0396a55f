from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_data import idx_bytes

from bitwright.data import read_idx
from bitwright.errors import FileFormatError

ARRAY = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
FILE = idx_bytes(ARRAY)


@pytest.mark.parametrize("shape", [(7,), (1,), (3, 4), (3, 4, 5), (2, 3, 4, 5)])
def test_an_array_comes_back(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    read = read_idx(idx_bytes(array))
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


def test_every_truncation_is_refused() -> None:
    for length in range(len(FILE)):
        with pytest.raises(FileFormatError, match="an IDX file must"):
            read_idx(FILE[:length])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(FileFormatError, match="3 x 4 x 5 and 61 bytes"):
        read_idx(FILE + b"\0", where="the file")


def test_every_flipped_bit_of_the_header_is_refused() -> None:
    for position in range(16):
        for bit in range(8):
            data = bytearray(FILE)
            data[position] ^= 1 << bit
            with pytest.raises(FileFormatError, match="an IDX file must"):
                read_idx(bytes(data))


@pytest.mark.parametrize(("kind", "name"), [(9, "int8"), (13, "float32"), (0, "unknown")])
def test_another_element_type_is_named(kind: int, name: str) -> None:
    data = bytearray(FILE)
    data[2] = kind
    with pytest.raises(FileFormatError, match=rf"got type {kind} \({name}\); at there"):
        read_idx(bytes(data), where="there")


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (0, 2**32 - 1, 5), (2**31, 2, 2**31), (0,), (1,) * 255])
def test_huge_and_empty_dimensions_allocate_nothing(shape: tuple[int, ...]) -> None:
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    with pytest.raises(FileFormatError, match="none 0") as caught:
        read_idx(header + bytes(60))
    assert len(str(caught.value)) < 300


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=64))
def test_any_bytes_are_an_array_or_one_error(data: bytes) -> None:
    for candidate in (data, b"\0\0\x08" + data):
        try:
            array = read_idx(candidate)
        except FileFormatError:
            continue
        assert idx_bytes(array) == candidate
