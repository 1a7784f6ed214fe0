"""What users hand in, well-formed or not: which line, which entry, which field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from longvie.video import VideoError
from pipelines.errors import UserError
from pipelines.generation.inputs import Row, read_rows
from tests.pipelines.helpers import PROMPTS, Inputs


def lines(folder: Path, *rows: Any) -> str:
    path = folder / "m.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_a_manifest_row(tmp_path: Path) -> None:
    row = {"video_id": "a", "first_frame": "x.png", "dense": ["d0.mp4", "/abs/d1.mp4"], "sparse": "s3://b/s.mp4"}
    (read,) = read_rows(lines(tmp_path, {**row, "prompt": "hello", "seed": 7, "num_frames": 33}))
    assert read == Row(
        where="m.jsonl line 1",
        video_id="a",
        first_frame=str(tmp_path / "x.png"),
        dense=(str(tmp_path / "d0.mp4"), "/abs/d1.mp4"),
        sparse=("s3://b/s.mp4",),
        prompts=((None, "hello"),),
        seed=7,
        num_frames=33,
    )


def test_parquet_says_the_same_as_jsonl(tmp_path: Path) -> None:
    rows = [
        {"video_id": "a", "first_frame": "x.png", "dense": ["d.mp4"], "prompts": ["one", "two"], "seed": 1},
        {"video_id": "b", "first_frame": "y.png", "prompts": ["three"], "num_frames": 5},
    ]
    columns = {key: [row.get(key) for row in rows] for key in {**rows[0], **rows[1]}}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    from_parquet = read_rows(str(tmp_path / "m.parquet"))
    from_jsonl = read_rows(lines(tmp_path, *rows))
    assert [row.where for row in from_parquet] == ["m.parquet row 1", "m.parquet row 2"]
    for a, b in zip(from_parquet, from_jsonl, strict=True):
        assert (a.video_id, a.first_frame, a.dense, a.prompts, a.seed, a.num_frames) == (
            b.video_id,
            b.first_frame,
            b.dense,
            b.prompts,
            b.seed,
            b.num_frames,
        )


def test_a_remote_manifest_resolves_beside_itself() -> None:
    row = {"video_id": "a", "first_frame": "./x.png", "dense": "in/d.mp4", "prompt": "p"}
    with fsspec.open("memory://bucket/m.jsonl", "w") as file:
        file.write(json.dumps(row))
    (read,) = read_rows("memory://bucket/m.jsonl")
    assert read.first_frame == "memory://bucket/x.png"
    assert read.dense == ("memory://bucket/in/d.mp4",)


def test_one_row_by_its_id(tmp_path: Path) -> None:
    rows = [{"video_id": v, "first_frame": "x.png", "prompt": "p"} for v in "abc"]
    assert [row.video_id for row in read_rows(lines(tmp_path, *rows), video_id="b")] == ["b"]
    with pytest.raises(UserError, match=r"--video-id d is not in m\.jsonl"):
        read_rows(lines(tmp_path, *rows), video_id="d")


GOOD = {"video_id": "a", "first_frame": "x.png", "prompt": "p"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, "{not json"], "line 2 is not JSON"),
        (["[1]"], "line 1 is not an object"),
        ([{**GOOD, "frist_frame": "x"}], "line 1, field frist_frame: unknown; known are video_id, first_frame"),
        ([{"first_frame": "x.png", "prompt": "p"}], "line 1, field video_id: missing"),
        ([{"video_id": "a", "prompt": "p"}], "line 1, field first_frame: missing"),
        ([{**GOOD, "video_id": "../a"}], "line 1, field video_id: '../a' is not valid"),
        ([GOOD, GOOD], "line 2, field video_id: 'a' is also that of m.jsonl line 1"),
        ([{"video_id": "a", "first_frame": "x.png"}], "field prompt: give either prompt"),
        ([{**GOOD, "prompts": ["p"]}], "field prompt: give either prompt"),
        ([{**GOOD, "prompt": 3}], "field prompt: 3 is not a text"),
        ([{**GOOD, "prompt": " "}], "field prompt: ' ' is not a text"),
        ([{**GOOD, "seed": -1}], "line 1, field seed: seed is -1; give 0"),
        ([{**GOOD, "seed": 2**63}], "line 1, field seed: seed is"),
        ([{**GOOD, "seed": "1"}], "line 1, field seed: '1' is not a whole number"),
        ([{**GOOD, "seed": True}], "line 1, field seed: True is not a whole number"),
        ([{**GOOD, "num_frames": 0}], "line 1, field num_frames: num_frames is 0; a video has at least 1"),
        ([{**GOOD, "num_frames": 1.5}], "line 1, field num_frames: 1.5 is not a whole number"),
        ([{**GOOD, "dense": 5}], "line 1, field dense: 5 is not a path or URI"),
        ([{**GOOD, "dense": ["d.mp4", None]}], "line 1, field dense: None is not a path or URI"),
        ([{**GOOD, "sparse": "ftp://h/s.mp4"}], "line 1, field sparse: ftp://h/s.mp4: unknown scheme ftp://"),
        ([{**GOOD, "first_frame": "zip://a::s3://b"}], "line 1, field first_frame: .* is not a path or URI"),
        ([], "has no rows"),
    ],
)
def test_wrong_rows(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_rows(lines(tmp_path, *rows))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "field prompts: give a list"),
        ("text", "field prompts: give a list"),
        (["a", 3], r"field prompts\[1\]: 3 is not a text"),
        ([{"start": 0, "text": "a"}, "b"], r"field prompts\[1\]: give an object"),
        ([{"start": 1, "text": "a"}], r"prompts\[0\].start: 1; the first starts at 0"),
        (
            [{"start": 0, "text": "a"}, {"start": 8, "text": "b"}, {"start": 8, "text": "c"}],
            r"prompts\[2\].start: 8; starts increase, and the one before is 8",
        ),
        ([{"start": 0, "text": "a"}, {"start": "8", "text": "b"}], r"prompts\[1\].start: '8'"),
        ([{"start": 0, "text": ""}], r"prompts\[0\].text: '' is not a text"),
        ([{"start": 0, "text": "a", "end": 3}], r"prompts\[0\]: give an object with start"),
    ],
)
def test_wrong_prompts(tmp_path: Path, prompts: Any, message: str) -> None:
    row = {"video_id": "a", "first_frame": "x.png", "prompts": prompts}
    with pytest.raises(UserError, match=message):
        read_rows(lines(tmp_path, row))


def test_cond_json_as_released(inputs: Inputs) -> None:
    """Its paths hold from the folder of the release; those beside the file are found, and that is said."""
    (row,) = read_rows(inputs / "cond.json", first_frame=inputs / "first.png", video_id="ours")
    assert row.dense == tuple(inputs / f"depth_{i:02d}.mp4" for i in range(3))
    assert row.sparse == tuple(inputs / f"track_{i:02d}.mp4" for i in range(3))
    assert row.prompts == tuple((None, text) for text in PROMPTS[:3])
    assert row.notes == ("cond.json: 6 control files were not at the paths it says; those beside it were taken",)


def test_cond_json_paths_hold_from_a_parent_folder(tmp_path: Path) -> None:
    folder = tmp_path / "example" / "horse"
    folder.mkdir(parents=True)
    for name in ("d.mp4", "t.mp4"):
        (folder / name).touch()
    entry = {"text": "x", "depth": "./example/horse/d.mp4", "track": "./example/horse/t.mp4"}
    (folder / "cond.json").write_text(json.dumps([entry]))
    (row,) = read_rows(str(folder / "cond.json"), first_frame="f.png")
    assert Path(row.dense[0]) == folder / "d.mp4"
    assert row.video_id == "horse"
    assert row.notes == ()


@pytest.mark.parametrize("missing", ["depth", "track"])
def test_cond_json_with_one_control(inputs: Inputs, tmp_path: Path, missing: str) -> None:
    entries = json.loads(Path(inputs / "cond.json").read_text())
    for entry in entries:
        del entry[missing]
    path = inputs.folder / f"without_{missing}.json"
    path.write_text(json.dumps(entries))
    (row,) = read_rows(str(path), first_frame=inputs / "first.png", video_id="a")
    assert (not row.dense, not row.sparse) == (missing == "depth", missing == "track")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cond\.json is not JSON"),
        ("{}", r"cond\.json is not a list of segments"),
        ("[]", r"cond\.json is not a list of segments"),
        ('["x"]', "entry 0 is not an object"),
        ('[{"depth": "d.mp4"}]', "entry 0, field text: missing"),
        ('[{"text": 5}]', "entry 0, field text: 5 is not a text"),
        ('[{"text": "a", "depth": "d.mp4"}, {"text": "a"}]', "entry 1, field depth: missing; other entries have it"),
        ('[{"text": "a", "depth": 1}]', "entry 0, field depth: 1 is not a path"),
        ('[{"text": "a", "track": "none.mp4"}]', r"entry 0, field track: none\.mp4 does not exist under"),
        ('[{"text": "a", "track": "ftp://h/t.mp4"}]', "entry 0, field track ftp://h/t.mp4: unknown scheme"),
    ],
)
def test_wrong_cond_json(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "d.mp4").touch()
    (tmp_path / "cond.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_rows(str(tmp_path / "cond.json"), first_frame="f.png")


def test_flags_that_do_not_go_with_the_input(tmp_path: Path) -> None:
    (tmp_path / "cond.json").write_text("[]")
    with pytest.raises(UserError, match="needs --first-frame"):
        read_rows(str(tmp_path / "cond.json"))
    with pytest.raises(UserError, match=r"--first-frame goes with a cond\.json"):
        read_rows(lines(tmp_path, GOOD), first_frame="f.png")


def test_files_that_are_no_input(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        read_rows(str(tmp_path / "none.jsonl"))
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"neither cond\.json, \.jsonl nor \.parquet"):
        read_rows(str(tmp_path / "a.txt"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        read_rows(str(tmp_path / "a.parquet"))
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not a readable text file"):
        read_rows(str(tmp_path / "a.jsonl"))


def test_json_nested_beyond_measure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_rows(lines(tmp_path, "[" * 200_000))
