"""Encoding again: what is there stays, what is missing is made; and rows that cannot be encoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from longvie.media import write_video
from longvie.training.encoded import EncodedDataset
from pipelines.errors import UserError
from tests.pipelines.encoding.encode_helpers import (
    CLIPS,
    NUM_SEGMENTS,
    NUM_UNITS,
    made,
    run,
    shards,
    write_prepared,
)
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import moving, tree


class TestAgain:
    def test_nothing_to_do(self, prepared: Path, encoded: Path, toy_folder: Path) -> None:
        before, log = tree(encoded), Log()
        run(prepared, encoded, toy_folder, report=log)
        assert not log.of("unit")
        assert tree(encoded) == before

    def test_more_videos(self, tmp_path: Path, toy_folder: Path) -> None:
        """Only the new one's shards are made; what is there afterwards is what one run makes."""
        write_prepared(tmp_path, {"a": CLIPS["a"]})
        run(tmp_path / "prepared", tmp_path / "out", toy_folder)
        before = shards(tmp_path / "out")
        write_prepared(tmp_path)
        log = Log()
        run(tmp_path / "prepared", tmp_path / "out", toy_folder, report=log)
        assert len(made(log)) == 1
        assert before < shards(tmp_path / "out")
        run(tmp_path / "prepared", tmp_path / "whole", toy_folder)
        assert tree(tmp_path / "out") == tree(tmp_path / "whole")

    def test_videos_that_are_gone(self, tmp_path: Path, toy_folder: Path) -> None:
        write_prepared(tmp_path)
        run(tmp_path / "prepared", tmp_path / "out", toy_folder)
        write_prepared(tmp_path, {"b": CLIPS["b"]}, prune=True)
        before = tree(tmp_path / "out")
        with pytest.raises(UserError, match=r"also holds a-.*--prune to remove"):
            run(tmp_path / "prepared", tmp_path / "out", toy_folder)
        assert tree(tmp_path / "out") == before
        run(tmp_path / "prepared", tmp_path / "out", toy_folder, prune=True)
        assert len(EncodedDataset(str(tmp_path / "out"))) == 1
        assert len(list((tmp_path / "out" / "shards").iterdir())) == 1

    def test_restart(self, prepared: Path, encoded: Path, toy_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(encoded, tmp_path / "out")
        log = Log()
        run(prepared, tmp_path / "out", toy_folder, restart=True, dtype="float32", report=log)
        assert len(made(log)) == NUM_UNITS
        assert EncodedDataset(str(tmp_path / "out")).meta.dtype == "float32"

    def test_a_shard_that_lost_its_bytes_is_made_again(
        self, prepared: Path, encoded: Path, toy_folder: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(encoded, tmp_path / "out")
        shard = sorted((tmp_path / "out" / "shards").iterdir())[1]
        shard.write_bytes(shard.read_bytes()[:-1])
        log = Log()
        run(prepared, tmp_path / "out", toy_folder, report=log)
        assert made(log) == [f"commits/encode/{shard.stem}.json"]
        assert tree(tmp_path / "out") == tree(encoded)


class TestBadRows:
    def test_a_broken_control_is_a_row_and_its_neighbours_are_encoded(
        self, prepared: Path, encoded: Path, toy_folder: Path, tmp_path: Path
    ) -> None:
        copy = shutil.copytree(prepared, tmp_path / "prepared")
        broken = sorted(copy.glob("controls/a*/dense_00001.mp4"))[0]
        whole = broken.read_bytes()
        broken.write_bytes(whole[: len(whole) // 2])
        log = Log()
        summary = run(copy, tmp_path / "out", toy_folder, report=log)
        (row,) = pyarrow.parquet.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
        assert row["unit"].endswith(" segment 1")
        assert row["stage"] == "encode"
        assert "dense_00001.mp4 is not what was prepared; prepare again" in row["error"]
        assert [event["text"] for event in log.of("note")] == [f"{row['unit']}: {row['error']}"]
        assert summary.num_segments == NUM_SEGMENTS - 1
        assert not summary.failed(strict=False)
        assert summary.failed(strict=True)
        assert [row["segment"] for row in EncodedDataset(str(tmp_path / "out")).samples.to_pylist()] == [0, 2, 3, 0]
        broken.write_bytes(whole)
        log = Log()
        assert not run(copy, tmp_path / "out", toy_folder, report=log).failed(strict=True)
        assert len(made(log)) == 1, "only the shard that lacked a segment"
        assert tree(tmp_path / "out") == tree(encoded)

    @pytest.mark.parametrize("change", ["gone", "other", "half"])
    def test_a_source_that_is_not_what_was_prepared(self, toy_folder: Path, tmp_path: Path, change: str) -> None:
        prepared = write_prepared(tmp_path)
        source = tmp_path / "a.mp4"
        if change == "gone":
            source.unlink()
        elif change == "other":
            write_video(source, moving(26, 99), 8)
        else:
            source.write_bytes(source.read_bytes()[:500])
        summary = run(prepared, tmp_path / "out", toy_folder)
        (row,) = pyarrow.parquet.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
        assert row["source"] == str(source)
        assert row["stage"] == "sources"
        wanted = "does not exist" if change == "gone" else "is not what was prepared; run longvie prepare again"
        assert wanted in row["error"]
        assert summary.num_segments == 1

    def test_encoded_videos_outlive_their_source(self, toy_folder: Path, tmp_path: Path) -> None:
        prepared = write_prepared(tmp_path)
        run(prepared, tmp_path / "out", toy_folder)
        before = tree(tmp_path / "out")
        (tmp_path / "a.mp4").unlink()
        assert not run(prepared, tmp_path / "out", toy_folder).failed(strict=True)
        assert tree(tmp_path / "out") == before

    def test_a_value_that_float16_cannot_hold(self, prepared: Path, toy_folder: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(toy_folder, tmp_path / "model")
        config = json.loads((copy / "vae" / "config.json").read_text())
        (copy / "vae" / "config.json").write_text(json.dumps({**config, "latents_std": [1e-9] * 4}))
        summary = run(prepared, tmp_path / "out", copy)
        assert summary.failed(strict=False)
        assert len(summary.errors) == NUM_SEGMENTS + 1
        assert {row["error"] for row in summary.errors} == {
            "values do not fit float16; give --dtype bfloat16 or float32"
        }
