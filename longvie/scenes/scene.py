"""A scene: all that a seed and a category decide, and where everything in it is at a frame. It draws nothing.

Axes: x right, y up, z ahead; metres. The camera looks along z and never turns. The floor is y = 0, a back wall (or the
sky) stands across, and a hall has a ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from longvie.scenes.category import Category
from longvie.scenes.changes import Changes, draw_changes, draw_outings
from longvie.scenes.textures import draw_waves
from longvie.scenes.things import COLOURS, Thing, draw_thing

# Disjoint by construction, recorded in every result made from them.
TRAIN_SEEDS = range(0, 1_000_000)
VALIDATION_SEEDS = range(1_000_000, 1_001_000)
TEST_SEEDS = range(2_000_000, 2_001_000)
SPLITS = {"train": TRAIN_SEEDS, "validation": VALIDATION_SEEDS, "test": TEST_SEEDS}

WORLD = 1  # of the whole world; another number is another look, so that what was rendered before is rendered anew
CEILING, WALL, FLOOR = -3, -2, -1  # what a pixel may show, beside objects, which count from 0
FOCAL = 1.1  # focal length in image widths
HORIZON = 0.4  # where the horizon lies, from the top
NEAREST = 0.1  # points closer than this are out of view
NIGHT_LIGHT = 0.5  # of the day's, on floor and objects
_NIGHT_SKY = (48, 56, 92)
_GROUNDS = {"sand": (190, 160, 110), "grass": (96, 140, 78), "stone": (128, 128, 132), "wood": (150, 104, 68)}
_PLACES = {"indoor": ("stone", "wood"), "outdoor": ("sand", "grass", "stone")}  # grounds that fit
_DRIFTING = 0.6  # share of surfaces whose pattern moves
_MAX_GUESTS = 2  # objects that come later
_MAX_NAMED = 4  # objects in a caption: the embedded model reads 24 tokens
_HEADROOM = 0.9  # metres between the camera at its highest and a ceiling
_ROOM = 6.0  # metres from the farthest object to a hall's back wall, at least


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that a seed decides; where things are is a pure function of the frame number."""

    seed: int
    night: bool  # at the start
    ground_name: str
    ground: ndarray
    sky: ndarray  # at the start; indoors the wall's colour
    other_sky: ndarray  # in the other light
    things: tuple[Thing, ...]
    wall: float  # distance of the back wall from the origin at the start
    height: float  # of the camera above the floor
    camera: ndarray  # (3, 3) amplitude, frequency, phase of x, height, z
    floor_texture: ndarray  # (n, 4) of each wave of the floor's pattern, see textures.py
    wall_texture: ndarray
    far_texture: ndarray  # of the wall when it is far away
    floor_drift: ndarray  # (3,) how far the pattern moves a frame, along the surface
    wall_drift: ndarray
    ceiling: float | None = None  # its height
    changes: Changes = field(default_factory=Changes.none)

    @staticmethod
    def from_seed(seed: int, category: Category | None = None) -> Scene:
        """The scene with this seed; a category changes what it names and leaves the rest."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x10C7]))
        names = [str(name) for name in rng.permutation(list(COLOURS))]
        night = bool(rng.random() < 0.3)
        ground_name = str(rng.choice(list(_GROUNDS)))
        count = int(rng.integers(1, 5))
        things = [draw_thing(rng, names[i], draw_outings(seed, i, guest=False)) for i in range(count)]
        sky = np.array(_NIGHT_SKY if night else rng.uniform((120, 150, 180), (200, 215, 240)), np.float32)
        wall = float(rng.uniform(9, 24))
        camera = np.array(
            [
                [rng.uniform(0.4, 2.2), rng.uniform(0.012, 0.04), rng.uniform(0, 2 * np.pi)],
                [rng.uniform(0.0, 0.15), rng.uniform(0.01, 0.04), rng.uniform(0, 2 * np.pi)],
                [rng.uniform(0.0, 1.6), rng.uniform(0.005, 0.02), rng.uniform(0, 2 * np.pi)],
            ]
        )
        floor_speed = rng.uniform(0.01, 0.06) * (rng.random() < _DRIFTING)
        wall_speed = rng.uniform(0.003, 0.012) * wall * (rng.random() < _DRIFTING)
        floor_angle, wall_angle = rng.uniform(0, 2 * np.pi, 2)
        height = float(rng.uniform(1.0, 1.8))
        floor_texture = draw_waves(rng, 2.2)
        wall_texture = draw_waves(rng, 16.0 / wall)  # as fine on the screen wherever the wall stands
        # what came later has random numbers of its own, so that the draws above stay as they were
        more = np.random.default_rng(np.random.SeedSequence([seed, 0x10C7, 1]))
        changes = draw_changes(seed, indoor=False, camera_moves=True, light_changes=True)
        day_sky = np.asarray(more.uniform((120, 150, 180), (200, 215, 240)), np.float32)
        guests = [
            draw_thing(more, names[count + i], draw_outings(seed, count + i, guest=True))
            for i in range(int(more.integers(0, _MAX_GUESTS + 1)))
        ]
        scene = Scene(
            seed=seed,
            night=night,
            ground_name=ground_name,
            ground=np.array(_GROUNDS[ground_name], np.float32),
            sky=sky,
            other_sky=day_sky if night else np.array(_NIGHT_SKY, np.float32),
            things=(*things, *guests),
            wall=wall,
            height=height,
            camera=camera,
            floor_texture=floor_texture,
            wall_texture=wall_texture,
            far_texture=draw_waves(more, 16.0 / (wall + changes.reach)),
            floor_drift=floor_speed * np.array([np.cos(floor_angle), 0, np.sin(floor_angle)]),
            wall_drift=wall_speed * np.array([np.cos(wall_angle), 0.3 * np.sin(wall_angle), 0]),
            changes=changes,
        )
        return scene if category is None or category.free else _as(scene, category, more)

    @property
    def caption(self) -> str:
        """What the scene shows at its start."""
        return self.caption_at([0])

    def caption_at(self, frames: Sequence[int]) -> str:
        """What the scene shows over these frames, in the words of the embedded model: who is there and in which light.

        An object is there if in one of the frames it is not on its way out, or in; at most four are named.
        """
        present = [
            thing
            for thing in self.things
            if thing.outings is None or any(abs(thing.outings.aside(t)) < 0.5 for t in frames)
        ][:_MAX_NAMED]
        named = " and ".join(f"a {thing.colour_name} {thing.shape}" for thing in present)
        where = f"on {self.ground_name}" if named else self.ground_name
        light = "night" if self.darkness_at(frames[len(frames) // 2]) > 0.5 else "day"
        return f"{named} {where} at {light}".strip()

    def camera_at(self, t: int) -> Float[ndarray, " 3"]:
        """The camera's place at frame t."""
        move = self.camera[:, 0] * np.sin(self.camera[:, 1] * t + self.camera[:, 2])
        back = self.changes.recession(t) if self.changes.camera_moves else 0.0
        return np.array([move[0], self.height + move[1] + self.changes.lift(t), move[2] - back])

    def wall_at(self, t: int) -> float:
        """Where the back wall stands at frame t, z."""
        return self.wall + (0.0 if self.changes.camera_moves else self.changes.recession(t))

    def centre_at(self, index: int, t: int) -> Float[ndarray, " 3"]:
        """Where an object's centre is at frame t, seen from the camera."""
        return self.things[index].centre(t, self.changes) - self.camera_at(t)

    def darkness_at(self, t: int) -> float:
        """0 by day, 1 by night."""
        dimming = self.changes.dimming(t)
        return 1.0 - dimming if self.night else dimming

    def sky_at(self, t: int) -> Float[ndarray, " 3"]:
        dimming = self.changes.dimming(t)
        return self.sky if dimming == 0 else ((1 - dimming) * self.sky + dimming * self.other_sky).astype(np.float32)

    def project(self, relative: Float[ndarray, "n 3"], height: int, width: int) -> tuple[ndarray, ndarray]:
        """Pixels (x, y) of points relative to the camera; (0, 0) is the frame's corner, not a pixel's centre."""
        ahead, focal = np.maximum(relative[:, 2], 1e-3), FOCAL * width
        return relative[:, 0] / ahead * focal + width / 2, -relative[:, 1] / ahead * focal + height * HORIZON

    def unproject(
        self, points: Float[ndarray, "n 2"], z: Float[ndarray, " n"], t: int, height: int, width: int
    ) -> Float[ndarray, "n 3"]:
        """The world's points seen at pixels `points` of frame t, at depths z."""
        u, v = rays(points, height, width)
        return self.camera_at(t) + np.stack([u * z, -v * z, z], axis=1)


def rays(points: Float[ndarray, "n 2"], height: int, width: int) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """How far right and down the rays through pixels `points` (x, y) lead, a metre ahead."""
    focal = FOCAL * width
    return (points[:, 0] - width / 2) / focal, (points[:, 1] - height * HORIZON) / focal


def _as(scene: Scene, category: Category, rng: np.random.Generator) -> Scene:
    """The scene as one of that category."""
    indoor, moves = category.place == "indoor", category.camera != "static"
    changes = draw_changes(
        scene.seed, indoor=indoor, camera_moves=moves, light_changes=category.light in (None, "changing")
    )
    night = scene.night if category.light in (None, "changing") else category.light == "night"
    day_sky = scene.other_sky if scene.night else scene.sky
    night_sky = np.array(_NIGHT_SKY, np.float32)
    ground_name, wall, ceiling = scene.ground_name, scene.wall, None
    if category.place is not None and ground_name not in _PLACES[category.place]:
        ground_name = str(rng.choice(_PLACES[category.place]))
    if indoor:
        day_sky = np.asarray(rng.uniform((150, 120, 90), (225, 205, 180)), np.float32)  # plaster, warm
        night_sky = 0.42 * day_sky
        farthest = max(thing.base[2] + thing.amplitude[2] for thing in scene.things)
        wall = max(wall, float(farthest) + _ROOM)
        ceiling = scene.height + scene.camera[1, 0] + changes.rise + _HEADROOM
    return replace(
        scene,
        night=night,
        ground_name=ground_name,
        ground=np.array(_GROUNDS[ground_name], np.float32),
        sky=night_sky if night else day_sky,
        other_sky=day_sky if night else night_sky,
        wall=wall,
        wall_texture=scene.wall_texture * (scene.wall / wall, scene.wall / wall, 1, 1),
        wall_drift=scene.wall_drift * (not indoor),
        camera=scene.camera if moves else np.zeros((3, 3)),
        ceiling=ceiling,
        changes=changes,
    )
