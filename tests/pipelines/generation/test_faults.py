"""kill -9 at any point of the commit protocol: afterwards the same bytes, and nothing committed is made again.

Driver and worker are one process here, so that every write of either is a point to die at; over Ray, the same is
tested in test_generate_on_ray.py. The processes are real and the signal is SIGKILL.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load as load_safetensors

from tests.pipelines.helpers import (
    NUM_SEGMENTS,
    Inputs,
    all_points,
    artifacts,
    commits_of,
    run,
    run_to_death,
)

POINTS = all_points()
REDO_POINTS = [f"a/commits/{k:05d}.json:{phase}" for k in (3, 2) for phase in ("kept", "deleted")]
REDO_POINTS += ["a/video.mp4:kept", "a/video.mp4:deleted", "a/manifest.json:whole", "a/manifest.json:renamed"]
REDO_POINTS += [point for point in POINTS if "/00002" in point or "/00003" in point]

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.pipelines.helpers"])  # so that a child starts at once


@pytest.fixture(scope="module")
def source(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> str:
    return inputs.manifest(tmp_path_factory.mktemp("faults"), inputs.row())


@pytest.fixture(scope="module")
def whole(source: str, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run makes."""
    out = tmp_path_factory.mktemp("whole")
    run(source, out, toy_folder)
    return artifacts(out / "a")


def die(source: str, out: Path, model: Path, marks: Path, point: str, **options: Any) -> None:
    """Run in a child process, which must be killed at the point."""
    marks.mkdir(exist_ok=True)
    arguments = (source, str(out), str(model), str(marks), [point], options)
    child = _forkserver.Process(target=run_to_death, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, f"the run ended with {child.exitcode} before {point}"


def check_readable(folder: Path, whole: dict[str, bytes]) -> None:
    """Every file that has its name is complete, at the moment of death."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("."):
            continue
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_safetensors(path.read_bytes())
        if name in whole:
            assert path.read_bytes() == whole[name], f"{name} is not what an uninterrupted run writes"


def check_recovery(
    source: str, out: Path, model: Path, whole: dict[str, bytes], point: str, at_most: int = NUM_SEGMENTS
) -> None:
    """The same command again: the same bytes, committed segments as they were, one at most made twice."""
    folder = out / "a"
    check_readable(folder, whole)
    committed = commits_of(folder)
    (outcome,) = run(source, out, model)
    assert outcome.error is None, point
    assert outcome.made == NUM_SEGMENTS - len(committed), f"{point}: something was made that existed"
    assert committed.items() <= commits_of(folder).items(), f"{point}: a commit was written again"
    assert artifacts(folder) == whole, point
    assert not list(folder.rglob("*.tmp")), f"{point}: half-written files remain"
    assert run(source, out, model)[0].status == "up to date"


def seeded(points: list[str], count: int) -> list[str]:
    return random.Random(len(points)).sample(points, count)


@pytest.mark.parametrize("point", [*seeded(POINTS, 6), "a/commits/00001.json:whole", "a/commits/00001.json:renamed"])
def test_killed_while_making(
    source: str, toy_folder: Path, whole: dict[str, bytes], tmp_path: Path, point: str
) -> None:
    die(source, tmp_path / "out", toy_folder, tmp_path / "marks", point)
    check_recovery(source, tmp_path / "out", toy_folder, whole, point)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere(source: str, toy_folder: Path, whole: dict[str, bytes], tmp_path: Path, point: str) -> None:
    die(source, tmp_path / "out", toy_folder, tmp_path / "marks", point)
    check_recovery(source, tmp_path / "out", toy_folder, whole, point)


def test_killed_again_and_again(source: str, toy_folder: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Five deaths in one video, in the order they come."""
    chosen = sorted(seeded(POINTS[4:], 5), key=POINTS.index)
    made_before: list[str] = []
    for point in chosen:
        die(source, tmp_path / "out", toy_folder, tmp_path / "marks", point)
        check_readable(tmp_path / "out" / "a", whole)
        now = list(commits_of(tmp_path / "out" / "a"))
        assert now[: len(made_before)] == made_before, "progress is never lost"
        made_before = now
    check_recovery(source, tmp_path / "out", toy_folder, whole, chosen[-1])


def redo_and_die(source: str, out: Path, model: Path, marks: Path, point: str, **redo: Any) -> None:
    run(source, out, model)
    die(source, out, model, marks, point, from_segment=2, **redo)


@pytest.mark.parametrize("point", seeded(REDO_POINTS, 3))
def test_killed_while_redoing(
    source: str, toy_folder: Path, whole: dict[str, bytes], tmp_path: Path, point: str
) -> None:
    """The plain command finishes what the redo began, whether it died before or after it forgot the old segments."""
    _check_redo(source, toy_folder, tmp_path, point)


@pytest.mark.slow
@pytest.mark.parametrize("point", REDO_POINTS)
def test_killed_anywhere_while_redoing(source: str, toy_folder: Path, tmp_path: Path, point: str) -> None:
    _check_redo(source, toy_folder, tmp_path, point)


def _check_redo(source: str, model: Path, tmp_path: Path, point: str) -> None:
    reference = tmp_path / "reference"
    run(source, reference, model)
    old = artifacts(reference / "a")
    run(source, reference, model, from_segment=2, seed=9)
    new = artifacts(reference / "a")
    assert old != new
    out = tmp_path / "out"
    redo_and_die(source, out, model, tmp_path / "marks", point, seed=9)
    (outcome,) = run(source, out, model)
    begun = "manifest.json:whole" not in point  # before its manifest has its name, a redo has not begun
    assert outcome.error is None
    assert outcome.made <= 2
    assert artifacts(out / "a") == (new if begun else old), point
