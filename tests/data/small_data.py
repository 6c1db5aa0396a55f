"""Small published files for the tests of this folder."""

from __future__ import annotations

import hashlib
import os
import struct

import numpy as np

from bitwright.data.published import Download, PublishedFile

REAL_ROOT = os.environ.get("BITWRIGHT_DATA")
NOWHERE = "http://127.0.0.1:9/"  # the discard port: refused at once


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def published(
    name: str,
    data: bytes,
    *,
    aliases: tuple[str, ...] = (),
    urls: tuple[str, ...] = (NOWHERE + "x",),
    served: tuple[str, bytes] | None = None,
    inexact: tuple[tuple[str, str], ...] = (),
) -> PublishedFile:
    """A published file that consists of `data`; `served` is the download's name and bytes."""
    packed_name, packed = served or (name, data)
    download = Download(packed_name, hashlib.sha256(packed).hexdigest(), urls)
    digest = hashlib.sha256(data).hexdigest()
    return PublishedFile(name, len(data), digest, download, aliases, inexact)
