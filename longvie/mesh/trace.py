"""Rays against moving bodies, with embree: what a pixel sees, and how far away.

Embree (float32) decides which triangle a ray meets; the depth is then computed from that triangle's plane in float64,
so that it is exact. Each body's structure is built once, in its own frame, and rays are moved into it: on two cores,
rebuilding 200,000 triangles a frame took 0.25 s, casting 225,280 rays 0.07 s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from longvie.mesh.camera import View

MAX_LAYERS = 64  # see-through surfaces (backs of one-sided faces, holes in textures) that a ray passes at most
_STEP = 1e-6  # how far past a see-through surface a ray goes on, relative to its way so far
_MARGIN = 0.01  # pixels by which a body's outline on the screen is widened
_VANISHED = 1e-30  # volume scale below which a body is not there: animations hide things by scaling them to nothing
# How far embree's float32 depth may be from the plane's: of the depth, and of the body's half size. Farther apart, the
# ray lies in its triangle's plane, which then says nothing.
_DEPTH_SLACK, _SIZE_SLACK = 1e-2, 1e-4

Holes = Callable[[Int[ndarray, " n"], Float[ndarray, " n"], Float[ndarray, " n"]], Bool[ndarray, " n"]]


@dataclass(frozen=True, kw_only=True)
class Hits:
    """What rays meet first: `face` -1 and `depth` infinite where there is nothing; u, v as embree's barycentrics
    (weights 1-u-v, u, v)."""

    depth: Float[ndarray, " n"]
    face: Int[ndarray, " n"]
    u: Float[ndarray, " n"]
    v: Float[ndarray, " n"]


class Body:
    """Triangles that move as one.

    Args:
        vertices, faces: in the body's frame; front faces counter-clockwise.
        first_face: added to face numbers, so that they count over all bodies.
        one_sided: faces that are not there from behind.
        holes: says for hits (face counted over all bodies, u, v) where there is no surface after all; None: nowhere.
    """

    def __init__(
        self,
        vertices: Float[ndarray, "v 3"],
        faces: Int[ndarray, "f 3"],
        first_face: int,
        one_sided: Bool[ndarray, " f"],
        holes: Holes | None,
    ) -> None:
        low, high = vertices[faces].min(axis=(0, 1)), vertices[faces].max(axis=(0, 1))
        self._centre = (low + high) / 2
        self._scale = 2 / float((high - low).max())
        scaled = (vertices - self._centre) * self._scale  # to -1..1, where float32 is at its best
        self.corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(8, 3)
        a, b, c = (scaled[faces[:, k]] for k in range(3))
        self._normals = np.cross(b - a, c - a)
        self._offsets = np.einsum("fi,fi->f", self._normals, a)
        self._first_face, self._one_sided, self._holes = first_face, one_sided if one_sided.any() else None, holes
        self._structure = EmbreeScene(robust=True)  # robust: no cracks between triangles
        TriangleMesh(self._structure, scaled.astype(np.float32), faces.astype(np.int32))

    def cast(
        self,
        matrix: Float[ndarray, "4 4"],
        origins: Float[ndarray, "n 3"],
        directions: Float[ndarray, "n 3"],
        start: Float[ndarray, " n"],
        stop: Float[ndarray, " n"],
    ) -> Hits:
        """The first surface along each ray between the ways `start` and `stop`, which are also the hits' depths.

        Args:
            matrix: from the body's frame to the world.
        """
        inverse = np.linalg.inv(matrix)
        origins = ((origins - matrix[:3, 3]) @ inverse[:3, :3].T - self._centre) * self._scale
        directions = directions @ inverse[:3, :3].T * self._scale
        count = len(origins)
        hits = Hits(
            depth=np.full(count, np.inf),
            face=np.full(count, -1, np.int32),
            u=np.zeros(count, np.float32),
            v=np.zeros(count, np.float32),
        )
        at, way = np.arange(count), np.array(start)
        for _ in range(MAX_LAYERS):
            found = self._nearest(origins[at], directions[at], way, stop[at])
            met = found.face >= 0
            solid = met & ~self._is_seen_through(found, directions[at])
            done = at[solid]
            hits.depth[done], hits.face[done] = found.depth[solid], found.face[solid]
            hits.u[done], hits.v[done] = found.u[solid], found.v[solid]
            on = met & ~solid
            if not on.any():
                break
            at, way = at[on], np.maximum(found.depth[on], way[on]) * (1 + _STEP)
        hits.face[hits.face >= 0] += self._first_face
        return hits

    def _nearest(self, origins: ndarray, directions: ndarray, start: ndarray, stop: ndarray) -> Hits:
        moved = (origins + start[:, None] * directions).astype(np.float32)
        reach = np.minimum(stop - start, 1e30).astype(np.float32) * np.float32(1 + 1e-6)
        answer = self._structure.run(moved, directions.astype(np.float32), dists=reach, output=True)
        face = answer["primID"]
        met = face >= 0
        depth = np.full(len(face), np.inf)
        normals, rays = self._normals[face[met]], directions[met]
        along = np.einsum("ni,ni->n", normals, rays)
        gap = self._offsets[face[met]] - np.einsum("ni,ni->n", normals, origins[met])
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = gap / along
        rough = start[met] + answer["tfar"][met]
        slack = _DEPTH_SLACK * rough + _SIZE_SLACK / np.linalg.norm(rays, axis=1)
        depth[met] = np.where(np.abs(exact - rough) <= slack, exact, rough)
        return Hits(depth=depth, face=face, u=answer["u"], v=answer["v"])

    def _is_seen_through(self, found: Hits, directions: ndarray) -> Bool[ndarray, " n"]:
        through = np.zeros(len(found.face), bool)
        at = np.flatnonzero(found.face >= 0)
        if self._one_sided is not None:
            face = found.face[at]
            behind = np.einsum("ni,ni->n", self._normals[face], directions[at]) > 0
            through[at] = behind & self._one_sided[face]
        if self._holes is not None:
            at = at[~through[at]]
            through[at] = self._holes(found.face[at] + self._first_face, found.u[at], found.v[at])
        return through


def first_hits(
    bodies: Sequence[Body],
    matrices: Float[ndarray, "b 4 4"],
    view: View,
    points: Float[ndarray, "n 2"],
) -> Hits:
    """What is seen at pixels `points`; depth is camera z, between the camera's near and far."""
    origins, directions = view.rays(points)
    count = len(points)
    best = Hits(
        depth=np.full(count, np.inf),
        face=np.full(count, -1, np.int32),
        u=np.zeros(count, np.float32),
        v=np.zeros(count, np.float32),
    )
    limit = np.full(count, view.camera.far)
    for body, matrix in zip(bodies, matrices, strict=True):
        if abs(np.linalg.det(matrix[:3, :3])) < _VANISHED:
            continue
        at = _within(body, matrix, view, points)
        if not len(at):
            continue
        near = np.full(len(at), view.camera.near)
        hits = body.cast(matrix, origins[at], directions[at], near, limit[at])
        nearer = hits.depth < limit[at]
        at = at[nearer]
        for kept, new in ((best.depth, hits.depth), (best.face, hits.face), (best.u, hits.u), (best.v, hits.v)):
            kept[at] = new[nearer]
        limit[at] = hits.depth[nearer]
    return best


def _within(body: Body, matrix: ndarray, view: View, points: ndarray) -> Int[ndarray, " n"]:
    """The points inside the outline of the body's box on the screen, the only ones that may see it."""
    corners, depth = view.project(body.corners @ matrix[:3, :3].T + matrix[:3, 3])
    if depth.max() < view.camera.near or depth.min() > view.camera.far:
        return np.empty(0, np.int64)
    if depth.min() <= max(view.camera.near, 0) and not view.camera.orthographic:
        return np.arange(len(points))  # some of it is beside or behind the camera
    low, high = corners.min(axis=0) - _MARGIN, corners.max(axis=0) + _MARGIN
    return np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
