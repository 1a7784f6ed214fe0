"""Files that come with a request: from multipart parts, data URIs or allowed URLs into a local folder, then probed.

A name that a client gives is never a path: files lie under names of ours. URLs are refused unless the operator allows
their beginning, and redirects are not followed, so that nobody reads through this server what only it can reach.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import shutil
from dataclasses import dataclass, field
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


@dataclass
class Uploads:
    """The files of one request, by field; in a folder that the caller removes."""

    folder: Path
    prober: Prober
    limits: Limits
    url_prefixes: tuple[str, ...]
    probed: dict[str, Probed] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.folder / name

    def add_file(self, name: str, param: str, file: BinaryIO) -> None:
        """A part of a multipart body."""
        self._once(name, param)
        with self.path(name).open("wb") as target:
            shutil.copyfileobj(file, target, 1 << 20)

    def add_reference(self, name: str, param: str, value: str) -> None:
        """A data URI, an allowed URL, or the sample."""
        self._once(name, param)
        if value == "sample" and name == "source":
            if not SAMPLE.is_file():
                raise invalid(param, f"{param}: this installation has no sample; upload a video")
            shutil.copy(SAMPLE, self.path(name))
        elif value.startswith("data:"):
            self.path(name).write_bytes(_data(param, value))
        else:
            self._fetch(name, param, value)

    def probe(self) -> None:
        """Look into every file; 422 naming the field of the first that cannot be used."""
        for name, kind in KINDS.items():
            if self.path(name).exists():
                with self.path(name).open("rb") as file:
                    self.sha256[name] = hashlib.file_digest(file, "sha256").hexdigest()
                param = _FIELDS.get(name, name)
                if not self.path(name).stat().st_size:
                    raise invalid(param, f"{param} is empty", "unreadable_media")
                self.probed[name] = self.prober.probe(param, kind, self.path(name), self.sha256[name])

    def _once(self, name: str, param: str) -> None:
        if self.path(name).exists():
            raise invalid(param, f"{param} is given twice")

    def _fetch(self, name: str, param: str, url: str) -> None:
        if not _allowed(url, self.url_prefixes):
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
                    if size > self.limits.body_bytes:
                        raise ApiError(413, "too_large", f"{param} has more than {self.limits.body_bytes} bytes", param)
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
