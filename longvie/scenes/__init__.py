"""The synthetic world: procedural scenes with exact depth, exact point tracks and a caption, from a seed alone.

A hall or a landscape: a textured floor and a back wall or sky, one to six objects, a camera that stands or moves, day
or night. Patterns may drift along floor and wall, as water and clouds do: depth does not show that, nor how far a
camera went sideways; tracks do. After the first 97 frames a scene begins to change over minutes: how far it reaches,
who is in it, its light. It is NumPy only, knows no model, and is what the embedded model learns from, the demo shows
and tests measure on.
"""

from longvie.scenes.category import BALANCED, Category
from longvie.scenes.changes import ONSET
from longvie.scenes.drawing import SAMPLE, render_frame
from longvie.scenes.scene import SPLITS, TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, WORLD, Scene
from longvie.scenes.tracking import surface_at, track
from longvie.scenes.video import SceneVideo, render_scene

__all__ = [
    "BALANCED",
    "ONSET",
    "SAMPLE",
    "SPLITS",
    "TEST_SEEDS",
    "TRAIN_SEEDS",
    "VALIDATION_SEEDS",
    "WORLD",
    "Category",
    "Scene",
    "SceneVideo",
    "render_frame",
    "render_scene",
    "surface_at",
    "track",
]
