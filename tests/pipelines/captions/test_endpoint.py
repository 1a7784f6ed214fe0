"""Captions over HTTP, against a real server in this process that answers well and badly."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.captions.bounded_http import MAX_RESPONSE_BYTES
from pipelines.captions.captioners import Captioner, CaptionError
from pipelines.captions.endpoint import API_KEY_VARIABLE, MAX_SIDE, NUM_FRAMES, CaptionEndpoint
from pipelines.errors import UserError

GREYS = np.repeat(np.arange(81, dtype=np.uint8)[:, None, None, None] * 3, 3, axis=3) * np.ones((1, 36, 64, 1), np.uint8)
Reply = Callable[[BaseHTTPRequestHandler], None]


def says(status: int, body: bytes | str = b"", **headers: str) -> Reply:
    data = body if isinstance(body, bytes) else body.encode()

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return reply


def caption(text: Any, finish: str = "stop") -> Reply:
    return says(200, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]}))


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def hung(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.8)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')


@dataclass
class Server:
    """Answers the next of `replies` to each request (the last for ever) and keeps what it was sent."""

    replies: list[Reply] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        content = json.loads(body) if body else None
        self.requests.append((handler.command, handler.path, dict(handler.headers), content))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has had enough, as it should
            reply(handler)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.answer(self)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state.port = httpd.server_address[1]
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield state
    httpd.shutdown()
    httpd.server_close()


class Waits(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def endpoint(server: Server, **settings: Any) -> CaptionEndpoint:
    return CaptionEndpoint(url=server.url, model="qwen", **{"sleep": Waits(), "timeout": 5.0, **settings})


def images_of(request: tuple[str, str, dict[str, str], Any]) -> list[np.ndarray]:
    """The images of a request, decoded."""
    images = []
    for part in request[3]["messages"][0]["content"]:
        if part["type"] == "image_url":
            head, data = part["image_url"]["url"].split(",", 1)
            assert head == "data:image/jpeg;base64"
            image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            images.append(image[..., ::-1])
    return images


def test_what_is_asked_and_what_comes_back(server: Server) -> None:
    server.replies = [caption("  A hare\nwalks\tby.\x00 ")]
    ask: Captioner = endpoint(server, seed=7, max_tokens=50, instruction="Describe.")
    assert ask(GREYS, 0, "v") == "A hare walks by."
    ((method, path, headers, body),) = server.requests
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert "Authorization" not in headers
    assert {key: body[key] for key in ("model", "temperature", "seed", "max_tokens")} == {
        "model": "qwen",
        "temperature": 0,
        "seed": 7,
        "max_tokens": 50,
    }
    assert body["messages"][0]["content"][-1] == {"type": "text", "text": "Describe."}
    shown = [image.mean() for image in images_of(server.requests[0])]
    assert len(shown) == NUM_FRAMES
    assert shown == pytest.approx(np.linspace(0, 80, NUM_FRAMES) * 3, abs=1.5)  # evenly, first and last included


def test_colours_and_size_of_what_is_shown(server: Server) -> None:
    server.replies = [caption("x")]
    large = np.zeros((2, 400, 1600, 3), np.uint8)
    large[..., 0] = 200  # red
    endpoint(server)(large, 0, "v")
    images = images_of(server.requests[0])
    assert [image.shape for image in images] == [(MAX_SIDE // 4, MAX_SIDE, 3)] * 2  # two frames are shown once each
    assert np.abs(images[0].reshape(-1, 3).mean(0) - (200, 0, 0)).max() < 4


def test_the_rewrite_compares_the_edited_frame_with_the_original(server: Server) -> None:
    server.replies = [caption("A {white} hare in snow.")]
    rewritten = endpoint(server).rewrite("A {grey} hare on grass.", GREYS[5], GREYS[60][:18])
    assert rewritten == "A {white} hare in snow."
    shown = images_of(server.requests[0])
    assert [image.mean() for image in shown] == pytest.approx([15, 180], abs=1.5)
    assert "A {grey} hare on grass." in server.requests[0][3]["messages"][0]["content"][-1]["text"]


def test_busy_and_broken_servers_are_asked_again(server: Server) -> None:
    server.replies = [says(429, Retry_After="3"), says(500, "boom"), says(503), cut_off, caption("at last")]
    ask = endpoint(server)
    assert ask(GREYS, 0, "v") == "at last"
    assert len(server.requests) == 5
    waits = ask.sleep
    assert isinstance(waits, Waits)
    assert waits[0] == 3.0  # as asked
    assert all(2**i / 2 <= wait <= 2**i for i, wait in enumerate(waits) if i)  # doubling, spread


def test_retry_after_may_be_a_date(server: Server) -> None:
    server.replies = [says(429, Retry_After=email.utils.formatdate(time.time() + 20, usegmt=True)), caption("x")]
    ask = endpoint(server)
    ask(GREYS, 0, "v")
    assert isinstance(ask.sleep, Waits)
    assert 17 <= ask.sleep[0] <= 21


@pytest.mark.parametrize("value", ["soon", "-1", "9" * 400, "Wed, 99 Foo 2026"])
def test_a_retry_after_that_is_none(server: Server, value: str) -> None:
    server.replies = [says(429, Retry_After=value), caption("x")]
    ask = endpoint(server)
    if value.startswith("9"):
        with pytest.raises(CaptionError, match="it asks to wait inf s, longer than we do"):
            ask(GREYS, 0, "v")
        return
    assert ask(GREYS, 0, "v") == "x"
    assert isinstance(ask.sleep, Waits)
    assert 0.5 <= ask.sleep[0] <= 1.0


@pytest.mark.parametrize(
    ("reply", "requests", "message"),
    [
        (
            says(500, "boom\n  <b>trace</b>"),
            3,
            r"answers 500 \(boom <b>trace</b>\); see the server's log \(3 attempts\)",
        ),
        (says(429), 3, r"answers 429 \(no explanation\); it is too busy"),
        (says(429, Retry_After="3600"), 1, "it asks to wait 3600 s, longer than we do"),
        (says(400, '{"error": "no images"}'), 1, r"answers 400 \(.*no images.*\); does the model take images"),
        (says(404), 1, r"answers 404 .* does the URL end as the API's base does \(/v1\), and is qwen the model's name"),
        (says(401), 1, rf"refuses \(401\) a request without a key; set {API_KEY_VARIABLE}"),
        (
            says(307, Location="http://169.254.169.254/"),
            1,
            r"redirects \(307\) to http://169\.254\.169\.254/; give the",
        ),
        (says(200, b"<html>\xff" + b"z" * 9999), 1, r"did not answer with a chat completion, but: <html>.{190,210}$"),
        (says(200, "[" * 100_000), 1, "did not answer with a chat completion"),
        (says(200, "[]"), 1, "did not answer with a chat completion"),
        (says(200, '{"choices": []}'), 1, "did not answer with a chat completion"),
        (says(200, '{"choices": [{"message": null}]}'), 1, "did not answer with a chat completion"),
        (caption(""), 1, "qwen answered with no text; is it a chat model that takes images"),
        (caption(None), 1, "qwen answered with no text"),
        (caption(" \n\u200b"), 1, "qwen answered with no text"),
        (caption("no end in", finish="length"), 1, "qwen was cut off after 300 tokens without ending a sentence"),
        (says(200, b" " * (MAX_RESPONSE_BYTES + 1)), 1, "the answer has more than 1,048,576 bytes"),
        (hung, 2, r"cannot be reached \(ReadTimeout.*\); is the server up, and is 0\.3 s enough\? \(2 attempts\)"),
        (dripping, 2, r"cannot be reached \(ReadTimeout: no whole answer within 0\.3 s\)"),
        (cut_off, 2, r"cannot be reached \(RemoteProtocolError"),
    ],
)
def test_answers_that_are_no_caption(server: Server, reply: Reply, requests: int, message: str) -> None:
    server.replies = [reply]
    quick = {"timeout": 0.3} if reply in (hung, dripping) else {}
    with pytest.raises(CaptionError, match=message) as raised:
        endpoint(server, max_attempts=max(2, requests), **quick)(GREYS, 0, "v")
    assert str(raised.value).startswith(server.url)
    assert "\n" not in str(raised.value)
    assert len(server.requests) == requests


def test_a_server_that_is_not_there(server: Server) -> None:
    nowhere = CaptionEndpoint(url="http://127.0.0.1:9", model="m", max_attempts=2, sleep=Waits())
    with pytest.raises(CaptionError, match=r"http://127\.0\.0\.1:9 cannot be reached \(ConnectError.*\(2 attempts\)"):
        nowhere(GREYS, 0, "v")
    with pytest.raises(UserError, match=r"--captioner http://127\.0\.0\.1:9 cannot be reached"):
        nowhere.check()


def test_of_a_caption_that_was_cut_off_whole_sentences_stay(server: Server) -> None:
    for said, kept in (
        ("A hare. It is 3.5 m tall. It wal", "A hare. It is 3.5 m tall."),
        ("A hare. It walks.", "A hare. It walks."),
        ("一只兔子。它走", "一只兔子。"),
    ):
        server.replies = [caption(said, finish="length")]
        assert endpoint(server)(GREYS, 0, "v") == kept


def test_the_key_is_sent_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-secret")
    ask = CaptionEndpoint.from_environment(server.url, "qwen", sleep=Waits(), max_attempts=1)
    server.replies = [says(500, "bad key sk-secret"), says(200, "sk-secret"), says(403, "sk-secret"), caption("x")]
    for _ in range(3):
        with pytest.raises(CaptionError) as raised:
            ask(GREYS, 0, "v")
        assert "sk-secret" not in str(raised.value)
    ask(GREYS, 0, "v")
    assert {headers["Authorization"] for _, _, headers, _ in server.requests} == {"Bearer sk-secret"}
    assert "sk-secret" not in repr(ask) + ask.identity


def test_no_redirect_carries_frames_elsewhere(server: Server) -> None:
    server.replies = [says(308, Location=f"{server.url}/elsewhere"), caption("stolen")]
    with pytest.raises(CaptionError, match="redirects"):
        endpoint(server)(GREYS, 0, "v")
    assert len(server.requests) == 1


def test_the_server_is_checked_before_any_work(server: Server) -> None:
    ask = endpoint(server)
    served = says(200, json.dumps({"data": [{"id": "qwen"}, {"id": "other"}]}))
    for reply in (
        served,
        says(404),
        says(200, "what"),
        says(200, b" " * (MAX_RESPONSE_BYTES + 1)),
        says(200, '{"data":0}'),
    ):
        server.replies = [reply]
        ask.check()
    assert {(method, path) for method, path, _, _ in server.requests} == {("GET", "/v1/models")}
    server.replies = [served]
    with pytest.raises(UserError, match=rf"--caption-model gpt is not served by {server.url}; it serves qwen, other"):
        replace(ask, model="gpt").check()
    server.replies = [says(401)]
    with pytest.raises(UserError, match=f"set {API_KEY_VARIABLE}"):
        ask.check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "give an http:// or https:// URL, such as"),
        ("localhost:8000/v1", "give an http:// or https:// URL"),
        ("http:///v1", "give an http:// or https:// URL"),
        ("http://h:99999/v1", "give an http:// or https:// URL"),
        ("http://h:port/v1", "is not a URL"),
        ("http://user:word@h/v1", f"no password in the URL, it would be logged; set {API_KEY_VARIABLE}"),
        ("http://h/v1?key=1", "give the API's base URL, without"),
    ],
)
def test_urls_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        CaptionEndpoint(url=url, model="m")
    assert "word" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": " "}, "needs --caption-model NAME"),
        ({"num_frames": 0}, "num_frames is 0; give 1 or more"),
        ({"timeout": 0.0}, "timeout is 0.0; give seconds"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"api_key": "a\nb"}, f"{API_KEY_VARIABLE} is not a key"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CaptionEndpoint(**{"url": "http://h/v1", "model": "m", **settings})


def test_the_identity_is_what_is_asked_not_of_whom() -> None:
    ask = CaptionEndpoint(url="http://h/v1", model="m")
    assert replace(ask, url="https://moved/v1", timeout=1.0, api_key="k").identity == ask.identity
    changed = [{"model": "n"}, {"instruction": "i"}, {"num_frames": 2}, {"max_tokens": 9}, {"seed": 1}]
    assert len({ask.identity, *(replace(ask, **change).identity for change in changed)}) == 6
    assert pickle.loads(pickle.dumps(ask)) == ask


def test_no_frames_no_caption() -> None:
    with pytest.raises(CaptionError, match="v segment 3 has no frames"):
        CaptionEndpoint(url="http://h/v1", model="m")(GREYS[:0], 3, "v")
