"""Scenes over Ray: the same bytes as in one process, also when workers are killed."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from longvie.scenes import TEST_SEEDS
from tests.pipelines.scenes.scenes_helpers import killing_storage, run, tree

pytestmark = pytest.mark.usefixtures("ray_here")


def test_two_workers_and_a_death_give_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path / "one")
    (tmp_path / "marks").mkdir()
    points = (f"depth/scene-{TEST_SEEDS[1]}.npy:half",)
    opened = functools.partial(killing_storage, str(tmp_path / "marks"), points)
    summary = run(tmp_path / "two", workers=2, open_storage=opened)
    assert len(list((tmp_path / "marks").iterdir())) == len(points), "it died"
    assert not summary.errors
    assert tree(tmp_path / "two" / "source") == tree(tmp_path / "one" / "source")
