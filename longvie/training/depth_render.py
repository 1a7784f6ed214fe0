"""Renders a `DepthScene` through a camera: colour with light, shadow, fog and a sky, and exact depth.

Rays are traced with Embree, the same library `longvie render` uses; shading is NumPy on the pixels hit. It knows
nothing of what the surfaces stand for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from longvie.training.depth_shapes import Mesh
from longvie.training.depth_textures import sample

_SHADOW_GAP = 2e-3  # rays towards a light start this share of the depth off the surface
_FAR = 1e6


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a surface looks: a pattern of the bank, its size in metres, and the three linear colours it runs between."""

    texture: int
    size: float
    colours: Float[ndarray, "3 3"]
    fine: int  # a second pattern, at a seventh of the size
    fine_weight: float


@dataclass(frozen=True, kw_only=True)
class Light:
    """A lamp at `at`, or the sun in the direction `at` (then `reach` is None); colour in linear RGB."""

    at: Float[ndarray, " 3"]
    colour: Float[ndarray, " 3"]
    reach: float | None


@dataclass(frozen=True, kw_only=True)
class Sky:
    zenith: Float[ndarray, " 3"]
    horizon: Float[ndarray, " 3"]
    cloud: Float[ndarray, " 3"]
    cloudiness: float
    texture: int


@dataclass(frozen=True, kw_only=True)
class Camera:
    """At `eye`; columns of `axes` are its right, up and forward; `focal` in image widths."""

    eye: Float[ndarray, " 3"]
    axes: Float[ndarray, "3 3"]
    focal: float


@dataclass(frozen=True, kw_only=True)
class DepthScene:
    meshes: tuple[Mesh, ...]
    materials: tuple[Material, ...]
    surface: tuple[int, ...]  # the material of each mesh
    lights: tuple[Light, ...]
    ambient: Float[ndarray, "2 3"]  # light from below and from above
    sky: Sky
    fog: float  # per metre
    fog_colour: Float[ndarray, " 3"]
    exposure: float  # mean brightness aimed at
    focus: float | None  # depth in focus; None: everything
    blur: float  # radius of the blur at infinity, pixels

    @cached_property
    def _joined(self) -> tuple[EmbreeScene, Int[ndarray, " f"], Float[ndarray, "f 3 3"], ndarray]:
        """The tracer, each face's mesh, its corners' normals, and which meshes are smooth."""
        counts = np.cumsum([0] + [len(mesh.vertices) for mesh in self.meshes])
        vertices = np.concatenate([mesh.vertices for mesh in self.meshes]).astype(np.float32)
        faces = np.concatenate([mesh.faces + start for mesh, start in zip(self.meshes, counts, strict=False)])
        owner = np.repeat(np.arange(len(self.meshes)), [len(mesh.faces) for mesh in self.meshes])
        corners = vertices[faces]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = np.stack(
            [np.bincount(faces.ravel(), np.repeat(flat[:, k], 3), minlength=len(vertices)) for k in range(3)], axis=1
        )
        tracer = EmbreeScene()
        TriangleMesh(tracer, vertices, faces.astype(np.int32))
        return tracer, owner, normals.astype(np.float32)[faces], np.array([mesh.smooth for mesh in self.meshes])

    def render(self, camera: Camera, height: int, width: int) -> tuple[UInt8[ndarray, "h w 3"], Float[ndarray, "h w"]]:
        """uint8 RGB and depth along the optical axis in metres, float32, infinite where there is only sky."""
        tracer, owner, corner_normals, smooth = self._joined
        right = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / (camera.focal * width)
        up = -(np.arange(height, dtype=np.float32) + 0.5 - height / 2) / (camera.focal * width)
        rays = np.empty((height, width, 3), np.float32)
        rays[..., 0], rays[..., 1], rays[..., 2] = right[None, :], up[:, None], 1
        rays = rays.reshape(-1, 3) @ camera.axes.T.astype(np.float32)
        origins = np.broadcast_to(camera.eye.astype(np.float32), rays.shape)
        hits = tracer.run(np.ascontiguousarray(origins), rays, output=True)
        seen = np.flatnonzero(hits["primID"] >= 0)
        face, depth = hits["primID"][seen], hits["tfar"][seen]
        ray = rays[seen]
        point = camera.eye.astype(np.float32) + ray * depth[:, None]
        flat = _unit(hits["Ng"][seen])
        flat *= -np.sign((flat * ray).sum(1, keepdims=True))
        a, b = hits["u"][seen, None], hits["v"][seen, None]
        corners = corner_normals[face]
        bent = _unit((1 - a - b) * corners[:, 0] + a * corners[:, 1] + b * corners[:, 2])
        bent *= np.where((bent * flat).sum(1, keepdims=True) < 0, -1, 1)
        normal = np.where(smooth[owner[face]][:, None], bent, flat)
        albedo = self._albedo(owner[face], point, flat, depth / (camera.focal * width))
        colour = albedo * self._light(tracer, point, normal, flat, depth)
        veil = np.exp(-self.fog * depth)[:, None]
        image = self._backdrop(rays)
        image[seen] = colour * veil + self.fog_colour * (1 - veil)
        z = np.full(height * width, np.inf, np.float32)
        z[seen] = depth
        z = z.reshape(height, width)
        return self._develop(image.reshape(height, width, 3).astype(np.float32), z), z

    def _albedo(self, mesh: ndarray, point: ndarray, normal: ndarray, pixel: ndarray) -> Float[ndarray, "n 3"]:
        """Colours from the patterns, laid on along the axis a surface faces most; `pixel` in metres."""
        table = self.materials
        index = np.array(self.surface)[mesh]
        size = np.array([m.size for m in table], np.float32)[index]
        axis = np.abs(normal).argmax(axis=1)
        rows = np.arange(len(point))
        u = point[rows, np.array([2, 0, 0])[axis]] / size + index * 0.37
        v = point[rows, np.array([1, 2, 1])[axis]] / size + mesh * 0.61
        footprint = pixel / size
        coarse = sample(np.array([m.texture for m in table])[index], u, v, footprint)
        fine = sample(np.array([m.fine for m in table])[index], u * 7, v * 7, footprint * 7)
        colours = np.stack([m.colours for m in table])[index]
        place = coarse[:, None] * 2
        low = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * np.minimum(place, 1)
        albedo = low + (colours[:, 2] - colours[:, 1]) * np.maximum(place - 1, 0)
        weight = np.array([m.fine_weight for m in table], np.float32)[index]
        return albedo * (1 + weight * (fine - 0.5))[:, None]

    def _light(
        self, tracer: EmbreeScene, point: ndarray, normal: ndarray, flat: ndarray, depth: ndarray
    ) -> Float[ndarray, "n 3"]:
        lit = self.ambient[0] + (self.ambient[1] - self.ambient[0]) * (0.5 + 0.5 * normal[:, 1:2])
        start = point + flat * (_SHADOW_GAP * depth[:, None])
        for light in self.lights:
            if light.reach is None:
                towards = np.broadcast_to(light.at.astype(np.float32), point.shape)
                falloff, limit = np.float32(1), _FAR
            else:
                towards = light.at.astype(np.float32) - start
                distance = np.linalg.norm(towards, axis=1)
                falloff, limit = (1 / (1 + (distance / light.reach) ** 2))[:, None], 1.0
            cosine = (_unit(towards) * normal).sum(1, keepdims=True)
            facing = np.flatnonzero(cosine[:, 0] > 0)
            free = np.zeros((len(point), 1), np.float32)
            if len(facing):
                blocked = tracer.run(
                    np.ascontiguousarray(start[facing]),
                    np.ascontiguousarray(towards[facing]),
                    dists=np.full(len(facing), limit, np.float32),
                    query="OCCLUDED",
                )
                free[facing, 0] = blocked != 0
            lit = lit + light.colour * (np.maximum(cosine, 0) * free * falloff)
        return lit

    def _backdrop(self, rays: Float[ndarray, "n 3"]) -> Float[ndarray, "n 3"]:
        rise = np.clip(rays[:, 1] / np.linalg.norm(rays, axis=1), 0, 1)
        colour = self.sky.horizon + (self.sky.zenith - self.sky.horizon) * (rise**0.6)[:, None]
        above = np.maximum(rise, 0.03)
        texture = np.full(len(rays), self.sky.texture)
        cover = sample(texture, rays[:, 0] * 0.15 / above, rays[:, 2] * 0.15 / above, 0.002 / above)
        cover = np.clip((cover - 1 + self.sky.cloudiness) * 3, 0, 1) * np.clip(rise * 8, 0, 1)
        return colour + (self.sky.cloud - colour) * cover[:, None]

    def _develop(self, image: Float[ndarray, "h w 3"], z: Float[ndarray, "h w"]) -> UInt8[ndarray, "h w 3"]:
        """Blur what is out of focus, expose for the mean brightness, tone-map, and encode as sRGB-like uint8."""
        if self.focus is not None:
            away = np.abs(1 - self.focus / np.maximum(z, 1e-3)).clip(0, 1)[..., None]  # circle of confusion, relative
            away = cv2.GaussianBlur(away, (0, 0), 2.0)[..., None]
            for sigma in (self.blur * 0.4, self.blur):
                image = image + (cv2.GaussianBlur(image, (0, 0), sigma) - image) * np.clip(away * 2 - 0.2, 0, 1)
        gain = self.exposure**2.2 / max(float(np.median(image.mean(axis=2))), 1e-4)
        image = image * min(gain, 50.0)
        image = image * (1 + image / 6) / (1 + image)  # Reinhard et al. 2002, eq. 4, white at sqrt(6)
        return (np.clip(image, 0, 1) ** (1 / 2.2) * 255).round().astype(np.uint8)


def _unit(vectors: ndarray) -> ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
