"""kill -9 at any point of encoding: afterwards the same tree, nothing committed made again, nothing left over.

Driver and worker are one process here, so that every write and every removal of either is a point to die at; over Ray,
the same is tested in test_encode_on_ray.py. The processes are real and the signal is SIGKILL.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import signal
from pathlib import Path

import pytest

from longvie.training.encoded import EncodedDataset
from longvie.training.encoded_layout import EncodedError
from tests.pipelines.encoding.encode_helpers import all_points, made, run, run_to_death, shards
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import tree

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.pipelines.encoding.encode_helpers"])  # so that a child starts at once

FAST, SEEDED = 6, 24  # points of the sweep


@pytest.fixture(scope="module")
def points(prepared: Path, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return all_points(prepared, tmp_path_factory.mktemp("points"), toy_folder)


def chosen(points: list[str], count: int) -> list[str]:
    """Seeded points, spread over the run: one of each stretch of it."""
    generator = random.Random(len(points))
    edges = [round(i * len(points) / count) for i in range(count + 1)]
    return [generator.choice(points[a:b]) for a, b in itertools.pairwise(edges)]


def check(prepared: Path, model: Path, whole: dict[str, str], folder: Path, *points: str) -> None:
    """Die at each point in turn, in runs of their own; then the same command to its end."""
    out, marks = folder / "out", folder / "marks"
    for point in points:
        child = _forkserver.Process(
            target=run_to_death, args=(str(prepared), str(out), str(model), str(marks), [point])
        )
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"the run ended with {child.exitcode} before {point}"
        if (out / "samples.parquet").exists():
            assert tree(out)["samples.parquet"] == whole["samples.parquet"]
            assert len(EncodedDataset(str(out))) == 5, "it is whole once its table is there"
        else:
            with pytest.raises(EncodedError):
                EncodedDataset(str(out))
        before = shards(out)
        assert {name: tree(out)[name] for name in before} == {name: whole[name] for name in before}
    log = Log()
    run(prepared, out, model, report=log)
    assert not set(made(log)) & before, f"{point}: made although it was committed"
    assert before | set(made(log)) == {name for name in whole if name.startswith("commits/encode/")}
    assert tree(out) == whole, point


@pytest.mark.parametrize("index", range(FAST))
def test_killed(
    prepared: Path, toy_folder: Path, whole: dict[str, str], points: list[str], tmp_path: Path, index: int
) -> None:
    check(prepared, toy_folder, whole, tmp_path, chosen(points, FAST)[index])


def test_killed_twice(
    prepared: Path, toy_folder: Path, whole: dict[str, str], points: list[str], tmp_path: Path
) -> None:
    middle = [point for point in points if point.startswith("shards/") and point.endswith(":half")]
    check(prepared, toy_folder, whole, tmp_path, middle[0], middle[-1])


@pytest.mark.slow
@pytest.mark.parametrize("index", range(SEEDED))
def test_killed_anywhere(
    prepared: Path, toy_folder: Path, whole: dict[str, str], points: list[str], tmp_path: Path, index: int
) -> None:
    check(prepared, toy_folder, whole, tmp_path, chosen(points, SEEDED)[index])
