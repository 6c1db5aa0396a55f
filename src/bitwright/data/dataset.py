"""Dataset: one split of a labelled image data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bitwright.data.preprocessing import Preprocessing
from bitwright.errors import InvalidValueError


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split: its pixels as published, its labels, and how a pixel becomes a model's input.

    Args:
        name: of the data set: `digits`, `mnist`, `cifar10`.
        split: `train` or `test`.
        images: uint8 [N, C, H, W], at least one.
        labels: int64 [N], each an index into `classes`.
        classes: the name of each class.
        preprocessing: from pixels to the model's float32 inputs.

    Raises:
        InvalidValueError: the fields do not fit one another.
    """

    name: str
    split: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        where = f"data set {self.name!r}, {self.split}"
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or len(self.images) == 0:
            raise InvalidValueError(
                "images must be uint8 [N, C, H, W] with N at least 1",
                got=f"{self.images.dtype} {list(self.images.shape)}",
                where=where,
            )
        if self.images.shape[1:] != self.preprocessing.shape:
            raise InvalidValueError(
                f"images must have the preprocessing's shape {list(self.preprocessing.shape)}",
                got=list(self.images.shape[1:]),
                where=where,
            )
        if self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),):
            raise InvalidValueError(
                f"labels must be int64 [{len(self.images)}], one for each image",
                got=f"{self.labels.dtype} {list(self.labels.shape)}",
                where=where,
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise InvalidValueError(
                f"a label must be from 0 to {len(self.classes) - 1}",
                got=low if low < 0 else high,
                where=where,
            )

    def __len__(self) -> int:
        return len(self.images)

    def inputs(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """The model's inputs for images start..stop-1 (to the end where stop is None or beyond it).

        Returns:
            float32 [n, C, H, W], in memory of its own.

        Raises:
            InvalidValueError: start is not from 0 to len(self), or stop is before start.
        """
        if not 0 <= start <= len(self) or (stop is not None and stop < start):
            raise InvalidValueError(
                f"start must be from 0 to {len(self)} and stop not before it",
                got=f"start {start}, stop {stop}",
                where=f"data set {self.name!r}, {self.split}",
            )
        return self.preprocessing(self.images[start:stop])

    def subset(self, n: int) -> Dataset:
        """The first n images, as a data set that shares their memory."""
        if not 1 <= n <= len(self):
            raise InvalidValueError(
                f"a subset must have from 1 to {len(self)} images",
                got=n,
                where=f"data set {self.name!r}, {self.split}",
            )
        # pictures that are read when they are indexed stay unread
        first = getattr(self.images, "first", None)
        images = self.images[:n] if first is None else first(n)
        return replace(self, images=images, labels=self.labels[:n])
