"""Meshes of the depth scenes: primitives, random organic shapes, and compounds of them (trees, figures, furniture).

A compound is a list of `Piece`s in its own frame: y up, standing on y = 0, about one unit tall. Nothing here knows
where things stand or how they look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import trimesh
from jaxtyping import Float, Int
from numpy import ndarray

from longvie.training.depth_textures import fractal_noise


@dataclass(frozen=True)
class Mesh:
    vertices: Float[ndarray, "n 3"]
    faces: Int[ndarray, "m 3"]
    smooth: bool  # shade with interpolated normals

    def moved(self, matrix: Float[ndarray, "3 3"], at: Float[ndarray, " 3"]) -> Mesh:
        return Mesh(self.vertices @ matrix.T + at, self.faces, self.smooth)


@dataclass(frozen=True)
class Piece:
    """A primitive (unit extents, centred) or a mesh, sized, turned (radians about x, y, z) and put somewhere."""

    shape: str | Mesh
    size: tuple[float, float, float]
    at: tuple[float, float, float]
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    slot: int = 0  # pieces with equal slots share a material

    def mesh(self) -> Mesh:
        mesh = primitive(self.shape) if isinstance(self.shape, str) else self.shape
        return mesh.moved(rotation(*self.turn) * np.array(self.size), np.array(self.at))


def rotation(x: float, y: float, z: float) -> Float[ndarray, "3 3"]:
    """Turn about z, then x, then y (up)."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(angle), np.sin(angle)) for angle in (x, y, z))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_y @ about_x @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])


@cache
def primitive(name: str) -> Mesh:
    """box, ball, rod (round, along y), cone, ring, prism (a roof's)."""
    upright = rotation(-np.pi / 2, 0, 0)
    if name == "prism":
        corners = np.array([[x, y, z] for z in (-0.5, 0.5) for x, y in ((-0.5, -0.5), (0.5, -0.5), (0.0, 0.5))])
        faces = [[0, 2, 1], [3, 4, 5], [0, 3, 5], [0, 5, 2], [1, 2, 5], [1, 5, 4], [0, 1, 4], [0, 4, 3]]
        return Mesh(corners, np.array(faces), smooth=False)
    made = {
        "box": lambda: trimesh.creation.box(),
        "ball": lambda: trimesh.creation.icosphere(3, radius=0.5),
        "rod": lambda: trimesh.creation.cylinder(0.5, 1.0, sections=20),
        "cone": lambda: trimesh.creation.cone(0.5, 1.0, sections=20),
        "ring": lambda: trimesh.creation.torus(0.38, 0.12, 28, 12),
    }[name]()
    vertices = np.asarray(made.vertices, float)
    if name in ("rod", "cone", "ring"):
        vertices = vertices @ upright.T
    if name == "cone":
        vertices = vertices - [0, 0.5, 0]
    return Mesh(vertices, np.asarray(made.faces), smooth=name in ("ball", "ring"))


def blob(rng: np.random.Generator, rough: float) -> Mesh:
    """A rock or a soft body: a ball displaced by a few random waves."""
    ball = primitive("ball")
    waves = rng.normal(0, rng.uniform(3, 9), (6, 3))
    bumps = np.sin(ball.vertices @ waves.T + rng.uniform(0, 2 * np.pi, 6)).mean(axis=1)
    return Mesh(ball.vertices * (1 + rough * bumps[:, None]), ball.faces, smooth=bool(rng.random() < 0.7))


def lathe(rng: np.random.Generator) -> Mesh:
    """A turned body (vase, bottle, tower): a random outline about the y axis, height 1."""
    rows, sections = 12, 20
    radius = np.interp(np.linspace(0, 1, rows), np.linspace(0, 1, 5), rng.uniform(0.12, 0.5, 5))
    radius[-1] *= rng.choice([0.0, 1.0])
    angle = np.linspace(0, 2 * np.pi, sections, endpoint=False)
    y = np.linspace(-0.5, 0.5, rows)
    vertices = np.stack(
        [np.outer(radius, np.cos(angle)), np.tile(y[:, None], sections), np.outer(radius, np.sin(angle))], -1
    )
    return Mesh(vertices.reshape(-1, 3), _grid_faces(rows, sections, wrap=True), smooth=True)


def slab(rng: np.random.Generator) -> Mesh:
    """A flat sheet with a jagged outline, upright: a cut-out."""
    count = int(rng.integers(5, 14))
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1) * rng.uniform(0.25, 0.5, (count, 1))
    front, back = np.subtract(rim, [0, 0, 0.02]), np.add(rim, [0, 0, 0.02])
    i, j = np.arange(count), (np.arange(count) + 1) % count
    centre = np.full(count, 2 * count)
    faces = [
        np.stack(f, 1)
        for f in ((centre, i, j), (centre + 1, j + count, i + count), (i, j, j + count), (i, j + count, i + count))
    ]
    return Mesh(np.concatenate([front, back, [[0, 0, -0.02], [0, 0, 0.02]]]), np.concatenate(faces), smooth=False)


def leaves(rng: np.random.Generator, count: int, leaf: float) -> Mesh:
    """A cloud of triangles in the unit ball, denser near its surface: foliage."""
    centre = rng.normal(size=(count, 3))
    centre *= 0.5 * rng.uniform(0.35, 1, (count, 1)) ** 0.5 / np.linalg.norm(centre, axis=1, keepdims=True)
    vertices = centre[:, None] + rng.normal(0, leaf, (count, 3, 3))
    return Mesh(vertices.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3), smooth=False)


def blades(rng: np.random.Generator, count: int) -> Mesh:
    """A tuft of grass: thin upright triangles within a unit disc, height about 1."""
    foot = rng.uniform(-0.5, 0.5, (count, 1, 3)) * [1, 0, 1]
    tip = rng.normal(0, 0.15, (count, 1, 3)) * [1, 0, 1] + [0, 1, 0] * rng.uniform(0.4, 1, (count, 1, 1))
    side = rng.normal(0, 0.02, (count, 1, 3)) * [1, 0, 1]
    vertices = np.concatenate([foot - side, foot + side, foot + tip], axis=1)
    return Mesh(vertices.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3), smooth=False)


def terrain(height: Callable[[ndarray, ndarray], ndarray], extent: float, rows: int = 110) -> Mesh:
    """Ground over [-extent, extent]**2 around the origin, its cells growing with distance."""
    line = np.sinh(np.linspace(-4, 4, rows)) / np.sinh(4) * extent
    x, z = np.meshgrid(line, line)
    return Mesh(np.stack([x, height(x, z), z], -1).reshape(-1, 3), _grid_faces(rows, rows, wrap=False), smooth=True)


def hills(rng: np.random.Generator) -> Callable[[ndarray, ndarray], ndarray]:
    """A height function: fractal noise of a random size and relief, in metres, 0 on average."""
    tile = fractal_noise(rng, 128, rng.uniform(1.6, 2.6)) - 0.5
    length, relief = rng.uniform(60, 400), rng.choice([0.02, 0.08, 0.3]) * rng.uniform(0.3, 1)

    def height(x: ndarray, z: ndarray) -> ndarray:
        u, v = (x / length % 1) * 128, (z / length % 1) * 128
        i, j = np.floor(u).astype(int), np.floor(v).astype(int)
        a, b = u - i, v - j
        a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
        i, j, right, low = i % 128, j % 128, (i + 1) % 128, (j + 1) % 128
        top = tile[j, i] * (1 - a) + tile[j, right] * a
        return relief * length * (top * (1 - b) + (tile[low, i] * (1 - a) + tile[low, right] * a) * b)

    return height


def _grid_faces(rows: int, columns: int, wrap: bool) -> Int[ndarray, "m 3"]:
    index = np.arange(rows * columns).reshape(rows, columns)
    if wrap:
        index = np.concatenate([index, index[:, :1]], axis=1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])


def tree(rng: np.random.Generator) -> list[Piece]:
    trunk = rng.uniform(0.2, 0.5)
    pieces = [
        Piece("rod", (0.06, trunk + 0.2, 0.06), (0, trunk / 2, 0), (rng.normal(0, 0.05), 0, rng.normal(0, 0.05)), 0)
    ]
    kind = rng.integers(0, 3)
    if kind == 0:  # a conifer
        for k in range(3):
            width = rng.uniform(0.35, 0.55) * (1 - 0.25 * k)
            pieces.append(Piece("cone", (width, 0.4, width), (0, trunk + 0.2 * k + 0.1, 0), slot=1))
    else:  # broad leaves, or solid crowns as in drawings
        for _ in range(int(rng.integers(1, 4))):
            crown = leaves(rng, 250, rng.uniform(0.03, 0.07)) if kind == 1 else blob(rng, 0.25)
            size = tuple(rng.uniform(0.35, 0.7, 3))
            pieces.append(
                Piece(crown, size, (rng.normal(0, 0.12), rng.uniform(0.6, 0.85), rng.normal(0, 0.12)), slot=1)
            )
    return pieces


def bush(rng: np.random.Generator) -> list[Piece]:
    mesh = leaves(rng, 250, rng.uniform(0.03, 0.09)) if rng.random() < 0.6 else blob(rng, 0.3)
    return [Piece(mesh, (1.2, 0.9, 1.2), (0, 0.35, 0))]


def grass(rng: np.random.Generator) -> list[Piece]:
    return [Piece(blades(rng, int(rng.integers(30, 160))), (1.5, 1, 1.5), (0, 0, 0))]


def rock(rng: np.random.Generator) -> list[Piece]:
    return [
        Piece(blob(rng, 0.35), (rng.uniform(0.8, 2), 1, rng.uniform(0.8, 2)), (0, 0.35, 0), tuple(rng.uniform(0, 6, 3)))
    ]


def figure(rng: np.random.Generator) -> list[Piece]:
    """Someone standing: head, body, arms, legs; slim or stout, large-headed now and then."""
    stout, head = rng.uniform(0.16, 0.34), rng.choice([0.14, 0.2, 0.32])
    top, swing = 0.98 - head, rng.normal(0, 0.35, 4)
    body = str(rng.choice(["ball", "box", "rod"]))
    pieces = [
        Piece("ball", (head * rng.uniform(0.75, 1.1), head * 1.1, head), (0, top + head / 2, 0), slot=0),
        Piece(body, (stout, 0.42, stout * 0.65), (0, top - 0.2, 0), slot=1),
    ]
    for side, arm, leg in ((-1, swing[0], swing[1]), (1, swing[2], swing[3])):
        pieces.append(
            Piece("rod", (0.07, 0.38, 0.07), (side * (stout / 2 + 0.05), top - 0.22, 0), (arm, 0, side * 0.2), 1)
        )
        pieces.append(Piece("rod", (0.09, 0.5, 0.09), (side * stout / 4, 0.22, 0), (leg * 0.5, 0, 0), 2))
        if rng.random() < 0.3:  # ears
            pieces.append(
                Piece(
                    "ball", (0.06, rng.uniform(0.1, 0.3), 0.04), (side * head * 0.3, top + head, 0), (0, 0, -side * 0.3)
                )
            )
    return pieces


def animal(rng: np.random.Generator) -> list[Piece]:
    long, leg = rng.uniform(0.7, 1.4), rng.uniform(0.25, 0.5)
    pieces = [
        Piece("ball", (long, 0.5, 0.45), (0, leg + 0.2, 0), slot=0),
        Piece("ball", (0.32, 0.32, 0.28), (long / 2, leg + rng.uniform(0.2, 0.6), 0), slot=0),
    ]
    for x in (-0.3, 0.3):
        for z in (-0.13, 0.13):
            pieces.append(Piece("rod", (0.1, leg + 0.1, 0.1), (x * long, leg / 2, z), (0, 0, rng.normal(0, 0.2)), 0))
    return pieces


def car(rng: np.random.Generator) -> list[Piece]:
    pieces = [
        Piece("box", (2.4, 0.5, 1.1), (0, 0.5, 0), slot=0),
        Piece("box", (rng.uniform(1, 2), 0.5, 1.0), (rng.uniform(-0.3, 0.1), 0.95, 0), slot=1),
    ]
    return pieces + [
        Piece("rod", (0.5, 0.2, 0.5), (x, 0.25, z), (np.pi / 2, 0, 0), 2) for x in (-0.75, 0.75) for z in (-0.5, 0.5)
    ]


def building(rng: np.random.Generator) -> list[Piece]:
    """A block with a roof, ledges or a tower; one unit tall, its width varies."""
    wide, deep = rng.uniform(0.5, 1.6, 2)
    pieces = [Piece("box", (wide, 1, deep), (0, 0.5, 0), slot=0)]
    if rng.random() < 0.5:
        pieces.append(Piece("prism", (wide * 1.1, rng.uniform(0.15, 0.5), deep * 1.1), (0, 1.1, 0), slot=1))
    for _ in range(int(rng.integers(0, 4))):
        at = (rng.uniform(-0.5, 0.5) * wide, rng.uniform(0.1, 1.1), rng.choice([-0.5, 0.5]) * deep)
        pieces.append(
            Piece(str(rng.choice(["box", "rod"])), (rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.8), 0.2), at, slot=2)
        )
    return pieces


def table(rng: np.random.Generator) -> list[Piece]:
    wide, deep, leg = rng.uniform(0.8, 2.4), rng.uniform(0.7, 1.3), rng.uniform(0.04, 0.12)
    pieces = [Piece("box", (wide, 0.07, deep), (0, 0.97, 0), slot=0)]
    for x in (-0.45, 0.45):
        for z in (-0.45, 0.45):
            pieces.append(Piece("box", (leg, 0.95, leg), (x * wide, 0.475, z * deep), slot=1))
    if rng.random() < 0.4:
        pieces.append(Piece("box", (wide, 0.9, 0.06), (0, 1.4, deep / 2), slot=1))  # a chair's back
    return pieces


def shelf(rng: np.random.Generator) -> list[Piece]:
    wide, deep, rows = rng.uniform(0.4, 1.2), rng.uniform(0.15, 0.4), int(rng.integers(2, 6))
    pieces = [Piece("box", (wide, 1, 0.02), (0, 0.5, deep / 2), slot=0)]
    pieces += [Piece("box", (0.03, 1, deep), (side * wide / 2, 0.5, 0), slot=0) for side in (-1, 1)]
    for k in range(rows + 1):
        pieces.append(Piece("box", (wide, 0.03, deep), (0, k / rows, 0), slot=0))
        for _ in range(int(rng.integers(0, 4))):
            tall = rng.uniform(0.3, 0.85) / rows
            at = (rng.uniform(-0.4, 0.4) * wide, k / rows + tall / 2, rng.normal(0, 0.05))
            pieces.append(
                Piece("box", (rng.uniform(0.03, 0.3) * wide, tall, deep * 0.6), at, slot=int(rng.integers(1, 4)))
            )
    return pieces


def fence(rng: np.random.Generator) -> list[Piece]:
    posts, wide = int(rng.integers(4, 14)), rng.uniform(2, 6)
    thick = rng.uniform(0.02, 0.12)
    pieces = [Piece("box", (thick, 1, thick), (x, 0.5, 0)) for x in np.linspace(-wide / 2, wide / 2, posts)]
    return pieces + [Piece("box", (wide, 0.08, thick / 2), (0, y, 0)) for y in (0.3, 0.8)]


def arch(rng: np.random.Generator) -> list[Piece]:
    wide, thick, form = rng.uniform(0.5, 1.2), rng.uniform(0.08, 0.3), str(rng.choice(["box", "rod"]))
    pieces = [Piece(form, (thick, 1, thick), (side * wide / 2, 0.5, 0)) for side in (-1, 1)]
    return [*pieces, Piece("box", (wide + thick, thick, thick), (0, 1, 0))]


def stairs(rng: np.random.Generator) -> list[Piece]:
    steps, wide = int(rng.integers(3, 9)), rng.uniform(0.6, 2)
    return [Piece("box", (wide, (k + 1) / steps, 0.25), (0, (k + 1) / steps / 2, 0.25 * k)) for k in range(steps)]


def solid(rng: np.random.Generator) -> list[Piece]:
    """One body of any kind, any proportions."""
    kind = rng.integers(0, 9)
    shape = (
        ("box", "ball", "rod", "cone", "ring", "prism")[kind]
        if kind < 6
        else (blob(rng, 0.3) if kind == 6 else lathe(rng) if kind == 7 else slab(rng))
    )
    return [Piece(shape, (rng.uniform(0.4, 1.5), 1, rng.uniform(0.4, 1.5)), (0, 0.5, 0))]


def pile(rng: np.random.Generator) -> list[Piece]:
    """Blocks on top of each other and leaning: castles, stacks, clutter."""
    pieces = []
    for k in range(int(rng.integers(3, 9))):
        shape, size = str(rng.choice(["box", "box", "rod", "prism", "cone"])), tuple(rng.uniform(0.15, 0.5, 3))
        at = (rng.uniform(-0.5, 0.5), size[1] / 2 + rng.choice([0, 0, 0.35]), rng.uniform(-0.5, 0.5))
        pieces.append(Piece(shape, size, at, (0, rng.choice([0.0, rng.uniform(0, 3)]), 0), k % 3))
    return pieces
