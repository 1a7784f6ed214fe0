"""Writes an animated scene to try `longvie render` with: a room, moving textured boxes and balls, a moving camera.

    python examples/scene.py scene.glb
    longvie render scene.glb --out out/scene

Everything is made by code, nothing is downloaded. Your own scenes come from any 3-D program that exports glTF.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import trimesh
from numpy import ndarray

from longvie.mesh import SceneWriter

SECONDS = 20.0
STEP = 0.5  # seconds between keys


def checkers(a: tuple[int, int, int], b: tuple[int, int, int], squares: int, seed: int) -> ndarray:
    """A checkered texture with some noise, so that its points can be told apart; uint8 (256, 256, 3)."""
    rng = np.random.default_rng(seed)
    at = np.arange(256) * squares // 256
    odd = (at[:, None] + at[None, :]) % 2
    image = np.where(odd[..., None], np.array(a), np.array(b)).astype(float)
    coarse = rng.normal(0, 14, (32, 32, 1)).repeat(8, axis=0).repeat(8, axis=1)
    return np.clip(image + coarse, 0, 255).astype(np.uint8)


def add_box(writer: SceneWriter, size: tuple[float, float, float], material: int, inward: bool = False) -> int:
    """A box with each face's texture the right way up; `inward`: a room, seen from inside only."""
    square = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    vertices, faces, uv = [], [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            right, up = np.eye(3)[(axis + 1) % 3] * side, np.eye(3)[(axis + 2) % 3]
            corners = [np.eye(3)[axis] * side + right * x + up * y for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            start = len(vertices)
            vertices += [corner * np.array(size) / 2 for corner in corners]
            faces += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
            uv += list(square)
    order = [0, 2, 1] if inward else [0, 1, 2]
    return writer.add_mesh(np.array(vertices), np.array(faces)[:, order], material, uv=np.array(uv))


def add_ball(writer: SceneWriter, radius: float, material: int) -> int:
    ball = trimesh.creation.uv_sphere(radius=radius, count=[48, 96])
    normals = ball.vertices / radius
    longitude = np.arctan2(normals[:, 1], normals[:, 0]) / (2 * np.pi)
    uv = np.stack([2 * np.abs(longitude), (1 - normals[:, 2]) / 2], axis=1)  # mirrored, so that it has no seam
    return writer.add_mesh(ball.vertices, ball.faces, material, normals=normals, uv=uv)


def spin(axis: tuple[float, float, float], angles: ndarray) -> ndarray:
    """Quaternions (k, 4), x, y, z, w."""
    unit = np.array(axis) / np.linalg.norm(axis)
    return np.concatenate([np.sin(angles / 2)[:, None] * unit, np.cos(angles / 2)[:, None]], axis=1)


def build() -> SceneWriter:
    """Metres, y up. The room is 12 x 5 x 12; the camera stands near its back wall and looks along -z."""
    writer = SceneWriter()
    times = np.arange(0, SECONDS + STEP / 2, STEP)
    phase = 2 * np.pi * times / SECONDS
    zero = np.zeros_like(times)

    room = writer.add_material(texture=checkers((196, 178, 150), (150, 132, 110), 12, 1))
    writer.add_node("room", mesh=add_box(writer, (12, 5, 12), room, inward=True), translation=(0, 2.5, 0))
    stone = writer.add_material(texture=checkers((120, 124, 130), (92, 96, 104), 4, 2))
    for x in (-4.2, 4.2):
        writer.add_node("pillar", mesh=add_box(writer, (0.7, 5, 0.7), stone), translation=(x, 2.5, -3.0))

    red = writer.add_material(texture=checkers((206, 60, 48), (240, 200, 180), 4, 3))
    box = writer.add_node("box", mesh=add_box(writer, (1.4, 1.4, 1.4), red))
    writer.animate(box, "translation", times, np.stack([3 * np.sin(2 * phase), zero + 1.3, -2 + zero], axis=1))
    writer.animate(box, "rotation", times, spin((0.3, 1, 0.2), 3 * phase))

    blue = writer.add_material(texture=checkers((48, 96, 200), (200, 220, 240), 6, 4))
    arm = writer.add_node("arm", translation=(0, 1.0, -1.0))  # a ball on an unseen arm that turns
    writer.animate(arm, "rotation", times, spin((0, 1, 0), -2 * phase))
    ball = writer.add_node("ball", parent=arm, mesh=add_ball(writer, 0.7, blue), translation=(2.6, 0, 0))
    writer.animate(ball, "rotation", times, spin((1, 0, 1), 5 * phase))

    green = writer.add_material(texture=checkers((60, 150, 80), (210, 230, 160), 5, 5))
    hopper = writer.add_node("hopper", mesh=add_ball(writer, 0.45, green))
    beats = np.arange(0, SECONDS + 0.5)  # a key a second: up, down, up, ... with flat tangents
    places = np.stack([1.8 * np.cos(beats), 0.5 + 1.5 * (np.arange(len(beats)) % 2), 1 + 0 * beats], axis=1)
    flat = np.zeros_like(places)
    writer.animate(hopper, "translation", beats, np.stack([flat, places, flat], axis=1), "CUBICSPLINE")

    camera = writer.add_node("camera", camera=writer.add_camera(yfov=np.radians(50), near=0.05))
    path = np.stack([1.5 * np.sin(phase), 1.7 + 0.25 * np.sin(2 * phase), 5.2 + 0.4 * np.cos(phase)], axis=1)
    writer.animate(camera, "translation", times, path)
    writer.animate(camera, "rotation", times, spin((0, 1, 0), 0.25 * np.sin(phase)))
    return writer


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an animated scene for longvie render.")
    parser.add_argument("out", type=Path, help="where to, such as scene.glb")
    out = parser.parse_args().out
    build().write(out)
    print(f"{out}: {out.stat().st_size:,} bytes; next: longvie render {out} --out out/{out.stem}")


if __name__ == "__main__":
    main()
