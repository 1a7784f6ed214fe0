"""A server whose files lie in an object store: made, watched, loaded, gone on with and deleted as on a disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec
from fastapi.testclient import TestClient

from serve.api import build_api
from serve.engine.engine import Engine
from serve.janitor import tidy
from serve.store import JobStore
from tests.pipelines.helpers import Inputs
from tests.serve.helpers import settings_of


def test_a_video_in_a_bucket(bucket: str, inputs: Inputs, toy_folder: Path, tmp_path: Path) -> None:
    home, database = f"{bucket}/serve", f"sqlite:///{tmp_path}/jobs.sqlite"
    settings = replace(settings_of(tmp_path, toy_folder, database=database), home=home)
    store = JobStore(settings.database_url)
    engine = Engine(settings, store)
    engine.start()
    client = TestClient(build_api(settings, store))
    files = {
        name: (file, Path(inputs / file).read_bytes())
        for name, file in (("first_frame", "first.png"), ("dense", "dense.mp4"), ("sparse", "sparse.mp4"))
    }
    made = client.post("/v1/videos", data={"prompt": "a red ball", "seed": "3"}, files=files).json()
    assert engine.work_one() == made["id"]
    made = client.get(f"/v1/videos/{made['id']}").json()
    assert made["status"] == "completed", made
    whole = client.get(f"/v1/videos/{made['id']}/content").content
    assert len(whole) == made["bytes"]
    part = client.get(f"/v1/videos/{made['id']}/content", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole[100:200])
    assert client.get(f"/v1/videos/{made['id']}/hls/00000.m4s").content[4:8] == b"moof"
    assert client.get(f"/v1/videos/{made['id']}/content?variant=dense").content[8:12] == b"WEBP"
    remixed = client.post(f"/v1/videos/{made['id']}/remix", json={"from_segment": 3}).json()
    assert engine.work_one() == remixed["id"]
    assert client.get(f"/v1/videos/{remixed['id']}").json()["sha256"] == made["sha256"]
    engine.close()
    for video in (made, remixed):
        assert client.delete(f"/v1/videos/{video['id']}").json()["deleted"]
    assert tidy(store, engine.places) == 2
    filesystem = fsspec.filesystem("s3")
    filesystem.invalidate_cache()
    assert filesystem.find(f"{bucket.removeprefix('s3://')}/serve") == []
