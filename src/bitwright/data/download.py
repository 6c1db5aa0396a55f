"""Download: published files from their servers into the cache, through pooch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bitwright.data.folders import VARIABLE
from bitwright.data.published import Download
from bitwright.errors import FileFormatError, MissingExtraError


def fetch(download: Download, folder: Path) -> Path:
    """The file, downloaded to `folder` and its SHA-256 checked; each server is tried in turn.

    Raises:
        MissingExtraError: pooch is not installed.
        FileFormatError: no server gave it, or what came is not the published file.
    """
    try:
        import pooch
    except ImportError as error:
        raise MissingExtraError(
            f"pooch downloads {download.name}",
            got="no package pooch",
            fix=f'pip install "bitwright[data]", or set {VARIABLE} to a folder that has the file',
        ) from error
    progress = importlib.util.find_spec("tqdm") is not None  # pooch draws its bar with it
    failures = []
    for url in download.urls:
        try:
            keeper = pooch.create(
                path=folder,
                base_url="",
                registry={download.name: f"sha256:{download.sha256}"},
                urls={download.name: url},
                retry_if_failed=1,
            )
            return Path(keeper.fetch(download.name, progressbar=progress))
        except (OSError, ValueError) as error:  # ValueError: another checksum
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            failures.append(f"{url}: {reason if len(reason) <= 120 else reason[:117] + '...'}")
    raise FileFormatError(
        f"{download.name} must come from one of its servers", got="; ".join(failures), where=folder
    )
