"""The synthetic world: procedural scenes with exact depth, exact point tracks and a caption, from a seed alone.

A room or a landscape: a textured floor and a far wall or sky, one to four moving objects, a moving camera, day or
night. Patterns may drift along floor and wall, as water and clouds do: depth does not show that, nor how far a camera
went sideways; tracks do. It is NumPy only, knows no model, and is what the tiny model learns from, the demo shows and
tests measure on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8, UInt8
from numpy import ndarray

# Disjoint by construction, recorded in every result made from them.
TRAIN_SEEDS = range(0, 1_000_000)
VALIDATION_SEEDS = range(1_000_000, 1_001_000)
TEST_SEEDS = range(2_000_000, 2_001_000)

_COLOURS = {
    "red": (214, 58, 48),
    "orange": (240, 142, 40),
    "yellow": (244, 214, 66),
    "green": (58, 168, 84),
    "blue": (52, 104, 214),
    "purple": (142, 72, 190),
    "white": (236, 236, 236),
    "pink": (240, 130, 170),
}
_GROUNDS = {"sand": (190, 160, 110), "grass": (96, 140, 78), "stone": (128, 128, 132), "wood": (150, 104, 68)}
_FLOOR, _WALL = -1, -2  # values of `surface`; objects count from 0
_SHAPES = ("ball", "box", "pillar")
_SUPERSAMPLING = 2  # subpixels a side, for smooth edges
_FOCAL = 1.1  # focal length in image widths
_HORIZON = 0.4  # where the horizon lies, from the top
NEAREST = 0.1  # points closer than this are out of view
_WAVES = 6  # sines that make a surface's pattern
_CONTRAST = 0.5  # of a pattern, against its surface's colour
_FINE_UNTIL = 7.0  # depth from which a floor's pattern fades, before it is finer than pixels
_DRIFTING = 0.6  # share of surfaces whose pattern moves
OCCLUSION_MARGIN = 0.25  # depth by which something else must be nearer to hide a point


@dataclass(frozen=True, kw_only=True)
class SceneVideo:
    """A rendered scene: depth is metric (camera z, far is large), `surface` says what each pixel shows."""

    scene: Scene
    frames: UInt8[ndarray, "t h w 3"]
    depth: Float[ndarray, "t h w"]
    surface: Int8[ndarray, "t h w"]  # -2 far wall or sky, -1 floor, i object i
    caption: str

    def tracks(
        self, start: int, num_frames: int, points: Float[ndarray, "n 2"]
    ) -> tuple[Float[ndarray, "t n 2"], Bool[ndarray, "t n"], Float[ndarray, " n"]]:
        """Exact tracks of the surface points seen at pixels `points` (x, y) of frame `start`.

        Returns positions in pixels (x, y), whether each is in view and not hidden, and its depth in frame `start`.
        """
        scene, (height, width) = self.scene, self.depth.shape[1:]
        column = points[:, 0].astype(int).clip(0, width - 1)
        row = points[:, 1].astype(int).clip(0, height - 1)
        surface, z = self.surface[start, row, column].astype(int), self.depth[start, row, column].astype(np.float64)
        world = scene.unproject(points, z, start, height, width)
        positions = np.empty((num_frames, len(points), 2), np.float32)
        visible = np.empty((num_frames, len(points)), bool)
        for k in range(num_frames):
            t = start + k
            moved = world.copy()
            moved[surface == _FLOOR] += k * scene.floor_drift
            moved[surface == _WALL] += k * scene.wall_drift
            for index, thing in enumerate(scene.things):
                moved[surface == index] += thing.centre(t) - thing.centre(start)
            relative = moved - scene.camera_at(t)
            x, y = scene.project(relative, height, width)
            positions[k] = np.stack([x, y], axis=1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (relative[:, 2] > NEAREST)
            at = (np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int))
            hidden = (self.depth[t][at] < relative[:, 2] - OCCLUSION_MARGIN) & (self.surface[t][at] != surface)
            visible[k] = inside & ~hidden
        return positions, visible, z.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class _Thing:
    """An object: its shape, size and the path of its centre, sums of sines so that it moves smoothly for ever."""

    shape: str
    colour_name: str
    colour: ndarray
    radius: float
    base: ndarray  # (3,) x, y, z relative to the camera's mean path
    amplitude: ndarray  # (3,)
    frequency: ndarray  # (3,) radians a frame
    phase: ndarray  # (3,)
    stripes: float

    def centre(self, t: int) -> ndarray:
        return self.base + self.amplitude * np.sin(self.frequency * t + self.phase)

    @property
    def half(self) -> tuple[float, float]:
        """Half width and half height of its outline."""
        return {"ball": (1.0, 1.0), "box": (0.95, 0.8), "pillar": (0.5, 1.6)}[self.shape][0] * self.radius, {
            "ball": 1.0,
            "box": 0.8,
            "pillar": 1.6,
        }[self.shape] * self.radius


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that a seed decides; rendering it is a pure function of the frame number and the size."""

    seed: int
    night: bool
    ground_name: str
    ground: ndarray
    sky: ndarray
    things: tuple[_Thing, ...]
    wall: float  # distance of the far wall from the origin
    height: float  # of the camera above the floor
    camera: ndarray  # (3, 3) amplitude, frequency, phase of x, height, z
    floor_texture: ndarray  # (n, 4) frequencies, phase and weight of each wave of the floor's pattern
    wall_texture: ndarray
    floor_drift: ndarray  # (3,) how far the pattern moves a frame, along the surface
    wall_drift: ndarray

    @staticmethod
    def from_seed(seed: int) -> Scene:
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x10C7]))
        names = rng.permutation(list(_COLOURS))
        night = bool(rng.random() < 0.3)
        ground_name = str(rng.choice(list(_GROUNDS)))
        things = []
        for i in range(int(rng.integers(1, 5))):
            radius = rng.uniform(0.35, 0.75)
            shape = str(rng.choice(_SHAPES))
            stand = {"ball": 1.0, "box": 0.8, "pillar": 1.6}[shape] * radius
            depth = rng.uniform(3.0, 7.5)
            things.append(
                _Thing(
                    shape=shape,
                    colour_name=str(names[i]),
                    colour=np.array(_COLOURS[str(names[i])], np.float32),
                    radius=radius,
                    base=np.array([rng.uniform(-1.6, 1.6), stand, depth]),
                    amplitude=np.array(
                        [rng.uniform(0.4, 2.6), rng.uniform(0, 0.5) * (rng.random() < 0.4), rng.uniform(0.2, 2.0)]
                    ),
                    frequency=np.array([rng.uniform(0.02, 0.09), rng.uniform(0.08, 0.2), rng.uniform(0.01, 0.05)]),
                    phase=rng.uniform(0, 2 * np.pi, 3),
                    stripes=rng.uniform(3, 7),
                )
            )
        sky = np.array((48, 56, 92) if night else rng.uniform((120, 150, 180), (200, 215, 240)), np.float32)
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
        return Scene(
            seed=seed,
            night=night,
            ground_name=ground_name,
            ground=np.array(_GROUNDS[ground_name], np.float32),
            sky=sky,
            things=tuple(things),
            wall=wall,
            height=float(rng.uniform(1.0, 1.8)),
            camera=camera,
            floor_texture=_waves(rng, 2.2),
            wall_texture=_waves(rng, 16.0 / wall),  # as fine on the screen wherever the wall stands
            floor_drift=floor_speed * np.array([np.cos(floor_angle), 0, np.sin(floor_angle)]),
            wall_drift=wall_speed * np.array([np.cos(wall_angle), 0.3 * np.sin(wall_angle), 0]),
        )

    @property
    def caption(self) -> str:
        things = " and ".join(f"a {thing.colour_name} {thing.shape}" for thing in self.things)
        return f"{things} on {self.ground_name} at {'night' if self.night else 'day'}"

    def camera_at(self, t: int) -> ndarray:
        """The camera's (x, y, z) at frame t; it looks along +z, y is up."""
        move = self.camera[:, 0] * np.sin(self.camera[:, 1] * t + self.camera[:, 2])
        return np.array([move[0], self.height + move[1], move[2]])

    def render(self, t: int, height: int, width: int) -> tuple[ndarray, ndarray, ndarray]:
        """One frame: uint8 RGB (h, w, 3), float32 depth (h, w), and the surface seen: -2 wall, -1 floor, i object i."""
        s = _SUPERSAMPLING
        colour, depth, surface = self._shade(t, height * s, width * s)
        smooth = colour.reshape(height, s, width, s, 3).mean(axis=(1, 3))
        return smooth.round().astype(np.uint8), depth[s // 2 :: s, s // 2 :: s], surface[s // 2 :: s, s // 2 :: s]

    def _shade(self, t: int, height: int, width: int) -> tuple[ndarray, ndarray, ndarray]:
        camera, focal = self.camera_at(t), _FOCAL * width
        u = (np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None, :] / focal
        v = (np.arange(height, dtype=np.float32) + 0.5 - height * _HORIZON)[:, None] / focal  # down
        wall_z = self.wall - camera[2]
        floor_z = np.where(v > 1e-3, camera[1] / np.maximum(v, 1e-3), np.inf)
        row_depth = np.minimum(floor_z, wall_z).astype(np.float32)
        depth = np.broadcast_to(row_depth, (height, width)).copy()
        floor_rows = (floor_z < wall_z)[:, 0]
        on_floor = np.broadcast_to(floor_rows[:, None], (height, width))
        pattern = self._pattern(t, camera, row_depth, u, v, floor_rows)
        light = 0.5 if self.night else 1.0
        fog = np.clip(depth / (1.6 * self.wall), 0, 1)[..., None]
        base = np.where(on_floor[..., None], self.ground * light, self.sky * 0.8)
        colour = base * (1 + _CONTRAST * pattern[..., None]) * (1 - 0.45 * fog) + self.sky * 0.45 * fog
        surface = np.where(on_floor, _FLOOR, _WALL).astype(np.int8)
        for index, thing in enumerate(self.things):
            self._draw(thing, index, t, camera, u, v, light, colour, depth, surface)
        return np.clip(colour, 0, 255), depth, surface

    def _draw(
        self,
        thing: _Thing,
        index: int,
        t: int,
        camera: ndarray,
        u: ndarray,
        v: ndarray,
        light: float,
        colour: ndarray,
        depth: ndarray,
        surface: ndarray,
    ) -> None:
        centre = thing.centre(t) - camera
        if centre[2] < 0.8:
            return
        half_width, half_height = thing.half
        a = (u - centre[0] / centre[2]) * centre[2] / half_width  # -1..1 over the outline
        b = (v + centre[1] / centre[2]) * centre[2] / half_height
        columns, rows = np.flatnonzero(np.abs(a[0]) < 1), np.flatnonzero(np.abs(b[:, 0]) < 1)
        if not len(columns) or not len(rows):
            return
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        a, b, colour, depth, surface = a[:, box[1]], b[box[0]], colour[box], depth[box], surface[box]  # views
        if thing.shape == "ball":
            inside = a * a + b * b
            bulge = np.sqrt(np.clip(1 - inside, 0, 1))
            mask, front = inside < 1, bulge * thing.radius * 0.9
        elif thing.shape == "pillar":
            bulge = np.sqrt(np.clip(1 - a * a, 0, 1)) + 0 * b
            mask, front = (np.abs(a) < 1) & (np.abs(b) < 1), bulge * half_width * 0.9
        else:
            bulge = 0.75 + 0.25 * (a + 0 * b)
            mask, front = (np.abs(a) < 1) & (np.abs(b) < 1), 0 * a + 0 * b
        near = centre[2] - front
        seen = mask & (near < depth)
        if not seen.any():
            return
        shade = 0.45 + 0.55 * np.clip(0.7 * bulge - 0.25 * a - 0.35 * b, 0, 1)
        stripes = 1 + 0.13 * np.sin(thing.stripes * (a + 0.6 * b))
        own = thing.colour * (0.55 + 0.45 * light) * (shade * stripes)[..., None]
        colour[seen] = own[seen]
        depth[seen] = np.broadcast_to(near, depth.shape)[seen]
        surface[seen] = index

    def _pattern(
        self, t: int, camera: ndarray, depth: ndarray, u: ndarray, v: ndarray, floor: Bool[ndarray, " h"]
    ) -> Float[ndarray, "h w"]:
        """What lies on floor and wall, seen from the camera: about -1..1. `depth` is (h, 1): the same along a row."""
        pattern = np.empty((len(v), u.shape[1]), np.float32)
        drift, near = t * self.floor_drift, depth[floor]
        waves = _wave_sum(self.floor_texture, camera[0] - drift[0] + near * u, camera[2] - drift[2] + near)
        pattern[floor] = waves / (1 + (near / _FINE_UNTIL) ** 2)
        drift = t * self.wall_drift
        wall_z = self.wall - camera[2]
        x, y = camera[0] - drift[0] + wall_z * u, camera[1] - drift[1] - wall_z * v[~floor]
        pattern[~floor] = _wave_sum(self.wall_texture, x, y)
        return pattern

    def project(self, relative: Float[ndarray, "n 3"], height: int, width: int) -> tuple[ndarray, ndarray]:
        """Pixels (x, y) of points relative to the camera."""
        ahead, focal = np.maximum(relative[:, 2], 1e-3), _FOCAL * width
        return relative[:, 0] / ahead * focal + width / 2, -relative[:, 1] / ahead * focal + height * _HORIZON

    def unproject(self, points: ndarray, z: ndarray, t: int, height: int, width: int) -> Float[ndarray, "n 3"]:
        """The world's points seen at pixels `points` of frame t, at depths z."""
        camera, focal = self.camera_at(t), _FOCAL * width
        u, v = (points[:, 0] - width / 2) / focal, (points[:, 1] - height * _HORIZON) / focal
        return camera + np.stack([u * z, -v * z, z], axis=1)


def _waves(rng: np.random.Generator, frequency: float) -> Float[ndarray, "n 4"]:
    """Waves of about this many radians a unit of length, in all directions."""
    angle, phase = rng.uniform(0, 2 * np.pi, (2, _WAVES))
    size = frequency * rng.uniform(0.4, 1.3, _WAVES)
    return np.stack([size * np.cos(angle), size * np.sin(angle), phase, rng.uniform(0.4, 1, _WAVES)], axis=1)


def _wave_sum(waves: ndarray, x: ndarray, y: ndarray) -> Float[ndarray, "h w"]:
    """The waves' sum at x (h or 1, w) and y (h, 1), about -1..1."""
    total = np.zeros((len(y), x.shape[1]), np.float32)
    for fx, fy, phase, weight in waves.astype(np.float32):
        across, down = fx * x.astype(np.float32), fy * y.astype(np.float32) + phase
        if len(x) == 1:  # a wall: sines of one row and one column are enough
            total += weight * (np.sin(across) * np.cos(down) + np.cos(across) * np.sin(down))
        else:
            total += weight * np.sin(across + down)
    return total / 3


def render_scene(seed: int, num_frames: int, height: int, width: int) -> SceneVideo:
    """Render the first `num_frames` frames of the scene with this seed."""
    scene = Scene.from_seed(seed)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    depth = np.empty((num_frames, height, width), np.float32)
    surface = np.empty((num_frames, height, width), np.int8)
    for t in range(num_frames):
        frames[t], depth[t], surface[t] = scene.render(t, height, width)
    return SceneVideo(scene=scene, frames=frames, depth=depth, surface=surface, caption=scene.caption)
