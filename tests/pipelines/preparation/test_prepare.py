"""Preparation in one process: what comes out, what is refused, what is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longvie.controls.normalize import DepthHistogram
from longvie.media import Video
from pipelines.errors import UserError
from pipelines.generation.inputs import read_rows
from pipelines.preparation.depth_stage import read_depth, read_histogram
from pipelines.storage import LocalStorage
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import (
    CLIPS,
    SEGMENT_LENGTH,
    commits,
    depth_of,
    made,
    rows_of,
    run,
    tree,
    write_clip,
    write_manifest,
)


class TestOutputs:
    def test_generation_reads_the_manifest(self, prepared: Path) -> None:
        """A prepared folder is an input of `longvie generate`, each control in as many files as there are segments."""
        rows = read_rows(str(prepared))
        assert [row.num_frames for row in rows] == list(CLIPS.values())
        assert [len(row.dense) for row in rows] == [len(row.sparse) for row in rows] == [4, 2]
        assert [row.prompts for row in rows] == [((None, "clip a"),) * 4, ((None, "clip b"),) * 2]
        for row in rows:
            lengths = [Video(uri).info.num_frames for uri in row.dense]
            assert sum(lengths) - len(lengths) + 1 == row.num_frames, "neighbours share one frame"
            assert lengths == [Video(uri).info.num_frames for uri in row.sparse]
            assert max(lengths) == SEGMENT_LENGTH

    def test_depth_is_stored_exactly_as_it_was_given(self, prepared: Path) -> None:
        videos = rows_of(prepared, "videos")
        for video, (name, count) in zip(videos, CLIPS.items(), strict=True):
            stored = np.empty((count, 32, 48), np.float16)
            read_depth(LocalStorage(prepared), f"{video['video_id']}/00000", 0, stored)
            np.testing.assert_array_equal(stored, depth_of(count, ord(name)).astype(np.float16))

    def test_statistics_are_numpys(self, prepared: Path) -> None:
        """Bit-identical to numpy.percentile over all stored values, at video and at dataset scope."""
        values = {
            video["video_id"]: depth_of(count, ord(name)).astype(np.float16).astype(np.float64).ravel()
            for video, (name, count) in zip(rows_of(prepared, "videos"), CLIPS.items(), strict=True)
        }
        rows = rows_of(prepared, "stats")
        assert [row["scope"] for row in rows] == ["video", "video", "dataset"]
        values[""] = np.concatenate(list(values.values()))
        for row in rows:
            these = values[row["video_id"]]
            assert row["count"] == len(these)
            assert (row["min"], row["max"]) == (these.min(), these.max())
            for q in (2, 5, 50, 95, 98):
                assert row[f"p{q}"] == np.percentile(these, q)
            histogram = DepthHistogram.from_bytes(row["histogram"])
            assert histogram.count == len(these)
            assert (row["num_nan"], row["num_inf"], row["polarity"]) == (0, 0, "depth")
        for segment in rows_of(prepared, "segments"):
            these = values[segment["video_id"]]
            assert (segment["low"], segment["high"]) == (np.percentile(these, 5), np.percentile(these, 95))

    def test_the_dense_control_is_one_range_over_the_video(self, prepared: Path) -> None:
        segments = rows_of(prepared, "segments")
        for segment in segments[:4]:
            frames = Video(prepared / segment["dense"]).read(range(segment["num_frames"]))
            depth = depth_of(CLIPS["a"], ord("a")).astype(np.float16).astype(np.float64)
            depth = depth[segment["start"] : segment["start"] + segment["num_frames"]]
            far = (np.clip(depth, segment["low"], segment["high"]) - segment["low"]) / (
                segment["high"] - segment["low"]
            )
            assert np.abs(frames[..., 0] - far * 255).max() <= 2, "truncated, then coded"

    def test_first_frames(self, prepared: Path) -> None:
        segments = rows_of(prepared, "segments")
        assert [segment["first_frame"] is not None for segment in segments] == [s["segment"] == 0 for s in segments]

    def test_cond_json_is_read_by_generation(self, prepared: Path) -> None:
        row = read_rows(str(prepared))[0]
        cond = prepared / "cond" / row.video_id / "cond.json"
        (read,) = read_rows(str(cond), first_frame=row.first_frame)
        assert read.video_id == row.video_id
        assert [Path(uri).resolve() for uri in read.dense] == [Path(uri).resolve() for uri in row.dense]
        assert [text for _, text in read.prompts] == [text for _, text in row.prompts]

    def test_tables_are_read_by_other_tools(self, prepared: Path) -> None:
        duckdb = pytest.importorskip("duckdb")
        pandas = pytest.importorskip("pandas")
        count = duckdb.sql(f"select count(*) from '{prepared}/segments.parquet' where num_frames = {SEGMENT_LENGTH}")
        assert count.fetchall() == [(5,)]
        assert list(pandas.read_parquet(prepared / "videos.parquet").kept) == [True, True]

    def test_huggingface_datasets(self, prepared: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        for table in ("videos", "segments", "stats"):
            read = datasets.load_dataset(
                "parquet", data_files=str(prepared / f"{table}.parquet"), cache_dir=str(tmp_path)
            )
            assert len(read["train"]) == len(rows_of(prepared, table))

    def test_nothing_else_is_there(self, prepared: Path) -> None:
        names = {name.split("/")[0] for name in tree(prepared)}
        top = {
            "prepare.json",
            "manifest.jsonl",
            "videos.parquet",
            "segments.parquet",
            "stats.parquet",
            "errors.parquet",
        }
        assert names - {"report.html"} == top | {"commits", "controls", "cond", "depth"}


class TestAgain:
    def test_nothing_to_do(self, source: str, prepared: Path) -> None:
        before, log = tree(prepared), Log()
        run(source, prepared, cond_json=True, report=log)
        assert not log.of("unit")
        assert tree(prepared) == before

    def test_another_name_or_order_of_inputs(self, source: str, prepared: Path, tmp_path: Path) -> None:
        rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
        backwards = write_manifest(Path(source).parent, rows[::-1], "backwards.jsonl")
        run(backwards, tmp_path, cond_json=True)
        assert tree(tmp_path) == tree(prepared)

    def test_more_sources(self, tmp_path: Path) -> None:
        """What exists is not made again; the whole is as if it had been asked for at once."""
        rows = [write_clip(tmp_path, name, count, ord(name)) for name, count in CLIPS.items()]
        run(write_manifest(tmp_path, rows[:1]), tmp_path / "out")
        before, log = commits(tmp_path / "out"), Log()
        run(write_manifest(tmp_path, rows), tmp_path / "out", report=log)
        assert not set(made(log)) & set(before)
        assert before.items() <= commits(tmp_path / "out").items()
        run(write_manifest(tmp_path, rows), tmp_path / "at_once")
        assert tree(tmp_path / "out") == tree(tmp_path / "at_once")

    def test_dataset_scope_moves_with_the_dataset(self, tmp_path: Path) -> None:
        """Another range makes other controls, of the same depth."""
        rows = [write_clip(tmp_path, name, count, ord(name)) for name, count in CLIPS.items()]
        np.save(tmp_path / "b.npy", depth_of(CLIPS["b"], 7) * 3)
        run(write_manifest(tmp_path, rows[:1]), tmp_path / "out", scope="dataset")
        log = Log()
        run(write_manifest(tmp_path, rows), tmp_path / "out", scope="dataset", report=log)
        assert sorted(name.split("/")[1] for name in made(log)) == ["controls"] * 6 + ["depth", "scan", "sources"]
        ranges = {(segment["low"], segment["high"]) for segment in rows_of(tmp_path / "out", "segments")}
        dataset = rows_of(tmp_path / "out", "stats")[-1]
        assert ranges == {(dataset["p5"], dataset["p95"])}
        run(write_manifest(tmp_path, rows), tmp_path / "at_once", scope="dataset")
        assert tree(tmp_path / "out") == tree(tmp_path / "at_once")

    def test_sources_that_are_not_named_any_more(self, tmp_path: Path) -> None:
        rows = [write_clip(tmp_path, name, count, ord(name)) for name, count in CLIPS.items()]
        out = tmp_path / "out"
        run(write_manifest(tmp_path, rows), out)
        before = tree(out)
        with pytest.raises(UserError, match=r"also holds .*b\.mp4, which this command does not name: .* --prune"):
            run(write_manifest(tmp_path, rows[:1]), out)
        assert tree(out) == before
        run(write_manifest(tmp_path, rows[:1]), out, prune=True)
        run(write_manifest(tmp_path, rows[:1]), tmp_path / "alone")
        assert tree(out) == tree(tmp_path / "alone")

    def test_a_source_that_cannot_be_read_today_loses_nothing(self, tmp_path: Path) -> None:
        rows = [write_clip(tmp_path, name, count, ord(name)) for name, count in CLIPS.items()]
        out = tmp_path / "out"
        run(write_manifest(tmp_path, rows), out)
        before = tree(out)
        (tmp_path / "b.mp4").rename(tmp_path / "away.mp4")
        summary = run(write_manifest(tmp_path, rows), out)
        assert [error["stage"] for error in summary.errors] == ["sources"]
        assert summary.num_videos == 1
        (tmp_path / "away.mp4").rename(tmp_path / "b.mp4")
        log = Log()
        run(write_manifest(tmp_path, rows), out, report=log)
        assert not made(log)
        assert tree(out) == before

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fps": 4}, "fps 8.0, now 4.0"),
            ({"size": "64x32"}, "width 48, now 64"),
            ({"segment_length": 9}, "segment_length 5, now 9"),
            ({"scope": "segment"}, 'scope "video", now "segment"'),
            ({"fit": "pad"}, 'fit "crop", now "pad"'),
        ],
    )
    def test_changed_settings_are_refused(
        self, source: str, prepared: Path, change: dict[str, Any], message: str
    ) -> None:
        before = tree(prepared)
        with pytest.raises(UserError, match=rf"was prepared with .*{message}.*--restart"):
            run(source, prepared, **change)
        assert tree(prepared) == before

    def test_restart(self, source: str, tmp_path: Path) -> None:
        run(source, tmp_path / "out", scope="segment")
        (tmp_path / "out" / "mine.txt").write_text("not yours")
        run(source, tmp_path / "out", restart=True)
        run(source, tmp_path / "fresh")
        assert tree(tmp_path / "out") == {**tree(tmp_path / "fresh"), "mine.txt": tree(tmp_path / "out")["mine.txt"]}

    def test_depth_that_is_not_kept(self, source: str, tmp_path: Path) -> None:
        """It goes at the end, and comes again only where a control needs it."""
        out = tmp_path / "out"
        run(source, out, keep_depth=False)
        assert not list(out.rglob("*.npy.zst"))
        log = Log()
        run(source, out, keep_depth=False, report=log)
        assert not made(log)
        before = tree(out)
        next((out / "commits" / "controls").iterdir()).unlink()
        run(source, out, keep_depth=False, report=log)
        assert [name.split("/")[1] for name in made(log)] == ["depth", "controls"]
        assert tree(out) == before

    def test_a_file_that_lost_its_bytes_is_made_again(self, source: str, tmp_path: Path) -> None:
        run(source, tmp_path)
        before = tree(tmp_path)
        victim = next((tmp_path / "controls").rglob("sparse_00001.mp4"))
        victim.write_bytes(victim.read_bytes()[:-1])
        log = Log()
        run(source, tmp_path, report=log)
        assert len(made(log)) == 1
        assert tree(tmp_path) == before


def test_segment_scope(source: str, tmp_path: Path) -> None:
    """Each segment has its own range and its own row; for ablation."""
    run(source, tmp_path, scope="segment")
    segments = rows_of(tmp_path, "segments")
    rows = {(row["video_id"], row["segment"]): row for row in rows_of(tmp_path, "stats") if row["scope"] == "segment"}
    assert len(rows) == len(segments) == 6
    for segment in segments:
        row = rows[segment["video_id"], segment["segment"]]
        assert (segment["low"], segment["high"]) == (row["p5"], row["p95"])
    assert len({segment["low"] for segment in segments}) > 2
    name = f"{segments[0]['video_id']}/segment_00000"
    assert read_histogram(LocalStorage(tmp_path), name).count == SEGMENT_LENGTH * 32 * 48


def test_memory_storage(source: str) -> None:
    summary = run(source, "memory://prepared")
    assert summary.num_videos == 2
    assert [row.num_frames for row in read_rows("memory://prepared")] == list(CLIPS.values())
    log = Log()
    run(source, "memory://prepared", report=log)
    assert not log.of("unit")


def test_long_names_and_strange_letters(tmp_path: Path) -> None:
    row = write_clip(tmp_path, "x", 9, 1)
    (tmp_path / "x.mp4").rename(tmp_path / ("ä ö#" + "n" * 200 + ".mp4"))
    summary = run(write_manifest(tmp_path, [{**row, "uri": "ä ö#" + "n" * 200 + ".mp4"}]), tmp_path / "out")
    assert summary.num_videos == 1
    assert len(rows_of(tmp_path / "out", "videos")[0]["video_id"]) <= 128
