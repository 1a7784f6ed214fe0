"""Prompts in words and in files beside videos."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipelines.captions.captioners import Captioner, CaptionError, ConstantCaptioner, GivenCaptioner, read_sidecar
from pipelines.errors import UserError

FRAMES = np.zeros((3, 8, 8, 3), np.uint8)


def test_a_constant_and_given_prompts() -> None:
    constant: Captioner = ConstantCaptioner(text="a hare")
    given: Captioner = GivenCaptioner(texts=("one", "two"))
    assert [constant(FRAMES, i, "v") for i in range(2)] == ["a hare", "a hare"]
    assert [given(FRAMES, i, "v") for i in range(2)] == ["one", "two"]
    with pytest.raises(CaptionError, match="v segment 2: prompts are given for 2 segments"):
        given(FRAMES, 2, "v")
    with pytest.raises(UserError, match="--prompt, field text: '  ' is not a text"):
        ConstantCaptioner(text="  ")


def test_an_identity_tells_captioners_apart_and_survives_the_way_to_a_worker() -> None:
    captioners = [ConstantCaptioner(text="a"), ConstantCaptioner(text="b"), GivenCaptioner(texts=("a",))]
    captioners += [GivenCaptioner(texts=("a", "b")), GivenCaptioner(texts=('a", "b',))]
    assert len({captioner.identity for captioner in captioners}) == len(captioners)
    assert all(pickle.loads(pickle.dumps(captioner)).identity == captioner.identity for captioner in captioners)


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("clip.txt", "a hare\n", ((None, "a hare"),)),
        ("clip.txt", "\ufeffone\r\n\r\n two \r\n", ((None, "one"), (None, "two"))),
        ("clip.json", '"a hare"', ((None, "a hare"),)),
        ("clip.json", '["one", "two"]', ((None, "one"), (None, "two"))),
        ("clip.json", '[{"start": 0, "text": "one"}, {"start": 9, "text": "two"}]', ((0, "one"), (9, "two"))),
    ],
)
def test_a_file_beside_the_video(tmp_path: Path, name: str, content: str, prompts: object) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_sidecar(str(tmp_path / "clip.mp4")) == prompts


def test_a_file_beside_a_remote_video() -> None:
    fsspec.filesystem("memory").pipe_file("/bucket.d/clip.txt", b"far away")
    assert read_sidecar("memory://bucket.d/clip.mp4") == ((None, "far away"),)
    assert read_sidecar("memory://bucket.d/clip") == ((None, "far away"),)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"clip\.mp4: its prompts are looked for in .*clip\.txt or .*clip\.json; neither exists, give one"),
        ({"clip.txt": b"a", "clip.json": b'"a"'}, "both exist, give one"),
        ({"clip.txt": b" \n"}, r"clip\.txt is empty; write one prompt"),
        ({"clip.txt": b"\xff\xfe"}, r"clip\.txt is not UTF-8 text"),
        ({"clip.txt": b"a" * (4 << 20) + b"b"}, r"clip\.txt has more than 4,194,304 bytes"),
        ({"clip.json": b"{"}, r"clip\.json is not JSON"),
        ({"clip.json": b"{}"}, r"clip\.json is an object; give a text, a list"),
        ({"clip.json": b'" "'}, r"clip\.json, field text: ' ' is not a text"),
        ({"clip.json": b"[]"}, r"clip\.json, field prompts: give a list"),
        ({"clip.json": b'[{"start": 3, "text": "a"}]'}, r"clip\.json, field prompts\[0\]\.start: 3; the first starts"),
    ],
)
def test_files_beside_the_video_that_are_wrong(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_sidecar(str(tmp_path / "clip.mp4"))
    assert "\n" not in str(raised.value)


def test_captions_need_no_torch() -> None:
    """Decode workers have 400 MB; torch alone takes more."""
    block = "import sys; sys.modules['torch'] = None; import pipelines.captions.captioners, pipelines.captions.endpoint"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", block], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_identities_are_readable() -> None:
    assert json.loads(ConstantCaptioner(text="a").identity) == ["constant", "a"]
