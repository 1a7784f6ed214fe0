"""Small videos with depth, short runs of preparation, and processes that are really killed within its protocol."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import pipelines.preparation.prepare
from longvie.media import write_video
from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.passes import Here, Result
from pipelines.preparation.prepare import Summary, prepare
from pipelines.preparation.unit_worker import ROW, Job, UnitWorker, write_tasks
from pipelines.preparation.units import Unit
from pipelines.storage import Storage, open_storage
from tests.pipelines.helpers import Executioner, KillingStorage, Log

FPS = 8
SIZE = "48x32"
SEGMENT_LENGTH = 5
CLIPS = {"a": 14, "b": 9}  # frames: four segments and two


def moving(count: int, seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Smooth frames that differ from each other, uint8 (count, height, width, 3)."""
    phase = np.random.default_rng(seed).random(3) * 6
    t = np.arange(count)[:, None, None, None] / 5
    y = np.arange(height)[None, :, None, None] / 9
    x = np.arange(width)[None, None, :, None] / 7
    return (127 + 120 * np.sin(x + y + t + phase)).astype(np.uint8)


def depth_of(count: int, seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Metric depth to go with them, float32 (count, height, width), that grows from frame to frame."""
    grows = 1 + np.arange(count)[:, None, None] / 20
    return ((1 + moving(count, seed + 100, height, width)[..., 0] / 127.5) * grows).astype(np.float32)


def write_clip(folder: Path, name: str, count: int, seed: int) -> dict[str, Any]:
    """A video with its depth; its row in a manifest."""
    write_video(folder / f"{name}.mp4", moving(count, seed), FPS)
    np.save(folder / f"{name}.npy", depth_of(count, seed))
    return {"uri": f"{name}.mp4", "depth": f"{name}.npy", "depth_polarity": "depth", "prompt": f"clip {name}"}


def write_clips(folder: Path) -> str:
    """The clips, and the manifest that names them."""
    return write_manifest(folder, [write_clip(folder, name, count, ord(name)) for name, count in CLIPS.items()])


def write_manifest(folder: Path, rows: Sequence[dict[str, Any]], name: str = "manifest.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(inputs: str | Sequence[str], out: Path | str, **options: Any) -> Summary:
    """A prepare job in this process, or over Ray with `workers`; depth comes with the clips."""
    report = options.pop("report", Log())
    opened: Callable[[str], Storage] = options.pop("open_storage", open_storage)
    given = {"workers": 0, "size": SIZE, "fps": FPS, "segment_length": SEGMENT_LENGTH, "depth": "supplied"}
    given |= {"min_frames": 2, "cuts": False, **options}
    inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    return prepare(PrepareOptions(inputs=inputs, out=str(out), **given), report, opened)


def tree(out: Path) -> dict[str, str]:
    """SHA-256 of every file in OUT, temporaries too."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def commits(out: Path) -> dict[str, str]:
    """The commits of units."""
    return {name: digest for name, digest in tree(out).items() if name.startswith("commits/") and "outputs" not in name}


def made(log: Log) -> list[str]:
    """The commits of the units that a run made."""
    return [f"commits/{event['stage']}/{event['unit']}.json" for event in log.of("unit") if event["made"]]


def rows_of(out: Path, table: str) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(out / f"{table}.parquet").to_pylist()


def open_killing(uri: str, marks: str, points: Sequence[str]) -> Storage:
    return KillingStorage(Path(uri), Executioner(Path(marks), points))


def killing(marks: Path, points: Sequence[str]) -> Callable[[str], Storage]:
    """Opens storage that dies at the points, each once, in whichever process comes first."""
    marks.mkdir(exist_ok=True)
    return functools.partial(open_killing, marks=str(marks), points=tuple(points))


class Recorder(Executioner):
    """Keeps the points that are passed, in order."""

    def __init__(self) -> None:
        super().__init__(Path(), ())
        self.passed: list[str] = []

    def at(self, point: str) -> None:
        self._passed[point] += 1
        count = self._passed[point]
        self.passed.append(point if count == 1 else f"{point}#{count}")


def all_points(inputs: str, out: Path, **options: Any) -> list[str]:
    """Every point at which a run in one process can die, in order."""
    recorder = Recorder()
    run(inputs, out, open_storage=lambda uri: KillingStorage(Path(uri), recorder), **options)
    return recorder.passed


def run_to_death(inputs: str, out: str, marks: str, points: Sequence[str], options: dict[str, Any]) -> None:
    """Run in this process, driver and worker in one, and die at one of the points. For a child process."""
    with shuffled(options.pop("shuffle", None)):
        run(inputs, out, open_storage=killing(Path(marks), points), **options)


class Shuffled(Here):
    """This process with two workers that take units in a seeded order: another partition of the same work."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def run(self, units: Sequence[Unit], job: Job, seconds_a_cost: float) -> Iterator[Result]:
        rows = write_tasks(job.open_storage(job.out), job, units) if units else []
        order = self._random.sample(list(zip(units, rows, strict=True)), len(units))
        workers = [UnitWorker(job), UnitWorker(job)]
        for unit, row in order:
            made = self._random.choice(workers)(pa.Table.from_pylist([row], ROW)).to_pylist()[0]
            yield Result(unit=unit, **{key: value for key, value in made.items() if key != "unit"})


@contextmanager
def shuffled(seed: int | None) -> Iterator[None]:
    """Preparation in this process goes in another order; None: in its own."""
    if seed is None:
        yield
        return
    before = pipelines.preparation.prepare.Here
    pipelines.preparation.prepare.Here = lambda: Shuffled(seed)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        pipelines.preparation.prepare.Here = before
