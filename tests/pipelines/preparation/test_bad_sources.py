"""Sources that are broken, away, twice there or without depth are rows of errors.parquet; what is a bug is a crash."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from longvie.media import VideoError, write_image, write_video
from pipelines.preparation.stages import ScanStage
from pipelines.preparation.unit_worker import StorageError
from pipelines.storage import LocalStorage
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import (
    FPS,
    depth_of,
    moving,
    rows_of,
    run,
    write_clip,
    write_manifest,
)


def _truncated(folder: Path) -> bytes:
    return (folder / "good0.mp4").read_bytes()[:-3000]


def _bits_flipped(folder: Path) -> bytes:
    data = bytearray((folder / "good0.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    for at in range(start + 40, start + 1400, 3):
        data[at] ^= 0xFF
    return bytes(data)


def _audio_only(folder: Path) -> bytes:
    path = folder / "audio.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path.read_bytes()


def _one_frame(folder: Path) -> bytes:
    write_video(folder / "one_frame", moving(1, 1), FPS)
    return (folder / "one_frame").read_bytes()


def _picture(folder: Path) -> bytes:
    write_image(folder / "picture", moving(1, 1)[0])
    return (folder / "picture").read_bytes()


BROKEN: dict[str, Callable[[Path], bytes]] = {
    "zero": lambda folder: b"",
    "garbage": lambda folder: np.random.default_rng(0).bytes(5000),
    "truncated": _truncated,
    "flipped": _bits_flipped,
    "audio": _audio_only,
    "frame": _one_frame,
    "text": lambda folder: b"This is no video, whatever it is called.\n" * 40,
    "picture": _picture,
}


def test_broken_inputs(tmp_path: Path) -> None:
    """All good ones come out; each bad one is a row with stage, error and attempts, and the rest does not notice."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [write_clip(folder, f"good{i}", 9, i) for i in range(3)]
    depth = {key: rows[0][key] for key in ("depth", "depth_polarity")}
    for name, make in BROKEN.items():
        (folder / f"{name}.mp4").write_bytes(make(folder))
        rows.append({"uri": f"{name}.mp4", **depth})
    (folder / "folder.mp4").mkdir()
    rows += [{"uri": "folder.mp4", **depth}, {"uri": "missing.mp4", **depth}]
    (folder / "short.npy").write_bytes(b"not an array")
    rows.append({**write_clip(folder, "depthless", 9, 50), "depth": "short.npy"})
    summary = run(write_manifest(folder, rows), tmp_path / "out")
    assert summary.num_videos == 3
    assert not summary.failed(strict=False)
    assert summary.failed(strict=True)
    errors = {Path(row["source"]).stem: row for row in rows_of(tmp_path / "out", "errors")}
    assert set(errors) == {*BROKEN, "folder", "missing", "depthless"}
    assert all(error["error"] and "\n" not in error["error"] and error["attempts"] >= 1 for error in errors.values())
    stages = {name: error["stage"] for name, error in errors.items()}
    assert stages.pop("missing") == "sources"
    assert stages.pop("depthless") == "depth"
    assert stages.pop("folder") in ("sources", "scan")
    assert set(stages.values()) == {"scan"}
    assert tmp_path.name not in errors["depthless"]["error"].replace(str(folder), ""), "no temporary names"
    videos = {Path(row["source"]).stem: row for row in rows_of(tmp_path / "out", "videos")}
    assert {name for name, row in videos.items() if row["whole"]} == {"good0", "good1", "good2"}


def test_all_bad(tmp_path: Path) -> None:
    summary = run([str(tmp_path / "none.mp4")], tmp_path / "out", depth="canny")
    assert summary.failed(strict=False)
    assert len(summary.errors) == 1


def _as_nobody(source: str, out: str) -> None:
    os.setgid(65534)
    os.setuid(65534)
    tempfile.tempdir = str(Path(out).parent)
    summary = run(source, out)
    assert summary.num_videos == 1
    assert [error["stage"] for error in summary.errors] == ["sources"]
    assert "ermission denied" in summary.errors[0]["error"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_permission_denied() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        rows = [write_clip(Path(folder), name, 9, ord(name)) for name in "ab"]
        source = write_manifest(Path(folder), rows)
        (Path(folder) / "b.mp4").chmod(0)
        child = multiprocessing.get_context("fork").Process(target=_as_nobody, args=(source, f"{folder}/out"))
        child.start()
        child.join()
        assert child.exitcode == 0


def test_duplicates_are_prepared_once(tmp_path: Path) -> None:
    row = write_clip(tmp_path, "b", 9, 1)
    (tmp_path / "a copy.mp4").write_bytes((tmp_path / "b.mp4").read_bytes())
    log = Log()
    summary = run(write_manifest(tmp_path, [row, {**row, "uri": "a copy.mp4"}]), tmp_path / "out", report=log)
    assert (summary.num_sources, summary.num_contents, summary.num_videos) == (2, 1, 1)
    assert len(log.of("unit")) == 2 + 1 + 1 + 2
    (video,) = rows_of(tmp_path / "out", "videos")
    assert video["video_id"].startswith("a_copy-"), "of several, the first by name"
    assert video["duplicates"] == [str(tmp_path / "b.mp4")]


def test_a_bug_is_a_crash(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the data's fault is no row."""

    def wrong(self: ScanStage, task: Any, folder: Path) -> dict[str, Any]:
        return {}["nothing"]

    monkeypatch.setattr(ScanStage, "make", wrong)
    with pytest.raises(KeyError):
        run(source, tmp_path)


def test_a_network_that_fails_once(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may pass is tried again; what does not is a row with the number of attempts."""
    make, failures = ScanStage.make, {"a.mp4": 1, "b.mp4": 99}

    def failing(self: ScanStage, task: Any, folder: Path) -> dict[str, Any]:
        name = Path(task["uri"]).name
        failures[name] -= 1
        if failures[name] >= 0:
            raise VideoError(f"{name} cannot be read") from TimeoutError("no answer")
        return make(self, task, folder)

    monkeypatch.setattr(ScanStage, "make", failing)
    monkeypatch.setattr("pipelines.preparation.unit_worker._PAUSE_SECONDS", 0.0)
    summary = run(source, tmp_path)
    assert [(error["unit"], error["attempts"]) for error in summary.errors] == [("file", 3)]
    assert summary.num_videos == 1


def test_a_full_disk_is_no_row(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(LocalStorage):
        def put(self, name: str, source: Path) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.preparation.unit_worker._PAUSE_SECONDS", 0.0)
    with pytest.raises(StorageError, match=r"the output cannot be read or written: .*No space left"):
        run(source, tmp_path, open_storage=lambda uri: Full(Path(uri)))


def test_nan_depth_is_counted_and_left_out(tmp_path: Path) -> None:
    row = write_clip(tmp_path, "a", 9, 1)
    depth = depth_of(9, 1)
    depth[0, :4], depth[1, 0, :3] = np.nan, np.inf
    np.save(tmp_path / "a.npy", depth)
    run(write_manifest(tmp_path, [row]), tmp_path / "out")
    stats = rows_of(tmp_path / "out", "stats")[0]
    assert (stats["num_nan"], stats["num_inf"]) == (4 * 48, 3)
    stored = depth.astype(np.float16).astype(np.float64)
    assert stats["p5"] == np.percentile(stored[np.isfinite(stored)], 5)


def test_depth_without_any_value(tmp_path: Path) -> None:
    rows = [write_clip(tmp_path, name, 9, ord(name)) for name in "ab"]
    np.save(tmp_path / "a.npy", np.full((9, 32, 48), np.nan, np.float32))
    summary = run(write_manifest(tmp_path, rows), tmp_path / "out")
    assert [(error["stage"], Path(error["source"]).name) for error in summary.errors] == [("depth", "a.mp4")]
    assert summary.num_videos == 1
