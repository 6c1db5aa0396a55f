"""ImageNet (ILSVRC 2012), or any pictures, in the standard folder layout: split/class/picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bitwright.data.dataset import Dataset
from bitwright.data.folders import VARIABLE, data_folders
from bitwright.data.preprocessing import Preprocessing
from bitwright.errors import FileFormatError, MissingExtraError

SIDE, SHORTER = 224, 256
"""A picture's shorter side becomes SHORTER pixels, of which the middle SIDE x SIDE are taken."""
PREPROCESSING = Preprocessing(shape=(3, SIDE, SIDE), divisor=127.5, offset=-1.0)
FOLDERS = ("imagenet", ".")
SPLITS = {"train": ("train",), "test": ("val", "test")}
"""The published validation pictures are what papers test on."""
SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, eq=False)
class Pictures:
    """Picture files as an array uint8 [N, 3, S, S] that reads what is indexed, when it is.

    Args:
        paths: of the pictures.
        side: S.
        shorter: what the shorter side becomes before the middle is cut out.
    """

    paths: tuple[Path, ...]
    side: int = SIDE
    shorter: int = SHORTER

    dtype = np.dtype(np.uint8)
    ndim = 4

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of an array."""
        return len(self.paths), 3, self.side, self.side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> npt.NDArray[np.uint8]:
        chosen = np.atleast_1d(np.arange(len(self.paths))[index])
        pixels = np.empty((len(chosen), 3, self.side, self.side), np.uint8)
        for place, number in enumerate(chosen):
            pixels[place] = self._read(self.paths[number])
        return pixels if np.ndim(np.arange(len(self.paths))[index]) else pixels[0]

    def first(self, n: int) -> Pictures:
        """The first n pictures, unread."""
        return Pictures(self.paths[:n], self.side, self.shorter)

    def _read(self, path: Path) -> npt.NDArray[np.uint8]:
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingExtraError(
                "Pillow reads pictures", got="no package pillow", where=path, fix="pip install pillow"
            ) from error
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except Exception as error:  # each of Pillow's readers fails in its own ways
            raise FileFormatError("a picture is one that Pillow reads", got=error, where=path) from error
        scale = self.shorter / min(picture.size)
        width, height = (max(self.side, round(n * scale)) for n in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        picture = picture.crop((left, top, left + self.side, top + self.side))
        return np.asarray(picture, np.uint8).transpose(2, 0, 1)


def load_imagenet(split: str, *, root: Path | None, side: int = SIDE, shorter: int = SHORTER) -> Dataset:
    """A split in the order of its classes' and pictures' names; x = pixel / 127.5 - 1.

    Pictures are read when a batch asks for them, without random crops or flips. Classes are numbered in the
    order of the names of the training split's folders.

    Raises:
        FileFormatError: no folder of the split, or one without pictures.
    """
    folder = _folder(split, root)
    classes = _classes(_folder("train", root))
    paths: list[Path] = []
    labels: list[int] = []
    for name in _classes(folder):
        if name not in classes:
            raise FileFormatError("every class has a training folder", got=name, where=folder)
        found = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [classes.index(name)] * len(found)
    if not paths:
        raise FileFormatError("a split holds pictures", got="none", where=folder)
    preprocessing = PREPROCESSING
    if side != SIDE:
        preprocessing = Preprocessing(shape=(3, side, side), divisor=127.5, offset=-1.0)
    pictures = cast(npt.NDArray[np.uint8], Pictures(tuple(paths), side, shorter))
    return Dataset("imagenet", split, pictures, np.array(labels), tuple(classes), preprocessing)


def find_split(split: str, root: Path | None) -> Path | None:
    """The folder of a split; None where there is none."""
    places = (base / sub / name for base in data_folders(root) for sub in FOLDERS for name in SPLITS[split])
    return next((place for place in places if place.is_dir()), None)


def _folder(split: str, root: Path | None) -> Path:
    found = find_split(split, root)
    if found is None:
        raise FileFormatError(
            f"ImageNet lies as {' or '.join(SPLITS[split])}/CLASS/picture.JPEG in a data folder",
            got="no such folder",
            where=" or ".join(str(folder) for folder in data_folders(root)),
            fix=f"set {VARIABLE} to the folder that has imagenet/{SPLITS[split][0]}",
        )
    return found


def _classes(folder: Path) -> Sequence[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
