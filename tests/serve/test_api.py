"""The API over a real store and a real engine, in this process; over Ray it is tested in test_server.py."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from longvie.media import Video
from serve.api import build_api
from serve.engine.engine import Engine
from serve.janitor import tidy
from serve.places import Places
from serve.settings import Limits, Owner, ServeSettings
from serve.store import JobStore, NewJob
from tests.pipelines.helpers import NUM_FRAMES, PROMPTS, Inputs
from tests.serve.helpers import settings_of

TOKENS = {name: f"{name}-{'0' * 16}" for name in ("ada", "bob")}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> ServeSettings:
    owners = tuple(Owner(name=name, token=token) for name, token in TOKENS.items())
    return settings_of(tmp_path_factory.mktemp("api"), toy_folder, owners=owners, limits=Limits(body_bytes=2_000_000))


@pytest.fixture(scope="module")
def store(settings: ServeSettings) -> JobStore:
    return JobStore(settings.database_url)


@pytest.fixture(scope="module")
def engine(settings: ServeSettings, store: JobStore) -> Iterator[Engine]:
    engine = Engine(settings, store)
    engine.start()
    yield engine
    engine.close()


def client_of(settings: ServeSettings, store: JobStore, name: str) -> TestClient:
    headers = {"Authorization": f"Bearer {TOKENS[name]}"}
    return TestClient(build_api(settings, store), headers=headers, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def ada(settings: ServeSettings, store: JobStore) -> TestClient:
    return client_of(settings, store, "ada")


@pytest.fixture(scope="module")
def bob(settings: ServeSettings, store: JobStore) -> TestClient:
    return client_of(settings, store, "bob")


def files_of(inputs: Inputs) -> dict[str, Any]:
    return {
        name: (file, Path(inputs / file).read_bytes())
        for name, file in (("first_frame", "first.png"), ("dense", "dense.mp4"), ("sparse", "sparse.mp4"))
    }


@pytest.fixture(scope="module")
def made(ada: TestClient, engine: Engine, inputs: Inputs) -> dict[str, Any]:
    """A finished video of four segments."""
    data = {"segments": json.dumps([{"prompt": text} for text in PROMPTS]), "seed": "3"}
    answer = ada.post("/v1/videos", data=data, files=files_of(inputs))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["num_segments"]) == ("queued", 4)
    assert engine.work_one() == answer.json()["id"]
    return ada.get(f"/v1/videos/{answer.json()['id']}").json()


def refused(answer: Any, status: int, code: str, param: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


def test_a_video_from_request_to_file(ada: TestClient, made: dict[str, Any]) -> None:
    assert (made["status"], made["progress"], made["num_frames"], made["seconds"]) == ("completed", 100, 26, "3.25")
    whole = ada.get(f"/v1/videos/{made['id']}/content")
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert len(whole.content) == made["bytes"]
    part = ada.get(f"/v1/videos/{made['id']}/content", headers={"Range": "bytes=10-99"})
    assert (part.status_code, part.content) == (206, whole.content[10:100])
    assert part.headers["content-range"] == f"bytes 10-99/{made['bytes']}"
    tail = ada.get(f"/v1/videos/{made['id']}/content", headers={"Range": "bytes=-7"})
    assert tail.content == whole.content[-7:]
    outside = ada.get(f"/v1/videos/{made['id']}/content", headers={"Range": f"bytes={made['bytes']}-"})
    refused(outside, 416, "range_not_satisfiable", "Range")
    thumbnail = ada.get(f"/v1/videos/{made['id']}/content?variant=thumbnail")
    assert thumbnail.content[8:12] == b"WEBP"


def test_playlist_and_fragments_play_the_same_frames(ada: TestClient, made: dict[str, Any], tmp_path: Path) -> None:
    base = f"/v1/videos/{made['id']}/hls"
    text = ada.get(f"{base}/playlist.m3u8").text
    names = [line for line in text.splitlines() if not line.startswith("#")]
    assert names == [f"{index:05d}.m4s" for index in range(4)]
    assert text.rstrip().endswith("#EXT-X-ENDLIST")
    stream = b"".join(ada.get(f"{base}/{name}").content for name in ("init.mp4", *names))
    (tmp_path / "hls.mp4").write_bytes(stream)
    (tmp_path / "video.mp4").write_bytes(ada.get(f"/v1/videos/{made['id']}/content").content)
    shown = {}
    for name in ("hls.mp4", "video.mp4"):
        with av.open(str(tmp_path / name)) as container:
            shown[name] = [(frame.time, frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]
    assert len(shown["hls.mp4"]) == NUM_FRAMES
    assert [pixels for _, pixels in shown["hls.mp4"]] == [pixels for _, pixels in shown["video.mp4"]]
    assert [time for time, _ in shown["hls.mp4"]] == pytest.approx([k / 8 for k in range(NUM_FRAMES)])
    refused(ada.get(f"{base}/00004.m4s"), 404, "no_such_segment", "name")


def test_events_are_replayed_from_where_one_was(ada: TestClient, made: dict[str, Any]) -> None:
    told = ada.get(f"/v1/videos/{made['id']}/events").text
    assert told.count("event: segment") == 4
    assert '"status": "completed"' in told.split("event: ")[-1]
    numbers = [int(line[4:]) for line in told.splitlines() if line.startswith("id: ")]
    assert numbers == sorted(set(numbers))
    again = ada.get(f"/v1/videos/{made['id']}/events", headers={"Last-Event-ID": str(numbers[-2])}).text
    assert again.count("id: ") == 1


def test_an_extension_goes_on_where_the_video_ends(
    ada: TestClient, engine: Engine, made: dict[str, Any], tmp_path: Path
) -> None:
    asked = {"video": {"id": made["id"]}, "prompt": "night", "seconds": "1"}
    extended = ada.post("/v1/videos/extensions", json=asked).json()
    assert (extended["num_frames"], extended["extends"]) == (34, made["id"])
    engine.work_one()
    extended = ada.get(f"/v1/videos/{extended['id']}").json()
    assert extended["status"] == "completed", extended
    frames = []
    for video in (made, extended):
        (tmp_path / "v.mp4").write_bytes(ada.get(f"/v1/videos/{video['id']}/content").content)
        with av.open(str(tmp_path / "v.mp4")) as container:
            frames.append([frame.to_ndarray().tobytes() for frame in container.decode(video=0)])
    assert len(frames[1]) == 34
    assert frames[1][:26] == frames[0]
    names = [
        line
        for line in ada.get(f"/v1/videos/{extended['id']}/hls/playlist.m3u8").text.splitlines()
        if not line.startswith("#")
    ]
    assert len(names) == 2
    content = [ada.get(f"/v1/videos/{extended['id']}/hls/{name}").content for name in ("init.mp4", *names)]
    (tmp_path / "hls.mp4").write_bytes(b"".join(content))
    with av.open(str(tmp_path / "hls.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([k / 8 for k in range(34)])


def test_an_upload_goes_on_too(
    ada: TestClient, engine: Engine, inputs: Inputs, made: dict[str, Any], tmp_path: Path
) -> None:
    route, asked = "/v1/videos/extensions", {"prompt": "night", "seconds": "1"}
    clip = Path(inputs / "dense.mp4").read_bytes()
    longer = ada.post(route, data=asked, files={"video": ("mine.mp4", clip)}).json()
    assert (longer["num_frames"], longer["extends"], longer["variants"]) == (34, None, [])
    assert engine.work_one() == longer["id"]
    longer = ada.get(f"/v1/videos/{longer['id']}").json()
    assert longer["status"] == "completed", longer
    (tmp_path / "v.mp4").write_bytes(ada.get(f"/v1/videos/{longer['id']}/content").content)
    frames = Video(tmp_path / "v.mp4").read(range(34))
    given = Video(inputs / "dense.mp4").read(range(26))
    assert abs(frames[:26].astype(int) - given).mean() < 4, "the upload is its beginning, encoded anew"
    names = [
        line
        for line in ada.get(f"/v1/videos/{longer['id']}/hls/playlist.m3u8").text.splitlines()
        if not line.startswith("#")
    ]
    parts = [ada.get(f"/v1/videos/{longer['id']}/hls/{name}").content for name in ("init.mp4", *names)]
    (tmp_path / "hls.mp4").write_bytes(b"".join(parts))
    with av.open(str(tmp_path / "hls.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 34

    content = ada.get(f"/v1/videos/{made['id']}/content").content
    known = ada.post(route, data=asked, files={"video": ("own.mp4", content)}).json()
    assert known["extends"] == made["id"], "what was downloaded from here has its history here"
    assert ada.post(f"/v1/videos/{known['id']}/cancel").json()["status"] == "failed"
    refused(ada.post(route, data={"seconds": "1"}, files={"video": ("m.mp4", clip)}), 422, "missing", "prompt")
    refused(ada.post(route, data=asked, files={"video": ("m.mp4", b"none")}), 422, "unreadable_media", "video")
    refused(ada.post(route, json=asked), 422, "missing", "video")


def test_a_remix_keeps_what_was_before_and_makes_the_rest_anew(
    ada: TestClient, engine: Engine, made: dict[str, Any], settings: ServeSettings
) -> None:
    asked = {"prompt": "night", "from_segment": 2, "seed": 9}
    remixed = ada.post(f"/v1/videos/{made['id']}/remix", json=asked).json()
    assert (remixed["remixed_from_video_id"], remixed["from_segment"], remixed["num_frames"]) == (made["id"], 2, 26)
    assert [segment["prompt"] for segment in remixed["segments"]] == [*PROMPTS[:2], "night", "night"]
    assert engine.work_one() == remixed["id"]
    remixed = ada.get(f"/v1/videos/{remixed['id']}").json()
    assert remixed["status"] == "completed", remixed
    folder = Path(settings.home) / "videos"
    for index in range(4):
        same = [(folder / one["id"] / "segments" / f"{index:05d}.mp4").read_bytes() for one in (made, remixed)]
        assert (same[0] == same[1]) == (index < 2)
    again = ada.post(f"/v1/videos/{remixed['id']}/remix", json={"from_segment": 3}).json()
    assert [segment["prompt"] for segment in again["segments"]][2:] == ["night", "night"]
    assert engine.work_one() == again["id"]
    again = ada.get(f"/v1/videos/{again['id']}").json()
    assert (again["status"], again["sha256"]) == ("completed", remixed["sha256"]), "nothing else was asked for"


def test_a_remix_is_refused_by_field(ada: TestClient, bob: TestClient, made: dict[str, Any]) -> None:
    route = f"/v1/videos/{made['id']}/remix"
    refused(ada.post(route, json={"from_segment": 4}), 422, "invalid_value", "from_segment")
    refused(
        ada.post(route, json={"from_segment": 2, "segments": [{"prompt": "a"}] * 3}), 422, "invalid_value", "segments"
    )
    refused(bob.post(route, json={"prompt": "a"}), 404, "video_not_found", "video_id")


def test_previews_of_controls(ada: TestClient, made: dict[str, Any]) -> None:
    moving = {}
    for variant in ("dense", "sparse"):
        answer = ada.get(f"/v1/videos/{made['id']}/content?variant={variant}&segment=1")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.size, image.n_frames) == ((48, 32), 9)  # type: ignore[attr-defined]
        moving[variant] = answer.content
    assert moving["dense"] != moving["sparse"]
    refused(ada.get(f"/v1/videos/{made['id']}/content?variant=dense&segment=4"), 404, "no_such_segment", "segment")


def test_nobody_sees_what_is_anothers(bob: TestClient, ada: TestClient, made: dict[str, Any]) -> None:
    for path in ("", "/content", "/events", "/hls/playlist.m3u8", "/hls/init.mp4"):
        refused(bob.get(f"/v1/videos/{made['id']}{path}"), 404, "video_not_found", "video_id")
    refused(bob.delete(f"/v1/videos/{made['id']}"), 404, "video_not_found", "video_id")
    refused(bob.post(f"/v1/videos/{made['id']}/cancel"), 404, "video_not_found", "video_id")
    refused(bob.post("/v1/videos/extensions", json={"video": made["id"]}), 404, "video_not_found", "video_id")
    assert bob.get("/v1/videos").json()["data"] == []
    for token in ("", "Bearer wrong", f"Basic {TOKENS['ada']}"):
        refused(ada.get("/v1/videos", headers={"Authorization": token}), 401, "invalid_token")
    assert ada.get("/healthz", headers={"Authorization": ""}).status_code == 200


def test_a_key_makes_one_video(bob: TestClient, inputs: Inputs) -> None:
    key = {"Idempotency-Key": "once"}
    first = bob.post("/v1/videos", data={"prompt": "night"}, files=files_of(inputs), headers=key).json()
    assert bob.post("/v1/videos", data={"prompt": "night"}, files=files_of(inputs), headers=key).json() == first
    changed = bob.post("/v1/videos", data={"prompt": "day"}, files=files_of(inputs), headers=key)
    refused(changed, 409, "idempotency_conflict", "Idempotency-Key")
    assert len(bob.get("/v1/videos").json()["data"]) == 1
    ended = bob.post(f"/v1/videos/{first['id']}/cancel").json()
    assert (ended["status"], ended["error"]["code"]) == ("failed", "cancelled")
    playlist = bob.get(f"/v1/videos/{first['id']}/hls/playlist.m3u8").text
    assert playlist.startswith("#EXTM3U")
    assert "#EXT-X-ENDLIST" in playlist


def test_pages_of_videos(bob: TestClient, inputs: Inputs) -> None:
    image = {"first_frame": ("f.png", Path(inputs / "first.png").read_bytes())}
    ids = [
        bob.post("/v1/videos", data={"prompt": str(k), "num_frames": "9"}, files=image).json()["id"] for k in range(3)
    ]
    page = bob.get("/v1/videos?limit=2").json()
    assert ([video["id"] for video in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    rest = bob.get(f"/v1/videos?limit=2&after={page['last_id']}").json()
    assert rest["data"][0]["id"] == ids[0]
    up = bob.get("/v1/videos?order=asc").json()["data"]
    assert [video["id"] for video in up][-3:] == ids
    for video_id in ids:
        bob.post(f"/v1/videos/{video_id}/cancel")


def test_deleted_means_deleted(
    settings: ServeSettings, store: JobStore, ada: TestClient, engine: Engine, inputs: Inputs
) -> None:
    data = {"prompt": "a secret", "num_frames": "9"}
    video = ada.post("/v1/videos", data=data, files=files_of(inputs)).json()
    engine.work_one()
    assert ada.delete(f"/v1/videos/{video['id']}").json() == {
        "id": video["id"],
        "object": "video.deleted",
        "deleted": True,
    }
    refused(ada.get(f"/v1/videos/{video['id']}/content"), 404, "video_not_found", "video_id")
    assert tidy(store, Places(settings.home)) >= 1
    left = [path for path in Path(settings.home).rglob("*") if video["id"] in str(path)]
    assert left == []


def as_data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"prompt": " "}, 422, "invalid_value", "prompt"),
        ({"prompt": None}, 422, "missing", "prompt"),
        ({"prompt": "x" * 9000}, 422, "too_large", "prompt"),
        ({"first_frame": "/etc/passwd"}, 422, "url_refused", "first_frame"),
        ({"first_frame": "file:///etc/passwd"}, 422, "url_refused", "first_frame"),
        ({"first_frame": "http://127.0.0.1:8000/metrics"}, 422, "url_refused", "first_frame"),
        (
            {"input_reference": {"image_url": "http://169.254.169.254/"}, "first_frame": None},
            422,
            "url_refused",
            "input_reference",
        ),
        ({"first_frame": "data:image/png;base64,!!!"}, 422, "invalid_value", "first_frame"),
        ({"first_frame": as_data("image/png", b"no image")}, 422, "unreadable_media", "first_frame"),
        ({"first_frame": None}, 422, "missing", "first_frame"),
        ({"controls": {"source": as_data("video/mp4", b"\0" * 99)}}, 422, "unreadable_media", "source"),
        ({"seconds": "4", "num_frames": 9}, 422, "invalid_value", "num_frames"),
        ({"seconds": "nan"}, 422, "invalid_value", "seconds"),
        ({"seconds": "100000"}, 422, "too_long", "seconds"),
        ({"seconds": None}, 422, "missing", "seconds"),
        ({"size": "50x32"}, 422, "invalid_value", "size"),
        ({"size": "99999x99999"}, 422, "too_large", "size"),
        ({"size": "../.."}, 422, "invalid_value", "size"),
        ({"steps": 101}, 422, "too_large", "steps"),
        ({"seed": -1}, 422, "invalid_value", "seed"),
        ({"guidance_scale": 1000}, 422, "invalid_value", "guidance_scale"),
        ({"segments": [{"prompt": "a"}] * 5}, 422, "invalid_value", "segments"),
        ({"unknown": 1}, 422, "invalid_value", "unknown"),
        ({"model": "sora-2"}, 422, "invalid_value", "model"),
    ],
)
def test_what_cannot_be_made_is_refused_by_field(
    ada: TestClient, inputs: Inputs, changes: dict[str, Any], status: int, code: str, param: str
) -> None:
    asked = {"prompt": "a", "first_frame": as_data("image/png", Path(inputs / "first.png").read_bytes()), "seconds": 1}
    asked = {key: value for key, value in {**asked, **changes}.items() if value is not None}
    refused(ada.post("/v1/videos", json=asked), status, code, param)


def test_bodies_that_are_none(ada: TestClient) -> None:
    plain = {"Content-Type": "application/json"}
    refused(ada.post("/v1/videos", content=b"{", headers=plain), 400, "invalid_body", "body")
    refused(ada.post("/v1/videos", content=b"x" * 3_000_000), 413, "too_large", "body")
    endless = (b"x" * 100_000 for _ in range(30))
    refused(ada.post("/v1/videos", content=endless, headers=plain), 413, "too_large", "body")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(ada.post("/v1/videos", content=b"--y\r\nnonsense", headers=broken), 400, "invalid_body", "body")
    refused(ada.post("/v1/videos", content=b"<a/>", headers={"Content-Type": "text/xml"}), 415,
            "unsupported_media_type", "Content-Type")  # fmt: skip


@pytest.mark.parametrize("limit", [1, 502])  # of the second, jobs are counted only when some two are left
def test_a_full_queue_says_when_to_come_again(
    settings: ServeSettings, inputs: Inputs, tmp_path: Path, limit: int
) -> None:
    small = replace(settings, home=str(tmp_path), limits=Limits(queued=limit, retry_after=7))
    store = JobStore(small.database_url)
    for k in range(limit - 1):
        store.create(NewJob(id=f"video_{k}", owner="eve", request={}, num_segments=1, num_steps=1))
    client = client_of(small, store, "ada")
    image = {"first_frame": ("f.png", Path(inputs / "first.png").read_bytes())}
    assert client.post("/v1/videos", data={"prompt": "a", "num_frames": "9"}, files=image).status_code == 200
    full = client.post("/v1/videos", data={"prompt": "a", "num_frames": "9"}, files=image)
    refused(full, 429, "queue_full")
    assert full.headers["retry-after"] == "7"


def test_metrics_models_and_description(ada: TestClient, engine: Engine, made: dict[str, Any]) -> None:
    text = ada.get("/metrics").text
    said = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}
    assert said["longvie_queue_depth"] == 0
    assert said['longvie_jobs{state="completed"}'] >= 1
    assert said['longvie_segment_seconds_bucket{le="+Inf"}'] == said["longvie_segment_seconds_count"] >= 4
    assert said['longvie_step_seconds_bucket{le="+Inf"}'] >= 4
    assert said["longvie_written_bytes_total"] > made["bytes"] / 2
    assert said["longvie_gpu_seconds_total"] == 0, "there is none"
    assert said["longvie_engines"] == 1
    assert ada.get("/v1/models").json()["data"][0]["segment_length"] == 9
    assert ada.get("/readyz").text == "ready\n"
    document = ada.get("/openapi.json").json()
    assert {"VideoRequest", "ExtensionRequest", "Video"} <= set(document["components"]["schemas"])


def test_the_description_is_whole(ada: TestClient) -> None:
    """Every operation says what it does and what it refuses; every body has an example."""
    document = ada.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation.get("description"), where
            assert "200" in operation["responses"], where
            content = operation.get("requestBody", {}).get("content", {})
            for body in [content["application/json"]] if "application/json" in content else []:
                name = body["schema"]["$ref"].rsplit("/", 1)[1]
                assert schemas[name]["examples"], where
                for example in schemas[name]["examples"]:
                    assert set(example) <= set(schemas[name]["properties"]), where
    for name in ("Video", "VideoList", "ModelList", "Deleted", "ErrorBody"):
        assert schemas[name]["examples"], name
