"""Bytes under names: whole or absent, on a disk, in memory and on S3."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from pipelines.errors import UserError
from pipelines.storage import (
    LocalStorage,
    ObjectStorage,
    Storage,
    check_uri,
    check_video_id,
    check_writable,
    local_path_of,
    open_storage,
)


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(str(tmp_path / "out"))
    if request.param == "memory":
        return open_storage(f"memory://{tmp_path.name}")
    return open_storage(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def test_what_is_written_is_read(storage: Storage, tmp_path: Path) -> None:
    storage.write("a/b.json", b"one")
    storage.write("a/b.json", b"two, longer")
    (tmp_path / "source").write_bytes(b"x" * 3_000_000)
    storage.put("a/c.mp4", tmp_path / "source")
    assert storage.read("a/b.json") == b"two, longer"
    assert storage.size("a/b.json") == 11
    assert storage.list("a") == ["b.json", "c.mp4"]
    storage.get("a/c.mp4", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"x" * 3_000_000
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert storage.list("a") == ["c.mp4"]


def test_what_is_absent(storage: Storage, tmp_path: Path) -> None:
    assert storage.size("no/such") is None
    assert storage.list("no") == []
    storage.delete("no/such")
    with pytest.raises(FileNotFoundError):
        storage.read("no/such")
    with pytest.raises(FileNotFoundError):
        storage.get("no/such", tmp_path / "target")


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a\0b"])
def test_names_lead_nowhere_else(storage: Storage, name: str) -> None:
    for use in (storage.read, storage.size, storage.delete, lambda n: storage.write(n, b"")):
        with pytest.raises(ValueError, match="leads out"):
            use(name)


def test_another_reader_sees_new_objects_at_once(bucket: str, tmp_path: Path) -> None:
    first, second = (open_storage(f"{bucket}/{tmp_path.name}") for _ in range(2))
    assert second.list("commits") == []
    first.write("commits/0.json", b"{}")
    assert second.list("commits") == ["0.json"], "listings are not cached"


def test_a_file_that_breaks_off_is_never_seen(tmp_path: Path) -> None:
    """Killed within a write, a file keeps its old content; the half-written one is swept by who writes it next and did
    not write to the folder before (to look at every write would take longer the more a folder holds)."""
    storage = LocalStorage(tmp_path)
    storage.write("a.json", b"old")
    script = (
        "import os, signal, sys; from pathlib import Path; from pipelines.storage import LocalStorage\n"
        "class Dying(LocalStorage):\n"
        "    def _fill(self, file, data):\n"
        "        file.write(data[:3]); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Dying(Path(sys.argv[1])).write('a.json', b'new content')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert storage.read("a.json") == b"old"
    assert storage.list("") == ["a.json"]
    assert len(list(tmp_path.iterdir())) == 2, "the half-written file is there, under a name no one reads"
    LocalStorage(tmp_path).write("a.json", b"newer")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    class Full(LocalStorage):
        def _fill(self, file: object, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Full(tmp_path).write("a.json", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("video_id", ["a", "ride_horse", "A.b-c_9", "-", "x" * 128])
def test_good_video_ids(video_id: str) -> None:
    assert check_video_id(video_id) == video_id


@pytest.mark.parametrize("video_id", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "é", "x" * 129, "a\n", 7, None])
def test_bad_video_ids(video_id: object) -> None:
    with pytest.raises(UserError, match="is not valid"):
        check_video_id(video_id)  # type: ignore[arg-type]


@pytest.mark.parametrize("uri", ["ftp://a/b", "nosuch://a", "simplecache::s3://a", "zip://a::file://b", "", "a\0b"])
def test_unknown_schemes(uri: str) -> None:
    with pytest.raises(UserError, match=r"s3://"):
        check_uri(uri, "input")


def test_outputs_are_not_http() -> None:
    with pytest.raises(UserError, match="unknown scheme http://"):
        open_storage("http://host/out")


def test_local_uris(tmp_path: Path) -> None:
    assert open_storage(f"file://{tmp_path}").uri == str(tmp_path)
    assert local_path_of("file:///a%20b") == Path("/a b")
    assert isinstance(open_storage("memory://a"), ObjectStorage)


def test_unwritable_outputs_are_known_before_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        check_writable(str(tmp_path / "file" / "out"))
    check_writable(str(tmp_path / "new" / "deep"))
    assert not (tmp_path / "new").exists(), "checking creates nothing"


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(UserError, match="cannot be reached"):
        check_writable("s3://nowhere/out")
    fsspec.filesystem("s3").clear_instance_cache()
