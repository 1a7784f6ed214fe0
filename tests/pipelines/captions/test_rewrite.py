"""An edited first frame: what comes out is the same video with other words, as `longvie generate` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from longvie.media import write_image
from pipelines import cli
from pipelines.captions.captioners import CaptionError
from pipelines.captions.rewrite import RewriteOptions, rewrite
from pipelines.errors import UserError
from pipelines.generation.inputs import read_rows


class InSnow:
    """Rewrites as a model would, and keeps what it was shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float, float]] = []

    def rewrite(self, caption: str, original: ndarray, edited: ndarray) -> str:
        self.asked.append((caption, float(original.mean()), float(edited.mean())))
        return f"{caption} in snow"


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A prepared OUT with two videos, and an edited first frame beside it."""
    out = tmp_path / "out"
    out.mkdir()
    write_image(out / "first.png", np.full((8, 8, 3), 50, np.uint8))
    write_image(tmp_path / "edited.png", np.full((8, 8, 3), 200, np.uint8))
    rows = [
        {"video_id": "a", "first_frame": "first.png", "dense": ["d0.mp4", "d1.mp4", "d2.mp4"], "sparse": ["s.mp4"],
         "prompts": ["a hare", "a hare", "it sleeps"], "num_frames": 20},
        {"video_id": "b", "first_frame": "first.png", "prompts": [{"start": 0, "text": "x"}, {"start": 9, "text": "y"}],
         "seed": 7},
    ]  # fmt: skip
    (out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def options(prepared: Path, **changes: Any) -> RewriteOptions:
    settings = {
        "source": str(prepared),
        "video_id": "a",
        "first_frame": str(prepared.parent / "edited.png"),
        "out": str(prepared.parent / "edited.jsonl"),
    }
    return RewriteOptions(**{**settings, **changes})


def test_the_edited_video_keeps_its_controls(prepared: Path) -> None:
    snow = InSnow()
    rewrite(options(prepared), snow)
    assert snow.asked == [("a hare", 50, 200), ("it sleeps", 50, 200)]  # equal prompts once
    (before,) = read_rows(str(prepared), video_id="a")
    (after,) = read_rows(str(prepared.parent / "edited.jsonl"))
    assert after.video_id == "a-edited"
    assert after.first_frame == str(prepared.parent / "edited.png")
    assert (after.dense, after.sparse, after.num_frames) == (before.dense, before.sparse, 20)
    assert after.prompts == ((None, "a hare in snow"), (None, "a hare in snow"), (None, "it sleeps in snow"))


def test_starts_and_seeds_are_kept(prepared: Path) -> None:
    rewrite(options(prepared, video_id="b", new_id="winter"), InSnow())
    (after,) = read_rows(str(prepared.parent / "edited.jsonl"))
    assert (after.video_id, after.seed, after.dense) == ("winter", 7, ())
    assert after.prompts == ((0, "x in snow"), (9, "y in snow"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_id": "c"}, r"--video-id c is not in manifest\.jsonl"),
        ({"first_frame": "none.png"}, r"--first-frame: none\.png does not exist"),
        ({"out": "edited.json"}, r"--out edited\.json is not a \.jsonl"),
        ({"new_id": "../x"}, r"--as '\.\./x' is not valid"),
    ],
)
def test_mistakes_are_named(prepared: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rewrite(options(prepared, **changes), InSnow())


def test_nothing_is_written_over(prepared: Path) -> None:
    before = (prepared / "manifest.jsonl").read_bytes()
    snow = InSnow()
    with pytest.raises(UserError, match=r"manifest\.jsonl exists; give another file"):
        rewrite(options(prepared, out=str(prepared / "manifest.jsonl")), snow)
    assert snow.asked == []
    assert (prepared / "manifest.jsonl").read_bytes() == before


def test_a_model_that_fails_leaves_nothing(prepared: Path) -> None:
    class Fails(InSnow):
        def rewrite(self, caption: str, original: ndarray, edited: ndarray) -> str:
            raise CaptionError("no answer")

    with pytest.raises(CaptionError):
        rewrite(options(prepared), Fails())
    assert not (prepared.parent / "edited.jsonl").exists()


def test_the_command_ends_with_one_line(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rewrite", str(prepared), "--video-id", "a", "--first-frame", str(prepared.parent / "edited.png")]
    arguments += ["--captioner", "http://127.0.0.1:9/v1", "--caption-model", "m", "--out", "x.jsonl"]
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("longvie: --captioner http://127.0.0.1:9/v1 cannot be reached (ConnectError")
    assert said.count("\n") == 1
