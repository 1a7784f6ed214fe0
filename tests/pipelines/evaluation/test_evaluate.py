from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from pipelines.errors import UserError
from pipelines.evaluation import score_stage
from pipelines.evaluation.evaluate import Evaluated
from tests.pipelines.evaluation.evaluation_helpers import FRAMES, Made, run


def scores(out: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(out / "scores.parquet").to_pylist()


def test_every_run_and_baseline_is_scored_frame_by_frame(evaluated: tuple[Path, Evaluated]) -> None:
    out, done = evaluated
    assert done.complete
    rows = scores(out)
    for name, takes in (("one", {0}), ("two", {0, 1}), ("frozen", {0}), ("vae", {0})):
        psnr = [row for row in rows if row["run"] == name and row["metric"] == "psnr"]
        assert {row["take"] for row in psnr} == takes
        assert len(psnr) == sum(FRAMES.values()) * len(takes), "each new frame once, shared ones not twice"
        assert len({(row["take"], row["video"], row["frame"]) for row in psnr}) == len(psnr)
    assert {row["seed"] for row in rows if row["run"] == "two"} == {1, 2}
    assert not [row for row in rows if row["run"] == "truth" and row["metric"] in ("psnr", "ssim")]
    assert all(np.isfinite(row["value"]) for row in rows)
    assert not [row for row in rows if row["metric"] in ("vif", "ms_ssim")], "48x32 is too small for them"


def test_summary_says_means_with_intervals_and_what_decided_them(evaluated: tuple[Path, Evaluated]) -> None:
    out, _ = evaluated
    summary = json.loads((out / "summary.json").read_text())
    by_name = {said["name"]: said for said in summary["runs"]}
    assert list(by_name) == ["one", "two", "frozen", "vae", "truth"]
    assert by_name["two"]["seeds"] == [1, 2]
    assert summary["settings"]["depth_fingerprint"]
    assert summary["versions"]["torchmetrics"]
    psnr = by_name["one"]["metrics"]["psnr"]
    rows = [row for row in scores(out) if row["run"] == "one" and row["metric"] == "psnr"]
    videos = [np.mean([row["value"] for row in rows if row["video"] == v]) for v in {row["video"] for row in rows}]
    assert psnr["mean"] == pytest.approx(np.mean(videos)), "the video is the unit, not the frame"
    assert psnr["low"] <= psnr["mean"] <= psnr["high"]
    assert psnr["num_videos"] == 3
    (compared,) = (said for said in summary["comparisons"] if said["run"] == "two")
    found = compared["metrics"]["psnr"]
    assert found["difference"]["mean"] == pytest.approx(by_name["two"]["metrics"]["psnr"]["mean"] - psnr["mean"])
    assert found["p_holm"] >= found["p"] >= 0.25, "three videos prove nothing"
    assert "psnr_drift" in by_name["one"]["metrics"]


def test_baselines_order_as_they_must(evaluated: tuple[Path, Evaluated]) -> None:
    """The truth's own tracks and depth are the best there are; a still video does not flicker."""
    _, done = evaluated
    said = {row["name"]: row["metrics"] for row in done.summary["runs"]}
    assert said["frozen"]["flickering"]["mean"] == 1
    assert said["frozen"]["motion"]["mean"] == 0
    assert said["truth"]["track_delta_avg"]["mean"] > 0.95, "the same tracker, on the same frames"
    assert said["truth"]["track_delta_avg"]["mean"] > said["one"]["track_delta_avg"]["mean"]
    assert "boundary_ratio" not in said["frozen"], "nothing moves: undefined, not zero"
    assert "boundary_ratio" in done.summary["undefined"]


def test_done_again_nothing_is_made_and_nothing_changes(made: Made, evaluated: tuple[Path, Evaluated]) -> None:
    out, _ = evaluated
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done, _ = run(made, out, report=True)
    assert done.num_made == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_is_missing_is_made_again(made: Made, evaluated: tuple[Path, Evaluated], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(evaluated[0], out)
    commits = sorted((out / "commits" / "score").iterdir())
    commits[0].unlink()
    json.loads(commits[1].read_text())
    next(iter((out / "scores" / "one-0").iterdir())).unlink()
    done, _ = run(made, out)
    assert done.num_made == 2
    assert (out / "scores.parquet").read_bytes() == (evaluated[0] / "scores.parquet").read_bytes()


def test_a_run_that_breaks_off_is_marked_and_in_no_mean(made: Made, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(made.runs[0].partition("=")[2], broken)
    cut, gone, _ = sorted(path for path in broken.iterdir() if path.is_dir())
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(
        json.dumps({**manifest, "status": "failed", "segments": manifest["segments"][:1]})
    )
    shutil.rmtree(gone)
    done, _ = run(made, tmp_path / "out", [f"broken={broken}"], vae="none")
    assert not done.complete
    assert {row["video"]: row["why"].split(" ")[0] for row in done.summary["incomplete"]} == {
        cut.name: "1",
        gone.name: "it",
    }
    assert done.summary["runs"][0]["metrics"]["psnr"]["num_videos"] == 1
    (kept,) = {row["video"] for row in scores(tmp_path / "out") if row["run"] == "broken"} - {cut.name}
    assert kept not in (cut.name, gone.name)


def test_a_segment_that_cannot_be_read_is_a_row(made: Made, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(made.runs[0].partition("=")[2], broken)
    video = sorted(path for path in broken.iterdir() if path.is_dir())[0]
    (video / "segments" / "00001.mp4").write_bytes(b"nothing")
    done, _ = run(made, tmp_path / "out", [f"broken={broken}"], vae="none", report=True)
    errors = pyarrow.parquet.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    assert (errors[0]["video"], errors[0]["segment"]) == (video.name, 1)
    assert "00001.mp4" in errors[0]["error"]
    assert [row["video"] for row in done.summary["incomplete"]] == [video.name]
    assert "Incomplete" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": "nowhere"}, "--reference nowhere"),
        ({"against": "three"}, "--against three is no run"),
        ({"resamples": 3}, "--resamples is 3"),
        ({"depth": "canny"}, "--depth canny"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(made: Made, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        run(made, tmp_path / "out", **change)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_be_compared_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no video of"):
        run(made, tmp_path / "out", [f"x={tmp_path}"])
    with pytest.raises(UserError, match="name of a baseline"):
        run(made, tmp_path / "out", [f"frozen={tmp_path}"])
    with pytest.raises(UserError, match="holds something else"):
        run(made, Path(made.reference))
    other = tmp_path / "other"
    shutil.copytree(made.runs[0].partition("=")[2], other)
    for path in other.glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["settings"]["height"] = 64
        path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="one to one"):
        run(made, tmp_path / "out", [f"x={other}"])


def test_vbench_json_becomes_rows_beside(made: Made, tmp_path: Path) -> None:
    home = Path(made.runs[0].partition("=")[2])
    videos = sorted(path.name for path in home.iterdir() if path.is_dir())
    entries = [{"video_path": f"/x/{video}.mp4", "video_results": 0.5 + k / 10} for k, video in enumerate(videos)]
    percent = [{"video_path": f"/x/{video}/video.mp4", "video_results": 60.0} for video in videos]
    file = tmp_path / "x_eval_results.json"
    file.write_text(json.dumps({"subject_consistency": [0.6, entries], "imaging_quality": [0.6, percent]}))
    done, _ = run(made, tmp_path / "out", made.runs[:1], vae="none", vbench_json=(f"one={file}",))
    metrics = done.summary["runs"][0]["metrics"]
    assert metrics["vbench_subject_consistency"]["mean"] == pytest.approx(0.6)
    assert metrics["vbench_imaging_quality"]["mean"] == pytest.approx(0.6)
    file.write_text(json.dumps({"subject_consistency": [0.6, [{"video_path": "y.mp4", "video_results": 1}]]}))
    with pytest.raises(UserError, match=r"y\.mp4 is no video of the run"):
        run(made, tmp_path / "out", made.runs[:1], vae="none", vbench_json=(f"one={file}",))


def test_vbench_is_run_in_its_own_environment_once(made: Made, tmp_path: Path) -> None:
    """With a package that answers as VBench does: what is tested is what it is handed and how its file is taken."""
    package = tmp_path / "site" / "vbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import json, os\n"
        "class VBench:\n"
        "    def __init__(self, device, info, out): self.out = out; os.makedirs(out)\n"
        "    def evaluate(self, videos_path, name, prompt_list, dimension_list, mode):\n"
        "        assert mode == 'custom_input' and set(prompt_list.values()) == {'a', 'b', 'c'}\n"
        "        assert all(os.path.isfile(path) for path in prompt_list)\n"
        "        found = [{'video_path': path, 'video_results': 0.25} for path in prompt_list]\n"
        "        said = {dimension: [0.25, found] for dimension in dimension_list}\n"
        "        json.dump(said, open(f'{self.out}/{name}_eval_results.json', 'w'))\n"
        f"        open({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for _ in range(2):
        done, _ = run(made, tmp_path / "out", made.runs[:1], vae="none", vbench_python=str(python))
        assert done.summary["runs"][0]["metrics"]["vbench_aesthetic_quality"]["mean"] == 0.25
    assert (tmp_path / "runs").read_text() == "x", "kept for the same videos"
    with pytest.raises(UserError, match="cannot be run"):
        run(made, tmp_path / "other", made.runs[:1], vae="none", vbench_python=str(tmp_path / "none"))


def test_a_true_segment_is_decoded_once_for_all_runs(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[str, int]] = []
    read = score_stage._true_frames

    def counted(truth: Any, segment: Any) -> np.ndarray:
        if segment.num_valid > 1:  # not a first frame, for the one held still
            decoded.append((truth["uri"], truth["start"] + segment.start))
        return read(truth, segment)

    monkeypatch.setattr(score_stage, "_true_frames", counted)
    done, log = run(made, tmp_path / "out")
    assert len(log.of("unit")) == 6 * sum(-(-(count - 1) // 8) for count in FRAMES.values()), (
        "three takes, three baselines"
    )
    assert len(decoded) == len(set(decoded)) == sum(-(-(count - 1) // 8) for count in FRAMES.values())
    assert done.complete
