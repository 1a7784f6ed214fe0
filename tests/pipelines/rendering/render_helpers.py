"""A small animated scene, quick renders of it, and renders that die at a chosen write."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from longvie.mesh import SceneWriter
from pipelines.preparation.run import Summary
from pipelines.rendering.options import RenderOptions
from pipelines.rendering.render import render
from tests.pipelines.helpers import Executioner, KillingStorage, Log

NUM_FRAMES, NUM_SEGMENTS = 12, 3  # of 5 frames: 5 + 4 + 3
FPS, HEIGHT, WIDTH = 8.0, 32, 48


def write_scene(path: Path, *, colour: Sequence[float] = (0.9, 0.3, 0.2, 1.0)) -> str:
    """A box that passes a wall before a moving camera, 1.375 s: 12 frames at 8 a second."""
    writer = SceneWriter()
    rng = np.random.default_rng(3)
    texture = rng.integers(40, 220, (16, 16, 1), dtype=np.uint8).repeat(3, axis=2)
    wall = np.array([[-9.0, -6, 0], [9, -6, 0], [9, 6, 0], [-9, 6, 0]])
    uv = np.array([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = writer.add_mesh(wall, faces, writer.add_material(texture=texture), uv=uv)
    writer.add_node("wall", mesh=mesh, translation=(0, 0, -8))
    box = trimesh.creation.box(extents=(1.5, 1.5, 1.5))
    node = writer.add_node("box", mesh=writer.add_mesh(box.vertices, box.faces, writer.add_material(colour)))
    end = (NUM_FRAMES - 1) / FPS
    writer.animate(node, "translation", np.array([0, end]), np.array([[-2.0, 0, -5], [2, 0, -5]]))
    camera = writer.add_node("camera", camera=writer.add_camera(0.9))
    writer.animate(camera, "translation", np.array([0, end]), np.array([[0.0, 0, 0], [0.5, 0.2, 0]]))
    writer.write(path)
    return str(path)


def run(scene: str, out: Path | str, **options: Any) -> Summary:
    """A render job in this process, or over Ray with `workers`."""
    report = options.pop("report", Log())
    opened = {"open_storage": options.pop("open_storage")} if "open_storage" in options else {}
    defaults: dict[str, Any] = {"fps": FPS, "size": f"{WIDTH}x{HEIGHT}", "segment_length": 5, "workers": 0}
    return render(RenderOptions(scene=scene, out=str(out), **{**defaults, **options}), report, **opened)


def tree(out: Path) -> dict[str, bytes]:
    """Everything in OUT."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def rendered(out: Path) -> dict[str, bytes]:
    """The commits of rendered segments."""
    return {path.name: path.read_bytes() for path in sorted((out / "source/commits/render").glob("*.json"))}


def run_to_death(scene: str, out: str, folder: str, points: Sequence[str]) -> None:
    """Render in this process and die at one of the points. For a child process."""
    run(scene, out, open_storage=functools.partial(killing_storage, folder, tuple(points)))


@functools.cache
def _executioner(folder: str, points: tuple[str, ...]) -> Executioner:
    return Executioner(Path(folder), points)


def killing_storage(folder: str, points: tuple[str, ...], uri: str) -> KillingStorage:
    return KillingStorage(Path(uri), _executioner(folder, points))
