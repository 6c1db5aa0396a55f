"""Weights: files of published, trained networks, checked byte for byte like those of data sets."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from bitwright.data.folders import Collection
from bitwright.data.obtain import obtain
from bitwright.data.published import Download, PublishedFile
from bitwright.errors import unknown_name


def _collection(name: str, file: str, size: int, sha256: str, url: str, *subfolders: str) -> Collection:
    published = PublishedFile(file, size, sha256, Download(file, sha256, (url + file,)))
    return Collection(name, (), (), (*subfolders, "."), weights=(published,))


# BSD 2-Clause, Yerlan Idelbayev; He et al.'s ResNets, trained by him
_RESNETS = "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/master/pretrained_models/"
# Apache 2.0, MLCommons
_TINY = "https://raw.githubusercontent.com/mlcommons/tiny/master/benchmark/training/image_classification/"

WEIGHTS = MappingProxyType(
    {
        "resnet20": _collection(
            "resnet20",
            "resnet20-12fca82f.th",
            1_099_231,
            "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
            _RESNETS,
            "checkpoints",
        ),
        "resnet56": _collection(
            "resnet56",
            "resnet56-4bfd9763.th",
            3_471_733,
            "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
            _RESNETS,
            "checkpoints",
        ),
        "resnet8": _collection(
            "resnet8",
            "pretrainedResnet.tflite",
            318_144,
            "b5c0046d6e0328b4956afd6baa29555a29b1f1c65bdd45aaed75b7cd484d9f79",
            _TINY + "trained_models/",
            "models/mlperf-tiny-resnet8",
        ),
    }
)
"""Trained networks by name."""


def load_weights(name: str, *, root: Path | None = None, download: bool = True) -> bytes:
    """The file of a trained network, its SHA-256 checked; looked for where `load` looks for data sets.

    Raises:
        InvalidValueError: there is no such network.
        FileFormatError: the file is nowhere to be had, or is not the published one.
        MissingExtraError: it must be downloaded, and pooch is not installed.
    """
    if name not in WEIGHTS:
        raise unknown_name("pretrained network", name, WEIGHTS)
    (content,) = obtain(WEIGHTS[name], "weights", root=root, download=download)
    return content.data
