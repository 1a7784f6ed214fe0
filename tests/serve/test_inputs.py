"""Small inputs lie in the database until they are read."""

from __future__ import annotations

import io
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serve.api import build_api
from serve.inputs import lay_out
from serve.janitor import tidy
from serve.places import Places
from serve.probe import Prober
from serve.settings import ServeSettings
from serve.store import JobStore, NewJob
from serve.uploads import NotAtOnce, Uploads
from tests.pipelines.helpers import Inputs
from tests.serve.helpers import settings_of


@pytest.fixture
def settings(tmp_path: Path, toy_folder: Path) -> ServeSettings:
    return settings_of(tmp_path / "home", toy_folder)


@pytest.fixture
def store(settings: ServeSettings) -> JobStore:
    return JobStore(settings.database_url)


@pytest.fixture
def client(settings: ServeSettings, store: JobStore) -> TestClient:
    return TestClient(build_api(settings, store))


def post(client: TestClient, content: bytes) -> dict[str, Any]:
    answer = client.post("/v1/videos", data={"prompt": "a video", "seconds": "1"}, files={"first_frame": content})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_they_are_laid_out_when_they_are_read_and_deleted_with_their_job(
    client: TestClient, settings: ServeSettings, store: JobStore, inputs: Inputs
) -> None:
    content = Path(inputs / "first.png").read_bytes()
    video_id = post(client, content)["id"]
    places = Places(settings.home)
    place = places.input_name(video_id, "first_frame")
    assert places.storage.size(place) is None
    read = client.get(f"/v1/videos/{video_id}/content?variant=first_frame")
    assert (read.status_code, read.content, places.storage.read(place)) == (200, content, content)
    client.delete(f"/v1/videos/{video_id}")
    tidy(store, places)
    assert (places.storage.size(place), store.inputs(video_id)) == (None, {})


def test_large_ones_are_files_from_the_beginning(client: TestClient, settings: ServeSettings, inputs: Inputs) -> None:
    content = Path(inputs / "first.png").read_bytes() + b"\0" * (1 << 18)  # PNG ends where it says
    video_id = post(client, content)["id"]
    places = Places(settings.home)
    assert places.storage.read(places.input_name(video_id, "first_frame")) == content


def test_none_stays_of_a_job_that_is_deleted_meanwhile(settings: ServeSettings, store: JobStore) -> None:
    places = Places(settings.home)
    request = {"files": {"first_frame": "first_frame"}}
    new = NewJob(id="a", owner="me", request=request, num_segments=1, num_steps=1, inputs={"first_frame": b"image"})
    job = store.create(new)

    class Deleting(JobStore):
        def inputs(self, job_id: str) -> dict[str, bytes]:
            found = super().inputs(job_id)
            self.delete(job_id)
            tidy(self, places)
            return found

    lay_out(Deleting(settings.database_url), places, job)
    assert list(places.storage.walk("inputs")) == []


@pytest.mark.parametrize(
    "value",
    ["sample", "https://host/a.png", "data:image/png;base64," + "A" * (1 << 20)],
    ids=["sample", "URL", "large"],
)
def test_what_takes_a_while_is_not_done_at_once(settings: ServeSettings, value: str) -> None:
    prober = Prober(settings.card.fps, settings.limits)
    with Uploads(prober, settings.limits, ("https://host/",), at_once=True) as uploads, pytest.raises(NotAtOnce):
        uploads.add_reference("source", "controls.source", value)


def test_an_unknown_image_is_not_probed_at_once(settings: ServeSettings) -> None:
    prober = Prober(settings.card.fps, settings.limits)
    with Uploads(prober, settings.limits, (), at_once=True) as uploads:
        uploads.add_file("first_frame", "first_frame", io.BytesIO(b"an image"))
        with pytest.raises(NotAtOnce):
            uploads.probe()


def test_a_request_waits_for_another_writer_and_the_server_answers_meanwhile(
    client: TestClient, settings: ServeSettings, inputs: Inputs
) -> None:
    content = Path(inputs / "first.png").read_bytes()
    post(client, content)  # the image is known from here on
    other = sqlite3.connect(Path(settings.home) / "jobs.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    answered: list[dict[str, Any]] = []
    with client:  # one event loop for all requests
        waiting = threading.Thread(target=lambda: answered.append(post(client, content)))
        waiting.start()
        time.sleep(0.5)
        assert client.get("/healthz").text == "ok\n"
        assert not answered
        other.execute("ROLLBACK")
        waiting.join()
    other.close()
    assert answered[0]["status"] == "queued"
