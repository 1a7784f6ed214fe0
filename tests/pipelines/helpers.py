"""Small inputs, short runs, and workers that are really killed at a chosen point of the protocol."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pipelines.generation.generate
from longvie.video import write_image, write_video
from pipelines.generation.commits import Commit
from pipelines.generation.generate import GenerateOptions, generate
from pipelines.generation.plan import ModelChoice, VideoJob
from pipelines.generation.scheduling import Outcome
from pipelines.generation.worker import GeneratorWorker, Progress, WorkerConfig
from pipelines.storage import LocalStorage

NUM_FRAMES = 26  # four segments of 9 frames: 9 + 8 + 8 + 1
NUM_SEGMENTS = 4
PROMPTS = ["a red ball", "night", "a ball rolls", "a red night"]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    folder: Path

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    def row(self, video_id: str = "a", **changes: Any) -> dict[str, Any]:
        """A manifest row; None removes a field."""
        row = {
            "video_id": video_id,
            "first_frame": self / "first.png",
            "dense": self / "dense.mp4",
            "sparse": self / "sparse.mp4",
            "prompts": PROMPTS,
            "seed": 3,
        }
        return {key: value for key, value in {**row, **changes}.items() if value is not None}

    def manifest(self, folder: Path, *rows: dict[str, Any]) -> str:
        path = folder / "manifest.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)


def moving(count: int, seed: int, height: int = 32, width: int = 48) -> torch.Tensor:
    """Smooth frames that differ from each other, uint8 (count, height, width, 3)."""
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(3, generator=generator) * 6
    t = torch.arange(count).view(-1, 1, 1, 1)
    y = torch.arange(height).view(1, -1, 1, 1) / 9
    x = torch.arange(width).view(1, 1, -1, 1) / 7
    return (127 + 120 * torch.sin(x + y + t / 5 + phase.view(1, 1, 1, 3))).to(torch.uint8)


def write_inputs(folder: Path) -> Inputs:
    dense, sparse = moving(NUM_FRAMES, 1), moving(NUM_FRAMES, 2)
    write_video(folder / "dense.mp4", dense, fps=8)
    write_video(folder / "sparse.mp4", sparse, fps=8)
    entries = []
    for index, (start, stop) in enumerate(((0, 9), (8, 17), (16, 26))):
        write_video(folder / f"depth_{index:02d}.mp4", dense[start:stop], fps=8)
        write_video(folder / f"track_{index:02d}.mp4", sparse[start:stop], fps=8)
        entries.append(
            {
                "text": PROMPTS[index],
                "depth": f"./example/ours/depth_{index:02d}.mp4",  # as released: not where the files lie
                "track": f"./example/ours/track_{index:02d}.mp4",
            }
        )
    (folder / "cond.json").write_text(json.dumps(entries))
    write_image(folder / "first.png", moving(1, 3)[0])
    return Inputs(folder=folder)


class Log:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.events.append({"event": kind, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def run(source: str, out: Path | str, model: Path, **options: Any) -> list[Outcome]:
    """A generate job in this process, or over Ray with `workers`."""
    report = options.pop("report", Log())
    worker_class = options.pop("worker_class", GeneratorWorker)
    options = {"workers": 0, **options}
    chosen = GenerateOptions(source=source, out=str(out), model=ModelChoice(model=str(model)), **options)
    return generate(chosen, report, worker_class)


def commits_of(folder: Path) -> dict[str, bytes]:
    """The commit objects of one video."""
    return {path.name: path.read_bytes() for path in sorted((folder / "commits").glob("*.json"))}


def manifest_of(folder: Path) -> dict[str, Any]:
    """What a video's manifest says."""
    return json.loads((folder / "manifest.json").read_text())


def frame_hashes(folder: Path) -> list[str]:
    """The hash of each segment's raw frames."""
    return [json.loads(content)["frames"] for content in commits_of(folder).values()]


def artifacts(folder: Path) -> dict[str, bytes]:
    """Everything whose bytes must not depend on how the run went: segments, carries and the video."""
    paths = sorted([*folder.glob("segments/*"), *folder.glob("carry/*"), *folder.glob("video.mp4")])
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class Executioner:
    """Kills this process with SIGKILL at given points, each once, across all processes that share the folder.

    `point#2` is the second time a process passes a point.
    """

    def __init__(self, folder: Path, points: Sequence[str]) -> None:
        self.folder = folder
        self.points = frozenset(points)
        self._passed: Counter[str] = Counter()

    def at(self, point: str) -> None:
        self._passed[point] += 1
        if self._passed[point] > 1:
            point = f"{point}#{self._passed[point]}"
        if point in self.points:
            try:
                (self.folder / point.replace("/", "+")).touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


class KillingStorage(LocalStorage):
    """Local storage that dies within a write: nothing written yet, half, all but unnamed, and just renamed."""

    def __init__(self, root: Path, executioner: Executioner) -> None:
        super().__init__(root)
        self._executioner = executioner

    def _fill(self, file: Any, data: bytes) -> None:
        folder, name = os.path.split(file.name)
        point = self._said(Path(folder) / name.removeprefix(".").rsplit(".", 2)[0])
        self._executioner.at(f"{point}:empty")
        file.write(data[: len(data) // 2])
        file.flush()
        self._executioner.at(f"{point}:half")
        file.write(data[len(data) // 2 :])

    def _publish(self, temporary: Path, path: Path) -> None:
        self._executioner.at(f"{self._said(path)}:whole")
        super()._publish(temporary, path)
        self._executioner.at(f"{self._said(path)}:renamed")

    def _said(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def delete(self, name: str) -> None:
        self._executioner.at(f"{name}:kept")
        super().delete(name)
        self._executioner.at(f"{name}:deleted")


WRITE_PHASES = ("empty", "half", "whole", "renamed")


def all_points(video_id: str = "a", num_segments: int = NUM_SEGMENTS) -> list[str]:
    """Every point of a video's life, in order."""
    points = [f"{video_id}/manifest.json:{phase}" for phase in WRITE_PHASES]
    for k in range(num_segments):
        points += [f"step:{k}:{step}" for step in (0, 1, 2)]
        names = (f"segments/{k:05d}.mp4", f"carry/{k:05d}.safetensors", f"commits/{k:05d}.json")
        points += [f"{video_id}/{name}:{phase}" for name in names for phase in WRITE_PHASES]
    points += [f"{video_id}/video.mp4:{phase}" for phase in WRITE_PHASES]
    return points + [f"{video_id}/manifest.json:{phase}#2" for phase in WRITE_PHASES]


def killed_worker(executioner: Executioner) -> type[GeneratorWorker]:
    """A worker class that dies where the executioner says."""

    class KilledWorker(GeneratorWorker):
        def __init__(self, config: WorkerConfig, on_progress: Callable[[Progress], None] | None = None) -> None:
            def watched(at: Progress) -> None:
                executioner.at(f"step:{at.segment}:{at.step}")
                if on_progress is not None:
                    on_progress(at)

            super().__init__(config, watched)

        def _open(self) -> LocalStorage:
            return KillingStorage(Path(self.config.out), executioner)

    return KilledWorker


HELD_AT = 2  # the segment that a `HeldWorker` never makes


class HeldWorker(GeneratorWorker):
    """Commits the segments before `HELD_AT`, then works at that one until its process is ended."""

    def make_segment(self, job: VideoJob, index: int) -> Commit:
        while index >= HELD_AT:
            time.sleep(0.1)
        return super().make_segment(job, index)


class MeetingWorker(GeneratorWorker):
    """Is ready when as many processes are as MEETING says (`<number>:<folder>`): none takes all videos before."""

    def setup(self, video_id: str) -> dict[str, Any]:
        said = super().setup(video_id)
        number, folder = os.environ["MEETING"].split(":")
        (Path(folder) / str(os.getpid())).touch()
        while len(list(Path(folder).iterdir())) < int(number):
            time.sleep(0.05)
        return said


def run_to_death(
    source: str, out: str, model: str, folder: str, points: Sequence[str], options: dict[str, Any]
) -> None:
    """Run a job in this process, driver and worker in one, and die at one of the points. For a child process."""
    torch.set_num_threads(1)
    executioner = Executioner(Path(folder), points)
    pipelines.generation.generate.open_storage = lambda uri: KillingStorage(Path(uri), executioner)
    run(source, out, Path(model), worker_class=killed_worker(executioner), **options)
