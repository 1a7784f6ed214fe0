"""All triangles of a scene in flat arrays, grouped in bodies: what hangs on one moving node moves as one.

A body's vertices are in the frame of its moving node (of the world, for all that never moves), so that a frame of
the animation is one matrix a body and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from longvie.mesh.animation import NodeTree
from longvie.mesh.gltf import MAX_NUMBER, Document, SceneError
from longvie.mesh.materials import DEFAULT, Material, read_materials

MAX_TRIANGLES = 2_000_000  # 0.3 to 0.5 KB each, with the ray structure

_TRIANGLES, _STRIP, _FAN = 4, 5, 6  # primitive modes (§3.7.2.1)
_NOT_SURFACES = {0: "points", 1: "lines", 2: "lines", 3: "lines"}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Triangles of all bodies, one after the other.

    Args:
        movers: the node that carries each body; None for what never moves.
        first_face: where each body's faces begin, and one more entry, the end.
        faces: vertex numbers, counter-clockwise seen from the front.
        normals: of the vertices, for shading; not of length 1.
        texels: how many texels of its texture a face has a square unit of its body's frame; 0 without a texture.
        material: of each face, an index into `materials`.
    """

    movers: tuple[int | None, ...]
    first_face: tuple[int, ...]
    vertices: Float[ndarray, "v 3"]
    faces: Int[ndarray, "f 3"]
    normals: Float[ndarray, "v 3"]
    uv: Float[ndarray, "v 2"]
    colours: Float[ndarray, "v 4"]
    texels: Float[ndarray, " f"]
    material: Int[ndarray, " f"]
    materials: tuple[Material, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One primitive of one node, in its body's frame."""

    vertices: ndarray
    faces: ndarray
    normals: ndarray
    uv: ndarray
    colours: ndarray
    material: int | None

    def texels(self, material: Material) -> ndarray:
        if material.texture is None:
            return np.zeros(len(self.faces), np.float32)
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        a, b, c = (self.uv[self.faces[:, k]].astype(np.float64) for k in range(3))
        (ux, uy), (vx, vy) = (b - a).T, (c - a).T
        texels = np.abs(ux * vy - uy * vx) * material.texture.num_texels
        return (texels / np.maximum(area, np.finfo(np.float32).tiny)).astype(np.float32)


def read_geometry(document: Document, tree: NodeTree) -> Geometry:
    """The surfaces of the file's scene; `SceneError` if there are none, too many, or some that are not rigid."""
    nodes = document.items("nodes")
    placed = [node for node in tree.parents if "mesh" in nodes[node]]
    notes: list[str] = []
    used = _used_materials(document, placed)
    materials, material_notes = read_materials(document, used)
    bodies: dict[int | None, list[_Part]] = {}
    count = 0
    for node in placed:
        mesh = document.index(nodes[node], "mesh", "meshes", f"node {node}")
        mover = tree.mover(node)
        matrix = tree.relative(node, mover, 0.0)
        for number, item in enumerate(_primitives(document, mesh)):
            where = f"mesh {mesh} primitive {number}"
            part = _part(document, item, matrix, materials, where, notes)
            if part is not None:
                bodies.setdefault(mover, []).append(part)
                count += len(part.faces)
            if count > MAX_TRIANGLES:
                raise SceneError(f"{document.name} has more than {MAX_TRIANGLES:,} triangles; simplify its meshes")
    if not bodies:
        raise SceneError(f"{document.name} has no surfaces; its scene holds no triangles")
    if "KHR_lights_punctual" in document.field(document.tree, "extensionsUsed", list, "the file", []):
        notes.append("the file's lights are not used; one fixed sun lights the scene")
    return _joined(bodies, materials, (*material_notes, *dict.fromkeys(notes)))


def _primitives(document: Document, mesh: int) -> list[Mapping[str, Any]]:
    found = document.field(document.items("meshes")[mesh], "primitives", list, f"mesh {mesh}")
    return [document.field({"primitive": item}, "primitive", dict, f"mesh {mesh}") for item in found]


def _used_materials(document: Document, placed: list[int]) -> set[int]:
    meshes = {document.index(document.items("nodes")[node], "mesh", "meshes", f"node {node}") for node in placed}
    items = [(mesh, item) for mesh in sorted(meshes) for item in _primitives(document, mesh)]
    found = {document.index(item, "material", "materials", f"mesh {mesh}", None) for mesh, item in items}
    return {index for index in found if index is not None}


def _part(
    document: Document,
    item: Mapping[str, Any],
    matrix: Float[ndarray, "4 4"],
    materials: Mapping[int, Material],
    where: str,
    notes: list[str],
) -> _Part | None:
    mode = document.field(item, "mode", int, where, _TRIANGLES)
    if mode in _NOT_SURFACES:
        notes.append(f"{where} is {_NOT_SURFACES[mode]} and is not drawn")
        return None
    if mode not in (_TRIANGLES, _STRIP, _FAN):
        raise SceneError(f"{document.name}: {where}: mode {mode} does not exist; export it again")
    if document.field(item, "targets", list, where, []):
        raise SceneError(f"{document.name}: {where} has morph targets; apply its shape keys before exporting")
    attributes = document.field(item, "attributes", dict, where)

    def rows(name: str, shapes: tuple[str, ...]) -> ndarray | None:
        at = document.index(attributes, name, "accessors", where, None)
        return None if at is None else document.accessor(at, shapes, f"{where} {name}")

    positions = rows("POSITION", ("VEC3",))
    if positions is None:
        raise SceneError(f"{document.name}: {where} has no POSITION; export it without compression")
    at = document.index(item, "indices", "accessors", where, None)
    if at is None:
        indices = np.arange(len(positions))
    else:
        indices = document.accessor(at, ("SCALAR",), f"{where} indices")[:, 0]
        if indices.dtype.kind != "u" or indices.max() >= len(positions):
            raise SceneError(
                f"{document.name}: {where}: an index is past its {len(positions)} vertices; export it again"
            )
    faces = _faces(indices.astype(np.int64), mode)
    number = document.index(item, "material", "materials", where, None)
    material = DEFAULT if number is None else materials[number]
    vertices = positions.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    if np.abs(vertices).max() > MAX_NUMBER:
        raise SceneError(
            f"{document.name}: {where} lies at coordinates too large to compute with; scale the scene down"
        )
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]  # a mirrored mesh keeps its front (§3.7.4)
    faces = faces[_area(vertices, faces) > 0]
    if not len(faces):
        return None
    uv, colours, normals = (
        rows(f"TEXCOORD_{material.texcoord}", ("VEC2",)),
        rows("COLOR_0", ("VEC3", "VEC4")),
        rows("NORMAL", ("VEC3",)),
    )
    for name, values in (("TEXCOORD", uv), ("COLOR_0", colours), ("NORMAL", normals)):
        if values is not None and len(values) != len(positions):
            raise SceneError(f"{document.name}: {where} has {len(values)} {name} for {len(positions)} vertices")
    if material.texture is not None and uv is None:
        raise SceneError(
            f"{document.name}: {where} has a texture but no TEXCOORD_{material.texcoord}; unwrap and export it"
        )
    if normals is None:  # flat, as glTF says: each face gets vertices of its own
        order = faces.reshape(-1)
        vertices, faces = vertices[order], np.arange(len(order)).reshape(-1, 3)
        uv, colours = (None if values is None else values[order] for values in (uv, colours))
        own = np.repeat(_cross(vertices, faces), 3, axis=0)
    else:
        own = normals.astype(np.float64) @ _cofactors(matrix[:3, :3]).T
    uv = np.zeros((len(vertices), 2)) if uv is None else uv
    if material.uv_transform is not None:
        uv = uv @ material.uv_transform[:, :2].T + material.uv_transform[:, 2]
    rgba = np.ones((len(vertices), 4), np.float32)
    if colours is not None:
        rgba[:, : colours.shape[1]] = colours
    return _Part(
        vertices=vertices,
        faces=faces.astype(np.int32),
        normals=own.astype(np.float32),
        uv=uv.astype(np.float32),
        colours=rgba,
        material=number,
    )


def _faces(indices: Int[ndarray, " n"], mode: int) -> Int[ndarray, "f 3"]:
    if mode == _TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    k = np.arange(max(0, len(indices) - 2))
    if mode == _FAN:
        return indices[np.stack([k * 0, k + 1, k + 2], axis=1)]
    odd = k % 2  # every second triangle of a strip is listed the other way round
    return indices[np.stack([k, k + 1 + odd, k + 2 - odd], axis=1)]


def _cross(vertices: ndarray, faces: ndarray) -> Float[ndarray, "f 3"]:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _area(vertices: ndarray, faces: ndarray) -> Float[ndarray, " f"]:
    return np.linalg.norm(_cross(vertices, faces), axis=1)


def _cofactors(matrix: Float[ndarray, "3 3"]) -> Float[ndarray, "3 3"]:
    """What normals are moved by: the inverse transposed times |det|, which exists for flat scales too."""
    a, b, c = matrix.T
    sign = 1 if np.linalg.det(matrix) >= 0 else -1
    return sign * np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)


def _joined(
    bodies: dict[int | None, list[_Part]], materials: Mapping[int, Material], notes: tuple[str, ...]
) -> Geometry:
    looks = (DEFAULT, *materials.values())
    place = {None: 0, **{number: at for at, number in enumerate(materials, start=1)}}
    parts = [part for body in bodies.values() for part in body]
    first_vertex = np.cumsum([0, *(len(part.vertices) for part in parts)])
    ends = np.cumsum([0, *(sum(len(part.faces) for part in body) for body in bodies.values())])
    return Geometry(
        movers=tuple(bodies),
        first_face=tuple(int(end) for end in ends),
        vertices=np.concatenate([part.vertices for part in parts]),
        faces=np.concatenate([part.faces + start for part, start in zip(parts, first_vertex[:-1], strict=True)]).astype(
            np.int32
        ),
        normals=np.concatenate([part.normals for part in parts]),
        uv=np.concatenate([part.uv for part in parts]),
        colours=np.concatenate([part.colours for part in parts]),
        texels=np.concatenate([part.texels(looks[place[part.material]]) for part in parts]),
        material=np.concatenate([np.full(len(part.faces), place[part.material], np.int32) for part in parts]),
        materials=looks,
        notes=notes,
    )
