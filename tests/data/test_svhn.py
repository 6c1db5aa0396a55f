"""SVHN: a small file in the published format, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_data import published

from bitwright.cli import app
from bitwright.data import read_svhn
from bitwright.data.folders import Collection, DataFolderWarning
from bitwright.data.svhn import COLLECTION, load_svhn
from bitwright.errors import FileFormatError
from bitwright.experiments import experiment, reproduce
from bitwright.models import build

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


def test_the_experiment_trains_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """qnn-svhn, on 110 images in the published format: a step of each recipe, lowered and compared."""
    contents = {"train_32x32.mat": small(110, 1)[2], "test_32x32.mat": small(20, 2)[2]}
    files = [published(name, data) for name, data in contents.items()]
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.setenv("BITWRIGHT_DATA", str(tmp_path))
    collection = Collection("svhn", (files[0],), (files[1],), ("svhn", "."))
    monkeypatch.setitem(load_svhn.__kwdefaults__, "collection", collection)
    found = experiment("qnn-svhn")
    rows = reproduce(found, found.scale("small", smoke=True), tmp_path / "out")
    assert [row["run"] for row in rows] == ["qnn", "shift", "float"]
    for row in rows:
        assert row["examples"] == {"training": 100, "test": 2}
        assert row["wanted"]["data"] == "svhn"
    assert [row.get("weight_bits") for row in rows] == [1, 1, 32]
    assert all(check["differing"] == 0 and check["compared"] for row in rows[:2] for check in row["verified"])


def test_without_the_files_the_experiment_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [published(name, b"data") for name in ("train_32x32.mat", "test_32x32.mat")]
    monkeypatch.setenv("BITWRIGHT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    collection = Collection("svhn", (files[0],), (files[1],), ("svhn", "."))
    monkeypatch.setitem(load_svhn.__kwdefaults__, "collection", collection)
    listed = CliRunner().invoke(app, ["reproduce", "qnn-svhn", "--scale", "small", "--list"])
    assert listed.exit_code == 0
    assert "convnet-fc1024 32, svhn, 10 epochs" in " ".join(listed.output.split())
    found = experiment("qnn-svhn")
    message = (
        r"(?s)files of svhn \(train\).*no train_32x32\.mat.*set BITWRIGHT_DATA to a folder that has them"
    )
    with (
        pytest.warns(DataFolderWarning, match=r"train_32x32\.mat"),
        pytest.raises(FileFormatError, match=message),
    ):
        reproduce(found, found.scale("small"), tmp_path / "out")


def test_the_network_is_the_papers() -> None:
    """Half the widths of CIFAR-10's convolutions, and its 1024 units."""
    found = experiment("qnn-svhn")
    settings = found.jobs(found.scale("paper"))[0].settings
    sizes = [tuple(p.shape) for p in build(settings.model, settings.width, (3, 32, 32), 10).parameters()]
    assert [s[0] for s in sizes if len(s) > 1] == [64, 64, 128, 128, 256, 256, 1024, 1024, 10]
    wide = [tuple(p.shape) for p in build("convnet", 128, (3, 32, 32), 10).parameters()]
    assert [s[0] for s in wide if len(s) > 1] == [128, 128, 256, 256, 512, 512, 1024, 1024, 10]
