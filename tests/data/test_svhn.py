"""SVHN: a small file in the published format, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from small_data import published

from bitwright.data import read_svhn
from bitwright.data.folders import Collection
from bitwright.data.svhn import COLLECTION, load_svhn
from bitwright.errors import FileFormatError

savemat = pytest.importorskip("scipy.io").savemat


def mat(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, arrays, do_compression=True)  # as the published files are
    return buffer.getvalue()


def small(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, bytes]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (32, 32, 3, count), np.uint8)
    y = rng.integers(1, 11, (count, 1)).astype(np.uint8)
    return x, y, mat(X=x, y=y)


def test_pixels_and_labels_come_as_published() -> None:
    x, y, data = small(7)
    y[:2] = [[10], [1]]
    images, labels = read_svhn(mat(X=x, y=y))
    assert images.dtype == np.uint8
    assert images.shape == (7, 3, 32, 32)
    for n, c, row, column in ((0, 0, 0, 0), (6, 2, 31, 5), (3, 1, 8, 30)):
        assert images[n, c, row, column] == x[row, column, c, n]
    assert labels.tolist() == [int(v) % 10 for v in y[:, 0]]
    assert labels[0] == 0
    assert read_svhn(data)[0].flags.c_contiguous


def test_a_split_is_a_data_set(tmp_path: Path) -> None:
    contents = {"train_32x32.mat": small(5, 1)[2], "test_32x32.mat": small(3, 2)[2]}
    files = [published(name, data) for name, data in contents.items()]
    collection = Collection("svhn", (files[0],), (files[1],), ("svhn", "."))
    (tmp_path / "svhn").mkdir()
    for name, data in contents.items():
        (tmp_path / "svhn" / name).write_bytes(data)
    training = load_svhn("train", root=tmp_path, download=False, collection=collection)
    assert len(training) == 5
    assert training.classes == tuple("0123456789")
    pixel = training.images[2, 1, 4, 5]
    assert training.inputs()[2, 1, 4, 5] == np.float32(pixel) / np.float32(127.5) - np.float32(1)
    assert len(load_svhn("test", root=tmp_path, download=False, collection=collection)) == 3
    (tmp_path / "svhn" / "test_32x32.mat").write_bytes(contents["train_32x32.mat"])
    with pytest.raises(FileFormatError, match="test_32x32"):
        load_svhn("test", root=tmp_path, download=False, collection=collection)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "MATLAB 5"),
        (b"not a mat file" * 20, "MATLAB 5"),
        (small(3)[2][:-20], "MATLAB 5"),
        (mat(X=small(3)[0]), "MATLAB 5"),
        (mat(X=small(3)[0], y=small(4)[1]), r"\[32, 32, 3, 3\], y uint8 4"),
        (mat(X=small(3)[0].astype(float), y=small(3)[1]), "X float64"),
        (mat(X=small(3)[0], y=small(3)[1].astype(float)), "y float64"),
        (mat(X=small(3)[0][:31], y=small(3)[1]), r"\[31, 32, 3, 3\]"),
        (mat(X=small(3)[0], y=np.array([[1], [0], [3]], np.uint8)), "from 1 to 10; got 0; at y, image 1"),
        (mat(X=small(3)[0], y=np.array([[1], [2], [11]], np.uint8)), "got 11"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_svhn(data)


def test_the_published_files_are_named() -> None:
    assert [f.name for f in (*COLLECTION.train, *COLLECTION.test)] == ["train_32x32.mat", "test_32x32.mat"]
    assert all(f.sha256 == f.download.sha256 for f in (*COLLECTION.train, *COLLECTION.test))
