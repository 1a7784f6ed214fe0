"""From pixels to rays and back: a glTF camera at one moment.

Pixels are (x, y) from the frame's upper left corner; pixel (i, j) covers [i, i+1) x [j, j+1), so its centre is at +0.5.
*Depth* is the distance along the viewing axis (camera z), in the scene's unit, which glTF says is the metre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from longvie.mesh.animation import NodeTree
from longvie.mesh.gltf import Document, SceneError

_SHEAR = 1e-4  # cosine between axes above which a camera counts as sheared


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera of the file. Pixels are square: the vertical field of view is the file's, the horizontal one follows."""

    name: str
    node: int
    half_height: float  # of the view, at depth 1 (perspective: tan(yfov/2)) or everywhere (orthographic: ymag)
    orthographic: bool
    near: float  # what is nearer or farther is not drawn, as in any viewer
    far: float

    def view(self, tree: NodeTree, t: float, height: int, width: int) -> View:
        """The camera at `t` seconds, for frames of height x width pixels."""
        matrix = tree.world(self.node, t)
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if lengths.min() <= 0:
            raise SceneError(f"{tree.name}: camera {self.name} is scaled to nothing at {t:.3f} s; keep its scale at 1")
        axes = matrix[:3, :3] / lengths  # a camera's scale means nothing (§3.10.2)
        if np.abs(axes.T @ axes - np.eye(3)).max() > _SHEAR:
            raise SceneError(f"{tree.name}: camera {self.name} is sheared at {t:.3f} s; scale its parents evenly")
        focal = height / 2 / self.half_height
        return View(
            camera=self, axes=axes, position=matrix[:3, 3], focal=focal, centre=np.array([width / 2, height / 2])
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """A camera at a moment. `axes` columns are its right, up and back in the world; `focal` in pixels (per metre of
    width if orthographic)."""

    camera: Camera
    axes: Float[ndarray, "3 3"]
    position: Float[ndarray, " 3"]
    focal: float
    centre: Float[ndarray, " 2"]

    def rays(self, points: Float[ndarray, "n 2"]) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3"]]:
        """Origins and directions of the pixels' rays in the world. A step of 1 along a direction is 1 of depth; the
        origins lie at depth 0."""
        offset = (points - self.centre) / self.focal * [1, -1]
        sideways = offset @ self.axes[:, :2].T
        if self.camera.orthographic:
            return self.position + sideways, np.broadcast_to(-self.axes[:, 2], sideways.shape)
        return np.broadcast_to(self.position, sideways.shape), sideways - self.axes[:, 2]

    def project(self, world: Float[ndarray, "n 3"]) -> tuple[Float[ndarray, "n 2"], Float[ndarray, " n"]]:
        """Pixels and depths of points in the world; a pixel means nothing where the depth is not positive."""
        own = (world - self.position) @ self.axes
        depth = -own[:, 2]
        divisor = np.ones_like(depth) if self.camera.orthographic else np.where(depth > 0, depth, np.nan)
        return own[:, :2] / divisor[:, None] * self.focal * [1, -1] + self.centre, depth

    def project_direction(self, directions: Float[ndarray, "n 3"]) -> Float[ndarray, "n 2"]:
        """Pixels of what lies infinitely far in these directions; NaN behind the camera, or if orthographic."""
        own = directions @ self.axes
        ahead = np.where((own[:, 2] < 0) & (not self.camera.orthographic), -own[:, 2], np.nan)
        return own[:, :2] / ahead[:, None] * self.focal * [1, -1] + self.centre


def find_camera(document: Document, tree: NodeTree, name: str | None) -> Camera:
    """The camera with this name, or the scene's only one."""
    nodes = document.items("nodes")
    found: dict[str, int] = {}
    for node in tree.parents:
        if "camera" in nodes[node]:
            camera = document.items("cameras")[document.index(nodes[node], "camera", "cameras", f"node {node}")]
            said = document.field(nodes[node], "name", str, f"node {node}", "")
            said = said or document.field(camera, "name", str, f"node {node}'s camera", "") or f"node {node}"
            found[said if said not in found else f"{said} (node {node})"] = node
    if not found:
        raise SceneError(f"{document.name} has no camera; add one in your 3-D program and export it with the scene")
    names = ", ".join(list(found)[:20])
    if name is None and len(found) > 1:
        raise SceneError(f"{document.name} has {len(found)} cameras; choose one with --camera: {names}")
    if name is not None and name not in found:
        raise SceneError(f"{document.name} has no camera {name}; its cameras are {names}")
    name = name if name is not None else next(iter(found))
    return _camera(document, name, found[name])


def _camera(document: Document, name: str, node: int) -> Camera:
    where = f"camera {name}"
    item = document.items("cameras")[document.items("nodes")[node]["camera"]]
    kind = document.field(item, "type", str, where)
    if kind not in ("perspective", "orthographic"):
        raise SceneError(f"{document.name}: {where} is {kind}; make it perspective or orthographic")
    lens = document.field(item, kind, dict, where)
    near = document.field(lens, "znear", float, where)
    if kind == "perspective":
        yfov = document.field(lens, "yfov", float, where)
        if not 0 < yfov < np.pi:
            raise SceneError(f"{document.name}: {where}: yfov {yfov:g} is not in 0..pi radians")
        half_height = float(np.tan(yfov / 2))
        far = document.field(lens, "zfar", float, where, np.inf)
    else:
        half_height = abs(document.field(lens, "ymag", float, where))
        far = document.field(lens, "zfar", float, where)
    if near < 0 or (near == 0 and kind == "perspective") or far <= near or half_height <= 0:
        raise SceneError(f"{document.name}: {where} sees nothing: check its znear, zfar and size")
    return Camera(
        name=name, node=node, half_height=half_height, orthographic=kind == "orthographic", near=near, far=far
    )
