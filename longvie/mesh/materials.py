"""What colour a surface has: base colour factor and texture, and one fixed light.

Arithmetic is linear RGB 0..1, float32; textures are kept as stored (sRGB bytes) with smaller copies, so that far
surfaces do not flicker. Metal, roughness, normal maps, emission and the file's lights are not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from longvie.mesh.gltf import Document, SceneError

# One sun, and light from everywhere that is stronger from above, so that faces turned from the sun differ too. Ours.
_SUN = np.array([0.36, 0.78, 0.51], np.float32)  # towards it, y up; length 1
SUN_LIGHT, AMBIENT, AMBIENT_SLOPE = 0.55, 0.36, 0.14
BACKGROUND = np.array([0.47, 0.60, 0.78], np.float32)  # linear: a light blue

_CLAMP, _MIRROR, _REPEAT = 33071, 33648, 10497  # glTF's names for wrapping (§5.26)
_NEAREST = 9728

# sRGB (IEC 61966-2-1) bytes to linear
_GREY = np.arange(256) / 255
_LINEAR = np.where(_GREY <= 0.04045, _GREY / 12.92, ((_GREY + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_bytes(linear: Float[ndarray, "*s"]) -> UInt8[ndarray, "*s"]:
    """Linear 0..1 to sRGB bytes, rounded."""
    clipped = np.clip(linear, 0, 1)
    encoded = np.where(clipped <= 0.0031308, clipped * 12.92, 1.055 * clipped ** np.float32(1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)


def light(normals: Float[ndarray, "n 3"]) -> Float[ndarray, " n"]:
    """Lambert's law for unit normals in the world."""
    return SUN_LIGHT * np.maximum(normals @ _SUN, 0) + AMBIENT + AMBIENT_SLOPE * normals[:, 1]


class Texture:
    """An image with halved copies of itself, down to one pixel."""

    def __init__(self, image: UInt8[ndarray, "h w 4"], wrap: tuple[int, int], nearest: bool) -> None:
        self._wrap, self._nearest = wrap, nearest
        self.num_texels = image.shape[0] * image.shape[1]
        self._levels = [image]
        while not nearest and max(self._levels[-1].shape[:2]) > 1:
            self._levels.append(_halved(self._levels[-1]))

    def sample(self, uv: Float[ndarray, "n 2"], texels: Float[ndarray, " n"]) -> Float[ndarray, "n 4"]:
        """Linear RGBA at texture coordinates, bilinear; `texels` is how many of them one ray stands for."""
        level = np.log2(np.maximum(texels, 1)) / 2
        level = np.clip(np.rint(level), 0, len(self._levels) - 1).astype(np.int8)
        colours = np.empty((len(uv), 4), np.float32)
        for number in np.unique(level):
            chosen = level == number
            colours[chosen] = self._look_up(self._levels[number], uv[chosen])
        return colours

    def _look_up(self, image: UInt8[ndarray, "h w 4"], uv: Float[ndarray, "n 2"]) -> Float[ndarray, "n 4"]:
        height, width = image.shape[:2]
        x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
        if self._nearest:
            return _linear(image[self._wrapped(np.rint(y), 1, height), self._wrapped(np.rint(x), 0, width)])
        left, top = np.floor(x), np.floor(y)
        a, b = (x - left)[:, None], (y - top)[:, None]
        columns = [self._wrapped(left + k, 0, width) for k in (0, 1)]
        rows = [self._wrapped(top + k, 1, height) for k in (0, 1)]
        upper, lower = ((1 - a) * _linear(image[row, columns[0]]) + a * _linear(image[row, columns[1]]) for row in rows)
        return (1 - b) * upper + b * lower

    def _wrapped(self, at: ndarray, axis: int, size: int) -> ndarray:
        if self._wrap[axis] == _CLAMP:
            return np.clip(at, 0, size - 1).astype(np.int64)
        if self._wrap[axis] == _MIRROR:
            at = np.mod(at, 2 * size)
            return np.minimum(at, 2 * size - 1 - at).astype(np.int64)
        return np.mod(at, size).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Material:
    """How a surface looks. `cutoff`: it is not there where its alpha is below; None: it is everywhere."""

    factor: Float[ndarray, " 4"]  # linear RGBA
    texture: Texture | None
    texcoord: int  # which set of texture coordinates
    uv_transform: Float[ndarray, "2 3"] | None
    unlit: bool
    double_sided: bool
    cutoff: float | None

    def colour(
        self, vertex_colour: Float[ndarray, "n 4"], uv: Float[ndarray, "n 2"], texels: Float[ndarray, " n"]
    ) -> Float[ndarray, "n 4"]:
        """Linear RGBA before light."""
        colour = vertex_colour * self.factor
        return colour if self.texture is None else colour * self.texture.sample(uv, texels)


DEFAULT = Material(
    factor=np.ones(4, np.float32),
    texture=None,
    texcoord=0,
    uv_transform=None,
    unlit=False,
    double_sided=False,
    cutoff=None,
)  # glTF's material of a primitive that names none (§3.7.2.1)


def read_materials(document: Document, used: set[int]) -> tuple[dict[int, Material], list[str]]:
    """The materials that are used, by index, and notes on what is not drawn as the file says."""
    textures: dict[int, Texture] = {}
    notes: list[str] = []
    materials = {index: _material(document, index, textures, notes) for index in sorted(used)}
    return materials, notes


def _material(document: Document, index: int, textures: dict[int, Texture], notes: list[str]) -> Material:
    item = document.items("materials")[index]
    where = f"material {document.field(item, 'name', str, f'material {index}', str(index))}"
    look = document.field(item, "pbrMetallicRoughness", dict, where, {})
    extensions = document.field(item, "extensions", dict, where, {})
    mode = document.field(item, "alphaMode", str, where, "OPAQUE")
    cutoff = None
    if mode == "MASK":
        cutoff = document.field(item, "alphaCutoff", float, where, 0.5)
    elif mode == "BLEND":
        cutoff = 0.5  # ours: a see-through surface has no one depth
        notes.append(
            f"{where} is see-through (BLEND); it is drawn solid where its alpha is at least 0.5, else not at all"
        )
    texture, texcoord, transform = None, 0, None
    if "baseColorTexture" in look:
        info = document.field(look, "baseColorTexture", dict, where)
        at = document.index(info, "index", "textures", where)
        if at not in textures:
            textures[at] = _texture(document, at, where)
        texture, texcoord = textures[at], document.field(info, "texCoord", int, where, 0)
        changed = document.field(info, "extensions", dict, where, {}).get("KHR_texture_transform")
        if changed is not None:
            changed = document.field({"KHR_texture_transform": changed}, "KHR_texture_transform", dict, where)
            texcoord = document.field(changed, "texCoord", int, where, texcoord)
            transform = _uv_transform(document, changed, where)
    return Material(
        factor=document.numbers(look, "baseColorFactor", (1, 1, 1, 1), where).astype(np.float32),
        texture=texture,
        texcoord=texcoord,
        uv_transform=transform,
        unlit="KHR_materials_unlit" in extensions,
        double_sided=document.field(item, "doubleSided", bool, where, False),
        cutoff=cutoff,
    )


def _texture(document: Document, index: int, where: str) -> Texture:
    item = document.items("textures")[index]
    extensions = document.field(item, "extensions", dict, where, {})
    source: Mapping[str, Any] = extensions.get("EXT_texture_webp", item) if "source" not in item else item
    if not isinstance(source, Mapping) or "source" not in source:
        raise SceneError(
            f"{document.name}: {where}: its texture has no PNG, JPEG or WebP image; export textures as PNG"
        )
    sampler: Mapping[str, Any] = {}
    if "sampler" in item:
        sampler = document.items("samplers")[document.index(item, "sampler", "samplers", where)]
    wrap = tuple(document.field(sampler, key, int, where, _REPEAT) for key in ("wrapS", "wrapT"))
    nearest = document.field(sampler, "magFilter", int, where, 0) == _NEAREST
    image = document.image(document.index(source, "source", "images", where))
    return Texture(image, (wrap[0], wrap[1]), nearest)


def _uv_transform(document: Document, item: Mapping[str, Any], where: str) -> Float[ndarray, "2 3"]:
    """offset * rotation * scale, as KHR_texture_transform defines it."""
    offset = document.numbers(item, "offset", (0, 0), where)
    scale = document.numbers(item, "scale", (1, 1), where)
    angle = document.field(item, "rotation", float, where, 0.0)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos * scale[0], sin * scale[1], offset[0]], [-sin * scale[0], cos * scale[1], offset[1]]])


def _linear(stored: UInt8[ndarray, "*s 4"]) -> Float[ndarray, "*s 4"]:
    """Alpha is stored linear."""
    linear = _LINEAR[stored]
    linear[..., 3] = stored[..., 3] / np.float32(255)
    return linear


def _halved(image: UInt8[ndarray, "h w 4"]) -> UInt8[ndarray, "h2 w2 4"]:
    """Means of 2x2 pixels, taken in linear light; an odd last row or column is repeated."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    upper, lower = (_linear(padded[k::2]) for k in (0, 1))
    means = (upper[:, 0::2] + upper[:, 1::2] + lower[:, 0::2] + lower[:, 1::2]) / 4
    halved = to_bytes(means)
    halved[..., 3] = (means[..., 3] * 255 + 0.5).astype(np.uint8)
    return halved
