"""MNIST: 70,000 handwritten digits of 28 x 28 grey pixels (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitwright.data.dataset import Dataset
from bitwright.data.folders import Collection
from bitwright.data.idx import read_idx
from bitwright.data.obtain import obtain
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.published import Download, PublishedFile
from bitwright.errors import FileFormatError

CLASSES = tuple("0123456789")
PREPROCESSING = Preprocessing(shape=(1, 28, 28), divisor=127.5, offset=-1.0)
_SERVERS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def _file(name: str, alias: str, size: int, sha256: str, packed_sha256: str) -> PublishedFile:
    packed = name + ".gz"
    urls = tuple(server + packed for server in _SERVERS)
    return PublishedFile(name, size, sha256, Download(packed, packed_sha256, urls), (alias,))


COLLECTION = Collection(
    name="mnist",
    train=(
        _file(
            "train-images-idx3-ubyte",
            "train-images.idx3-ubyte",
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        _file(
            "train-labels-idx1-ubyte",
            "train-labels.idx1-ubyte",
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    ),
    test=(
        _file(
            "t10k-images-idx3-ubyte",
            "t10k-images.idx3-ubyte",
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        _file(
            "t10k-labels-idx1-ubyte",
            "t10k-labels.idx1-ubyte",
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    subfolders=("mnist", "MNIST/raw", "."),
)


def load_mnist(
    split: str, *, root: Path | None, download: bool, collection: Collection = COLLECTION
) -> Dataset:
    """A split of MNIST in its published order; x = pixel / 127.5 - 1, -1 is paper, 1 is ink."""
    images, labels = (
        read_idx(content.data, where=file.name)
        for file, content in zip(
            collection.split(split),
            obtain(collection, split, root=root, download=download),
            strict=True,
        )
    )
    if images.ndim != 3 or labels.shape != images.shape[:1] or int(labels.max()) > 9:
        raise FileFormatError(
            "MNIST must be images [N, H, W] and N labels from 0 to 9",
            got=f"images {list(images.shape)}, labels {list(labels.shape)} up to {labels.max()}",
        )
    return Dataset("mnist", split, images[:, None], labels.astype(np.int64), CLASSES, PREPROCESSING)
