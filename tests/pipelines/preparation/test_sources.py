"""What users name: files, folders, globs, URIs and manifests, well-formed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from pipelines.errors import UserError
from pipelines.fetch import LocalCopies, hash_of, stamp_of
from pipelines.hashes import sha256
from pipelines.preparation.sources import Source, canonical, read_sources


def uris(inputs: list[str], out: str = "out") -> list[str]:
    return [source.uri for source in read_sources(inputs, out)]


def manifest(folder: Path, *rows: Any, name: str = "m.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "notes.txt", "deep/c.webm", ".hidden/d.mp4", "out/controls/e.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(name.encode())
    return tmp_path


def test_a_file_is_taken_whatever_it_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert uris(["notes.txt", f"file://{folder}/b.mp4"]) == [str(folder / "b.mp4"), str(folder / "notes.txt")]


def test_a_folder_gives_its_videos(folder: Path) -> None:
    """Deep ones too; not hidden ones, and not what an earlier run wrote."""
    found = uris([str(folder)], str(folder / "out"))
    assert found == [str(folder / "a.MKV"), str(folder / "b.mp4"), str(folder / "deep" / "c.webm")]


def test_globs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert uris(["*.mp4"]) == [str(folder / "b.mp4")]
    assert uris([f"{folder}/**/*.webm", "b.mp4"]) == [str(folder / "b.mp4"), str(folder / "deep" / "c.webm")]


def test_other_places() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("x/a.mp4", "x/y/b.mp4", "x/c.txt"):
        memory.pipe_file(f"/sources/{name}", b"1")
    assert uris(["memory://sources/x/"]) == ["memory:///sources/x/a.mp4", "memory:///sources/x/y/b.mp4"]
    assert uris(["memory://sources/x/*.mp4"]) == ["memory:///sources/x/a.mp4"]
    assert uris(["s3://bucket/a.mp4", "https://host/b.mp4?x=[1]"]) == ["https://host/b.mp4?x=[1]", "s3://bucket/a.mp4"]


def test_the_same_twice_is_once(folder: Path) -> None:
    assert uris([str(folder / "b.mp4"), str(folder / "b.mp4"), f"{folder}/*.mp4"]) == [str(folder / "b.mp4")]


def test_a_manifest(tmp_path: Path) -> None:
    rows = [
        {"uri": "v/a.mp4", "prompt": "hello"},
        {"uri": "s3://b/c.mp4", "depth": "d.npy", "depth_polarity": "disparity", "tracks": "t.npz"},
        {"uri": "/abs/e.mp4", "prompts": [{"start": 0, "text": "x"}], "tracks": ["t0.npz", "t1.npz"]},
    ]
    by_name = {Path(source.uri).name: source for source in read_sources([manifest(tmp_path, *rows)], "out")}
    assert by_name["a.mp4"] == Source(uri=str(tmp_path / "v/a.mp4"), where="m.jsonl line 1", prompts=((None, "hello"),))
    assert by_name["c.mp4"].depth == str(tmp_path / "d.npy")
    assert by_name["c.mp4"].depth_polarity == "disparity"
    assert by_name["c.mp4"].tracks == (str(tmp_path / "t.npz"),)
    assert by_name["e.mp4"].prompts == ((0, "x"),)
    assert len(by_name["e.mp4"].tracks) == 2


def test_all_forms_of_a_manifest_say_the_same(tmp_path: Path) -> None:
    rows = [{"uri": "a.mp4", "prompt": "a, b"}, {"uri": "b.mp4", "depth": "d.npy", "depth_polarity": "depth"}]
    names = ("uri", "prompt", "depth", "depth_polarity")
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text('uri,prompt,depth,depth_polarity\na.mp4,"a, b",,\nb.mp4,,d.npy,depth\n')
    jsonl = read_sources([manifest(tmp_path, *rows)], "out")
    for name in ("m.parquet", "m.csv"):
        read = read_sources([str(tmp_path / name)], "out")
        assert [(s.uri, s.given()) for s in read] == [(s.uri, s.given()) for s in jsonl]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], "m.jsonl line 1 is not JSON"),
        (["[1]"], "m.jsonl line 1 is not an object"),
        ([{"prompt": "x"}], "line 1, field uri: missing"),
        ([{"uri": ""}], "field uri: '' is not a path or URI"),
        ([{"uri": "a.mp4"}, {"uri": "b.mp4", "prmpt": "x"}], "line 2, field prmpt: unknown; known are uri, prompt"),
        ([{"uri": "ftp://a/b.mp4"}], "field uri: ftp://a/b.mp4: unknown scheme ftp://"),
        ([{"uri": "a.mp4", "prompt": " "}], "field prompt: ' ' is not a text"),
        ([{"uri": "a.mp4", "prompt": "x", "prompts": ["y"]}], "give either prompt .* or prompts"),
        ([{"uri": "a.mp4", "depth": "d.npy"}], "field depth_polarity: give it with depth"),
        ([{"uri": "a.mp4", "depth_polarity": "depth"}], "field depth_polarity: give it with depth"),
        ([{"uri": "a.mp4", "depth": "d", "depth_polarity": "near"}], "depth_polarity: 'near'; choose depth"),
        ([{"uri": "a.mp4", "tracks": [1]}], "field tracks: 1 is not a path or URI"),
        (
            [{"uri": "a.mp4", "prompt": "x"}, {"uri": "a.mp4", "prompt": "y"}],
            "line 2: .*a.mp4 is also named by m.jsonl line 1 with another prompts; name it once",
        ),
        ([], "m.jsonl has no rows"),
    ],
)
def test_mistakes_in_a_manifest(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sources([manifest(tmp_path, *rows)], "out")


def test_mistakes_in_arguments(tmp_path: Path) -> None:
    for given, message in (
        ([], "nothing to prepare"),
        ([str(tmp_path)], "holds no video; known endings are .3gp"),
        ([f"{tmp_path}/*.mp4"], "matches no file"),
        ([f"{tmp_path}/none.jsonl"], "none.jsonl cannot be read"),
        (["nosuch://a/b.mp4"], "unknown scheme nosuch://"),
        (["simplecache::s3://a/b.mp4"], "is not a path or URI"),
    ):
        with pytest.raises(UserError, match=message.replace("*", r"\*")):
            read_sources(given, "out")
    (tmp_path / "m.csv").write_text("uri\na.mp4,b.mp4\n")
    with pytest.raises(UserError, match=r"m\.csv line 2: more cells than the first line has names"):
        read_sources([str(tmp_path / "m.csv")], "out")
    (tmp_path / "m.parquet").write_bytes(b"PAR")
    with pytest.raises(UserError, match=r"m\.parquet is not a readable Parquet file"):
        read_sources([str(tmp_path / "m.parquet")], "out")


def test_of_duplicates_the_first_by_name_counts(tmp_path: Path) -> None:
    """It takes what only another says."""
    a, b = Source(uri="a", where="1"), Source(uri="b", where="2", prompts=((None, "x"),))
    assert canonical([b, a]) == Source(uri="a", where="1", prompts=((None, "x"),))


def test_hashes_and_stamps(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    assert hash_of(str(tmp_path / "a")) == (sha256(b"one"), 3)
    before = stamp_of(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(b"three")
    assert stamp_of(str(tmp_path / "a")) != before
    assert stamp_of(str(tmp_path / "none")) is None
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"0")
    digest, stamp = hash_of(str(folder)), stamp_of(str(folder))
    (folder / "1.png").write_bytes(b"1")
    assert hash_of(str(folder)) != digest
    assert stamp_of(str(folder)) != stamp


def test_inputs_elsewhere_are_fetched_one_at_a_time() -> None:
    memory = fsspec.filesystem("memory")
    copies, paths = LocalCopies(), []
    for name in ("one.mp4", "two.mp4"):
        memory.pipe_file(f"/fetched/{name}", name.encode())
        uri = f"memory://fetched/{name}"
        with copies.opened(uri, stamp_of(uri)) as path:
            assert Path(path).read_bytes() == name.encode()
            paths.append(Path(path))
    assert [path.exists() for path in paths] == [False, True]
    with pytest.raises(ValueError, match=r"memory://fetched/two\.mp4 has changed while it was prepared"):
        copies.opened("memory://fetched/two.mp4", "another").__enter__()
    copies.close()
    assert not paths[1].exists()
