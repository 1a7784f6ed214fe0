"""Bytes under names, written whole or not at all: a local folder, an object store, or this process's memory.

It knows nothing of videos; the protocol that makes a segment exist is in commits.py. Names are relative, with
forward slashes; `..` and absolute names are refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import fsspec

from pipelines.errors import UserError, first_line, storage_errors

OUTPUT_SCHEMES = ("file", "memory", "s3", "gs", "az", "abfs")
INPUT_SCHEMES = (*OUTPUT_SCHEMES, "http", "https")
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class Storage(Protocol):
    """What lies under one URI. A reader sees the whole of a file or none of it, whenever a writer dies."""

    uri: str

    def read(self, name: str) -> bytes:
        """The content; `FileNotFoundError` if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None: ...

    def put(self, name: str, source: Path) -> None:
        """Write the content of a local file, without holding it in memory."""
        ...

    def get(self, name: str, target: Path) -> None:
        """Copy to a local file, without holding it in memory."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to be read from its start, piece by piece; `FileNotFoundError` if there is none."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes, or None if there is no such file."""
        ...

    def list(self, folder: str) -> list[str]:
        """The finished files directly in a folder, sorted; empty if there is no such folder."""
        ...

    def walk(self, folder: str) -> dict[str, int]:
        """All files in and below a folder with their bytes, by name; temporaries of dead writers, too."""
        ...

    def temporaries(self) -> list[str]:
        """What dead writers left directly in the storage, beside finished files."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        ...

    def delete_empty_folders(self, folder: str) -> None:
        """Delete the folders in and below one that hold no file; object stores have none."""
        ...


def scheme_of(uri: str) -> str:
    """`s3` of `s3://bucket/key`; `file` of a plain path."""
    return uri.split("://", 1)[0].lower() if "://" in uri else "file"


def check_uri(uri: str, what: str, schemes: tuple[str, ...] = INPUT_SCHEMES) -> str:
    """Return the URI, or raise `UserError`: chained fsspec URIs and unknown schemes are refused."""
    if not uri or "\0" in uri or "::" in uri:
        raise UserError(f"{what} {uri!r} is not a path or URI; give one of {_said(schemes)}")
    if scheme_of(uri) not in schemes:
        raise UserError(f"{what} {uri}: unknown scheme {scheme_of(uri)}://; give one of {_said(schemes)}")
    return uri


def check_video_id(video_id: str, what: str = "video_id") -> str:
    """Return the id, or raise `UserError`: it becomes a folder's name, so it can lead nowhere else."""
    if not isinstance(video_id, str) or not _VIDEO_ID.fullmatch(video_id):
        raise UserError(
            f"{what} {video_id!r} is not valid; use 1 to 128 letters, digits, '.', '_' or '-', not starting with '.'"
        )
    return video_id


def local_path_of(uri: str) -> Path:
    """The path a `file://` URI or a plain path means."""
    return Path(unquote(urlsplit(uri).path)) if uri.lower().startswith("file://") else Path(uri).expanduser()


def open_storage(uri: str) -> Storage:
    """Storage for a URI; creates and checks nothing yet. An unknown scheme or a missing client raise `UserError`."""
    check_uri(uri, "output", OUTPUT_SCHEMES)
    if scheme_of(uri) == "file":
        return LocalStorage(local_path_of(uri).absolute())
    return ObjectStorage(uri)


def check_writable(uri: str) -> None:
    """Raise `UserError` where it is plain, before anything is written, that nothing can be."""
    storage = open_storage(uri)
    if isinstance(storage, LocalStorage):
        nearest = next(p for p in (storage.root, *storage.root.parents) if p.exists())
        if not nearest.is_dir():
            raise UserError(f"--out {uri} cannot be written: {nearest} is not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"--out {uri} cannot be written: no permission in {nearest}; choose another folder")
        return
    try:
        storage.list("")
    except storage_errors() as error:
        raise UserError(
            f"--out {uri} cannot be reached ({first_line(error)}); check its name and credentials"
        ) from error


class LocalStorage:
    """A folder. A file is written under a temporary name, synced, renamed, and the folder synced. What a writer that
    died has left of a file goes when the next process writes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)
        self._left: dict[Path, dict[str, list[Path]]] = {}

    def read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        temporary = self._temporary(name)
        try:
            with temporary.open("wb") as file:
                self._fill(file, data)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._publish(temporary, self._path(name))

    def put(self, name: str, source: Path) -> None:
        temporary = self._temporary(name)
        try:
            with source.open("rb") as reader, temporary.open("wb") as file:
                while block := reader.read(1 << 20):
                    self._fill(file, block)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._publish(temporary, self._path(name))

    def get(self, name: str, target: Path) -> None:
        with self._path(name).open("rb") as reader, target.open("wb") as file:
            while block := reader.read(1 << 20):
                file.write(block)

    def open(self, name: str) -> BinaryIO:
        return self._path(name).open("rb")

    def size(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return None

    def list(self, folder: str) -> list[str]:
        try:
            entries = list(self._path(folder).iterdir())
        except FileNotFoundError:
            return []
        return sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))

    def walk(self, folder: str) -> dict[str, int]:
        found = {}
        for directory, _, files in os.walk(self._path(folder)):
            for name in files:
                path = Path(directory) / name
                with contextlib.suppress(FileNotFoundError):  # a temporary that got its name in between
                    found[str(path.relative_to(self.root))] = path.stat().st_size
        return found

    def temporaries(self) -> list[str]:
        return sorted(path.name for path in self.root.glob(".*.tmp"))

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def delete_empty_folders(self, folder: str) -> None:
        for directory, _, _ in os.walk(self._path(folder), topdown=False):
            with contextlib.suppress(OSError):  # it holds something
                Path(directory).rmdir()

    def _path(self, name: str) -> Path:
        return self.root / _checked(name)

    def _temporary(self, name: str) -> Path:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in self._left_in(path.parent).pop(path.name, []):  # one writer at a time has a name
            stale.unlink(missing_ok=True)
        return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")

    def _left_in(self, folder: Path) -> dict[str, list[Path]]:
        """Temporaries of writers that died, by the name that they were to get; looked for once, as folders hold many
        files."""
        if folder not in self._left:
            found: dict[str, list[Path]] = {}
            for path in folder.glob(".*.tmp"):
                found.setdefault(path.name[1:].rsplit(".", 2)[0], []).append(path)
            self._left[folder] = found
        return self._left[folder]

    def _fill(self, file: Any, data: bytes) -> None:
        file.write(data)

    def _publish(self, temporary: Path, path: Path) -> None:
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the name, too, survives a power cut
        finally:
            os.close(folder)


class ObjectStorage:
    """An object store through fsspec, or memory. One PUT makes one object: there is no half of it to be seen."""

    def __init__(self, uri: str) -> None:
        try:
            self._fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(f"{uri}: {first_line(error)}") from error
        self.uri = uri.rstrip("/")
        self._root = path.rstrip("/")

    def read(self, name: str) -> bytes:
        return self._fs.cat_file(self._path(name))

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(self._path(name), data)

    def put(self, name: str, source: Path) -> None:
        self._fs.put_file(str(source), self._path(name))

    def get(self, name: str, target: Path) -> None:
        self._fs.get_file(self._path(name), str(target))

    def open(self, name: str) -> BinaryIO:
        return self._fs.open(self._path(name), "rb")

    def size(self, name: str) -> int | None:
        try:
            return self._fs.info(self._path(name))["size"]
        except FileNotFoundError:
            return None

    def list(self, folder: str) -> list[str]:
        try:
            entries = self._fs.ls(self._path(folder) if folder else self._root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "file")

    def walk(self, folder: str) -> dict[str, int]:
        try:
            found = self._fs.find(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        root = self._root.lstrip("/")
        return {name.lstrip("/").removeprefix(root).lstrip("/"): info["size"] for name, info in found.items()}

    def temporaries(self) -> list[str]:
        return []

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def delete_empty_folders(self, folder: str) -> None:
        pass

    def _path(self, name: str) -> str:
        return f"{self._root}/{_checked(name)}"


def _checked(name: str) -> str:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"{name!r} leads out of its storage")
    return name


def _said(schemes: tuple[str, ...]) -> str:
    return "a plain path, " + ", ".join(f"{scheme}://" for scheme in schemes)
