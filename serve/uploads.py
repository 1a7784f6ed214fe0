"""Files that come with a request: from multipart parts, data URIs or allowed URLs into a local folder, then probed.

A name that a client gives is never a path: files lie under names of ours. URLs are refused unless the operator allows
their beginning, and redirects are not followed, so that nobody reads through this server what only it can reach.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx

from serve.errors import ApiError, invalid
from serve.probe import Probed, Prober
from serve.settings import Limits

SAMPLE = Path(__file__).parents[1] / "examples" / "big_buck_bunny.mp4"
KINDS = {"first_frame": "image", "dense": "video", "sparse": "video", "source": "video", "clip": "video"}
_FIELDS = {"clip": "video"}  # what a request calls a file, where that is another name
_FETCH_SECONDS = 60.0
_SMALL_BYTES = 1 << 20  # of a file that is held in memory
_RECORDED_BYTES = 1 << 18  # of one that is recorded in the database, with the job it came with


class NotAtOnce(RuntimeError):
    """It takes a while."""


class Uploads:
    """The files of one request, by field. A context, at whose end they are gone.

    A small file is held in memory, and comes to lie in a folder, too, when its path is asked for.

    Args:
        at_once: what takes a while (disks, other processes and hosts) raises `NotAtOnce`.
    """

    def __init__(self, prober: Prober, limits: Limits, url_prefixes: tuple[str, ...], *, at_once: bool = False) -> None:
        self._prober, self._limits, self._url_prefixes = prober, limits, url_prefixes
        self._at_once = at_once
        self._small: dict[str, bytes] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.probed: dict[str, Probed] = {}
        self.sha256: dict[str, str] = {}

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def path(self, name: str) -> Path:
        """Where a file lies, or may be put."""
        if self._at_once:
            raise NotAtOnce
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="longvie-upload-")
        path = Path(self._folder.name, name)
        if name in self._small and not path.exists():
            path.write_bytes(self._small[name])
        return path

    def recorded(self, name: str) -> bytes | None:
        """The content of a file that is small enough to be recorded with the job."""
        content = self._small.get(name)
        return content if content is not None and len(content) <= _RECORDED_BYTES else None

    def add_file(self, name: str, param: str, file: BinaryIO) -> None:
        """A part of a multipart body."""
        self._once(name, param)
        file.seek(0)
        start = file.read(_SMALL_BYTES + 1)
        if len(start) <= _SMALL_BYTES:
            self._small[name] = start
            return
        with self.path(name).open("wb") as target:
            target.write(start)
            shutil.copyfileobj(file, target, 1 << 20)

    def add_reference(self, name: str, param: str, value: str) -> None:
        """A data URI, an allowed URL, or the sample."""
        self._once(name, param)
        if self._at_once and not (value.startswith("data:") and len(value) <= _SMALL_BYTES):
            raise NotAtOnce
        if value == "sample" and name == "source":
            if not SAMPLE.is_file():
                raise invalid(param, f"{param}: this installation has no sample; upload a video")
            shutil.copy(SAMPLE, self.path(name))
        elif value.startswith("data:"):
            self._small[name] = _data(param, value)
        else:
            self._fetch(name, param, value)

    def probe(self) -> None:
        """Look into every file; 422 naming the field of the first that cannot be used."""
        for name, kind in KINDS.items():
            if self._has(name):
                param = _FIELDS.get(name, name)
                if not self._size(name):
                    raise invalid(param, f"{param} is empty", "unreadable_media")
                self.sha256[name] = self._digest(name)
                self.probed[name] = self._prober.probe(param, kind, partial(self.path, name), self.sha256[name])

    def _has(self, name: str) -> bool:
        return name in self._small or (self._folder is not None and self.path(name).exists())

    def _size(self, name: str) -> int:
        return len(self._small[name]) if name in self._small else self.path(name).stat().st_size

    def _digest(self, name: str) -> str:
        if name in self._small:
            return hashlib.sha256(self._small[name]).hexdigest()
        with self.path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _once(self, name: str, param: str) -> None:
        if self._has(name):
            raise invalid(param, f"{param} is given twice")

    def _fetch(self, name: str, param: str, url: str) -> None:
        if not _allowed(url, self._url_prefixes):
            raise invalid(
                param, f"{param}: this server takes no such URL or path; upload the file, or a data: URI", "url_refused"
            )
        try:
            with (
                httpx.stream("GET", url, follow_redirects=False, timeout=_FETCH_SECONDS) as answer,
                self.path(name).open("wb") as target,
            ):
                if answer.status_code != 200:
                    raise invalid(param, f"{param}: the URL answers with {answer.status_code}", "url_failed")
                size = 0
                for block in answer.iter_bytes(1 << 20):
                    size += len(block)
                    if size > self._limits.body_bytes:
                        raise ApiError(
                            413, "too_large", f"{param} has more than {self._limits.body_bytes} bytes", param
                        )
                    target.write(block)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise invalid(
                param, f"{param}: the URL cannot be fetched ({type(error).__name__})", "url_failed"
            ) from error


def reference_of(param: str, value: Any) -> str | None:
    """The text of a reference, which OpenAI's clients may wrap as `{"image_url": ...}`."""
    if isinstance(value, dict):
        value = value.get("image_url")
        if not isinstance(value, str):
            raise invalid(param, f"{param}: give a data: URI, or an object with image_url; there are no stored files")
    return value


def _allowed(url: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a URL begins as the operator allows, host and path compared as they will be used."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None or "\\" in url or any(c <= " " for c in url):
        return False
    if "/../" in f"{parts.path}/" or "%2e" in parts.path.lower():
        return False
    for prefix in map(urlsplit, prefixes):
        same = (parts.scheme, parts.hostname, port) == (prefix.scheme, prefix.hostname, prefix.port)
        if same and parts.path.startswith(prefix.path):
            return True
    return False


def _data(param: str, uri: str) -> bytes:
    head, comma, content = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise invalid(param, f"{param}: a data: URI needs ;base64, and the content after it")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(param, f"{param}: the data: URI is not base64") from error
