"""An animated 3-D scene as ground truth: what its camera sees at a time, how far it is, and where points go.

Colour is a plain rendering (base colour, one sun); depth and tracks are exact. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from longvie.mesh.animation import NodeTree
from longvie.mesh.camera import Camera, View, find_camera
from longvie.mesh.geometry import Geometry, read_geometry
from longvie.mesh.gltf import Document
from longvie.mesh.materials import BACKGROUND, light, to_bytes
from longvie.mesh.trace import Body, Hits, first_hits

MAX_PIXELS = 4096 * 2304  # of a frame
CONTRAST = 12  # of 255: pixels that differ so much from a neighbour are looked at with more rays
OCCLUSION_TOLERANCE = 1e-4  # of the depth: a point is hidden if what its pixel shows is nearer than that
_BLOCK = 1 << 16  # rays at once: memory stays flat whatever the size of a frame


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One rendered frame. Depth is camera z in the scene's unit (metres), at pixel centres; infinite for background."""

    rgb: UInt8[ndarray, "h w 3"]
    depth: Float[ndarray, "h w"]  # float32


@dataclass(frozen=True, kw_only=True)
class PointTracks:
    """Surface points followed through time.

    Args:
        positions: pixels (x, y), float32; NaN where a point lies beside or behind the camera.
        visibility: in view and not hidden.
        depth: of each point at the first time, float32; infinite for the background, which turns with the camera only.
    """

    positions: Float[ndarray, "t n 2"]
    visibility: Bool[ndarray, "t n"]
    depth: Float[ndarray, " n"]


class Scene:
    """A scene with its camera chosen. Nothing changes in it: every answer depends on the arguments alone."""

    def __init__(self, tree: NodeTree, geometry: Geometry, camera: Camera, fingerprint: str) -> None:
        self._tree, self._geometry, self.camera = tree, geometry, camera
        self.fingerprint = fingerprint
        """SHA-256 over the scene's files."""
        self.notes = geometry.notes
        """What is not drawn as the file says, one line each."""
        self._one_sided = np.array([not material.double_sided for material in geometry.materials])
        self._cutoffs = np.array([-1.0 if m.cutoff is None else m.cutoff for m in geometry.materials])
        self._body_of = np.repeat(np.arange(len(geometry.movers)), np.diff(geometry.first_face))
        self._bodies = [self._body(index) for index in range(len(geometry.movers))]

    @property
    def name(self) -> str:
        return self._tree.name

    @property
    def duration(self) -> float:
        """Time of the last animation key, seconds; 0 if nothing moves."""
        return float(self._tree.duration)

    @property
    def num_triangles(self) -> int:
        return len(self._geometry.faces)

    def render(self, t: float, height: int, width: int, supersampling: int = 2) -> Frame:
        """The frame at `t` seconds.

        Depth is what the ray through each pixel's centre meets. Colour is that ray's too, or, where it differs from a
        neighbour's, the mean of supersampling x supersampling rays.
        """
        check_size(height, width)
        if supersampling < 1:
            raise ValueError(f"supersampling is {supersampling}; give 1 or more")
        view, matrices = self._at(t, height, width)
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
        rgb, depth = np.empty((height * width, 3), np.uint8), np.empty(height * width, np.float32)
        for start in range(0, len(pixels), _BLOCK):
            block = slice(start, start + _BLOCK)
            linear, depth[block] = self._look(view, matrices, pixels[block] + 0.5, 1)
            rgb[block] = to_bytes(linear)
        if supersampling > 1:
            edges = np.flatnonzero(_contrast(rgb.reshape(height, width, 3)) > CONTRAST)
            within = _subpixels(supersampling)
            for start in range(0, len(edges), _BLOCK // len(within)):
                block = edges[start : start + _BLOCK // len(within)]
                points = (pixels[block, None] + within).reshape(-1, 2)
                linear, _ = self._look(view, matrices, points, supersampling)
                rgb[block] = to_bytes(linear.reshape(len(block), -1, 3).mean(axis=1))
        return Frame(rgb=rgb.reshape(height, width, 3), depth=depth.reshape(height, width))

    def tracks(
        self, times: Sequence[float] | Float[ndarray, " t"], points: Float[ndarray, "n 2"], height: int, width: int
    ) -> PointTracks:
        """Follow what is seen at pixels `points` of the frame at `times[0]` through all times.

        A point keeps its place on its body, moves with it, and is visible where its pixel shows it and nothing nearer.
        """
        check_size(height, width)
        points = np.asarray(points, np.float64)
        positions = np.empty((len(times), len(points), 2), np.float32)
        visible = np.empty((len(times), len(points)), bool)
        view, matrices = self._at(float(times[0]), height, width)
        first = first_hits(self._bodies, matrices, view, points)
        anchors = _Anchors.place(first, self._body_of, view, matrices, points)
        for k, t in enumerate(times):
            view, matrices = self._at(float(t), height, width)
            xy, depth = anchors.seen(view, matrices)
            inside = (xy[:, 0] >= 0) & (xy[:, 0] < width) & (xy[:, 1] >= 0) & (xy[:, 1] < height)
            inside &= (depth >= view.camera.near) & ((depth <= view.camera.far) | anchors.at_infinity)
            met = first_hits(self._bodies, matrices, view, xy[inside]).depth
            with np.errstate(invalid="ignore"):
                near_it = np.abs(met - depth[inside]) <= OCCLUSION_TOLERANCE * depth[inside]
            shown = np.where(anchors.at_infinity[inside], np.isinf(met), near_it)
            positions[k], visible[k] = xy, inside
            visible[k, inside] = shown
        return PointTracks(positions=positions, visibility=visible, depth=first.depth.astype(np.float32))

    def _at(self, t: float, height: int, width: int) -> tuple[View, Float[ndarray, "b 4 4"]]:
        movers = self._geometry.movers
        matrices = np.stack([np.eye(4) if mover is None else self._tree.world(mover, t) for mover in movers])
        return self.camera.view(self._tree, t, height, width), matrices

    def _body(self, index: int) -> Body:
        geometry = self._geometry
        start, stop = geometry.first_face[index : index + 2]
        faces = geometry.faces[start:stop]
        material = geometry.material[start:stop]
        with_holes = bool((self._cutoffs[material] >= 0).any())
        low, high = int(faces.min()), int(faces.max()) + 1  # a body's vertices lie together
        return Body(
            geometry.vertices[low:high],
            faces - low,
            start,
            self._one_sided[material],
            self._holes if with_holes else None,
        )

    def _look(
        self, view: View, matrices: ndarray, points: Float[ndarray, "n 2"], supersampling: int
    ) -> tuple[Float[ndarray, "n 3"], Float[ndarray, " n"]]:
        """Linear colours and depths at pixels, each of which stands for a subpixel of its pixel."""
        hits = first_hits(self._bodies, matrices, view, points)
        linear = np.broadcast_to(BACKGROUND, (len(points), 3)).copy()
        met = np.flatnonzero(hits.face >= 0)
        if len(met):
            size = np.ones(len(met)) if view.camera.orthographic else hits.depth[met]
            linear[met] = self._shade(
                Hits(depth=hits.depth[met], face=hits.face[met], u=hits.u[met], v=hits.v[met]),
                view.rays(points[met])[1],
                matrices,
                (size / view.focal / supersampling) ** 2,
            )
        return linear, hits.depth

    def _shade(
        self,
        hits: Hits,
        directions: Float[ndarray, "n 3"],
        matrices: Float[ndarray, "b 4 4"],
        area: Float[ndarray, " n"],
    ) -> Float[ndarray, "n 3"]:
        """Linear colours of hits; `area`: what a ray's own square covers there, in square metres, if seen head-on."""
        geometry = self._geometry
        corners, weights = geometry.faces[hits.face], np.stack([1 - hits.u - hits.v, hits.u, hits.v], axis=1)
        body = self._body_of[hits.face]
        normals = np.einsum("nk,nki->ni", weights, geometry.normals[corners])
        moves = np.linalg.det(matrices[:, :3, :3])[:, None, None] * np.linalg.pinv(matrices[:, :3, :3])
        normals = np.einsum("nji,nj->ni", moves[body].astype(np.float32), normals)  # inverse transposed
        normals /= np.maximum(np.linalg.norm(normals, axis=1), np.finfo(np.float32).tiny)[:, None]
        rays = (directions / np.linalg.norm(directions, axis=1)[:, None]).astype(np.float32)
        facing = np.einsum("ni,ni->n", normals, rays)
        normals[facing > 0] *= -1  # a surface is lit from the side it is seen from
        size = np.cbrt(np.abs(np.linalg.det(matrices[:, :3, :3])))[body] ** 2
        texels = geometry.texels[hits.face] / size * area / np.maximum(np.abs(facing), 0.05)
        rgba = self._base_colour(hits.face, corners, weights, texels)
        unlit = np.array([material.unlit for material in geometry.materials])[geometry.material[hits.face]]
        return rgba[:, :3] * np.where(unlit, 1, light(normals))[:, None]

    def _base_colour(
        self, face: Int[ndarray, " n"], corners: Int[ndarray, "n 3"], weights: ndarray, texels: Float[ndarray, " n"]
    ) -> Float[ndarray, "n 4"]:
        geometry = self._geometry
        uv = np.einsum("nk,nki->ni", weights, geometry.uv[corners])
        rgba = np.einsum("nk,nki->ni", weights, geometry.colours[corners])
        material = geometry.material[face]
        for number in np.unique(material):
            own = material == number
            rgba[own] = geometry.materials[number].colour(rgba[own], uv[own], texels[own])
        return rgba

    def _holes(self, face: Int[ndarray, " n"], u: Float[ndarray, " n"], v: Float[ndarray, " n"]) -> Bool[ndarray, " n"]:
        cutoffs = self._cutoffs[self._geometry.material[face]]
        weights = np.stack([1 - u - v, u, v], axis=1)
        rgba = self._base_colour(face, self._geometry.faces[face], weights, np.zeros(len(face)))
        return rgba[:, 3] < cutoffs


@dataclass(frozen=True, kw_only=True)
class _Anchors:
    """Points fixed to their bodies, or, where there was nothing, directions in the world."""

    body: Int[ndarray, " n"]
    local: Float[ndarray, "n 3"]  # in the body's frame; a direction where `at_infinity`
    at_infinity: Bool[ndarray, " n"]

    @staticmethod
    def place(hits: Hits, body_of: ndarray, view: View, matrices: ndarray, points: ndarray) -> _Anchors:
        origins, directions = view.rays(points)
        missed = hits.face < 0
        body = np.where(missed, 0, body_of[hits.face])
        local = np.array(directions)
        met = ~missed
        world = origins[met] + directions[met] * hits.depth[met, None]
        own = matrices[body[met]]
        local[met] = np.linalg.solve(own[:, :3, :3], (world - own[:, :3, 3])[..., None])[..., 0]
        return _Anchors(body=body, local=local, at_infinity=missed)

    def seen(self, view: View, matrices: ndarray) -> tuple[Float[ndarray, "n 2"], Float[ndarray, " n"]]:
        """Pixels and depths."""
        own = matrices[self.body]
        world = np.einsum("nij,nj->ni", own[:, :3, :3], self.local) + own[:, :3, 3]
        xy, depth = view.project(world)
        far = self.at_infinity
        xy[far], depth[far] = view.project_direction(self.local[far]), np.inf
        return xy, depth


def load_scene(path: str | Path, camera: str | None = None, animation: str | None = None) -> Scene:
    """Read an animated .glb or .gltf.

    Args:
        camera: its name; needed if there are several.
        animation: the only one to play; by default all play together.

    Raises `SceneError`, one line, for what is broken, too large, or not rigid (skins, morph targets).
    """
    document = Document(path)
    tree = NodeTree(document, animation)
    chosen = find_camera(document, tree, camera)
    return Scene(tree, read_geometry(document, tree), chosen, document.fingerprint)


def check_size(height: int, width: int) -> None:
    """Raise `ValueError` for a frame of no or too many pixels."""
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"{width}x{height} is not a size from 1x1 to {MAX_PIXELS:,} pixels")


def _subpixels(supersampling: int) -> Float[ndarray, "s 2"]:
    """Where the subpixels' centres lie within a pixel."""
    step = (np.arange(supersampling) + 0.5) / supersampling
    return np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)


def _contrast(rgb: UInt8[ndarray, "h w 3"]) -> Int[ndarray, "h w"]:
    """The largest difference of any channel to a pixel's four neighbours."""
    contrast = np.zeros(rgb.shape[:2], np.int16)
    across = np.abs(np.diff(rgb.astype(np.int16), axis=1)).max(axis=2)
    down = np.abs(np.diff(rgb.astype(np.int16), axis=0)).max(axis=2)
    for there, difference in (
        (contrast[:, 1:], across),
        (contrast[:, :-1], across),
        (contrast[1:], down),
        (contrast[:-1], down),
    ):
        np.maximum(there, difference, out=there)
    return contrast
