"""Rendering over Ray: the same bytes as in one process, also when workers are killed."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.pipelines.rendering.render_helpers import killing_storage, rendered, run, tree, write_scene

pytestmark = pytest.mark.usefixtures("ray_here")


def test_two_workers_and_two_deaths_give_the_same_bytes(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "passing box.glb")
    run(scene, tmp_path / "one")
    points = ("depth/000006.npy:half", "commits/render/00000.json:whole")
    (tmp_path / "marks").mkdir()
    opened = functools.partial(killing_storage, str(tmp_path / "marks"), points)
    summary = run(scene, tmp_path / "two", workers=2, open_storage=opened)
    assert len(list((tmp_path / "marks").iterdir())) == len(points), "both died"
    assert not summary.errors
    assert rendered(tmp_path / "two").keys() == rendered(tmp_path / "one").keys()
    assert tree(tmp_path / "two" / "source") == tree(tmp_path / "one" / "source")
