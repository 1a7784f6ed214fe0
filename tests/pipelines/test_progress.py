"""What users are told: the same events as bars, as lines and as JSON."""

from __future__ import annotations

import io
import json

from rich.console import Console

from pipelines.generation.scheduling import Outcome
from pipelines.progress import Bars, describe, json_lines, summary

PLAN = {
    "videos": [
        {"video_id": "ride_horse", "num_segments": 10, "num_done": 4},
        {"video_id": "b" * 40, "num_segments": 2, "num_done": 0},
    ],
    "placement": "2 workers with 1 GPU and 1 CPU thread each",
}


def test_bars() -> None:
    """One overall and one for each video at work; segments and steps move it; it goes when its video is done."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bars = Bars(console)
    bars("plan", **PLAN)
    overall = bars.progress.tasks[0]
    assert (overall.completed, overall.total) == (4, 12)
    bars("step", video_id="ride_horse", segment=4, step=25, num_steps=50)
    video = bars.progress.tasks[1]
    assert (video.completed, video.total) == (4.5, 10)
    assert video.fields["steps"] == "25/50 steps"
    assert (overall.completed, overall.fields["segments"]) == (4.5, "4/12"), "steps move the bar, segments are counted"
    bars("segment", video_id="ride_horse", segment=4, num_segments=10, num_frames=80, seconds=9.0)
    assert (video.completed, video.fields["segments"], video.fields["steps"]) == (5, "5/10", "")
    assert (overall.completed, overall.fields["segments"]) == (5, "5/12")
    bars("step", video_id="b" * 40, segment=0, step=1, num_steps=50)
    assert len(bars.progress.tasks[2].description) <= 24
    with bars.progress:
        bars.progress.refresh()
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "ride_horse" in drawn
    assert "5/12" in drawn
    bars("video", video_id="ride_horse", status="done", error=None, uri="out/ride_horse")
    assert [task.description for task in bars.progress.tasks] == ["2 videos", bars.progress.tasks[1].description]


def test_time_left_where_a_segment_takes_minutes() -> None:
    """Ten seconds a step, fifty steps a segment, as the released model on one GPU: both bars say when it ends."""
    now = 0.0
    bars = Bars(Console(file=io.StringIO(), force_terminal=True, width=100), clock=lambda: now)
    bars("plan", videos=[{"video_id": "a", "num_segments": 10, "num_done": 0}], placement="")
    for segment in range(2):
        for step in range(51):
            bars("step", video_id="a", segment=segment, step=step, num_steps=50)
            now += 10 * (step < 50)
        bars("segment", video_id="a", segment=segment, num_segments=10, num_frames=80, seconds=500.0)
    for task in bars.progress.tasks:
        assert task.completed == 2
        assert task.time_remaining is not None
        assert abs(task.time_remaining - 8 * 500) < 100


def test_user_text_is_never_taken_for_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    Bars(console)("video", video_id="a", status="failed", error="no [bold]file[/x] here", uri="out/a")
    console.print(summary([Outcome(video_id="a", uri="o", status="failed", num_segments=1, error="[/x]")], 1.0))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "no [bold]file[/x] here" in drawn
    assert "[/x]" in drawn


def test_json_lines() -> None:
    lines: list[str] = []
    report = json_lines(lines.append)
    report("plan", **PLAN)
    report("video", video_id="a", status="failed", error="two\nlines", uri="out/a")
    read = [json.loads(line) for line in lines]
    assert [event["event"] for event in read] == ["plan", "video"]
    assert read[0]["videos"] == PLAN["videos"]
    assert all("\n" not in line for line in lines)
    assert read[0]["time"].endswith("+00:00")


def test_lines() -> None:
    assert (
        describe("plan", PLAN) == "2 video(s): 8 segments to make, 4 exist; 2 workers with 1 GPU and 1 CPU thread each"
    )
    segment = {"video_id": "a", "segment": 4, "num_segments": 10, "num_frames": 80, "seconds": 9.0}
    assert describe("segment", segment) == "a: segment 5/10, 80 frames in 9.00 s"
    done = {"video_id": "a", "status": "done", "error": None, "uri": "out/a"}
    assert describe("video", done) == "a: done, out/a/video.mp4"
    assert describe("step", {"video_id": "a"}) is None


def test_the_table_at_the_end() -> None:
    console = Console(file=io.StringIO(), width=120)
    outcomes = [
        Outcome(video_id="a", uri="out/a", status="done", num_segments=4, made=4),
        Outcome(video_id="b", uri="out/b", status="failed", num_segments=4, made=1, error="segment 1: OSError: full"),
    ]
    console.print(summary(outcomes, 3725.0))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "01:02:05" in drawn
    assert "out/a/video.mp4" in drawn
    assert "segment 1: OSError: full" in drawn
