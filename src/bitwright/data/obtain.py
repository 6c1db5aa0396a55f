"""Obtain: the verified bytes of a split's files, found in a folder or downloaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bitwright.data.download import fetch
from bitwright.data.folders import (
    VARIABLE,
    Collection,
    DataFolderWarning,
    Source,
    cache_folder,
    data_folders,
    find,
    named_folder,
)
from bitwright.data.published import PublishedFile, Verified, read_archive, read_file
from bitwright.errors import FileFormatError


def obtain(collection: Collection, split: str, *, root: Path | None, download: bool) -> tuple[Verified, ...]:
    """The verified bytes of each file of a split, in the collection's order.

    Each file is looked for in the named folder (`root`, else BITWRIGHT_DATA), then in the cache,
    then downloaded to the cache.

    Raises:
        FileFormatError: a file is nowhere to be had, or is not the published one.
    """
    files = collection.split(split)
    sources = _search(collection, files, root)
    missing = [file for file in files if file.name not in sources]
    if download or not missing:
        _warn_of_named_folder(collection, files, root)
    failure = None
    if missing and download:
        try:
            for needed in dict.fromkeys(file.download for file in missing):
                fetch(needed, cache_folder() / collection.subfolders[0])
        except FileFormatError as error:
            failure = error
        sources = _search(collection, files, root)
        missing = [file for file in files if file.name not in sources]
    if missing:
        raise _not_found(collection, split, missing, root, failure) from failure
    return _read(files, sources)


def _search(collection: Collection, files: tuple[PublishedFile, ...], root: Path | None) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for folder in data_folders(root):
        for file in files:
            if file.name not in sources:
                source = find(file, collection, folder)
                if source is not None:
                    sources[file.name] = source
    return sources


def _read(files: tuple[PublishedFile, ...], sources: Mapping[str, Source]) -> tuple[Verified, ...]:
    """Unpacking is the cost and frees Python's lock: files of their own are read in parallel."""
    read: dict[str, Verified] = {}
    for archive in dict.fromkeys(source.path for source in sources.values() if source.archive):
        held = {file.name: file for file in files if sources[file.name].path == archive}
        read |= read_archive(held, archive)
    single = [file for file in files if not sources[file.name].archive]
    if single:
        with ThreadPoolExecutor(max_workers=min(len(single), os.cpu_count() or 1)) as pool:
            contents = pool.map(lambda file: read_file(file, sources[file.name].path), single)
            read |= {file.name: content for file, content in zip(single, contents, strict=True)}
    return tuple(read[file.name] for file in files)


def _warn_of_named_folder(
    collection: Collection, files: tuple[PublishedFile, ...], root: Path | None
) -> None:
    named = named_folder(root)
    if named is None:
        return
    folder, called = named
    lacking = [file.name for file in files if find(file, collection, folder) is None]
    if lacking:
        warnings.warn(
            f"{called} has no {', '.join(lacking)} of {collection.name} (searched: "
            f"{_places(collection, folder)}); the cache or a download has to give them",
            DataFolderWarning,
            stacklevel=5,
        )


def _not_found(
    collection: Collection,
    split: str,
    missing: list[PublishedFile],
    root: Path | None,
    failure: FileFormatError | None,
) -> FileFormatError:
    named = named_folder(root)
    wanted = ", ".join(file.name for file in missing)
    archive = f", nor {collection.archive}" if collection.archive else ""
    lacks = ""
    if named is not None:
        lacks = f"; {named[1]} lacks them" if _is_folder(named[0]) else f"; {named[1]} is no folder"
    reason = f"; the download failed: {failure}" if failure else ""
    return FileFormatError(
        f"the files of {collection.name} ({split}) must be in a data folder or be downloaded",
        got=f"no {wanted} (plain, .gz or .xz){archive}{lacks}{reason}",
        where=" or ".join(_places(collection, folder) for folder in data_folders(root)),
        fix=f"set {VARIABLE} to a folder that has them, or connect to the network"
        + ("" if failure else " and allow the download"),
    )


def _places(collection: Collection, folder: Path) -> str:
    subs = [sub for sub in collection.subfolders if sub != "."]
    return f"{folder} (also {', '.join(f'{sub}/' for sub in subs)} in it)"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
