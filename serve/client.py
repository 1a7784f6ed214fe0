"""A small typed client of the API, over httpx: what `longvie client` uses, and programs may."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from pipelines.errors import UserError
from serve.schemas import Video

FILES = ("first_frame", "source", "dense", "sparse")
_TIMEOUT = 60.0
_RETRY_SECONDS = 1.0  # between attempts at a stream that broke
_BLOCK = 1 << 18


class ServeError(RuntimeError):
    """The server refused, failed, or cannot be reached; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One server-sent event."""

    number: int
    kind: str
    data: dict[str, Any]


class Client:
    """Asks a `longvie serve` for videos.

    Args:
        url: as in http://127.0.0.1:8000.
        token: where the server wants one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT)
        except (httpx.InvalidURL, ValueError) as error:
            raise UserError(f"--url {url} is not a URL, as in http://127.0.0.1:8000") from error

    def submit(
        self, files: Mapping[str, str | Path], fields: Mapping[str, Any], idempotency_key: str | None = None
    ) -> Video:
        """Ask for a video. `files`: local paths by first_frame, source, dense, sparse; `fields`: all else."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        said = {
            name: json.dumps(value) if isinstance(value, (list, dict)) else str(value)
            for name, value in fields.items()
            if value is not None
        }
        with ExitStack() as opened:
            parts: dict[str, Any] = {name: (None, value) for name, value in said.items()}
            for name, path in files.items():
                if name not in FILES:
                    raise UserError(f"{name} is no file of a request; known are {', '.join(FILES)}")
                try:
                    parts[name] = (Path(path).name, opened.enter_context(Path(path).open("rb")))
                except OSError as error:
                    raise UserError(f"--{name.replace('_', '-')} {path} cannot be read ({error.strerror})") from error
            return self._video("POST", "/v1/videos", files=parts, headers=headers)

    def extend(self, video_id: str, prompt: str | None = None, seconds: float | None = None) -> Video:
        """Ask for a video that goes on where a finished one ends."""
        body = {"video": {"id": video_id}, "prompt": prompt, "seconds": seconds}
        return self._video("POST", "/v1/videos/extensions", json=body)

    def get(self, video_id: str) -> Video:
        return self._video("GET", f"/v1/videos/{video_id}")

    def cancel(self, video_id: str) -> Video:
        return self._video("POST", f"/v1/videos/{video_id}/cancel")

    def delete(self, video_id: str) -> None:
        self._ask("DELETE", f"/v1/videos/{video_id}")

    def watch(self, video_id: str) -> Iterator[Event]:
        """Events as they come, until the video ends; a broken connection is taken up where it broke."""
        last = -1
        failures = 0
        while True:
            try:
                headers = {"Last-Event-ID": str(last)} if last >= 0 else {}
                with self._http.stream("GET", f"/v1/videos/{video_id}/events", headers=headers) as answer:
                    self._check(answer)
                    for event in _events(answer.iter_lines(), last):
                        last, failures = event.number, 0
                        yield event
                        if event.kind == "deleted" or event.data.get("status") in ("completed", "failed"):
                            return
            except httpx.TransportError as error:
                failures += 1
                if failures > _TIMEOUT / _RETRY_SECONDS:
                    raise ServeError(f"{self._http.base_url} cannot be reached ({type(error).__name__})") from error
            time.sleep(_RETRY_SECONDS)

    def download(self, video_id: str, path: str | Path, variant: str = "video") -> int:
        """Write a video's file; bytes written. The name appears when the file is whole."""
        target = Path(path)
        partial = target.with_name(f".{target.name}.part")
        try:
            with (
                self._http.stream("GET", f"/v1/videos/{video_id}/content", params={"variant": variant}) as answer,
                partial.open("wb") as file,
            ):
                self._check(answer)
                for block in answer.iter_bytes(_BLOCK):
                    file.write(block)
            partial.replace(target)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            partial.unlink(missing_ok=True)
        return target.stat().st_size

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _video(self, method: str, path: str, **what: Any) -> Video:
        return Video.model_validate(self._ask(method, path, **what))

    def _ask(self, method: str, path: str, **what: Any) -> Any:
        try:
            answer = self._http.request(method, path, **what)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        self._check(answer)
        return answer.json()

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        answer.read()
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.reason_phrase
        raise ServeError(f"the server answers {answer.status_code}: {message}")

    def _unreachable(self, error: httpx.TransportError) -> ServeError:
        return ServeError(f"{self._http.base_url} cannot be reached ({type(error).__name__})")


def _events(lines: Iterator[str], last: int) -> Iterator[Event]:
    """Server-sent events from their lines (WHATWG HTML, 9.2.6), as far as the server uses them."""
    number, kind, data = last, "", ""
    for line in lines:
        if not line:
            if kind:
                yield Event(number=number, kind=kind, data=json.loads(data))
            kind, data = "", ""
        elif line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            data += line[6:]
