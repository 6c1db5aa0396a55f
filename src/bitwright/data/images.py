"""Images: a user's own pictures and arrays as a batch of a model's inputs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.data.preprocessing import Preprocessing
from bitwright.errors import FileFormatError, InvalidTypeError, InvalidValueError, MissingExtraError

_MOST_PIXELS = 2**26
_NPY_MAGIC = b"\x93NUMPY"


def read_images(
    paths: Sequence[Path], preprocessing: Preprocessing, *, invert: bool = False
) -> npt.NDArray[np.float32]:
    """The files as one batch, in the order given.

    A `.npy` file is taken as it is, never resized. uint8 holds the data set's own pixels, from 0
    to `pixel_max`: [C, H, W] or [N, C, H, W], and where there is one channel [H, W] or [N, H, W].
    float32 in the same shapes holds inputs that are preprocessed already.

    Any other file is a picture that Pillow reads: turned as its EXIF says, laid on white where it
    is transparent, converted to grey (1 channel) or RGB (3), stretched to width x height by
    bilinear interpolation where its size differs. Of an animation, the first frame. Its 0 to 255
    are the data set's pixels 0 to `pixel_max`.

    Args:
        paths: one or more files.
        preprocessing: the model's.
        invert: take the negative, pixel_max - pixel: for ink on white where the model knows ink as
            the high value (`digits`, `mnist`).

    Returns:
        float32 [N, C, H, W].

    Raises:
        FileFormatError: a file is missing, truncated, or neither an array nor a picture.
        InvalidValueError: no paths, an array of a wrong type or shape, or a value not finite.
        MissingExtraError: a picture, and Pillow is not installed.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise InvalidTypeError("paths must be a sequence of paths", got=repr(paths), fix="write [path]")
    batches = []
    for given in paths:
        path = Path(given)
        if not path.is_file():
            raise FileFormatError(
                "an image must be a file",
                got="a folder" if path.is_dir() else "nothing",
                where=path,
            )
        read = _read_array if path.suffix.lower() == ".npy" else _read_picture
        batches.append(read(path, preprocessing, invert))
    if not batches:
        raise InvalidValueError("read_images must get one path at least", got="none")
    return batches[0] if len(batches) == 1 else np.concatenate(batches)


def _read_array(path: Path, preprocessing: Preprocessing, invert: bool) -> npt.NDArray[np.float32]:
    array = _open_array(path)
    channels, height, width = preprocessing.shape
    shape = array.shape
    if array.dtype not in (np.uint8, np.float32):
        raise InvalidValueError(
            f"an array must be uint8 (pixels from 0 to {preprocessing.pixel_max}) or float32 "
            "(preprocessed inputs)",
            got=array.dtype,
            where=path,
        )
    grey = (height, width)
    if shape == preprocessing.shape or (channels == 1 and shape == grey):
        count = 1
    elif shape[1:] == preprocessing.shape or (channels == 1 and shape[1:] == grey):
        count = shape[0]
    else:
        raise InvalidValueError(
            f"an array must be of shape [{channels}, {height}, {width}], or [N, ...] of them"
            + (", with or without the 1" if channels == 1 else ""),
            got=list(shape),
            where=path,
        )
    if count == 0:
        raise InvalidValueError("an array must hold one image at least", got=list(shape), where=path)
    batch = np.array(array, order="C").reshape(count, channels, height, width)
    if batch.dtype == np.uint8:
        high = int(batch.max())
        if high > preprocessing.pixel_max:
            raise InvalidValueError(
                f"a pixel must be from 0 to {preprocessing.pixel_max}",
                got=high,
                where=path,
                fix="save pixels from 0 to 255 as a picture (.png)",
            )
        return preprocessing(np.subtract(preprocessing.pixel_max, batch, dtype=np.uint8) if invert else batch)
    if invert:
        raise InvalidValueError(
            "invert must be off for an array that is preprocessed already",
            got="float32",
            where=path,
        )
    finite = np.isfinite(batch)
    if not finite.all():
        index = tuple(int(i) for i in np.unravel_index(np.argmin(finite), batch.shape))
        raise InvalidValueError(
            "an input must be finite", got=batch[index], where=f"{path}, index {list(index)}"
        )
    return batch


def _open_array(path: Path) -> npt.NDArray[Any]:
    """The array, mapped: a header that promises more than the file holds allocates nothing."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_NPY_MAGIC))
        if magic != _NPY_MAGIC:
            raise FileFormatError(
                "a .npy file must begin with its magic bytes",
                got=magic.hex(" ") or "an empty file",
                where=path,
            )
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileFormatError:
        raise
    except Exception as error:  # numpy's header parser fails in many ways; all are the file's fault
        raise FileFormatError(
            "a .npy file must hold one whole array", got=_reason(error), where=path
        ) from error
    assert isinstance(array, np.ndarray)  # by its magic bytes
    return array


def _read_picture(path: Path, preprocessing: Preprocessing, invert: bool) -> npt.NDArray[np.float32]:
    channels, height, width = preprocessing.shape
    if channels not in (1, 3):
        raise InvalidValueError(
            "a picture must be for a model of 1 channel (grey) or 3 (RGB)",
            got=f"{channels} channels",
            where=path,
            fix="save the input as a .npy file",
        )
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError(
            "Pillow reads pictures", got="no package pillow", where=path, fix="pip install pillow"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
            with Image.open(path) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    raise FileFormatError(
                        f"a picture must have at most {_MOST_PIXELS} pixels",
                        got=f"{opened.width} x {opened.height}",
                        where=path,
                    )
                opened.load()
                picture = ImageOps.exif_transpose(opened)
        picture = _opaque(picture, Image).convert("L" if channels == 1 else "RGB")
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        values = np.asarray(picture, np.uint8)
    except FileFormatError:
        raise
    except Exception as error:  # each of Pillow's readers fails in its own ways
        raise FileFormatError(
            "an image must be a .npy array or a whole picture that Pillow reads",
            got=_reason(error),
            where=path,
        ) from error
    values = values[None] if channels == 1 else values.transpose(2, 0, 1)
    return preprocessing.from_image((255 - values if invert else values)[None])


def _opaque(picture: Any, image: Any) -> Any:
    """The picture without 16-bit greys (v / 257, rounded half up) and laid on white."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values outside 0 to 65535")
        return image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("floating-point greys; save them as a .npy file")
    if "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = image.new("RGBA", picture.size, (255, 255, 255, 255))
        return image.alpha_composite(white, picture)
    return picture


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
