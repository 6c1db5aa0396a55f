from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitwright.data import Dataset, Preprocessing
from bitwright.errors import InvalidValueError


def made(**changes: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": "noise",
        "split": "train",
        "images": np.arange(6 * 4, dtype=np.uint8).reshape(6, 1, 2, 2),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "classes": ("a", "b", "c"),
        "preprocessing": Preprocessing((1, 2, 2), 2.0, 1.0),
    }
    return Dataset(**{**fields, **changes})


def test_inputs_are_the_preprocessed_slice() -> None:
    data = made()
    assert len(data) == 6
    np.testing.assert_array_equal(data.inputs(), data.preprocessing(data.images))
    np.testing.assert_array_equal(data.inputs(1, 3), data.inputs()[1:3])
    np.testing.assert_array_equal(data.inputs(4, 100), data.inputs()[4:])
    assert data.inputs(6).shape == (0, 1, 2, 2)


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (7, None), (3, 2), (0, -1)])
def test_inputs_outside_the_split_are_refused(start: int, stop: int | None) -> None:
    with pytest.raises(InvalidValueError, match="start must be from 0 to 6"):
        made().inputs(start, stop)


def test_subset_is_the_first_n() -> None:
    data = made()
    first = data.subset(4)
    assert len(first) == 4
    assert np.shares_memory(first.images, data.images)
    np.testing.assert_array_equal(first.labels, data.labels[:4])
    assert first.classes == data.classes


@pytest.mark.parametrize("n", [0, -1, 7])
def test_a_subset_that_cannot_be_is_refused(n: int) -> None:
    with pytest.raises(InvalidValueError, match="from 1 to 6 images"):
        made().subset(n)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 1, 2, 2), np.float32)}, "images must be uint8"),
        ({"images": np.zeros((6, 2, 2), np.uint8)}, "images must be uint8"),
        ({"images": np.zeros((0, 1, 2, 2), np.uint8)}, "N at least 1"),
        ({"images": np.zeros((6, 1, 2, 3), np.uint8)}, "preprocessing's shape"),
        ({"labels": np.zeros(5, np.int64)}, "labels must be int64"),
        ({"labels": np.zeros(6, np.int32)}, "labels must be int64"),
        (
            {"labels": np.array([0, 1, 2, 3, 0, 0])},
            r"from 0 to 2; got 3; at data set 'noise', train",
        ),
        ({"labels": np.array([0, -1, 2, 1, 0, 0])}, "from 0 to 2; got -1"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        made(**changes)
