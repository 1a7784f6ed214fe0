"""kill -9 at any point of preparation: afterwards the same tree, nothing committed made again, nothing left over.

Driver and worker are one process here, so that every write and every removal of either is a point to die at; over Ray,
the same is tested in test_prepare_on_ray.py. The processes are real and the signal is SIGKILL.
"""

from __future__ import annotations

import itertools
import multiprocessing
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import (
    all_points,
    commits,
    made,
    run,
    run_to_death,
    shuffled,
    tree,
)

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.pipelines.preparation.prepare_helpers"])  # so that a child starts at once

SEEDED = 24  # points of the sweep
FAST = 8


@pytest.fixture(scope="module")
def whole(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an uninterrupted run leaves."""
    out = tmp_path_factory.mktemp("whole")
    assert not run(source, out).failed(strict=True)
    return tree(out)


@pytest.fixture(scope="module")
def points(source: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return all_points(source, tmp_path_factory.mktemp("points"))


def chosen(points: list[str], count: int) -> list[str]:
    """Seeded points, spread over the run: one of each stretch of it."""
    generator = random.Random(len(points))
    edges = [round(i * len(points) / count) for i in range(count + 1)]
    return [generator.choice(points[a:b]) for a, b in itertools.pairwise(edges)]


def die(source: str, out: Path, marks: Path, point: str, **options: Any) -> None:
    """Run in a child process, which must be killed at the point."""
    marks.mkdir(exist_ok=True)
    child = _forkserver.Process(target=run_to_death, args=(source, str(out), str(marks), [point], options))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, f"the run ended with {child.exitcode} before {point}"


def check_recovery(source: str, out: Path, whole: dict[str, str], point: str, **options: Any) -> None:
    """The same command again."""
    before = commits(out)
    in_flight = [name for name in tree(out) if name.startswith("attempts/") and not name.endswith(".tmp")]
    assert len(in_flight) <= 1, "one worker is at one unit"
    for name, digest in before.items():
        if not Path(name).name.startswith("."):
            assert digest == whole[name], f"{name} is not what an uninterrupted run commits"
    log = Log()
    run(source, out, report=log, **options)
    again = set(made(log))
    assert not again & set(before), f"{point}: made although it was committed"
    units = {name for name in whole if name.startswith("commits/") and "outputs" not in name}
    assert again == units - set(before), point
    assert tree(out) == whole, point
    log = Log()
    run(source, out, report=log, **options)
    assert not made(log)
    assert tree(out) == whole


@pytest.mark.parametrize("index", range(FAST))
def test_killed(source: str, whole: dict[str, str], points: list[str], tmp_path: Path, index: int) -> None:
    point = chosen(points, FAST)[index]
    die(source, tmp_path / "out", tmp_path / "marks", point)
    check_recovery(source, tmp_path / "out", whole, point)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(SEEDED))
def test_killed_anywhere(source: str, whole: dict[str, str], points: list[str], tmp_path: Path, index: int) -> None:
    point = chosen(points, SEEDED)[index]
    die(source, tmp_path / "out", tmp_path / "marks", point)
    check_recovery(source, tmp_path / "out", whole, point)


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kills=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 99)), min_size=1, max_size=2),
    seed=st.integers(0, 99),
)
def test_any_kills_and_any_order_leave_the_same_tree(
    source: str,
    whole: dict[str, str],
    points: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[tuple[float, int]],
    seed: int,
) -> None:
    """Each attempt takes its units in another order and may die; the last one does not."""
    folder = tmp_path_factory.mktemp("any")
    out, marks = folder / "out", folder / "marks"
    marks.mkdir()
    for place, shuffle in kills:
        point = points[int(place * len(points))]
        arguments = (source, str(out), str(marks), [point], {"shuffle": shuffle})
        child = _forkserver.Process(target=run_to_death, args=arguments)
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), "it dies, or passes by a point that is done"
    before = commits(out) if out.exists() else {}
    log = Log()
    with shuffled(seed):
        run(source, out, report=log)
    assert not set(made(log)) & set(before)
    assert tree(out) == whole
