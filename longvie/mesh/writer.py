"""Small animated scenes written from code, as GLB: for examples, for tests, and for ground truth with known answers."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from PIL import Image

_COMPONENTS = {"f4": 5126, "u4": 5125, "u1": 5121}
_SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


class SceneWriter:
    """Collects meshes, nodes, cameras and their motion; every `add_` method returns what later calls refer to."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "longvie"},
            "scene": 0,
            "scenes": [{"nodes": []}],
        }
        self._binary = bytearray()

    def add_material(
        self,
        colour: Sequence[float] = (1, 1, 1, 1),
        texture: UInt8[ndarray, "h w c"] | None = None,
        **fields: Any,
    ) -> int:
        """A material of a linear base colour and an sRGB texture of 3 or 4 channels; `fields` go into its JSON."""
        look: dict[str, Any] = {"baseColorFactor": [float(value) for value in colour]}
        if texture is not None:
            png = io.BytesIO()
            Image.fromarray(texture).save(png, "PNG")
            image = {"bufferView": self._add_bytes(png.getvalue()), "mimeType": "image/png"}
            look["baseColorTexture"] = {"index": self._add("textures", {"source": self._add("images", image)})}
        return self._add("materials", {"pbrMetallicRoughness": look, **fields})

    def add_mesh(
        self,
        vertices: Float[ndarray, "v 3"],
        faces: Int[ndarray, "f 3"],
        material: int | None = None,
        *,
        normals: Float[ndarray, "v 3"] | None = None,
        uv: Float[ndarray, "v 2"] | None = None,
        colours: Float[ndarray, "v c"] | None = None,
    ) -> int:
        """A mesh of one primitive; without normals it is shaded flat."""
        attributes = {"POSITION": self.add_array(vertices, "f4")}
        for name, values in (("NORMAL", normals), ("TEXCOORD_0", uv), ("COLOR_0", colours)):
            if values is not None:
                attributes[name] = self.add_array(values, "f4")
        primitive: dict[str, Any] = {"attributes": attributes, "indices": self.add_array(faces.reshape(-1, 1), "u4")}
        if material is not None:
            primitive["material"] = material
        return self._add("meshes", {"primitives": [primitive]})

    def add_camera(self, yfov: float, near: float = 0.01, far: float | None = None) -> int:
        """A perspective camera; `yfov` in radians."""
        lens = {"yfov": yfov, "znear": near, **({} if far is None else {"zfar": far})}
        return self._add("cameras", {"type": "perspective", "perspective": lens})

    def add_node(self, name: str, *, parent: int | None = None, **fields: Any) -> int:
        """A node; `fields` are glTF's: mesh, camera, translation, rotation (x, y, z, w), scale, matrix."""
        plain = {key: np.asarray(value).tolist() for key, value in fields.items()}
        node = self._add("nodes", {"name": name, **plain})
        if parent is None:
            self.tree["scenes"][0]["nodes"].append(node)
        else:
            self.tree["nodes"][parent].setdefault("children", []).append(node)
        return node

    def animate(
        self,
        node: int,
        path: str,  # translation, rotation or scale
        times: Float[ndarray, " k"],
        values: Float[ndarray, ...],
        interpolation: str = "LINEAR",
    ) -> None:
        """Move a node. CUBICSPLINE values are (k, 3, c): in-tangent, value, out-tangent."""
        if "animations" not in self.tree:
            self.tree["animations"] = [{"name": "all", "samplers": [], "channels": []}]
        animation = self.tree["animations"][0]
        width = 4 if path == "rotation" else 3
        sampler = {
            "input": self.add_array(np.asarray(times).reshape(-1, 1), "f4"),
            "output": self.add_array(np.asarray(values).reshape(-1, width), "f4"),
            "interpolation": interpolation,
        }
        animation["samplers"].append(sampler)
        target = {"node": node, "path": path}
        animation["channels"].append({"sampler": len(animation["samplers"]) - 1, "target": target})

    def add_array(self, rows: ndarray, kind: str) -> int:
        """An accessor of (n, c) values stored as `f4`, `u4` or `u1`."""
        stored = np.ascontiguousarray(rows, dtype=f"<{kind}")
        accessor: dict[str, Any] = {
            "bufferView": self._add_bytes(stored.tobytes()),
            "componentType": _COMPONENTS[kind],
            "count": len(stored),
            "type": _SHAPES[stored.shape[1]],
        }
        if kind == "f4":
            accessor |= {"min": stored.min(axis=0).tolist(), "max": stored.max(axis=0).tolist()}
        return self._add("accessors", accessor)

    def to_bytes(self) -> bytes:
        """The GLB file (glTF 2.0 §4.4)."""
        tree = {**self.tree, "buffers": [{"byteLength": len(self._binary)}]}
        text = json.dumps(tree, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        binary = bytes(self._binary) + bytes(-len(self._binary) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def write(self, path: str | Path) -> None:
        Path(path).write_bytes(self.to_bytes())

    def _add_bytes(self, data: bytes) -> int:
        self._binary += bytes(-len(self._binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(data)}
        self._binary += data
        return self._add("bufferViews", view)

    def _add(self, key: str, item: dict[str, Any]) -> int:
        self.tree.setdefault(key, []).append(item)
        return len(self.tree[key]) - 1
