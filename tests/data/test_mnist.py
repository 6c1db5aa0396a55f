from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from small_data import idx_bytes, published

from bitwright.data import Dataset, read_idx
from bitwright.data.folders import Collection
from bitwright.data.mnist import load_mnist
from bitwright.errors import FileFormatError

if TYPE_CHECKING:
    from conftest import RealData

Small = tuple[Collection, dict[str, bytes]]
IMAGES = "t10k-images-idx3-ubyte"


def load_small(small: Small, root: Path, split: str = "test") -> Dataset:
    return load_mnist(split, root=root, download=False, collection=small[0])


def write_all(small: Small, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in small[1].items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data, 1))


@pytest.mark.parametrize("folder", ["mnist", "."])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", "gzip named plain", "plain named .gz"])
def test_every_name_and_packing_gives_the_same(
    small_mnist: Small, tmp_path: Path, suffix: str, dotted: bool, folder: str
) -> None:
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    for name, data in small_mnist[1].items():
        used = name.replace("-idx", ".idx") if dotted else name
        if suffix == ".gz":
            (place / f"{used}.gz").write_bytes(gzip.compress(data, 9))
        elif suffix == ".xz":
            (place / f"{used}.xz").write_bytes(lzma.compress(data))
        elif suffix == "gzip named plain":
            (place / used).write_bytes(gzip.compress(data, 1))
        elif suffix == "plain named .gz":
            (place / f"{used}.gz").write_bytes(data)
        else:
            (place / used).write_bytes(data)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        data = load_small(small_mnist, tmp_path, split)
        images = read_idx(small_mnist[1][f"{prefix}-images-idx3-ubyte"])
        np.testing.assert_array_equal(data.images[:, 0], images)
        labels = read_idx(small_mnist[1][f"{prefix}-labels-idx1-ubyte"])
        np.testing.assert_array_equal(data.labels, labels)
        assert data.images.shape[1:] == data.preprocessing.shape


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_truncation_anywhere_is_refused(
    small_mnist: Small, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    write_all(small_mnist, tmp_path)
    path = tmp_path / IMAGES
    whole = pack(small_mnist[1][IMAGES])
    for length in [*range(24), *range(24, len(whole), 211), *range(len(whole) - 12, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=IMAGES) as caught:
            load_small(small_mnist, tmp_path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_a_flipped_bit_anywhere_is_refused_or_without_effect(
    small_mnist: Small, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    """A bit of a packed file's own header (its time, say) may change nothing that is read."""
    write_all(small_mnist, tmp_path)
    path = tmp_path / IMAGES
    whole = pack(small_mnist[1][IMAGES])
    refused = 0
    positions = [*range(24), *range(24, len(whole), 97), len(whole) - 1]
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 0x10
        path.write_bytes(changed)
        try:
            data = load_small(small_mnist, tmp_path)
        except FileFormatError:
            refused += 1
        else:
            np.testing.assert_array_equal(data.images[:, 0], read_idx(small_mnist[1][IMAGES]))
    assert refused >= len(positions) - (0 if pack is bytes else 7)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_bytes_after_the_end_are_refused(
    small_mnist: Small, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    write_all(small_mnist, tmp_path)
    (tmp_path / IMAGES).write_bytes(pack(small_mnist[1][IMAGES]) + b"x")
    with pytest.raises(FileFormatError, match=IMAGES):
        load_small(small_mnist, tmp_path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_file_that_unpacks_without_end_is_stopped(
    small_mnist: Small, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    write_all(small_mnist, tmp_path)
    bomb = pack(bytes(3_000_000))
    assert len(bomb) < 4096
    (tmp_path / IMAGES).write_bytes(bomb)
    with pytest.raises(FileFormatError, match="must be 3152 bytes unpacked; got more"):
        load_small(small_mnist, tmp_path)


def test_a_huge_file_is_refused_unread(small_mnist: Small, tmp_path: Path) -> None:
    write_all(small_mnist, tmp_path)
    with (tmp_path / IMAGES).open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(FileFormatError, match=f"or fewer packed; got {1 << 40} bytes"):
        load_small(small_mnist, tmp_path)


def test_xz_that_asks_for_huge_memory_is_refused(small_mnist: Small, tmp_path: Path) -> None:
    write_all(small_mnist, tmp_path)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 4096}]
    data = bytearray(lzma.compress(small_mnist[1][IMAGES], filters=filters))
    # block header at 12: its size, flags, filter, size of properties, dictionary, padding, CRC32
    assert data[14:16] == b"\x21\x01"
    data[16] = 40  # 4 GiB - 1
    end = 12 + (data[12] + 1) * 4
    data[end - 4 : end] = zlib.crc32(data[12 : end - 4]).to_bytes(4, "little")
    (tmp_path / IMAGES).write_bytes(data)
    with pytest.raises(FileFormatError, match="must unpack; got Memory usage limit"):
        load_small(small_mnist, tmp_path)


def test_files_that_do_not_fit_one_another_are_refused(small_mnist: Small, tmp_path: Path) -> None:
    """Not reachable with the published checksums: the reader still says so by itself."""
    collection, contents = small_mnist
    for labels in (np.zeros(3), np.array([0, 1, 2, 10]), np.zeros((2, 2))):
        wrong = idx_bytes(labels)
        name = "t10k-labels-idx1-ubyte"
        files = (collection.test[0], published(name, wrong))
        write_all((collection, {**contents, name: wrong}), tmp_path)
        with pytest.raises(FileFormatError, match="MNIST must be images"):
            load_small((replace(collection, test=files), contents), tmp_path)


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_the_real_files(real: RealData, split: str, count: int) -> None:
    data = real("mnist", split)
    assert data.images.shape == (count, 1, 28, 28)
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
    balance = {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    np.testing.assert_array_equal(np.bincount(data.labels), balance[split])
    np.testing.assert_array_equal(data.labels[:5], [5, 0, 4, 1, 9] if split == "train" else [7, 2, 1, 0, 4])
    x = data.inputs(0, 100)
    assert (x.min(), x.max()) == (-1.0, 1.0)
    assert x[0, 0, 0, 0] == -1.0  # paper
