"""Catalog: the data sets by name."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bitwright.data import cifar10, digits, imagenet, mnist, svhn
from bitwright.data.dataset import Dataset
from bitwright.data.folders import VARIABLE, Collection, data_folders, find
from bitwright.errors import unknown_name

_COLLECTIONS = MappingProxyType(
    {"mnist": mnist.COLLECTION, "cifar10": cifar10.COLLECTION, "svhn": svhn.COLLECTION}
)
_NAMES = ("digits", "mnist", "cifar10", "svhn", "imagenet")
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Location:
    """Which files of a data set are there, found by name and not read.

    Args:
        name: of the data set.
        folders: the data folders that were searched, in order.
        found: each file and the path of it, or of an archive that holds it; None where missing.
        remedy: what to do where a file is missing.
    """

    name: str
    folders: tuple[Path, ...]
    found: MappingProxyType[str, Path | None]
    remedy: str

    @property
    def complete(self) -> bool:
        """Whether every file is there."""
        return all(path is not None for path in self.found.values())


def names() -> tuple[str, ...]:
    """The data sets that `load` knows."""
    return _NAMES


def load(name: str, split: str = "train", *, root: Path | None = None, download: bool = True) -> Dataset:
    """A split of a data set, every file checked against the published SHA-256.

    Files are looked for in `root`, else in the folder that the environment variable BITWRIGHT_DATA
    names; then in the cache; then, if `download`, fetched into the cache. They may be plain, .gz or
    .xz, and for CIFAR-10 in `cifar-10-binary.tar.gz`. `digits` comes with scikit-learn and needs no
    folder; `imagenet` is folders of pictures, which nobody checks or downloads.

    Args:
        name: one of `names()`.
        split: `train` or `test`.
        root: a folder with data.
        download: whether the network may be used.

    Raises:
        InvalidValueError: there is no such data set or split.
        FileFormatError: a file is nowhere to be had, or is truncated or edited.
        MissingExtraError: an optional package is needed.

    Warns:
        InexactDataWarning: a file is a known copy that is not byte-exact.
        DataFolderWarning: the folder that was named lacks files, and they came from the cache.
    """
    _require_name(name)
    if split not in _SPLITS:
        raise unknown_name("split", split, _SPLITS)
    if name == "digits":
        return digits.load_digits(split)
    if name == "imagenet":
        return imagenet.load_imagenet(split, root=root)
    if name == "svhn":
        return svhn.load_svhn(split, root=root, download=download)
    if name == "mnist":
        return mnist.load_mnist(split, root=root, download=download)
    return cifar10.load_cifar10(split, root=root, download=download)


def locate(name: str, *, root: Path | None = None) -> Location:
    """Which files of a data set are there and where, without reading, hashing or downloading any.

    Raises:
        InvalidValueError: there is no such data set.
    """
    _require_name(name)
    if name == "digits":
        spec = importlib.util.find_spec("sklearn")
        path = Path(spec.origin) if spec is not None and spec.origin is not None else None
        return Location(
            name,
            (),
            MappingProxyType({"scikit-learn": path}),
            'pip install "bitwright[demo]"',
        )
    folders = data_folders(root)
    if name == "imagenet":
        splits = MappingProxyType({split: imagenet.find_split(split, root) for split in imagenet.SPLITS})
        return Location(name, folders, splits, f"set {VARIABLE} to the folder that has imagenet/train")
    collection = _COLLECTIONS[name]
    found = {
        file.name: _first(file.name, collection, folders) for file in (*collection.train, *collection.test)
    }
    return Location(
        name,
        folders,
        MappingProxyType(found),
        f"set {VARIABLE} to a folder that has them, or let load({name!r}) download them",
    )


def _first(file_name: str, collection: Collection, folders: tuple[Path, ...]) -> Path | None:
    (file,) = (f for f in (*collection.train, *collection.test) if f.name == file_name)
    sources = (find(file, collection, folder) for folder in folders)
    return next((source.path for source in sources if source is not None), None)


def _require_name(name: str) -> None:
    if name not in _NAMES:
        raise unknown_name("data set", name, _NAMES)
