from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitwright.data import Preprocessing, read_images
from bitwright.errors import FileFormatError, InvalidTypeError, InvalidValueError, MissingExtraError

Image = pytest.importorskip("PIL.Image", reason="install pillow for pictures")

GREY = Preprocessing((1, 4, 6), 127.5, -1.0)
COLOUR = Preprocessing((3, 4, 6), 127.5, -1.0)
DIGITS = Preprocessing((1, 4, 6), 8.0, -1.0, pixel_max=16)
RNG = np.random.default_rng(5)
GREY_PIXELS = RNG.integers(0, 256, (4, 6), np.uint8)
COLOUR_PIXELS = RNG.integers(0, 256, (4, 6, 3), np.uint8)


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def picture(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (5, 4, 6), (1, 1, 4, 6), (5, 1, 4, 6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_arrays_of_every_shape(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    array = RNG.integers(0, 256, shape).astype(dtype)
    x = read_images([saved(tmp_path / "a.npy", array)], GREY)
    batch = array.reshape(-1, 1, 4, 6)
    np.testing.assert_array_equal(x, GREY(batch) if dtype is np.uint8 else batch)
    assert x.dtype == np.float32
    assert x.flags.writeable


@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 3, 4, 6)])
def test_colour_arrays(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 256, shape, np.uint8)
    for order in (array, np.asfortranarray(array)):
        x = read_images([saved(tmp_path / "a.npy", order)], COLOUR)
        np.testing.assert_array_equal(x, COLOUR(array.reshape(-1, 3, 4, 6)))


@pytest.mark.parametrize(
    ("array", "preprocessing", "message"),
    [
        (np.zeros((6, 4), np.uint8), GREY, "must be of shape"),
        (np.zeros((4, 6), np.uint8), COLOUR, "must be of shape"),
        (np.zeros((5, 4, 6), np.uint8), COLOUR, "must be of shape"),
        (np.zeros((4, 6, 3), np.uint8), COLOUR, "must be of shape"),
        (np.zeros((1, 1, 1, 4, 6), np.uint8), GREY, "must be of shape"),
        (np.uint8(3), GREY, "must be of shape"),
        (np.zeros((0, 1, 4, 6), np.uint8), GREY, "one image at least"),
        (np.zeros((4, 6), np.float64), GREY, "got float64"),
        (np.zeros((4, 6), np.int64), GREY, "got int64"),
        (np.zeros((4, 6), bool), GREY, "got bool"),
        (np.zeros((4, 6), ">f4"), GREY, "got >f4"),
        (np.full((4, 6), 17, np.uint8), DIGITS, "from 0 to 16; got 17"),
    ],
)
def test_other_arrays_are_refused(
    tmp_path: Path, array: Any, preprocessing: Preprocessing, message: str
) -> None:
    path = saved(tmp_path / "a.npy", array)
    with pytest.raises(InvalidValueError, match=message) as caught:
        read_images([path], preprocessing)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_located(tmp_path: Path, value: float) -> None:
    array = np.zeros((3, 1, 4, 6), np.float32)
    array[1, 0, 2, 5] = value
    path = saved(tmp_path / "a.npy", array)
    with pytest.raises(InvalidValueError, match=rf"finite; got {value}; .*index \[1, 0, 2, 5\]"):
        read_images([path], GREY)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    array = np.array([{"a": 1}], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(FileFormatError, match="one whole array"):
        read_images([tmp_path / "a.npy"], GREY)
    (tmp_path / "b.npy").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(FileFormatError, match="magic bytes"):
        read_images([tmp_path / "b.npy"], GREY)


def test_every_truncation_of_an_array_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", np.zeros((1, 1, 4, 6), np.float32))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"a \.npy file must"):
            read_images([path], GREY)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 1, 4, 6), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 1, 4, 6), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True, 4, 6), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': " + f"({10**40}, 4, 6)" + ", }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4, 6), }",
        "{'descr': '<f4junk', 'fortran_order': False, 'shape': (4, 6), }",
        "{'descr': '|u1', 'shape': (4, 6), }",
        "__import__('os').abort()",
        "(" * 5000,
        "",
    ],
)
def test_a_hostile_array_header_is_one_clear_error(tmp_path: Path, header: str) -> None:
    encoded = header.encode() + b"\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + bytes(24)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(InvalidValueError) as caught:
        read_images([tmp_path / "a.npy"], GREY)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "pgm"])
def test_a_grey_picture_of_the_right_size_keeps_its_pixels(tmp_path: Path, extension: str) -> None:
    path = picture(tmp_path / f"a.{extension}", GREY_PIXELS)
    np.testing.assert_array_equal(read_images([path], GREY), GREY(GREY_PIXELS[None, None]))


def test_a_colour_picture_keeps_its_pixels(tmp_path: Path) -> None:
    x = read_images([picture(tmp_path / "a.png", COLOUR_PIXELS)], COLOUR)
    np.testing.assert_array_equal(x, COLOUR(COLOUR_PIXELS.transpose(2, 0, 1)[None]))


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    grey = picture(tmp_path / "grey.png", GREY_PIXELS)
    x = read_images([grey], COLOUR)
    for channel in range(3):
        np.testing.assert_array_equal(x[:, channel], GREY(GREY_PIXELS[None, None])[:, 0])
    colour = np.repeat(GREY_PIXELS[..., None], 3, axis=2)
    x = read_images([picture(tmp_path / "colour.png", colour)], GREY)
    np.testing.assert_array_equal(x, GREY(GREY_PIXELS[None, None]))


def test_a_picture_spans_the_interval_of_small_pixels(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6), np.uint8)
    pixels[:, 3:] = 255
    path = picture(tmp_path / "a.png", pixels)
    x = read_images([path], DIGITS)
    np.testing.assert_array_equal(np.unique(x), [-1.0, 1.0])
    np.testing.assert_array_equal(x, DIGITS((pixels // 255 * 16)[None, None]))
    np.testing.assert_array_equal(read_images([path], DIGITS, invert=True), -x)


def test_invert(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", GREY_PIXELS)
    expected = GREY(255 - GREY_PIXELS[None, None])
    np.testing.assert_array_equal(read_images([path], GREY, invert=True), expected)
    array = saved(tmp_path / "a.npy", GREY_PIXELS)
    np.testing.assert_array_equal(read_images([array], GREY, invert=True), expected)
    small = saved(tmp_path / "b.npy", GREY_PIXELS // 16)
    np.testing.assert_array_equal(
        read_images([small], DIGITS, invert=True), DIGITS(16 - GREY_PIXELS[None, None] // 16)
    )
    ready = saved(tmp_path / "c.npy", np.zeros((4, 6), np.float32))
    with pytest.raises(InvalidValueError, match="preprocessed already"):
        read_images([ready], GREY, invert=True)


def test_another_size_is_resized(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", np.full((40, 30), 51, np.uint8))
    x = read_images([path], GREY)
    np.testing.assert_array_equal(x, GREY(np.full((1, 1, 4, 6), 51, np.uint8)))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)  # black and transparent
    pixels[:, 3:, 3] = 255  # black and opaque
    expected = np.zeros((1, 1, 4, 6), np.uint8)
    expected[..., :3] = 255
    rgba = picture(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_images([rgba], GREY), GREY(expected))
    indexed = Image.fromarray(expected[0, 0] // 255).convert("P")
    indexed.putpalette([0, 0, 0, 9, 9, 9])
    indexed.save(tmp_path / "b.png", transparency=1)
    np.testing.assert_array_equal(read_images([tmp_path / "b.png"], GREY), GREY(expected))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    exact = picture(tmp_path / "a.png", GREY_PIXELS.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_images([exact], GREY), GREY(GREY_PIXELS[None, None]))


def test_exif_orientation_is_obeyed(tmp_path: Path) -> None:
    turned = Image.fromarray(np.rot90(GREY_PIXELS).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    x = read_images([tmp_path / "a.png"], GREY)
    np.testing.assert_array_equal(x, GREY(GREY_PIXELS[None, None]))


def test_files_make_one_batch_in_order(tmp_path: Path) -> None:
    many = RNG.integers(0, 256, (3, 1, 4, 6), np.uint8)
    paths = [saved(tmp_path / "z.npy", many), picture(tmp_path / "a.png", GREY_PIXELS)]
    x = read_images(paths, GREY)
    np.testing.assert_array_equal(x, GREY(np.concatenate([many, GREY_PIXELS[None, None]])))


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", GREY_PIXELS)
    whole = path.read_bytes()
    for length in range(len(whole) - 20):  # before the end of the pixels
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="a whole picture"):
            read_images([path], GREY)


def test_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello")
    with pytest.raises(FileFormatError, match="a whole picture that Pillow reads"):
        read_images([path], GREY)


def test_a_picture_of_huge_size_is_refused_unread(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(buffer, "png")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(FileFormatError, match=f"at most {2**26} pixels; got 9000 x 9000"):
        read_images([tmp_path / "a.png"], GREY)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.tiff", np.zeros((4, 6), np.float32))
    with pytest.raises(FileFormatError, match="floating-point"):
        read_images([path], GREY)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"got nothing; at .*missing\.png"):
        read_images([tmp_path / "missing.png"], GREY)
    with pytest.raises(FileFormatError, match="got a folder"):
        read_images([tmp_path], GREY)
    with pytest.raises(InvalidValueError, match="one path at least"):
        read_images([], GREY)
    for one in (tmp_path, str(tmp_path)):
        with pytest.raises(InvalidTypeError, match=r"write \[path\]"):
            read_images(one, GREY)  # type: ignore[arg-type]


def test_a_model_of_other_channels_takes_arrays_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="got 2 channels"):
        read_images([picture(tmp_path / "a.png", GREY_PIXELS)], Preprocessing((2, 4, 6), 1, 0))


def test_without_pillow_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png", GREY_PIXELS)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="pip install pillow"):
        read_images([path], GREY)
    assert read_images([saved(tmp_path / "a.npy", GREY_PIXELS)], GREY).shape == (1, 1, 4, 6)
