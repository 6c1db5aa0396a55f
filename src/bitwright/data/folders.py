"""Folders: where the files of a data set are looked for."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from bitwright.data.published import PublishedFile

VARIABLE = "BITWRIGHT_DATA"


class DataFolderWarning(UserWarning):
    """The folder that was named lacks files of the data set: they must come from elsewhere."""


@dataclass(frozen=True)
class Collection:
    """The published files of a data set or of a pretrained network, and where they lie under a data folder.

    Args:
        name: of the data set or network.
        train: the files of the training split.
        test: the files of the test split.
        weights: the files of a pretrained network.
        subfolders: of a data folder, in the order of search; downloads go to the first.
        archive: the name of a .tar.gz that holds all the files, where there is one.
    """

    name: str
    train: tuple[PublishedFile, ...]
    test: tuple[PublishedFile, ...]
    subfolders: tuple[str, ...]
    archive: str | None = None
    weights: tuple[PublishedFile, ...] = ()

    def split(self, split: str) -> tuple[PublishedFile, ...]:
        """The files of a split: `train`, `test` or `weights`."""
        return {"train": self.train, "test": self.test, "weights": self.weights}[split]


@dataclass(frozen=True)
class Source:
    """Where a published file was found: a file of its own (perhaps packed), or an archive."""

    path: Path
    archive: bool


def cache_folder() -> Path:
    """Where downloads go: `bitwright` in XDG_CACHE_HOME, else in the system's folder for caches."""
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if xdg and Path(xdg).is_absolute():  # its specification ignores a relative one
        return Path(xdg) / "bitwright"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "bitwright" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "bitwright"
    return Path.home() / ".cache" / "bitwright"


def named_folder(root: Path | None) -> tuple[Path, str] | None:
    """The folder that the caller or else BITWRIGHT_DATA names, and how to call it in a message."""
    if root is not None:
        return Path(root), f"root={str(root)!r}"
    variable = os.environ.get(VARIABLE)
    return (Path(variable).expanduser(), f"{VARIABLE}={variable}") if variable else None


def data_folders(root: Path | None) -> tuple[Path, ...]:
    """The data folders to search, in order: the named one, then the cache."""
    named = named_folder(root)
    return (cache_folder(),) if named is None else (named[0], cache_folder())


def find(file: PublishedFile, collection: Collection, folder: Path) -> Source | None:
    """Where `file` lies under a data folder, without reading it: by itself, else in the archive."""
    places = [folder / sub for sub in collection.subfolders]
    for place in places:
        for name in file.candidates:
            if _is_file(place / name):
                return Source(place / name, archive=False)
    if collection.archive is not None:
        for place in places:
            if _is_file(place / collection.archive):
                return Source(place / collection.archive, archive=True)
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered
        return False
