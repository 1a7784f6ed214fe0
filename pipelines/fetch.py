"""Inputs as local files: where decoders can read them, and whether they are still what they were when planned.

A file of another place is fetched into a temporary folder that holds one at a time, so that a worker's disk stays as
small as its largest input.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from longvie.media import VideoError
from pipelines.errors import first_line, storage_errors
from pipelines.hashes import fingerprint
from pipelines.storage import local_path_of, scheme_of

_BLOCK = 1 << 20
# What says that a remote file has changed; object stores and HTTP servers give one of them.
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "last_modified", "LastModified", "updated")


def stamp_of(uri: str) -> str | None:
    """Changes when the file or folder does, without reading it; None if there is none to be reached."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        info = filesystem.info(path)
        if info["type"] != "directory":
            return _stamp(info)
        return fingerprint([[_relative(name, path), _stamp(found)] for name, found in _listed(filesystem, path)])
    except (*storage_errors(), ImportError, ValueError):
        return None  # the stage that opens it says why


def hash_of(uri: str) -> tuple[str, int]:
    """SHA-256 over the content of a file, or over names and contents in a folder, and the bytes; whatever its place.

    Raises `VideoError` if it cannot be read.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        if not filesystem.isdir(path):
            return _hash(filesystem, path)
        hashed = [(_relative(name, path), *_hash(filesystem, name)) for name, _ in _listed(filesystem, path)]
        return fingerprint([[name, digest] for name, digest, _ in hashed]), sum(size for *_, size in hashed)
    except FileNotFoundError as error:
        raise VideoError(f"{uri} does not exist") from error
    except (*storage_errors(), ImportError, ValueError) as error:
        raise VideoError(f"{uri} cannot be read ({type(error).__name__}: {first_line(error)})") from error


class LocalCopies:
    """Local paths of inputs; of those that lie elsewhere, the last one is kept."""

    def __init__(self) -> None:
        self._uri: str | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._path = ""

    @contextmanager
    def opened(self, uri: str, stamp: str | None) -> Iterator[str]:
        """A local file (or folder) with the content of `uri`; errors that name it say the URI.

        Raises `VideoError` if it changed since it had this stamp.
        """
        path = self._local(uri, stamp)
        try:
            yield path
        except VideoError as error:
            if path == uri or path not in str(error):
                raise
            raise VideoError(str(error).replace(path, uri)) from error.__cause__

    def _local(self, uri: str, stamp: str | None) -> str:
        if stamp_of(uri) != stamp:
            raise VideoError(f"{uri} has changed while it was prepared; run the same command again")
        if scheme_of(uri) == "file":
            return str(local_path_of(uri))
        if uri != self._uri:
            self.close()
            self._folder = tempfile.TemporaryDirectory(prefix="longvie-input-")
            self._path = str(Path(self._folder.name) / PurePosixPath(uri).name)
            try:
                filesystem, path = fsspec.core.url_to_fs(uri)
                filesystem.get(path, self._path, recursive=filesystem.isdir(path))
            except (*storage_errors(), ImportError, ValueError) as error:
                raise VideoError(f"{uri} cannot be read ({type(error).__name__}: {first_line(error)})") from error
            self._uri = uri
        return self._path

    def close(self) -> None:
        """Forget the copy."""
        self._uri = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _stamp(info: dict[str, Any]) -> str:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return f"{info.get('size')}-{version}"


def _listed(filesystem: Any, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from sorted(filesystem.find(folder, detail=True).items())


def _relative(name: str, folder: str) -> str:
    return name.removeprefix(folder).lstrip("/")


def _hash(filesystem: Any, path: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with filesystem.open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size
