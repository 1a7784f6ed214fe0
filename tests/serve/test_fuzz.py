"""What strangers send: broken videos, broken multipart, and anything that the OpenAPI document allows. Never a 5xx."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serve.api import build_api
from serve.settings import Limits
from tests.pipelines.helpers import Inputs
from tests.serve.helpers import settings_of


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> FastAPI:
    limits = Limits(body_bytes=1_000_000, queued=20)
    return build_api(settings_of(tmp_path_factory.mktemp("fuzz"), toy_folder, limits=limits))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def damaged(content: bytes, seed: int) -> bytes:
    """A file as disks and networks leave it: cut, with flipped bits, with a hole, doubled, or with another head."""
    dice = random.Random(seed)
    data = bytearray(content)
    kind = seed % 5
    if kind == 0:
        return bytes(data[: dice.randrange(1, len(data))])
    if kind == 1:
        for _ in range(64):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == 2:
        at = dice.randrange(len(data))
        data[at : at + 500] = bytes(len(data[at : at + 500]))
    elif kind == 3:
        data[:32] = dice.randbytes(32)
    else:
        data = bytearray(dice.randbytes(len(data)))
    return bytes(data)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_videos(client: TestClient, inputs: Inputs, seed: int) -> None:
    files = {
        "first_frame": ("f.png", Path(inputs / "first.png").read_bytes()),
        "dense": ("d.mp4", damaged(Path(inputs / "dense.mp4").read_bytes(), seed)),
    }
    answer = client.post("/v1/videos", data={"prompt": "a"}, files=files)
    assert answer.status_code in (200, 422), answer.text  # a flipped bit may leave a video that decodes
    if answer.status_code == 422:
        assert answer.json()["error"]["param"] == "dense"
        assert "/" not in answer.json()["error"]["message"], "no path of the server is told"
    assert client.get("/healthz").status_code == 200
    for video in client.get("/v1/videos?limit=100").json()["data"]:
        client.delete(f"/v1/videos/{video['id']}")


@pytest.mark.parametrize("seed", range(30))
def test_broken_multipart(client: TestClient, inputs: Inputs, seed: int) -> None:
    dice = random.Random(seed)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n'
        b'--x\r\nContent-Disposition: form-data; name="first_frame"; filename="../../etc/passwd"\r\n'
        b"Content-Type: image/png\r\n\r\n" + Path(inputs / "first.png").read_bytes()[:200] + b"\r\n--x--\r\n"
    )
    data = bytearray(body)
    for _ in range(dice.randrange(1, 12)):
        at = dice.randrange(len(data))
        data[at : at + dice.randrange(1, 9)] = dice.randbytes(dice.randrange(9))
    kind = dice.choice(["multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary="])
    answer = client.post("/v1/videos", content=bytes(data), headers={"Content-Type": kind})
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()["error"]) == {"code", "message", "param", "type"}


@pytest.mark.parametrize(
    "path",
    ["/v1/videos/..%2f..%2fjobs.sqlite", "/v1/videos/x/hls/..%2fplaylist.m3u8", "/v1/videos/%00", "/static/../api.py"],
)
def test_names_lead_nowhere(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.slow
def test_schemathesis(app: FastAPI) -> None:
    """Every operation with what its schema allows and forbids; events are left out, as they wait for a job's end."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/events"):
            continue
        tried += 1

        @given(case=operation.as_strategy())
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def no_server_error(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500 or case.path == "/readyz", f"{case.method} {case.path}: {answer.text}"

        no_server_error()
    assert tried >= 12
