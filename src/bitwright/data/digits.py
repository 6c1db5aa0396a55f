"""Digits: 1,797 handwritten digits of 8 x 8 pixels from 0 to 16, which scikit-learn carries."""

from __future__ import annotations

import hashlib

import numpy as np

from bitwright.data.dataset import Dataset
from bitwright.data.preprocessing import Preprocessing
from bitwright.errors import FileFormatError, MissingExtraError

CLASSES = tuple("0123456789")
PREPROCESSING = Preprocessing(shape=(1, 8, 8), divisor=8.0, offset=-1.0, pixel_max=16)
_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def load_digits(split: str) -> Dataset:
    """A split of the digits: 1437 train, 360 test; x = pixel / 8 - 1, from -1 (paper) to 1 (ink).

    The data set comes without a split, so this is ours, the same on every machine. Image i draws
    the i-th 64-bit word of Philox4x64 with key 0. The images are ordered by (label, word); the
    places 0, 5, 10, ... of that order are the test split. Each class thus gives a fifth of its
    images, give or take one. Both splits keep scikit-learn's order.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        FileFormatError: this scikit-learn carries other images.
    """
    try:
        from sklearn.datasets import load_digits as published
    except ImportError as error:
        raise MissingExtraError(
            "scikit-learn carries the data set digits",
            got="no package scikit-learn",
            fix='pip install "bitwright[demo]"',
        ) from error
    bunch = published()
    images = np.ascontiguousarray(bunch.images, np.float64).astype(np.uint8)[:, None]
    labels = np.ascontiguousarray(bunch.target, np.int64)
    checksum = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    if checksum != _SHA256:
        raise FileFormatError(
            f"scikit-learn's digits must have the SHA-256 {_SHA256}",
            got=checksum,
            where="sklearn.datasets.load_digits()",
            fix="install a released scikit-learn",
        )
    words = np.random.Philox(key=0).random_raw(len(labels))
    order = np.lexsort((words, labels))
    chosen = np.zeros(len(labels), bool)
    chosen[order[::5]] = True
    if split == "train":
        chosen = ~chosen
    return Dataset("digits", split, images[chosen], labels[chosen], CLASSES, PREPROCESSING)
