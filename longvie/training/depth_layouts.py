"""Layouts of the depth scenes: what stands where in a room, a street, a landscape, on a table, or floating.

A layout fills a `Builder` with meshes and materials and says where it wants to be seen from; light and camera are
`depth_scenes`' business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray

from longvie.training import depth_shapes as shapes
from longvie.training.depth_render import Material
from longvie.training.depth_shapes import Mesh, Piece
from longvie.training.depth_textures import NUM_TEXTURES, ramp

Compound = Callable[[np.random.Generator], list[Piece]]


@dataclass
class Builder:
    """Collects meshes and materials while a layout is being made."""

    rng: np.random.Generator
    meshes: list[Mesh] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    surface: list[int] = field(default_factory=list)

    def material(self, palette: str, size: float) -> int:
        """A new random material; `size` is about how many metres its pattern spans."""
        rng = self.rng
        if rng.random() < 0.25:
            palette = "any"
        self.materials.append(
            Material(
                texture=int(rng.integers(NUM_TEXTURES)),
                size=float(size * rng.uniform(0.4, 2.5)),
                colours=ramp(rng, palette),
                fine=int(rng.integers(NUM_TEXTURES)),
                fine_weight=float(rng.uniform(0, 0.6)),
            )
        )
        return len(self.materials) - 1

    def mesh(self, mesh: Mesh, material: int) -> None:
        self.meshes.append(mesh)
        self.surface.append(material)

    def box(self, low: tuple[float, float, float], high: tuple[float, float, float], material: int) -> None:
        size, at = np.subtract(high, low), np.add(high, low) / 2
        self.mesh(shapes.primitive("box").moved(np.diag(size), at), material)

    def place(
        self,
        compound: Compound,
        at: tuple[float, float, float],
        tall: float,
        palettes: tuple[str, ...],
        free: bool = False,
    ) -> None:
        """A compound standing at `at`, turned about the vertical (`free`: about any axis), `tall` metres."""
        rng = self.rng
        tilt = rng.uniform(0, 2 * np.pi, 2) if free else rng.normal(0, 0.03, 2)
        matrix = shapes.rotation(tilt[0], rng.uniform(0, 2 * np.pi), tilt[1]) * tall
        slots: dict[int, int] = {}
        for piece in compound(rng):
            if piece.slot not in slots:
                slots[piece.slot] = self.material(palettes[min(piece.slot, len(palettes) - 1)], tall * 0.6)
            self.mesh(piece.mesh().moved(matrix, np.array(at)), slots[piece.slot])


@dataclass(frozen=True, kw_only=True)
class View:
    """Where a layout wants to be seen from: the eye, what it looks at, and how far the camera may move in a second."""

    eye: ndarray
    target: ndarray
    speed: float
    indoors: bool = False
    lamps: tuple[tuple[float, float, float], ...] = ()


THINGS: tuple[tuple[Compound, tuple[str, ...]], ...] = (
    (shapes.figure, ("skin", "any", "any")),
    (shapes.animal, ("earth",)),
    (shapes.solid, ("any",)),
    (shapes.pile, ("any", "any", "grey")),
    (shapes.rock, ("grey",)),
    (shapes.table, ("earth", "earth")),
    (shapes.bush, ("green",)),
    (shapes.arch, ("grey",)),
    (shapes.building, ("pale", "earth", "grey")),
)


def _room(b: Builder) -> View:
    """A room or a corridor: walls, perhaps with an opening, furniture along them, things in it, pictures, beams."""
    rng = b.rng
    corridor = rng.random() < 0.3
    wide, deep, tall = rng.uniform(2.5, 9), rng.uniform(3, 12), rng.uniform(2.2, 5)
    if corridor:
        wide, deep = rng.uniform(1.5, 3.5), rng.uniform(12, 40)
    same = b.material("pale", 2)
    walls = [same if rng.random() < 0.6 else b.material("pale", 2) for _ in range(4)]
    b.box((-wide / 2, -0.1, 0), (wide / 2, 0, deep), b.material("earth", 1.5))
    if rng.random() < 0.9:
        b.box((-wide / 2, tall, 0), (wide / 2, tall + 0.1, deep), b.material("pale", 2))
    for index, x in enumerate((-wide / 2, wide / 2)):
        if rng.random() < 0.4:  # an opening to the outside
            z, open_wide = rng.uniform(0.2, 0.7) * deep, rng.uniform(0.5, 0.25 * deep)
            low, high = rng.choice([0.0, 0.9]), tall * 0.8
            b.box((x - 0.1, 0, 0), (x + 0.1, tall, z), walls[index])
            b.box((x - 0.1, 0, z + open_wide), (x + 0.1, tall, deep), walls[index])
            b.box((x - 0.1, high, z), (x + 0.1, tall, z + open_wide), walls[index])
            b.box((x - 0.1, -0.1, z), (x + 0.1, low, z + open_wide), walls[index])
        else:
            b.box((x - 0.1, 0, 0), (x + 0.1, tall, deep), walls[index])
    b.box((-wide / 2, 0, -0.1), (wide / 2, tall, 0), walls[2])
    if rng.random() < 0.9:
        b.box((-wide / 2, 0, deep), (wide / 2, tall, deep + 0.1), walls[3])
    for _ in range(int(rng.integers(0, 8))):  # pictures, doors, boards on the walls
        w, h, y, z = rng.uniform(0.3, 1.5), rng.uniform(0.3, 2), rng.uniform(0.3, tall - 0.4), rng.uniform(0, deep)
        side = rng.choice([-1, 1]) * (wide / 2 - 0.12)
        material = b.material("any", 0.7)
        if rng.random() < 0.5:
            b.box((side - 0.04, y, z), (side + 0.04, y + h, z + w), material)
        else:
            x = rng.uniform(-wide / 2, wide / 2 - 0.3)
            b.box((x, y, deep - 0.08), (x + w, y + h, deep), material)
    if rng.random() < 0.3:  # pillars or beams in rows
        material = b.material("grey", 1)
        for z in np.arange(1.5, deep, rng.uniform(1.5, 4)):
            for side in (-1, 1):
                x = side * wide * 0.38
                b.box((x - 0.12, 0, z), (x + 0.12, tall, z + 0.24), material)
    for _ in range(int(rng.integers(2, 12))):  # furniture, at the walls more often than not
        x, z = rng.uniform(-wide / 2, wide / 2) * 0.9, rng.uniform(0.15, 0.97) * deep
        if rng.random() < 0.5:
            x = np.sign(x) * wide * 0.4
        kind = rng.integers(0, 5)
        compound = (shapes.table, shapes.shelf, shapes.solid, shapes.figure, shapes.pile)[kind]
        high = (
            rng.uniform(0.4, 0.9),
            rng.uniform(0.9, 2.2),
            rng.uniform(0.3, 1.2),
            rng.uniform(1, 1.9),
            rng.uniform(0.3, 1),
        )
        b.place(compound, (x, 0, z), high[kind], ("earth", "any", "any", "any"))
    for _ in range(int(rng.integers(0, 4))):  # hanging things
        x, z, drop = rng.uniform(-0.4, 0.4) * wide, rng.uniform(0.2, 0.9) * deep, rng.uniform(0.2, 0.9)
        b.box((x - 0.01, tall - drop, z - 0.01), (x + 0.01, tall, z + 0.01), same)
        b.place(shapes.solid, (x, tall - drop - 0.3, z), 0.3, ("any",))
    eye = np.array([rng.uniform(-0.35, 0.35) * wide, rng.uniform(0.3, tall - 0.3), rng.uniform(0.05, 0.35) * deep])
    target = np.array([rng.uniform(-0.5, 0.5) * wide, rng.uniform(0, 0.8) * tall, rng.uniform(0.6, 1) * deep])
    lamps = tuple((rng.uniform(-0.4, 0.4) * wide, tall * 0.93, f * deep) for f in rng.uniform(0, 1, rng.integers(1, 3)))
    return View(eye=eye, target=target, speed=0.5, indoors=True, lamps=lamps)


def _ground(b: Builder, height: Callable[[ndarray, ndarray], ndarray], extent: float, palette: str) -> None:
    b.mesh(shapes.terrain(height, extent), b.material(palette, 4))


def _street(b: Builder) -> View:
    """A road between houses, with walks, trees, lamps, cars and people; now and then a square without a road."""
    rng = b.rng
    half, far, walk = rng.uniform(2.5, 9), rng.uniform(50, 200), rng.uniform(0.8, 4)
    b.box((-400, -0.3, -60), (400, -0.12, 600), b.material("earth", 3))
    b.box((-half, -0.3, -60), (half, 0, far), b.material("grey", 3))
    for side in (-1, 1):
        b.box((side * half - walk, -0.2, -60), (side * half + walk, rng.uniform(0, 0.2), far), b.material("grey", 1.5))
        z = -10.0
        while z < far:
            front = rng.uniform(4, 16)
            if rng.random() < 0.88:
                x = side * (half + walk + front / 2 + rng.uniform(0, 3) * (rng.random() < 0.5))
                tall, material = rng.uniform(3, 8) * rng.choice([1, 1, 2, 4]), b.material("pale", 4)
                b.box((x - front / 2, -0.2, z), (x + front / 2, tall, z + front), material)
                if rng.random() < 0.5:
                    roof = shapes.primitive("prism").moved(
                        np.diag([front, rng.uniform(1, 4), front]), np.array([x, tall + 1, z + front / 2])
                    )
                    b.mesh(roof, b.material("earth", 2))
            z += front + rng.choice([0.0, 0.0, 2.0, 8.0])
        for z in np.arange(rng.uniform(0, 6), far / 2, rng.uniform(5, 20)):
            compound, tall, palettes = (
                (shapes.tree, rng.uniform(3, 9), ("earth", "green"))
                if rng.random() < 0.5
                else (shapes.arch, 4, ("grey",))
            )
            b.place(compound, (side * (half + walk * 0.5), 0, z), tall, palettes)
    for _ in range(int(rng.integers(1, 12))):
        x, z = rng.uniform(-half - walk, half + walk), 3 + rng.exponential(12)
        compound, tall = (
            (shapes.car, rng.uniform(1.1, 1.6)) if rng.random() < 0.45 else (shapes.figure, rng.uniform(1.2, 1.9))
        )
        b.place(compound, (x, 0.05, z), tall, ("any", "grey", "grey"))
    eye = np.array(
        [rng.uniform(-1, 1) * half, rng.choice([1.6, 1.6, 4, 12]) * rng.uniform(0.6, 1.3), rng.uniform(-5, 5)]
    )
    target = np.add(eye, [rng.normal(0, 6), rng.normal(-0.5, 2) - (eye[1] > 5) * 4, 20])
    return View(eye=eye, target=target, speed=1.5)


def _landscape(b: Builder) -> View:
    """Hills or a plain, scattered trees, bushes, rocks, grass, a fence, houses; someone in it perhaps."""
    rng = b.rng
    height = shapes.hills(rng) if rng.random() < 0.8 else lambda x, z: 0 * x
    _ground(b, height, rng.uniform(150, 800), str(rng.choice(["green", "green", "earth", "grey", "pale"])))
    heading = rng.uniform(0, 2 * np.pi)
    ahead = np.array([np.sin(heading), np.cos(heading)])
    if rng.random() < 0.3:  # mountains or a tree line far away
        for _ in range(int(rng.integers(3, 14))):
            at = ahead * rng.uniform(80, 400) + rng.normal(0, 90, 2)
            size = rng.uniform(20, 120)
            b.place(
                lambda r: [Piece(shapes.blob(r, 0.5), (2, 1, 2), (0, 0, 0))], (at[0], 0, at[1]), size, ("green", "grey")
            )
    plants: list[tuple[Compound, float, float, tuple[str, ...]]] = [
        (shapes.tree, 2.5, 14, ("earth", "green")), (shapes.bush, 0.4, 2, ("green",)), (shapes.rock, 0.2, 3, ("grey",)),
        (shapes.grass, 0.1, 0.7, ("green",)), (shapes.fence, 0.7, 1.5, ("earth",)),
        (shapes.building, 3, 9, ("pale", "earth")),
        (shapes.figure, 1, 1.9, ("skin", "any", "any")), (shapes.animal, 0.4, 1.6, ("earth",)),
    ]  # fmt: skip
    for index in rng.choice(len(plants), int(rng.integers(1, 5)), replace=False):
        compound, low, high, palettes = plants[index]
        near = 2.0 + high * 0.7
        for _ in range(int(rng.integers(1, 22 if index < 4 else 5))):
            distance = near + rng.exponential(4 * near)
            angle = heading + rng.uniform(-0.9, 0.9)
            x, z = np.sin(angle) * distance, np.cos(angle) * distance
            b.place(compound, (x, float(height(np.array(x), np.array(z))), z), rng.uniform(low, high), palettes)
    up = rng.choice([0.3, 1.5, 1.5, 5, 20]) * rng.uniform(0.6, 1.5)
    eye = np.array([0, float(height(np.zeros(()), np.zeros(()))) + up, 0])
    reach = rng.uniform(10, 40)
    x, z = ahead * reach
    target = np.array([x, float(height(x, z)) + rng.uniform(0, 3), z]) * [1, 0.5, 1] + [
        0,
        0.5 * eye[1] - (up > 4) * up * 0.5,
        0,
    ]
    return View(eye=eye, target=target, speed=1.5)


def _table_top(b: Builder) -> View:
    """A few things on a wide surface, seen from above, from the side or from all around; a wall behind, or nothing."""
    rng = b.rng
    scale = rng.choice([0.3, 1.0, 5.0])
    if rng.random() < 0.85:
        half = rng.choice([1.5, 6.0, 60.0]) * scale
        b.box((-half, -0.2, -half), (half, 0, half), b.material("any", 1.5 * scale))
    if rng.random() < 0.4:
        z = rng.uniform(1.5, 6) * scale
        b.box((-80 * scale, -20 * scale, z), (80 * scale, 60 * scale, z + 0.1), b.material("any", 2 * scale))
    for _ in range(int(rng.integers(1, 10))):
        compound, palettes = THINGS[rng.integers(len(THINGS))]
        x, z = rng.normal(0, 0.8, 2) * scale
        b.place(compound, (x, 0, z), rng.uniform(0.2, 1.2) * scale, palettes)
    pitch, around = rng.uniform(0.05, 1.3), rng.uniform(-0.7, 0.7)
    distance = rng.uniform(1.3, 4) * scale
    eye = distance * np.array([np.sin(around) * np.cos(pitch), np.sin(pitch), -np.cos(around) * np.cos(pitch)])
    target = rng.normal(0, 0.3, 3) * scale + [0, 0.3 * scale, 0]
    return View(eye=eye, target=target, speed=0.4 * scale)


def _clutter(b: Builder) -> View:
    """Things floating at any angle before a wall at any angle, or in the open: no ground, no up."""
    rng = b.rng
    if rng.random() < 0.75:
        turn = shapes.rotation(rng.normal(0, 0.5), rng.normal(0, 0.5), rng.uniform(0, 3))
        wall = shapes.primitive("box").moved(turn * [120, 120, 0.1], np.array([0, 0, rng.uniform(3, 16)]))
        b.mesh(wall, b.material("any", 3))
    for _ in range(int(rng.integers(2, 26))):
        compound, palettes = THINGS[rng.integers(len(THINGS))]
        z = rng.uniform(1, 14)
        x, y = rng.uniform(-0.8, 0.8, 2) * z
        b.place(compound, (x, y, z), rng.uniform(0.15, 0.5) * z, palettes, free=True)
    return View(eye=np.zeros(3), target=np.array([0, 0, 5.0]), speed=0.5)


LAYOUTS: tuple[tuple[Callable[[Builder], View], float], ...] = (
    (_room, 0.26),
    (_street, 0.16),
    (_landscape, 0.28),
    (_table_top, 0.16),
    (_clutter, 0.14),
)
