"""HTTP with a server that is not trusted: bounded in time and size, and it cannot send us elsewhere."""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass

import httpx

from pipelines.errors import UserError, first_line

MAX_RESPONSE_BYTES = 1 << 20
_SAID = 200  # characters of a server's own words that an error shows


class TooLargeError(RuntimeError):
    """An answer of more than `MAX_RESPONSE_BYTES`."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    body: bytes
    headers: httpx.Headers

    @property
    def said(self) -> str:
        """The beginning of the body as one short line."""
        return short(self.body[: 8 * _SAID].decode(errors="replace"))

    @property
    def retry_after(self) -> float | None:
        """Seconds that Retry-After asks for: a number, or a date (RFC 9110 §10.2.3); None if it says neither."""
        value = self.headers.get("Retry-After", "").strip()
        if value.isascii() and value.isdigit():
            return float(value)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None


def client(timeout: float, token: str | None) -> httpx.Client:
    """A client that follows no redirect and takes no compressed answer, whose size could not be bounded."""
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return httpx.Client(timeout=timeout, headers=headers, follow_redirects=False)


def exchange(opened: httpx.Client, request: httpx.Request, seconds: float) -> Answer:
    """One request. However slowly the answer drips, `httpx.ReadTimeout` ends it; `TooLargeError` if it is too long."""
    deadline = time.monotonic() + seconds
    response = opened.send(request, stream=True)
    try:
        body = bytearray()
        for block in response.iter_raw():
            body += block
            if len(body) > MAX_RESPONSE_BYTES:
                raise TooLargeError(f"the answer has more than {MAX_RESPONSE_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout(f"no whole answer within {seconds:g} s", request=request)
    finally:
        response.close()
    return Answer(status=response.status_code, body=bytes(body), headers=response.headers)


def check_base_url(url: str, flag: str, key_variable: str) -> None:
    """Raise `UserError` unless `url` is the plain http(s) URL of an API; `key_variable` is where a secret belongs."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise UserError(f"{flag} {url!r} is not a URL ({first_line(error)})") from error
    if parsed.userinfo:
        raise UserError(f"{flag}: no password in the URL, it would be logged; set {key_variable}")
    if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < (parsed.port or 80) < 1 << 16:
        raise UserError(f"{flag} {url}: give an http:// or https:// URL, such as http://localhost:8000/v1")
    if parsed.query or parsed.fragment:
        raise UserError(f"{flag} {url}: give the API's base URL, without ? or #")


def one_line(text: str) -> str:
    """The words with single spaces between them, without control characters."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in text).split())


def short(text: str) -> str:
    """The beginning of a text as one line."""
    line = one_line(text[: 8 * _SAID])
    return line if len(line) <= _SAID else f"{line[:_SAID]}..."


def reason(error: Exception) -> str:
    """What went wrong on the way, in a few words."""
    return short(f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__)
