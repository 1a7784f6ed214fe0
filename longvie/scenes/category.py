"""Kinds of scenes a benchmark counts by, as LongVGenBench does its videos: where, in which light, by which camera."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

Place = Literal["indoor", "outdoor"]
Light = Literal["day", "night", "changing"]
Camera = Literal["static", "moving"]


@dataclass(frozen=True, kw_only=True)
class Category:
    """What a scene is made to be; None leaves it to the seed.

    Args:
        place: indoor is a hall with a ceiling and a plain back wall; outdoor has a sky. A seed alone gives outdoor.
        light: day or night holds for the whole video; changing goes from one to the other and back over minutes. A
            seed alone gives changing, which begins after the first `changes.ONSET` frames.
        camera: a static one stands still, to the bit; a moving one sways, and goes back and up over minutes. A seed
            alone gives moving.
    """

    place: Place | None = None
    light: Light | None = None
    camera: Camera | None = None

    @property
    def free(self) -> bool:
        """Whether everything is left to the seed."""
        return self.place is None and self.light is None and self.camera is None


BALANCED = tuple(
    Category(place=place, light=light, camera=camera)
    for place, light, camera in itertools.product(("outdoor", "indoor"), ("day", "night"), ("moving", "static"))
)
"""The eight kinds that a benchmark takes in turn."""
