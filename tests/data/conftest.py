"""Fixtures: an environment without data, the real files where they are, and a small data set."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from small_data import REAL_ROOT, idx_bytes, published

from bitwright.data import Dataset, load
from bitwright.data.folders import Collection


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No data folder is named and the cache is empty."""
    monkeypatch.delenv("BITWRIGHT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class RealData:
    """Loads each split from BITWRIGHT_DATA once, and keeps what it warned of."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], tuple[Dataset, list[warnings.WarningMessage]]] = {}

    def __call__(self, name: str, split: str) -> Dataset:
        return self._load(name, split)[0]

    def warnings(self, name: str, split: str) -> list[warnings.WarningMessage]:
        return self._load(name, split)[1]

    def _load(self, name: str, split: str) -> tuple[Dataset, list[warnings.WarningMessage]]:
        if REAL_ROOT is None:
            pytest.skip(f"set BITWRIGHT_DATA to a folder that has the files of {name}")
        if (name, split) not in self._loaded:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                data = load(name, split, root=Path(REAL_ROOT), download=False)
            self._loaded[name, split] = data, caught
        return self._loaded[name, split]


@pytest.fixture(scope="session")
def real() -> RealData:
    """The real files, or a skipped test where BITWRIGHT_DATA is not set."""
    return RealData()


@pytest.fixture
def small_mnist() -> tuple[Collection, dict[str, bytes]]:
    """A collection like MNIST of 12 + 4 images of noise, and its files' bytes by name."""
    rng = np.random.default_rng(0)
    contents: dict[str, bytes] = {}
    files = []
    for prefix, count in (("train", 12), ("t10k", 4)):
        for kind, array in (
            ("images", rng.integers(0, 256, (count, 28, 28))),
            ("labels", rng.integers(0, 10, count)),
        ):
            name = f"{prefix}-{kind}-idx{array.ndim}-ubyte"
            contents[name] = idx_bytes(array)
            files.append(published(name, contents[name], aliases=(name.replace("-idx", ".idx"),)))
    collection = Collection("mnist", tuple(files[:2]), tuple(files[2:]), ("mnist", "."))
    return collection, contents


@pytest.fixture
def small_cifar10() -> tuple[Collection, dict[str, bytes]]:
    """A collection like CIFAR-10 of 2 x 3 + 4 images of noise, and its files' bytes by name."""
    rng = np.random.default_rng(1)
    contents: dict[str, bytes] = {}
    for name, count in (("data_batch_1.bin", 3), ("data_batch_2.bin", 3), ("test_batch.bin", 4)):
        records = rng.integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] %= 10
        contents[name] = records.tobytes()
    files = [published(name, data) for name, data in contents.items()]
    collection = Collection(
        "cifar10",
        tuple(files[:2]),
        tuple(files[2:]),
        ("cifar-10-batches-bin", "cifar10", "."),
        archive="cifar-10-binary.tar.gz",
    )
    return collection, contents
