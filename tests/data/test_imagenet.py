"""Folders of pictures: classes by name, the middle of each picture, read when asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitwright.data import Dataset, load, locate
from bitwright.data.imagenet import load_imagenet
from bitwright.errors import FileFormatError

Image = pytest.importorskip("PIL.Image")
CLASSES = ("n01440764", "n01443537", "n02084071")


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures whose shorter side is 16 already, so that nothing is resampled."""
    seed = 0
    for split in ("train", "val"):
        for name in CLASSES:
            place = tmp_path / "imagenet" / split / name
            place.mkdir(parents=True)
            for number in range(2):
                shape = (16, 20) if number else (24, 16)
                Image.fromarray(noise(*shape, seed)).save(place / f"p{number}.png")
                seed += 1
    (tmp_path / "imagenet" / "train" / CLASSES[0] / "notes.txt").write_text("no picture")
    return tmp_path


def small(folder: Path, split: str = "train") -> Dataset:
    return load_imagenet(split, root=folder, side=12, shorter=16)


def test_the_middle_of_every_picture_by_class(folder: Path) -> None:
    training, test = small(folder), small(folder, "test")
    assert training.classes == CLASSES
    assert training.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (len(training), training.images.shape) == (6, (6, 3, 12, 12))
    high, wide = noise(24, 16, 2), noise(16, 20, 3)
    wanted = np.stack([high[6:18, 2:14], wide[2:14, 4:16]]).transpose(0, 3, 1, 2)
    assert np.array_equal(training.images[2:4], wanted)
    assert np.array_equal(training.images[np.array([3, 2])], wanted[::-1])
    assert np.array_equal(training.images[3], wanted[1])
    assert np.array_equal(training.inputs(2, 4), training.preprocessing(wanted))
    assert np.array_equal(test.images[0], noise(24, 16, 6)[6:18, 2:14].transpose(2, 0, 1))


def test_a_subset_reads_nothing(folder: Path) -> None:
    first = small(folder)
    for path in (folder / "imagenet").rglob("*.png"):
        path.write_bytes(b"damaged")
    subset = first.subset(3)
    assert len(subset) == 3
    with pytest.raises(FileFormatError, match=r"one that Pillow reads.*p0\.png"):
        subset.inputs(0, 1)


def test_pictures_are_stretched_to_the_shorter_side(folder: Path) -> None:
    path = folder / "imagenet" / "train" / CLASSES[0] / "p0.png"
    Image.fromarray(np.full((40, 80, 3), 77, np.uint8)).save(path)
    assert (small(folder).images[0] == 77).all()
    Image.fromarray(noise(40, 30, 0)[:, :, 0]).save(path)  # grey
    pixels = small(folder).images[0]
    assert np.array_equal(pixels[0], pixels[2])


def test_missing_folders_and_classes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(FileFormatError, match=r"train/CLASS/picture.JPEG.*set BITWRIGHT_DATA"):
        load("imagenet", root=tmp_path_factory.mktemp("empty"))
    (folder / "imagenet" / "val" / "unknown").mkdir()
    with pytest.raises(FileFormatError, match="every class has a training folder; got unknown"):
        small(folder, "test")
    assert locate("imagenet", root=folder).complete
    assert not locate("imagenet", root=tmp_path_factory.mktemp("empty")).complete
    for path in (folder / "imagenet" / "train").rglob("*.png"):
        path.unlink()
    with pytest.raises(FileFormatError, match="holds pictures"):
        small(folder)
