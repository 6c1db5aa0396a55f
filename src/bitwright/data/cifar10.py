"""CIFAR-10: 60,000 colour photographs of 32 x 32 pixels in ten classes (Krizhevsky, 2009)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitwright.data.dataset import Dataset
from bitwright.data.folders import Collection
from bitwright.data.obtain import obtain
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.published import Download, PublishedFile
from bitwright.errors import FileFormatError

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
PREPROCESSING = Preprocessing(shape=(3, 32, 32), divisor=127.5, offset=-1.0)
_RECORD = 1 + 3 * 32 * 32
_ARCHIVE = Download(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)

#: SHA-256 of a test batch in circulation, of which the images INEXACT_TEST_IMAGES are JPEG copies
INEXACT_TEST_BATCH = "123ca0dad8f960344d9149742165d4215093c84c8c4bdc5922af93b614bdb501"
#: their indices: right picture, place and label, with JPEG noise of about 6 grey levels
INEXACT_TEST_IMAGES = (
    *(1259, 1369, 1422, 2245, 2737, 2935, 3695, 3718, 4085, 4496),
    *(5791, 5896, 6286, 7580, 7707, 7724, 7832, 8117, 8551, 9254),
)


class InexactDataWarning(UserWarning):
    """A file was read that is known to differ from the published one in a stated way."""


def _batch(name: str, sha256: str, *inexact: tuple[str, str]) -> PublishedFile:
    return PublishedFile(name, 10_000 * _RECORD, sha256, _ARCHIVE, inexact=inexact)


COLLECTION = Collection(
    name="cifar10",
    train=(
        _batch("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        _batch("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        _batch("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        _batch("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        _batch("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    ),
    test=(
        _batch(
            "test_batch.bin",
            "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            (
                INEXACT_TEST_BATCH,
                "20 of 10,000 test images are not byte-exact (19 ships, 1 horse)",
            ),
        ),
    ),
    subfolders=("cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10", "."),
    archive=_ARCHIVE.name,
)


def read_cifar10(data: bytes, *, where: object = None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The images and labels of an unpacked batch of the "binary version".

    A batch is records of 3073 bytes: the label, then 1024 red, 1024 green and 1024 blue pixels,
    each row by row.

    Args:
        data: the whole file.
        where: what an error message calls it.

    Returns:
        Images uint8 [N, 3, 32, 32] and labels int64 [N], in memory of their own.

    Raises:
        FileFormatError: the length is not a multiple of 3073, or a label is not from 0 to 9.
    """
    if len(data) == 0 or len(data) % _RECORD != 0:
        raise FileFormatError(
            f"a CIFAR-10 batch must be one or more records of {_RECORD} bytes",
            got=f"{len(data)} bytes",
            where=where,
            fix="the file is truncated or edited: get it again",
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise FileFormatError(
            "a CIFAR-10 label must be from 0 to 9",
            got=int(labels[first]),
            where=f"record {first}" if where is None else f"{where}, record {first}",
        )
    return records[:, 1:].reshape(-1, 3, 32, 32).copy(), labels


def load_cifar10(
    split: str, *, root: Path | None, download: bool, collection: Collection = COLLECTION
) -> Dataset:
    """A split of CIFAR-10 in its published order; x = pixel / 127.5 - 1, from -1 to 1."""
    images, labels = [], []
    contents = obtain(collection, split, root=root, download=download)
    for file, content in zip(collection.split(split), contents, strict=True):
        if content.flaw is not None:
            warnings.warn(f"{file.name} of cifar10: {content.flaw}", InexactDataWarning, stacklevel=3)
        batch_images, batch_labels = read_cifar10(content.data, where=file.name)
        images.append(batch_images)
        labels.append(batch_labels)
    return Dataset("cifar10", split, np.concatenate(images), np.concatenate(labels), CLASSES, PREPROCESSING)
