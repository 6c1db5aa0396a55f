from __future__ import annotations

import gzip
import http.server
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from small_data import NOWHERE, published

from bitwright.data import DataFolderWarning, cache_folder, load, locate, names
from bitwright.data.catalog import Location
from bitwright.data.folders import Collection
from bitwright.data.mnist import load_mnist
from bitwright.errors import FileFormatError, InvalidValueError, MissingExtraError

Small = tuple[Collection, dict[str, bytes]]


def write(small: Small, folder: Path, prefix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in small[1].items():
        if name.startswith(prefix):
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server on this machine: its address, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(Quiet):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", folder
        running.shutdown()
        thread.join()


def served_by(small: Small, *servers: str) -> Collection:
    """The collection with gzip downloads from these servers."""
    collection, contents = small

    def with_download(name: str) -> object:
        packed = gzip.compress(contents[name], mtime=0)
        urls = tuple(f"{url}{name}.gz" for url in servers)
        return published(name, contents[name], urls=urls, served=(f"{name}.gz", packed))

    return replace(
        collection,
        train=tuple(with_download(file.name) for file in collection.train),
        test=tuple(with_download(file.name) for file in collection.test),
    )


def test_the_names() -> None:
    assert names() == ("digits", "mnist", "cifar10", "svhn", "imagenet")


def test_an_unknown_name_lists_the_nearest_first() -> None:
    with pytest.raises(InvalidValueError, match=r"'cifr10': the valid ones are cifar10, .*mnist"):
        load("cifr10")
    with pytest.raises(InvalidValueError, match="did you mean 'mnist'"):
        locate("mnst")


@pytest.mark.parametrize("name", names())
def test_an_unknown_split_is_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"unknown split 'tset'.*did you mean 'test'"):
        load(name, "tset")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mnist", ("train-images-idx3-ubyte, train-labels-idx1-ubyte (plain, .gz or .xz)",)),
        ("cifar10", ("data_batch_5.bin (plain, .gz or .xz)", "cifar-10-binary.tar.gz")),
    ],
)
def test_missing_files_are_named_with_places_and_remedies(
    name: str, wanted: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(FileFormatError) as caught:
        load(name, root=tmp_path, download=False)
    message = str(caught.value)
    remedies = ("set BITWRIGHT_DATA to a folder", "connect to the network and allow the download")
    for part in (*wanted, str(tmp_path), str(cache_folder()), "lacks them", *remedies):
        assert part in message


def test_a_named_folder_that_is_none_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITWRIGHT_DATA", "/no/such/folder")
    with pytest.raises(FileFormatError, match="BITWRIGHT_DATA=/no/such/folder is no folder"):
        load("mnist", download=False)


def test_the_variable_names_the_folder_and_the_argument_wins(
    small_mnist: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = small_mnist[0]
    write(small_mnist, tmp_path / "named" / "mnist")
    monkeypatch.setenv("BITWRIGHT_DATA", str(tmp_path / "named"))
    data = load_mnist("train", root=None, download=False, collection=collection)
    assert len(data) == 12
    monkeypatch.setenv("BITWRIGHT_DATA", str(tmp_path / "nothing"))
    root = tmp_path / "named"
    assert len(load_mnist("train", root=root, download=False, collection=collection)) == 12


def test_the_cache_serves_what_the_named_folder_lacks(small_mnist: Small, tmp_path: Path) -> None:
    collection = small_mnist[0]
    write(small_mnist, cache_folder() / "mnist")
    assert len(load_mnist("test", root=None, download=False, collection=collection)) == 4
    write(small_mnist, tmp_path, prefix="t10k-images")
    with pytest.warns(DataFolderWarning, match="root=.* has no t10k-labels-idx1-ubyte of mnist"):
        load_mnist("test", root=tmp_path, download=False, collection=collection)


def test_a_wrong_file_in_the_named_folder_is_an_error_though_the_cache_is_right(
    small_mnist: Small, tmp_path: Path
) -> None:
    write(small_mnist, cache_folder() / "mnist")
    write(small_mnist, tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1\0\0\0\4abcd")
    with pytest.raises(FileFormatError, match="published SHA-256"):
        load_mnist("test", root=tmp_path, download=False, collection=small_mnist[0])


def test_a_download_goes_to_the_cache_once(small_mnist: Small, server: tuple[str, Path]) -> None:
    pytest.importorskip("pooch")
    url, folder = server
    collection = served_by(small_mnist, NOWHERE, url)  # the first server is down
    for name, data in small_mnist[1].items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
    assert len(load_mnist("test", root=None, download=True, collection=collection)) == 4
    cached = sorted(path.name for path in (cache_folder() / "mnist").iterdir())
    assert cached == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    for path in folder.iterdir():
        path.unlink()
    assert len(load_mnist("test", root=None, download=True, collection=collection)) == 4


def test_a_named_folder_without_the_files_is_said_before_the_download(
    small_mnist: Small, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pooch")
    url, folder = server
    for name, data in small_mnist[1].items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
    monkeypatch.setenv("BITWRIGHT_DATA", str(tmp_path))
    with pytest.warns(DataFolderWarning, match=f"BITWRIGHT_DATA={tmp_path} has no t10k-images"):
        load_mnist("test", root=None, download=True, collection=served_by(small_mnist, url))


def test_a_download_that_is_not_the_published_file_is_refused(
    small_mnist: Small, server: tuple[str, Path]
) -> None:
    pytest.importorskip("pooch")
    url, folder = server
    for name in small_mnist[1]:
        (folder / f"{name}.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(FileFormatError, match=r"the download failed: t10k-images.*hash"):
        load_mnist("test", root=None, download=True, collection=served_by(small_mnist, url))
    assert not list(cache_folder().rglob("*.gz"))


def test_offline_names_the_files_and_the_remedies(small_mnist: Small) -> None:
    pytest.importorskip("pooch")
    collection = served_by(small_mnist, NOWHERE)
    with pytest.raises(FileFormatError) as caught:
        load_mnist("train", root=None, download=True, collection=collection)
    message = str(caught.value)
    for part in ("train-labels-idx1-ubyte", "the download failed", NOWHERE, "BITWRIGHT_DATA"):
        assert part in message


def test_without_pooch_the_extra_is_named(small_mnist: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r'pip install "bitwright\[data\]".*BITWRIGHT_DATA'):
        load_mnist("train", root=None, download=True, collection=small_mnist[0])


def test_locate_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    for name in ("train-images.idx3-ubyte", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / "mnist" / name).write_bytes(b"not MNIST at all")
    location = locate("mnist", root=tmp_path)
    assert dict(location.found) == {
        "train-images-idx3-ubyte": tmp_path / "mnist" / "train-images.idx3-ubyte",
        "train-labels-idx1-ubyte": None,
        "t10k-images-idx3-ubyte": None,
        "t10k-labels-idx1-ubyte": tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz",
    }
    assert location.folders == (tmp_path, cache_folder())
    assert not location.complete
    assert "BITWRIGHT_DATA" in location.remedy


def test_locate_finds_the_archive(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    location = locate("cifar10", root=tmp_path)
    assert set(location.found.values()) == {tmp_path / "cifar-10-binary.tar.gz"}
    assert len(location.found) == 6
    assert location.complete


def test_locate_digits_asks_for_scikit_learn() -> None:
    location = locate("digits")
    assert isinstance(location, Location)
    assert list(location.found) == ["scikit-learn"]


def test_a_relative_cache_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_folder().is_absolute()
    assert os.environ["XDG_CACHE_HOME"] not in cache_folder().parts
