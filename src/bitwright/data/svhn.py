"""SVHN, cropped digits: 99,289 colour photographs of 32 x 32 pixels of house numbers (Netzer et al. 2011)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitwright.data.dataset import Dataset
from bitwright.data.folders import Collection
from bitwright.data.obtain import obtain
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.published import Download, PublishedFile
from bitwright.errors import FileFormatError, MissingExtraError

CLASSES = tuple("0123456789")
PREPROCESSING = Preprocessing(shape=(3, 32, 32), divisor=127.5, offset=-1.0)
_SERVER = "http://ufldl.stanford.edu/housenumbers/"


def _file(name: str, size: int, sha256: str) -> PublishedFile:
    return PublishedFile(name, size, sha256, Download(name, sha256, (_SERVER + name,)))


COLLECTION = Collection(
    name="svhn",
    train=(
        _file(
            "train_32x32.mat",
            182_040_794,
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
    ),
    test=(
        _file(
            "test_32x32.mat",
            64_275_384,
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
    subfolders=("svhn", "."),
)


def read_svhn(data: bytes, *, where: object = None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The images and labels of a published .mat file (MATLAB 5).

    It holds X, uint8 [32, 32, 3, N], and y, [N, 1] labels from 1 to 10, where 10 stands for the digit 0.

    Args:
        data: the whole file.
        where: what an error message calls it.

    Returns:
        Images uint8 [N, 3, 32, 32] and labels int64 [N] from 0 to 9.

    Raises:
        FileFormatError: anything else.
        MissingExtraError: scipy, which reads the format, is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtraError(
            "scipy reads .mat files", got="no package scipy", where=where, fix="pip install scipy"
        ) from error
    try:
        held = loadmat(io.BytesIO(data), variable_names=("X", "y"))
        images, labels = held["X"], held["y"].reshape(-1)
    except Exception as error:  # scipy's reader fails in many ways; all are the file's fault
        raise FileFormatError("SVHN is a MATLAB 5 file with X and y", got=error, where=where) from error
    shape, count = images.shape, len(labels)
    whole = images.dtype == np.uint8 and labels.dtype.kind in "iu" and count > 0
    if not whole or shape not in ((32, 32, 3, count), (32, 32, 3)) or (len(shape) == 3 and count != 1):
        raise FileFormatError(
            "SVHN must be X, uint8 [32, 32, 3, N], and y, N integers",
            got=f"X {images.dtype} {list(shape)}, y {labels.dtype} {count}",
            where=where,
        )
    if labels.min() < 1 or labels.max() > 10:
        bad = int(np.argmax((labels < 1) | (labels > 10)))
        raise FileFormatError(
            "an SVHN label must be from 1 to 10", got=labels[bad], where=f"{where or 'y'}, image {bad}"
        )
    pixels = images.reshape(32, 32, 3, count).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(pixels), labels.astype(np.int64) % 10


def load_svhn(
    split: str, *, root: Path | None, download: bool, collection: Collection = COLLECTION
) -> Dataset:
    """A split of SVHN in its published order; x = pixel / 127.5 - 1. The extra images are left out."""
    (content,) = obtain(collection, split, root=root, download=download)
    images, labels = read_svhn(content.data, where=collection.split(split)[0].name)
    return Dataset("svhn", split, images, labels, CLASSES, PREPROCESSING)
