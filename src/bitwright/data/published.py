"""Published files: their names, lengths and checksums, and how one is read however packed."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.errors import FileFormatError

_AGAIN = "it is truncated, edited or not that file: delete it and get it again"
_LZMA_MEMORY = 256 << 20


@dataclass(frozen=True)
class Download:
    """A file that servers hand out: its name, the SHA-256 of its bytes, and where it may be had."""

    name: str
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class PublishedFile:
    """A file of a data set, unpacked.

    Args:
        name: as published.
        size: bytes.
        sha256: of the bytes as published.
        download: the file to download for it: itself packed, or an archive that holds it.
        aliases: other names in use for the same bytes.
        inexact: SHA-256 -> what is known to be wrong with a file in circulation that has it.
    """

    name: str
    size: int
    sha256: str
    download: Download
    aliases: tuple[str, ...] = ()
    inexact: tuple[tuple[str, str], ...] = ()

    @property
    def candidates(self) -> tuple[str, ...]:
        """The names that the file may have on disk."""
        names = (self.name, *self.aliases)
        return tuple(name + packed for name in names for packed in ("", ".gz", ".xz"))


@dataclass(frozen=True)
class Verified:
    """The bytes of a published file; `flaw` says what is known to be inexact in them, if it is."""

    data: bytes
    flaw: str | None


def read_file(file: PublishedFile, path: Path) -> Verified:
    """The verified bytes of `file` from `path`: plain, gzip or xz, told apart by how it begins.

    At most `file.size` bytes are unpacked, whatever the file says of itself.

    Raises:
        FileFormatError: the file cannot be read, or its bytes are not the published ones.
    """
    try:
        packed_size = path.stat().st_size
        if packed_size > file.size + file.size // 64 + 4096:  # packed data that did not compress
            raise FileFormatError(
                f"{file.name} must be {file.size} bytes, or fewer packed",
                got=f"{packed_size} bytes",
                where=path,
                fix=_AGAIN,
            )
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"{file.name} must be a readable file", got=error.strerror or error, where=path
        ) from error
    return verify(file, _unpack(data, file, path), path)


def read_archive(
    files: Mapping[str, PublishedFile], path: Path, *, limit: int = 512 << 20
) -> dict[str, Verified]:
    """The verified bytes of `files` (by their names) from the .tar.gz at `path`.

    Members are found by the last part of their name. Nothing is written to disk, and no more than
    `limit` bytes are unpacked.

    Raises:
        FileFormatError: the archive is truncated or edited, or lacks one of the files.
    """
    found: dict[str, Verified] = {}
    try:
        with (
            gzip.open(path) as stream,
            tarfile.open(fileobj=_Bounded(stream, limit, path), mode="r|") as tar,  # type: ignore[call-overload]
        ):
            for member in tar:
                file = files.get(member.name.rsplit("/", 1)[-1])
                if file is None or file.name in found or not member.isreg():
                    continue
                if member.size != file.size:
                    raise FileFormatError(
                        f"{file.name} must be {file.size} bytes",
                        got=member.size,
                        where=f"{path}, member {member.name}",
                        fix=_AGAIN,
                    )
                content = tar.extractfile(member)
                assert content is not None  # a regular file has content
                found[file.name] = verify(file, content.read(), f"{path}, member {member.name}")
                if len(found) == len(files):
                    break
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise FileFormatError(
            f"{path.name} must be a .tar.gz archive", got=error, where=path, fix=_AGAIN
        ) from error
    missing = sorted(files.keys() - found.keys())
    if missing:
        raise FileFormatError(
            f"{path.name} must hold {', '.join(sorted(files))}",
            got=f"none named {', '.join(missing)}",
            where=path,
            fix=_AGAIN,
        )
    return found


def verify(file: PublishedFile, data: bytes, where: object) -> Verified:
    """`data`, once its length and checksum are those of `file`, or of a known inexact copy."""
    if len(data) != file.size:
        raise FileFormatError(
            f"{file.name} must be {file.size} bytes unpacked",
            got=len(data) if len(data) < file.size else "more",
            where=where,
            fix=_AGAIN,
        )
    checksum = hashlib.sha256(data).hexdigest()
    flaw = dict(file.inexact).get(checksum)
    if checksum != file.sha256 and flaw is None:
        raise FileFormatError(
            f"{file.name} must have the published SHA-256 {file.sha256}",
            got=checksum,
            where=where,
            fix=_AGAIN,
        )
    return Verified(data, flaw)


def _unpack(data: bytes, file: PublishedFile, path: Path) -> bytes:
    """`data` unpacked where it is gzip or xz, but at most one byte more than the file's size."""
    if data.startswith(b"\x1f\x8b"):
        unpacker: Any = zlib.decompressobj(wbits=31)
    elif data.startswith(b"\xfd7zXZ\0"):
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
    else:
        return data
    try:
        unpacked: bytes = unpacker.decompress(data, file.size + 1)
    except (zlib.error, lzma.LZMAError, EOFError, MemoryError) as error:
        raise FileFormatError(
            f"{file.name} must unpack", got=error or type(error).__name__, where=path, fix=_AGAIN
        ) from error
    if len(unpacked) <= file.size and (not unpacker.eof or unpacker.unused_data):
        raise FileFormatError(
            f"a packed {file.name} must end where its data ends",
            got="bytes after the end" if unpacker.eof else f"an end after {len(data)} packed bytes",
            where=path,
            fix=_AGAIN,
        )
    return unpacked


class _Bounded:
    """A stream that ends in an error once more than `limit` bytes were read from it."""

    def __init__(self, stream: gzip.GzipFile, limit: int, path: Path) -> None:
        self.stream, self.limit, self.path = stream, limit, path
        self.left = limit

    def read(self, n: int) -> bytes:
        data = self.stream.read(n)
        self.left -= len(data)
        if self.left < 0:
            raise FileFormatError(
                f"{self.path.name} must not unpack to more than {self.limit} bytes",
                got="more",
                where=self.path,
                fix=_AGAIN,
            )
        return data
