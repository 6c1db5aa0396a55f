from __future__ import annotations

import hashlib

import numpy as np
import pytest

from bitwright.data import load
from bitwright.errors import FileFormatError, MissingExtraError

sklearn = pytest.importorskip("sklearn.datasets", reason="install scikit-learn for digits")


def test_the_split_is_fixed() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape == (1437, 1, 8, 8)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)
    digest = hashlib.sha256(train.images.tobytes() + train.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "16ccd80797fb02cdadce94b2fe6027b366ec85e38fb7240dee661c120c14b38a"
    digest = hashlib.sha256(test.images.tobytes() + test.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "671d78ab7d1219266203d50bce56986b1c6388c553358a030597643236203e10"


def test_every_class_gives_a_fifth() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    everything = np.bincount(train.labels) + np.bincount(test.labels)
    assert (np.abs(np.bincount(test.labels) - everything / 5) < 1).all()


def test_the_splits_are_all_of_the_published_images_in_order() -> None:
    train, test = load("digits", "train"), load("digits", "test")
    bunch = sklearn.load_digits()
    rows = [image.tobytes() for image in bunch.images.astype(np.uint8)]
    both = [image.tobytes() for data in (train, test) for image in data.images]
    assert sorted(both) == sorted(rows)
    places = [rows.index(image.tobytes()) for image in test.images]
    assert places == sorted(places)


def test_inputs_span_minus_one_to_one() -> None:
    data = load("digits", "test")
    x = data.inputs()
    assert (x.min(), x.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(x * 8 + 8, data.images)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "bitwright\[demo\]"'):
        load("digits", "train")


def test_other_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = sklearn.load_digits()
    bunch.images[3, 4, 4] += 1
    monkeypatch.setattr(sklearn, "load_digits", lambda: bunch)
    with pytest.raises(FileFormatError, match="scikit-learn's digits must have the SHA-256"):
        load("digits", "train")
