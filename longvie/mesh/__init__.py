"""Animated 3-D scenes as ground truth: colour, exact depth and exact point tracks. Torch-free."""

from longvie.mesh.gltf import SceneError
from longvie.mesh.scene import Frame, PointTracks, Scene, load_scene
from longvie.mesh.writer import SceneWriter

__all__ = ["Frame", "PointTracks", "Scene", "SceneError", "SceneWriter", "load_scene"]
