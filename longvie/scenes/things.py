"""The objects of the synthetic world: reliefs that always face the camera, so that where they are drawn is exact.

A point of an object keeps its place (a, b) on the object's outline, -1..1 each, in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from longvie.scenes.changes import Changes, Outings

COLOURS = {
    "red": (214, 58, 48),
    "orange": (240, 142, 40),
    "yellow": (244, 214, 66),
    "green": (58, 168, 84),
    "blue": (52, 104, 214),
    "purple": (142, 72, 190),
    "white": (236, 236, 236),
    "pink": (240, 130, 170),
}
OUTLINES = {"ball": (1.0, 1.0), "box": (0.95, 0.8), "pillar": (0.5, 1.6)}  # half width and half height, in radii
CURVED = 0.9  # how far a round shape bulges towards the camera, in half widths
NEAREST_CENTRE = 0.8  # objects whose centre is closer are not drawn
_ASIDE = 0.62  # of its distance: how far to the side an object goes to be out of view; half the view is 0.4545
_ASIDE_MORE = 7.5  # and so many metres more, for its own size and path
_PUSHED = 2.2  # metres that objects go farther for each that the camera rises, so that they stay in view
_FOLLOWED = 0.15  # share of the wall's recession that objects go along with


@dataclass(frozen=True, kw_only=True)
class Thing:
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
    outings: Outings | None = None

    def centre(self, t: int, changes: Changes) -> Float[ndarray, " 3"]:
        """Where its centre is at frame t."""
        centre = self.base + self.amplitude * np.sin(self.frequency * t + self.phase)
        recession = changes.recession(t)
        farther = _PUSHED * changes.lift(t) + _FOLLOWED * recession
        centre[2] += farther - (recession if changes.camera_moves else 0.0)
        if self.outings is not None:
            distance = self.base[2] + self.amplitude[2] + farther
            centre[0] += self.outings.aside(t) * (_ASIDE * distance + _ASIDE_MORE)
        return centre

    @property
    def half(self) -> tuple[float, float]:
        """Half width and half height of its outline."""
        width, height = OUTLINES[self.shape]
        return width * self.radius, height * self.radius

    def relief(
        self, a: Float[ndarray, "*#place"], b: Float[ndarray, "*#place"]
    ) -> tuple[Bool[ndarray, "*place"], Float[ndarray, "*place"], Float[ndarray, "*place"]]:
        """At places on its outline: whether it is there, how far before its centre (metres), how it faces the light."""
        if self.shape == "ball":
            inside = a * a + b * b
            bulge = np.sqrt(np.clip(1 - inside, 0, 1))
            return inside < 1, bulge * self.radius * CURVED, bulge
        mask = (np.abs(a) < 1) & (np.abs(b) < 1)
        if self.shape == "pillar":
            bulge = np.sqrt(np.clip(1 - a * a, 0, 1)) + 0 * b
            return mask, bulge * self.half[0] * CURVED, bulge
        return mask, 0 * a + 0 * b, 0.75 + 0.25 * (a + 0 * b)


def draw_thing(rng: np.random.Generator, colour_name: str, outings: Outings) -> Thing:
    """An object with all that is left to chance."""
    radius = rng.uniform(0.35, 0.75)
    shape = str(rng.choice(tuple(OUTLINES)))
    stand = OUTLINES[shape][1] * radius
    depth = rng.uniform(3.0, 7.5)
    return Thing(
        shape=shape,
        colour_name=colour_name,
        colour=np.array(COLOURS[colour_name], np.float32),
        radius=radius,
        base=np.array([rng.uniform(-1.6, 1.6), stand, depth]),
        amplitude=np.array([rng.uniform(0.4, 2.6), rng.uniform(0, 0.5) * (rng.random() < 0.4), rng.uniform(0.2, 2.0)]),
        frequency=np.array([rng.uniform(0.02, 0.09), rng.uniform(0.08, 0.2), rng.uniform(0.01, 0.05)]),
        phase=rng.uniform(0, 2 * np.pi, 3),
        stripes=rng.uniform(3, 7),
        outings=outings,
    )
