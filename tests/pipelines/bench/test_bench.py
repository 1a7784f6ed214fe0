"""A benchmark end to end with the embedded model, small; and what its parts promise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import sync_playwright

from longvie.controls.tracks import Tracks
from longvie.media import Video, write_video
from pipelines.bench.ablations import ABLATIONS, FULL, MASKED, chosen, rows_of
from pipelines.bench.bench import bench
from pipelines.bench.controls import blurred, masked, others
from pipelines.bench.options import BenchOptions
from pipelines.bench.verdicts import judge
from pipelines.bench.videos import CATEGORIES, read_longvgenbench, unfit
from pipelines.errors import UserError
from pipelines.evaluation.folders import Reference, ReferenceVideo
from tests.pipelines.helpers import Log

MINI = "longvgenbench-mini"
SMALL: dict[str, Any] = {"videos": 2, "segments": 2, "seeds": 1, "workers": 0, "resamples": 200}
ROWS = ("full", "blurred", "masked", "dense", "sparse", "none", "shuffled")


def run(out: Path, **options: Any) -> dict[str, Any]:
    given = {**SMALL, "only": ("controls", "robustness"), **options}
    return dict(bench(BenchOptions(name=MINI, out=str(out), **given), Log()).summary)


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("bench") / "out"
    return out, run(out)


def test_every_row_is_made_scored_and_compared(benched: tuple[Path, dict[str, Any]]) -> None:
    out, summary = benched
    assert set(ROWS) | {"frozen", "vae", "truth"} == set(summary["runs"])
    assert all(summary["runs"][name]["psnr"]["num_videos"] == 2 for name in ROWS)
    assert not summary["incomplete"]
    assert [row["name"] for row in summary["missing"]] == ["film"], "what is not there is said"
    controls = next(one for one in summary["ablations"] if one["name"] == "controls")
    none = next(row for row in controls["rows"] if row["name"] == "none")
    found = none["differences"]["psnr"]["difference"]["mean"]
    assert found == pytest.approx(summary["runs"]["none"]["psnr"]["mean"] - summary["runs"][FULL]["psnr"]["mean"])
    assert found < 0, "controls help"
    page = (out / "report.html").read_text()
    assert page.count('class="ablation"') == 2
    assert "0.508" in page, "the paper's numbers stand beside"


def test_again_nothing_is_made(benched: tuple[Path, dict[str, Any]]) -> None:
    out, summary = benched
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert run(out) == summary
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == before


def test_another_benchmark_is_not_mixed_in(benched: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="begun as another"):
        run(benched[0], segments=3)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="something else"):
        run(tmp_path)


def test_a_blur_is_a_mean_and_a_mask_takes_a_fifth(benched: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    prepared = benched[0] / "scenes" / "controls"
    dense = next(prepared.glob("*/dense_00000.mp4"))
    frames = Video(dense).read(range(17)).astype(float)
    assert np.abs(blurred(str(dense))[:, 2:-2, 2:-2].mean() - frames[:, 2:-2, 2:-2].mean()) < 3
    assert np.abs(np.diff(blurred(str(dense)).astype(float), axis=2)).mean() < np.abs(np.diff(frames, axis=2)).mean()
    tracks = next(prepared.glob("*/tracks_00000.npz"))
    whole, part = Tracks.load(tracks), masked(str(tracks), 0)
    assert part.points.shape[1] == round((1 - MASKED) * whole.points.shape[1])
    assert {tuple(point) for point in part.points[0]} < {tuple(point) for point in whole.points[0]}


@pytest.mark.parametrize(
    ("lengths", "at", "expected"),
    [([33, 49, 33], 0, "1/0 1/1 1/2"), ([33, 49, 40], 1, "2/0 2/1 2/0"), ([33, 33], 1, "0/0 0/1")],
)
def test_shuffled_controls_are_another_videos(lengths: list[int], at: int, expected: str) -> None:
    videos = []
    for number, length in enumerate(lengths):
        count = -(-(length - 1) // 16)
        names = tuple(f"{number}/{k}" for k in range(count))
        videos.append(
            ReferenceVideo(
                video_id=str(number), source="", sha256="", source_start=0, num_frames=length, dense=names,
                sparse=names, tracks=(None,) * count, ranges=(None,) * count, polarity=None, prompts=(None,) * count,
            )
        )  # fmt: skip
    reference = Reference(uri="", settings={"segment_length": 17}, videos=tuple(videos))
    dense, sparse = others(reference, at)
    assert " ".join(dense) == " ".join(sparse) == expected
    with pytest.raises(UserError, match="no other video"):
        others(replace(reference, videos=(videos[at],)), 0)


def test_rows_are_run_once_and_named_once() -> None:
    rows = rows_of(ABLATIONS)
    assert rows[0].name == FULL
    assert len({row.name for row in rows}) == len(rows)
    configs = [(tuple(sorted(row.config.items())), row.controls, row.model) for row in rows]
    assert len(set(configs)) == len(rows), "no two rows are the same run"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vbench"}, "is no benchmark"),
        ({"seeds": 0}, "--seeds is 0"),
        ({"only": ("colour",)}, "is no ablation"),
        ({"only": ("training",)}, "needs --trained"),
        ({"trained": ("full=x",)}, "is another row"),
        ({"trained": ("/x",)}, "give NAME=FOLDER"),
        ({"name": "longvgenbench"}, "needs --data"),
        ({"data": "x"}, "--data goes with"),
        ({"protocol": "81@16fps"}, "--protocol goes with"),
        ({"name": "longvgenbench", "data": "x", "protocol": "81@16fps"}, "makes 17 frames"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        bench(BenchOptions(**{"name": MINI, "out": str(tmp_path / "out"), **SMALL, **options}), Log())
    assert not (tmp_path / "out").exists()


@given(mean=st.floats(-5, 5), half=st.floats(0.01, 5), expected=st.sampled_from(["worse", "close"]))
def test_verdicts_follow_the_interval(mean: float, half: float, expected: Any) -> None:
    difference = {"mean": mean, "low": mean - half, "high": mean + half, "num_videos": 8}
    higher = judge(expected, "psnr", {"psnr": {"difference": difference}})
    mirrored = {**difference, "mean": -mean, "low": -mean - half, "high": -mean + half}
    assert judge(expected, "depth_si_rmse", {"depth_si_rmse": {"difference": mirrored}})["word"] == higher["word"]
    if mean + half < 0:
        assert higher["word"] == ("as in the paper" if expected == "worse" else "costs")
    elif mean - half > 0:
        assert higher["word"] == ("contradicts the paper" if expected == "worse" else "as in the paper")


def longvgenbench(folder: Path, lines: list[Any]) -> str:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_a_copy_of_longvgenbench_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    rows, missing = read_longvgenbench(
        longvgenbench(
            tmp_path, [{"uri": "a.mp4", "category": "real/indoor"}, {"uri": "b.mp4", "category": "game/indoor"}]
        )
    )
    assert [Path(row["uri"]).name for row in rows] == ["a.mp4"]
    assert missing[0] == ("b.mp4", "does not exist")
    assert dict(missing)["real/indoor"] == "1 of 22 videos are there"
    assert set(dict(missing)) == {"b.mp4", *CATEGORIES}
    assert "a.mp4" in (unfit(rows[0]["uri"]) or "")


def test_folders_a_category_are_a_copy_too(tmp_path: Path) -> None:
    (tmp_path / "game" / "outdoor-day").mkdir(parents=True)
    write_video(tmp_path / "game" / "outdoor-day" / "a.mp4", np.zeros((4, 32, 48, 3), np.uint8), 8)
    ((row,), _) = read_longvgenbench(str(tmp_path))
    assert row["category"] == "game/outdoor-day"
    assert "lasts 0.5 s" in (unfit(row["uri"]) or "")


@pytest.mark.parametrize(
    ("line", "message"),
    [({"uri": "a.mp4"}, "uri and category"), ({"uri": "a.mp4", "category": "sea"}, "choose of"),
     ({"uri": "../a.mp4", "category": "real/indoor"}, "outside")],
)  # fmt: skip
def test_a_manifest_that_cannot_be(line: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_longvgenbench(longvgenbench(tmp_path, [line]))
    assert chosen((), ()) == ABLATIONS


def test_the_report_draws_on_a_phone(benched: tuple[Path, dict[str, Any]]) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser is here; Debian: apt install chromium")
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"file://{benched[0] / 'report.html'}")
        assert page.locator(".ablation tbody tr").count() == 2 + 4 + 2, "the full method, and each row"
        assert page.locator("#missing li").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    assert complaints == []
