from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitwright.data import Preprocessing
from bitwright.errors import InvalidValueError

BYTES = Preprocessing((1, 16, 16), 127.5, -1.0)
DIGITS = Preprocessing((1, 8, 8), 8.0, -1.0, pixel_max=16)
EVERY_BYTE = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
GOOD = {"shape": [1, 8, 8], "divisor": 8.0, "offset": -1.0, "pixel_max": 16}


def test_the_ends_of_the_range_are_exact() -> None:
    x = BYTES(EVERY_BYTE)
    assert x.dtype == np.float32
    assert x.flat[0] == -1.0
    assert x.flat[255] == 1.0


@pytest.mark.parametrize(("divisor", "offset"), [(127.5, -1.0), (255.0, 0.0), (0.3, 1e-3), (7, 5)])
def test_it_is_two_float32_operations(divisor: float, offset: float) -> None:
    x = Preprocessing((1, 16, 16), divisor, offset)(EVERY_BYTE)
    expected = [np.float32(p) / np.float32(divisor) + np.float32(offset) for p in range(256)]
    np.testing.assert_array_equal(x.ravel().view(np.int32), np.array(expected).view(np.int32))


def test_it_is_not_a_product_with_the_reciprocal() -> None:
    reciprocal = EVERY_BYTE.astype(np.float32) * (np.float32(1) / np.float32(127.5)) - np.float32(1)
    assert (reciprocal != BYTES(EVERY_BYTE)).any()


def test_the_input_is_left_alone() -> None:
    pixels = EVERY_BYTE.copy()
    BYTES(pixels)
    np.testing.assert_array_equal(pixels, EVERY_BYTE)


def test_an_image_of_bytes_is_the_same_bits() -> None:
    np.testing.assert_array_equal(BYTES.from_image(EVERY_BYTE), BYTES(EVERY_BYTE))


def test_an_image_spans_the_interval_of_small_pixels() -> None:
    values = np.resize(np.arange(256, dtype=np.uint8), (4, 1, 8, 8))
    x = DIGITS.from_image(values)
    assert (x.min(), x.max()) == (-1.0, 1.0)
    assert (np.diff(x.ravel()) > 0).all()
    expected = [np.float32(v * 16) / np.float32(255) / np.float32(8) - np.float32(1) for v in range(256)]
    np.testing.assert_array_equal(x.ravel(), np.array(expected, np.float32))


def test_a_pixel_above_the_maximum_is_named() -> None:
    pixels = np.zeros((3, 1, 8, 8), np.uint8)
    pixels[1, 0, 2, 2] = 17
    with pytest.raises(InvalidValueError, match=r"from 0 to 16; got 17; at image 1; .*from_image"):
        DIGITS(pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 1, 8, 8), np.int64),
        np.zeros((1, 1, 8, 8), np.float32),
        np.zeros((1, 8, 8), np.uint8),
        np.zeros((1, 1, 8, 9), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        [[1, 2]],
    ],
)
def test_other_arrays_are_refused(pixels: Any) -> None:
    with pytest.raises(InvalidValueError, match="pixels must be"):
        DIGITS(pixels)
    with pytest.raises(InvalidValueError, match="pixels must be"):
        DIGITS.from_image(pixels)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(*[st.integers(1, 200)] * 3),
    divisor=st.floats(2.0**-64, 2.0**64),
    offset=st.floats(-(2.0**64), 2.0**64),
    pixel_max=st.integers(1, 255),
)
def test_json_gives_the_value_back(
    shape: tuple[int, int, int], divisor: float, offset: float, pixel_max: int
) -> None:
    value = Preprocessing(shape, divisor, offset, pixel_max)
    text = json.dumps(value.to_json(), allow_nan=False)
    assert Preprocessing.from_json(json.loads(text)) == value
    assert hash(Preprocessing.from_json(json.loads(text))) == hash(value)


@pytest.mark.parametrize("pixel_max", [1, 255])
@pytest.mark.parametrize("offset", [-(2.0**64), -0.0, 2.0**64])
@pytest.mark.parametrize("divisor", [2.0**-64, 2.0**64])
def test_every_valid_value_gives_finite_inputs(divisor: float, offset: float, pixel_max: int) -> None:
    value = Preprocessing((1, 16, 16), divisor, offset, pixel_max)
    assert np.isfinite(value.from_image(EVERY_BYTE)).all()


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InvalidValueError, match=f"missing {key}"):
        Preprocessing.from_json({k: v for k, v in GOOD.items() if k != key})


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(InvalidValueError, match="unknown 'mean'"):
        Preprocessing.from_json({**GOOD, "mean": 0.5})


@pytest.mark.parametrize("value", [None, [], "shape", 3, [["shape", 1]]])
def test_anything_but_an_object_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="JSON object"):
        Preprocessing.from_json(value)


HOSTILE = {
    "shape": [
        *(None, 8, "1,8,8", [], [1, 8], [1, 8, 8, 8], [1, 8, 0], [1, 8, -8], [1.0, 8, 8]),
        *(
            [True, 8, 8],
            [1, 8, None],
            [1, "8", 8],
            [2**16, 2**16, 1],
            [1, 1, 10**5000],
            [[1], 8, 8],
        ),
    ],
    "divisor": [
        0,
        0.0,
        -1.0,
        math.nan,
        math.inf,
        "8",
        None,
        True,
        [],
        [8, 8],
        [0],
        [[8]],
        1e-300,
        1e300,
        10**5000,
    ],
    "offset": [math.nan, -math.inf, "x", None, False, 1e300, -(10**5000), {}, [math.nan]],
    "pixel_max": [0, -1, 256, 16.0, True, None, "16", 10**5000],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in HOSTILE.items() for value in values],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_value_is_one_clear_error(key: str, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=f"at preprocessing.{key}") as caught:
        Preprocessing.from_json({**GOOD, key: value})
    assert len(str(caught.value)) < 300


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({key: _json | st.just(good) for key, good in GOOD.items()}))
def test_any_json_is_a_value_or_one_error(value: dict[str, Any]) -> None:
    try:
        made = Preprocessing.from_json(value)
    except InvalidValueError:
        return
    assert Preprocessing.from_json(made.to_json()) == made


def test_each_channel_has_its_own_pair() -> None:
    value = Preprocessing((3, 16, 16), (255.0, 0.3, 7.0), (0.5, -1.0, 2.0))
    pixels = np.resize(EVERY_BYTE, (2, 3, 16, 16))
    for channel in range(3):
        one = Preprocessing((1, 16, 16), value.divisor[channel], value.offset[channel])  # type: ignore[index]
        part = np.ascontiguousarray(pixels[:, channel : channel + 1])
        np.testing.assert_array_equal(value(pixels)[:, channel : channel + 1], one(part))
    assert Preprocessing.from_json(json.loads(json.dumps(value.to_json()))) == value
    mixed = Preprocessing((3, 16, 16), 2.0, (0.0, 1.0, 2.0))
    np.testing.assert_array_equal(mixed(pixels)[:, 1], pixels[:, 1] / np.float32(2) + np.float32(1))


@pytest.mark.parametrize("divisor", [(1.0,), (1.0, 2.0, 0.0), (1.0, 2.0, "3"), ()])
def test_pairs_that_do_not_fit_the_channels_are_refused(divisor: Any) -> None:
    with pytest.raises(InvalidValueError, match="divisor must be a number"):
        Preprocessing((3, 8, 8), divisor, 0.0)
