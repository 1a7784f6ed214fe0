"""Scenes whose answers are known in closed form: boxes, balls and planes that move, seen by a camera that moves.

Poses come from scipy, intersections from formulas; nothing here is shared with the renderer but the file it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trimesh
from numpy import ndarray
from scipy.interpolate import CubicHermiteSpline
from scipy.spatial.transform import Rotation, Slerp

from longvie.mesh import Scene, SceneWriter, load_scene

HEIGHT, WIDTH, YFOV = 36, 64, 1.0
FOCAL = HEIGHT / 2 / np.tan(YFOV / 2)
SQUARE = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
SQUARE_FACES = np.array([[0, 1, 2], [0, 2, 3]])


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Keys of a node: translations (k, 3), quaternions (k, 4) and how they are joined."""

    times: ndarray
    places: ndarray
    turns: ndarray
    interpolation: str = "LINEAR"

    @staticmethod
    def still(place: ndarray, turn: ndarray | None = None) -> Motion:
        turn = np.array([0.0, 0, 0, 1]) if turn is None else turn
        return Motion(times=np.array([0.0]), places=np.array([place], float), turns=np.array([turn], float))

    @staticmethod
    def random(rng: np.random.Generator, low: ndarray, high: ndarray, turn: float, interpolation: str) -> Motion:
        """Three keys over two seconds; turns of up to `turn` radians a step, so that the shorter way is plain."""
        turns = [Rotation.from_rotvec(rng.uniform(-turn, turn, 3))]
        for _ in range(2):
            turns.append(turns[-1] * Rotation.from_rotvec(rng.uniform(-1, 1, 3) * turn / np.sqrt(3)))
        signs = rng.choice([-1, 1], 3)  # q and -q are the same rotation
        quaternions = np.stack([turn.as_quat() * sign for turn, sign in zip(turns, signs, strict=True)])
        places = rng.uniform(low, high, (3, 3))
        return Motion(times=np.array([0.0, 0.75, 2.0]), places=places, turns=quaternions, interpolation=interpolation)

    def at(self, t: float) -> tuple[ndarray, ndarray]:
        """Rotation matrix and translation."""
        t = float(np.clip(t, self.times[0], self.times[-1]))
        if len(self.times) == 1:
            return Rotation.from_quat(self.turns[0]).as_matrix(), self.places[0]
        if self.interpolation == "STEP":
            k = int(np.searchsorted(self.times, t, side="right")) - 1
            return Rotation.from_quat(self.turns[k]).as_matrix(), self.places[k]
        turn = Slerp(self.times, Rotation.from_quat(self.turns))(t).as_matrix()
        if self.interpolation == "CUBICSPLINE":
            return turn, CubicHermiteSpline(self.times, self.places, self._slopes())(t)
        return turn, np.array([np.interp(t, self.times, self.places[:, i]) for i in range(3)])

    def write(self, writer: SceneWriter, node: int) -> None:
        if len(self.times) == 1:
            writer.tree["nodes"][node] |= {
                "translation": self.places[0].tolist(),
                "rotation": self.turns[0].tolist(),
            }
            return
        places = self.places
        if self.interpolation == "CUBICSPLINE":
            slopes = self._slopes()
            places = np.stack([slopes, places, slopes], axis=1)
        writer.animate(node, "translation", self.times, places, self.interpolation)
        turning = "LINEAR" if self.interpolation == "CUBICSPLINE" else self.interpolation
        writer.animate(node, "rotation", self.times, self.turns, turning)

    def _slopes(self) -> ndarray:
        return np.roll(self.places, 1, axis=0) * [0.5, -0.5, 0.25]


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A box with half sides `half`, or a ball of radius half[0], or a plane (z = 0 in its frame, unbounded enough)."""

    shape: str
    half: ndarray
    motion: Motion

    def enter(self, origin: ndarray, directions: ndarray, t: float) -> ndarray:
        """How far along each direction the surface is met; infinite if it is not."""
        turn, place = self.motion.at(t)
        o, d = (origin - place) @ turn, directions @ turn
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.shape == "plane":
                way = -o[2] / d[:, 2]
                return np.where(way > 0, way, np.inf)
            if self.shape == "ball":
                a, b, c = (d * d).sum(axis=1), d @ o, o @ o - self.half[0] ** 2
                root = np.sqrt(b * b - a * c)
                return np.where(np.isnan(root) | (-b - root < 0), np.inf, (-b - root) / a)
            near, far = (-self.half - o) / d, (self.half - o) / d
            enter, leave = np.minimum(near, far).max(axis=1), np.maximum(near, far).min(axis=1)
            return np.where((enter <= leave) & (enter > 0), enter, np.inf)


@dataclass(frozen=True, kw_only=True)
class World:
    """Solids and a camera, both as a file and as formulas."""

    solids: tuple[Solid, ...]
    camera: Motion = field(default_factory=lambda: Motion.still(np.zeros(3)))

    def load(self, folder: Path) -> Scene:
        writer = SceneWriter()
        for number, solid in enumerate(self.solids):
            if solid.shape == "box":
                box = trimesh.creation.box(extents=2 * solid.half)
                mesh = writer.add_mesh(box.vertices, box.faces)
            elif solid.shape == "ball":
                ball = trimesh.creation.icosphere(subdivisions=5, radius=solid.half[0])
                mesh = writer.add_mesh(ball.vertices, ball.faces)
            else:
                mesh = writer.add_mesh(SQUARE * 500, SQUARE_FACES, writer.add_material(doubleSided=True))
            solid.motion.write(writer, writer.add_node(f"solid {number}", mesh=mesh))
        self.camera.write(writer, writer.add_node("camera", camera=writer.add_camera(YFOV)))
        writer.write(folder / "scene.glb")
        return load_scene(folder / "scene.glb")

    def rays(self, pixels: ndarray, t: float) -> tuple[ndarray, ndarray]:
        """The camera's place, and directions of depth 1."""
        turn, place = self.camera.at(t)
        x, y = (pixels[:, 0] - WIDTH / 2) / FOCAL, (HEIGHT / 2 - pixels[:, 1]) / FOCAL
        return place, np.stack([x, y, -np.ones_like(x)], axis=1) @ turn.T

    def depth(self, pixels: ndarray, t: float) -> tuple[ndarray, ndarray]:
        """Depth of what each pixel shows, and which solid it is."""
        ways = np.stack([solid.enter(*self.rays(pixels, t), t) for solid in self.solids])
        return ways.min(axis=0), ways.argmin(axis=0)

    def follow(self, pixels: ndarray, start: float, t: float) -> tuple[ndarray, ndarray]:
        """Where what `pixels` show at `start` is at `t`: pixels and depths."""
        depth, which = self.depth(pixels, start)
        origin, directions = self.rays(pixels, start)
        world = origin + directions * depth[:, None]
        for number, solid in enumerate(self.solids):
            own = which == number
            (turn, place), (new_turn, new_place) = solid.motion.at(start), solid.motion.at(t)
            world[own] = (world[own] - place) @ turn @ new_turn.T + new_place
        turn, place = self.camera.at(t)
        local = (world - place) @ turn
        z = -local[:, 2]
        x, y = WIDTH / 2 + FOCAL * local[:, 0] / z, HEIGHT / 2 - FOCAL * local[:, 1] / z
        return np.stack([x, y], axis=1), z


def centres() -> ndarray:
    """All pixels' centres, row by row."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def is_inner(which: ndarray) -> ndarray:
    """Pixels whose four neighbours show the same solid: their rays do not touch an outline. Flat in, flat out."""
    shown = np.pad(which.reshape(HEIGHT, WIDTH), 1, mode="edge")
    middle = shown[1:-1, 1:-1]
    around = (shown[:-2, 1:-1], shown[2:, 1:-1], shown[1:-1, :-2], shown[1:-1, 2:])
    return np.logical_and.reduce([middle == other for other in around]).reshape(-1)
