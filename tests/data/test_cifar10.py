from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bitwright.data import (
    INEXACT_TEST_IMAGES,
    Dataset,
    InexactDataWarning,
    read_cifar10,
)
from bitwright.data.cifar10 import load_cifar10
from bitwright.data.folders import Collection
from bitwright.data.published import read_archive
from bitwright.errors import FileFormatError

if TYPE_CHECKING:
    from conftest import RealData

Small = tuple[Collection, dict[str, bytes]]


def tar_gz(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def in_folder(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {f"cifar-10-batches-bin/{name}": data for name, data in contents.items()}


def load_small(small: Small, root: Path, split: str = "train") -> Dataset:
    return load_cifar10(split, root=root, download=False, collection=small[0])


def test_a_record_is_a_label_and_three_planes() -> None:
    pixels = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3, 32, 32)
    data = b"".join(bytes([label]) + pixels[i].tobytes() for i, label in enumerate((7, 0)))
    images, labels = read_cifar10(data)
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(labels, [7, 0])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert images.flags.writeable


@pytest.mark.parametrize("length", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_a_length_that_is_no_number_of_records_is_refused(length: int) -> None:
    with pytest.raises(FileFormatError, match=f"records of 3073 bytes; got {length} bytes; at x"):
        read_cifar10(bytes(length), where="x")


@pytest.mark.parametrize("label", [10, 128, 255])
def test_a_label_out_of_range_is_named(label: int) -> None:
    data = bytearray(3 * 3073)
    data[3073] = label
    with pytest.raises(FileFormatError, match=f"from 0 to 9; got {label}; at record 1"):
        read_cifar10(bytes(data))


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "cifar10", "."])
@pytest.mark.parametrize("packing", ["plain", "gz", "xz", "tar.gz", "flat tar.gz", "misnamed xz"])
def test_every_packing_gives_the_same(
    small_cifar10: Small, tmp_path: Path, packing: str, folder: str
) -> None:
    collection, contents = small_cifar10
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    if packing.endswith("tar.gz"):
        members = contents if packing.startswith("flat") else in_folder(contents)
        tar_gz(place / "cifar-10-binary.tar.gz", {"readme.html": b"hello", **members})
    for name, data in contents.items():
        if packing == "plain":
            (place / name).write_bytes(data)
        elif packing == "gz":
            (place / f"{name}.gz").write_bytes(gzip.compress(data))
        elif packing == "xz":
            (place / f"{name}.xz").write_bytes(lzma.compress(data))
        elif packing == "misnamed xz":
            (place / name).write_bytes(lzma.compress(data))
    for split in ("train", "test"):
        expected = b"".join(contents[file.name] for file in collection.split(split))
        data = load_small(small_cifar10, tmp_path, split)
        records = np.concatenate([data.labels[:, None], data.images.reshape(len(data), -1)], 1)
        assert records.astype(np.uint8).tobytes() == expected


def test_files_may_be_spread_over_packings(small_cifar10: Small, tmp_path: Path) -> None:
    contents = small_cifar10[1]
    (tmp_path / "data_batch_1.bin").write_bytes(contents["data_batch_1.bin"])
    held = {name: data for name, data in contents.items() if name != "data_batch_1.bin"}
    tar_gz(tmp_path / "cifar-10-binary.tar.gz", held)
    assert len(load_small(small_cifar10, tmp_path)) == 6


def test_a_truncated_archive_is_refused(small_cifar10: Small, tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    tar_gz(path, in_folder(small_cifar10[1]))
    whole = path.read_bytes()
    for length in [*range(0, 60, 7), *range(60, len(whole) // 3, 1009)]:
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"must (be a \.tar\.gz|hold)"):
            load_small(small_cifar10, tmp_path)


def test_a_flipped_byte_in_an_archive_is_refused(small_cifar10: Small, tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    contents = dict(small_cifar10[1])
    changed = bytearray(contents["data_batch_2.bin"])
    changed[100] ^= 1
    contents["data_batch_2.bin"] = bytes(changed)
    tar_gz(path, contents)
    with pytest.raises(FileFormatError, match=r"published SHA-256.*member data_batch_2.bin"):
        load_small(small_cifar10, tmp_path)
    assert len(load_small(small_cifar10, tmp_path, "test")) == 4  # what is read is what is checked


def test_an_archive_that_lacks_a_file_is_refused(small_cifar10: Small, tmp_path: Path) -> None:
    contents = {**small_cifar10[1]}
    del contents["data_batch_2.bin"]
    tar_gz(tmp_path / "cifar-10-binary.tar.gz", contents)
    with pytest.raises(FileFormatError, match=r"none named data_batch_2\.bin"):
        load_small(small_cifar10, tmp_path)


def test_a_member_of_another_size_is_refused_unread(small_cifar10: Small, tmp_path: Path) -> None:
    tar_gz(tmp_path / "cifar-10-binary.tar.gz", {"data_batch_1.bin": bytes(50_000_000)})
    with pytest.raises(FileFormatError, match="must be 9219 bytes; got 50000000"):
        load_small(small_cifar10, tmp_path)


def test_an_archive_that_unpacks_without_end_is_stopped(small_cifar10: Small, tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    tar_gz(path, {"filler": bytes(20 << 20)})
    files = {file.name: file for file in small_cifar10[0].test}
    with pytest.raises(FileFormatError, match="must not unpack to more than 10485760 bytes"):
        read_archive(files, path, limit=10 << 20)


def test_a_link_in_an_archive_is_not_followed(small_cifar10: Small, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(small_cifar10[1]["test_batch.bin"])
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
        tar.addfile(link)
    with pytest.raises(FileFormatError, match="none named"):
        load_small(small_cifar10, tmp_path, "test")


def test_a_known_inexact_copy_loads_with_a_warning(small_cifar10: Small, tmp_path: Path) -> None:
    collection, contents = small_cifar10
    (tmp_path / "test_batch.bin").write_bytes(contents["test_batch.bin"])
    (file,) = collection.test
    inexact = replace(file, sha256="0" * 64, inexact=((file.sha256, "2 of 4 images are noise"),))
    changed = replace(collection, test=(inexact,))
    with pytest.warns(InexactDataWarning, match="test_batch.bin of cifar10: 2 of 4 images"):
        data = load_small((changed, contents), tmp_path, "test")
    assert len(data) == 4


@pytest.mark.parametrize(("split", "count"), [("train", 50_000), ("test", 10_000)])
def test_the_real_files(real: RealData, split: str, count: int) -> None:
    data = real("cifar10", split)
    assert data.images.shape == (count, 3, 32, 32)
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(np.bincount(data.labels), [count // 10] * 10)
    np.testing.assert_array_equal(
        data.labels[:10],
        [6, 9, 9, 4, 1, 1, 2, 7, 8, 3] if split == "train" else [3, 8, 8, 0, 6, 6, 1, 6, 3, 1],
    )
    assert data.classes[6] == "frog"
    x = data.inputs(0, 100)
    assert (x.min(), x.max()) == (-1.0, 1.0)


def test_the_inexact_images_are_as_said(real: RealData) -> None:
    data = real("cifar10", "test")
    classes = [data.classes[data.labels[i]] for i in INEXACT_TEST_IMAGES]
    assert (classes.count("ship"), classes.count("horse")) == (19, 1)


def test_the_real_inexact_file_warns(real: RealData) -> None:
    caught = real.warnings("cifar10", "test")
    if not caught:
        pytest.skip("the test batch in BITWRIGHT_DATA is the exact one")
    (warning,) = caught
    assert warning.category is InexactDataWarning
    assert "20 of 10,000 test images are not byte-exact (19 ships, 1 horse)" in str(warning.message)
    assert Path(warning.filename).name == "conftest.py"  # where load was called
    assert real.warnings("cifar10", "train") == []
