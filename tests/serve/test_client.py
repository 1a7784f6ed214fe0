from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import UserError
from serve.api import build_api
from serve.client import Client, ServeError
from serve.engine.engine import Engine
from serve.settings import Owner
from serve.store import JobStore
from tests.pipelines.helpers import NUM_SEGMENTS, Inputs
from tests.serve.helpers import listening, settings_of

TOKEN = "a token of some length"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> Iterator[tuple[Engine, str]]:
    owner = Owner(name="me", token=TOKEN)
    settings = settings_of(tmp_path_factory.mktemp("client"), toy_folder, owners=(owner,))
    store = JobStore(settings.database_url)
    engine = Engine(settings, store)
    engine.start()
    with listening(build_api(settings, store)) as url:
        yield engine, url
    engine.close()


@pytest.fixture
def client(served: tuple[Engine, str]) -> Client:
    return Client(served[1], TOKEN)


def test_submit_watch_download(client: Client, served: tuple[Engine, str], inputs: Inputs, tmp_path: Path) -> None:
    files = {"first_frame": inputs / "first.png", "dense": inputs / "dense.mp4"}
    video = client.submit(files, {"prompt": "a red ball", "seed": 3}, "key")
    assert client.submit(files, {"prompt": "a red ball", "seed": 3}, "key").id == video.id
    served[0].work_one()
    events = list(client.watch(video.id))
    assert [event.kind for event in events].count("segment") == NUM_SEGMENTS
    assert events[-1].data["status"] == "completed"
    assert client.download(video.id, tmp_path / "v.mp4") == client.get(video.id).bytes
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]
    client.delete(video.id)
    with pytest.raises(ServeError, match="404"):
        client.get(video.id)


def test_cancel(client: Client, inputs: Inputs) -> None:
    video = client.submit({"first_frame": inputs / "first.png"}, {"prompt": "a", "seconds": 1})
    assert client.cancel(video.id).error is not None
    assert [event.data["status"] for event in client.watch(video.id)] == ["queued", "failed"]


def test_refusals_are_one_line(client: Client, served: tuple[Engine, str], inputs: Inputs) -> None:
    with pytest.raises(ServeError, match="422: first_frame is missing"):
        client.submit({}, {"prompt": "a", "seconds": 1})
    with pytest.raises(UserError, match=r"--first-frame nowhere\.png cannot be read"):
        client.submit({"first_frame": "nowhere.png"}, {"prompt": "a"})
    with pytest.raises(ServeError, match="401"):
        Client(served[1], "wrong").get("x")
    with pytest.raises(ServeError, match="cannot be reached"):
        Client("http://127.0.0.1:9").get("x")
