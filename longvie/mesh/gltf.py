"""A glTF 2.0 file, opened and checked: its JSON, its buffers as arrays, its images. Own code, as trimesh's loader drops
animations.

It knows the container and what may be asked of it, not what a scene looks like. Whatever is wrong with a file is one
line, a `SceneError` that names the file, the field and what to do. Section numbers are the glTF 2.0 specification's
(Khronos, version 2.0.1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import Image

MAX_FILE_BYTES = 1 << 30  # of one file, and of all buffers together
MAX_ITEMS = 100_000  # nodes, accessors, ... of one kind
MAX_NUMBER = 1e18  # of coordinates and transforms: its square is finite in float32
MAX_TEXTURE_PIXELS = 64_000_000  # of all images together; refuses decompression bombs

# Extensions that may be required because they are understood, or change only a look that is not drawn anyway.
SUPPORTED = {"KHR_materials_unlit", "KHR_mesh_quantization", "KHR_texture_transform", "KHR_lights_punctual"}
# What these say of geometry or motion would be silently missing, even where the file calls them optional.
REFUSED = {
    "EXT_mesh_gpu_instancing": "realise the instances as nodes",
    "KHR_animation_pointer": "export animations of nodes only",
    "KHR_node_visibility": "delete hidden nodes",
    "MSFT_lod": "export one level of detail",
}
_COMPRESSED = {
    "KHR_draco_mesh_compression": "export without Draco",
    "EXT_meshopt_compression": "export without meshopt",
    "KHR_meshopt_compression": "export without meshopt",
}

_GLB_MAGIC, _JSON_CHUNK, _BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942  # §4.4
_COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_SHAPES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}  # others occur in no field that is read
_REQUIRED: Any = object()
T = TypeVar("T")


class SceneError(ValueError):
    """A scene file that cannot be rendered; the message is one line that names the file and the remedy."""


class Document:
    """One opened file. `items` and the module's `field` give only what has the right type and range."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.name = self._path.name
        self._digest = hashlib.sha256()
        data = self._read(self._path, self.name)
        if self._path.suffix.lower() == ".glb" or data[:4] == b"glTF":
            content, self._binary = _glb(data, self.name)
        else:
            content, self._binary = data, None
        try:
            tree = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise SceneError(f"{self.name} is not a glTF file: its JSON does not parse ({error})") from error
        if not isinstance(tree, dict):
            raise SceneError(f"{self.name} is not a glTF file: its JSON is not an object")
        self.tree: dict[str, Any] = tree
        self._buffers: dict[int, bytes] = {}
        self._pixels = 0
        self._check()

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file and all that was read beside it so far."""
        return self._digest.hexdigest()

    def items(self, key: str) -> list[dict[str, Any]]:
        """A top-level list such as `nodes`; empty if there is none."""
        found = self.field(self.tree, key, list, "the file", [])
        if len(found) > MAX_ITEMS:
            raise SceneError(f"{self.name} has {len(found):,} {key}; at most {MAX_ITEMS:,} are read")
        if not all(isinstance(item, dict) for item in found):
            raise SceneError(f"{self.name}: {key} holds something that is not an object; export it again")
        return found

    def field(self, item: Mapping[str, Any], key: str, kind: type[T], where: str, default: T = _REQUIRED) -> T:
        """A field of a JSON object with its type checked; numbers are finite, and float takes whole numbers too."""
        if key not in item:
            if default is _REQUIRED:
                raise SceneError(f"{self.name}: {where} has no {key}; export it again")
            return default
        value: Any = item[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value) if abs(value) < 1 << 64 else math.inf
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise SceneError(f"{self.name}: {where}: {key} is not {_ARTICLES[kind]}; export it again")
        if isinstance(value, float) and not math.isfinite(value):
            raise SceneError(f"{self.name}: {where}: {key} is not finite; export it again")
        return value

    def index(self, item: Mapping[str, Any], key: str, target: str, where: str, default: int | None = _REQUIRED) -> Any:
        """A field that points into a top-level list."""
        value = self.field(item, key, int, where, default)  # type: ignore[arg-type]
        if value is not None and not 0 <= value < len(self.items(target)):
            raise SceneError(
                f"{self.name}: {where}: {key} {value} is not one of the {len(self.items(target))} {target}"
            )
        return value

    def numbers(self, item: Mapping[str, Any], key: str, default: tuple[float, ...], where: str) -> ndarray:
        """A list of as many finite numbers as the default has, float64."""
        values = self.field(item, key, list, where, list(default))
        if len(values) != len(default):
            raise SceneError(f"{self.name}: {where}: {key} has {len(values)} numbers instead of {len(default)}")
        numbers = np.array([self.field({key: value}, key, float, where) for value in values], np.float64)
        if np.abs(numbers).max() > MAX_NUMBER:
            raise SceneError(f"{self.name}: {where}: {key} is too large to compute with; scale the scene down")
        return numbers

    def accessor(self, index: int, shapes: tuple[str, ...], where: str) -> Shaped[ndarray, "n c"]:
        """The rows of an accessor (§3.6.2): float32, normalised integers as floats, other integers as stored."""
        accessor = self.items("accessors")[index]
        where = f"{where} (accessor {index})"
        shape = self.field(accessor, "type", str, where)
        if shape not in shapes:
            raise SceneError(f"{self.name}: {where} has type {shape}; expected {' or '.join(shapes)}")
        count, width = self.field(accessor, "count", int, where), _SHAPES[shape]
        dtype = self._component(accessor, where)
        if count < 1 or count * width * dtype.itemsize > MAX_FILE_BYTES:
            raise SceneError(f"{self.name}: {where}: count {count} is not in 1..{MAX_FILE_BYTES // (width * 4):,}")
        if "bufferView" in accessor:
            rows = self._rows(accessor, count, width, dtype, where)
        else:
            rows = np.zeros((count, width), dtype)
        if "sparse" in accessor:
            rows = self._with_sparse(rows, self.field(accessor, "sparse", dict, where), dtype, where)
        if self.field(accessor, "normalized", bool, where, False) and dtype.kind in "iu":
            rows = np.maximum(rows.astype(np.float32) / np.iinfo(dtype).max, -1)  # §3.6.2.2
        if rows.dtype.kind == "f" and not (np.abs(rows) <= MAX_NUMBER).all():
            raise SceneError(
                f"{self.name}: {where} holds NaN, infinity or numbers above {MAX_NUMBER:g}; repair the scene"
            )
        return rows

    def image(self, index: int) -> UInt8[ndarray, "h w 4"]:
        """An image's RGBA, sRGB as stored."""
        image, where = self.items("images")[index], f"image {index}"
        if "uri" in image:
            data = self._fetch(self.field(image, "uri", str, where), where)
        else:
            data = self._view(self.index(image, "bufferView", "bufferViews", where), where)[0]
        try:
            with Image.open(io.BytesIO(data)) as opened:
                self._pixels += opened.width * opened.height
                if self._pixels > MAX_TEXTURE_PIXELS:
                    raise SceneError(f"{self.name}: textures exceed {MAX_TEXTURE_PIXELS:,} pixels; make them smaller")
                return np.array(opened.convert("RGBA"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, SceneError):
                raise
            raise SceneError(f"{self.name}: {where} is not a readable image; export textures as PNG or JPEG") from error

    def _check(self) -> None:
        version = self.field(self.field(self.tree, "asset", dict, "the file"), "version", str, "asset")
        if version.split(".")[0] != "2":
            raise SceneError(f"{self.name} is glTF {version}; export it as glTF 2.0")
        used = self._extensions("extensionsUsed")
        required = self._extensions("extensionsRequired")
        for name, remedy in {**REFUSED, **_COMPRESSED}.items():
            if name in required or (name in used and name in REFUSED):
                raise SceneError(f"{self.name} uses {name}, which is not supported; {remedy}")
        for name in sorted(required - SUPPORTED):
            if not name.startswith(("KHR_materials_", "EXT_texture_webp")):
                raise SceneError(
                    f"{self.name} requires the extension {name}, which is not supported; export without it"
                )

    def _extensions(self, key: str) -> set[str]:
        return {name for name in self.field(self.tree, key, list, "the file", []) if isinstance(name, str)}

    def _component(self, item: Mapping[str, Any], where: str) -> np.dtype[Any]:
        component = self.field(item, "componentType", int, where)
        if component not in _COMPONENTS:
            raise SceneError(f"{self.name}: {where}: componentType {component} does not exist; export it again")
        return np.dtype(_COMPONENTS[component]).newbyteorder("<")

    def _rows(self, item: Mapping[str, Any], count: int, width: int, dtype: np.dtype[Any], where: str) -> ndarray:
        data, stride = self._view(self.index(item, "bufferView", "bufferViews", where), where)
        offset, size = self.field(item, "byteOffset", int, where, 0), width * dtype.itemsize
        stride = stride or size
        if offset < 0 or stride < size or offset + stride * (count - 1) + size > len(data):
            raise SceneError(f"{self.name}: {where} leads out of its buffer; the file is cut off or broken")
        # each row is `stride` bytes after the one before; the rows are copied, so that the buffer may be let go
        rows = np.ndarray((count, width), dtype, data, offset, (stride, dtype.itemsize))
        return np.array(rows, dtype.newbyteorder("="))

    def _with_sparse(self, rows: ndarray, sparse: Mapping[str, Any], dtype: np.dtype[Any], where: str) -> ndarray:
        count = self.field(sparse, "count", int, where)
        if not 1 <= count <= len(rows):
            raise SceneError(f"{self.name}: {where}: sparse count {count} is not in 1..{len(rows)}")
        places, values = (self.field(sparse, key, dict, where) for key in ("indices", "values"))
        at = self._rows(places, count, 1, self._component(places, where), where)[:, 0]
        if at.dtype.kind != "u" or at.max() >= len(rows):
            raise SceneError(f"{self.name}: {where}: a sparse index is past the {len(rows)} rows")
        rows[at] = self._rows(values, count, rows.shape[1], dtype, where)
        return rows

    def _view(self, index: int, where: str) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and its stride (0 if packed)."""
        view = self.items("bufferViews")[index]
        if set(self.field(view, "extensions", dict, where, {})) & set(_COMPRESSED) and "buffer" not in view:
            raise SceneError(f"{self.name}: {where} is compressed with meshopt; export without meshopt")
        buffer = self._buffer(self.index(view, "buffer", "buffers", where))
        start, length = self.field(view, "byteOffset", int, where, 0), self.field(view, "byteLength", int, where)
        if start < 0 or length < 0 or start + length > len(buffer):
            raise SceneError(f"{self.name}: {where} leads out of its buffer; the file is cut off or broken")
        return memoryview(buffer)[start : start + length], self.field(view, "byteStride", int, where, 0)

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            buffer, where = self.items("buffers")[index], f"buffer {index}"
            if "uri" in buffer:
                data = self._fetch(self.field(buffer, "uri", str, where), where)
            elif index == 0 and self._binary is not None:
                data = self._binary
            else:
                raise SceneError(f"{self.name}: {where} has no data; export it again")
            if len(data) < self.field(buffer, "byteLength", int, where):
                raise SceneError(f"{self.name}: {where} has {len(data)} bytes, fewer than it says; the file is cut off")
            self._buffers[index] = data
            if sum(map(len, self._buffers.values())) > MAX_FILE_BYTES:
                raise SceneError(f"{self.name}: its buffers exceed {MAX_FILE_BYTES >> 20} MiB; make the scene smaller")
        return self._buffers[index]

    def _fetch(self, uri: str, where: str) -> bytes:
        """A data URI, or a file in the scene's own folder; nothing else is read."""
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(";base64,")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise SceneError(f"{self.name}: {where}: its data URI is not base64; export it again") from error
        folder = self._path.absolute().parent.resolve()
        target = (folder / unquote(uri)).resolve() if "\0" not in unquote(uri) else folder
        if ":" in uri.split("/")[0] or not target.is_relative_to(folder) or target == folder:
            raise SceneError(f"{self.name}: {where}: {uri[:80]!r} leads out of the scene's folder; export as .glb")
        return self._read(target, f"{self.name}: {where}: {uri[:80]}")

    def _read(self, path: Path, name: str) -> bytes:
        data = _read(path, name)
        self._digest.update(data)
        return data


_ARTICLES: dict[type, str] = {
    list: "a list",
    dict: "an object",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _read(path: Path, name: str) -> bytes:
    try:
        if not path.is_file():
            raise SceneError(f"{name} does not exist or is not a file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SceneError(f"{name} has {path.stat().st_size >> 20} MiB; at most {MAX_FILE_BYTES >> 20} are read")
        return path.read_bytes()
    except OSError as error:
        raise SceneError(f"{name} cannot be read ({error.strerror})") from error


def _glb(data: bytes, name: str) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a GLB (§4.4)."""
    if len(data) < 20 or struct.unpack_from("<I", data)[0] != _GLB_MAGIC:
        raise SceneError(f"{name} is not a GLB file; give a glTF 2.0 scene (.glb or .gltf)")
    _, version, length = struct.unpack_from("<III", data)
    if version != 2:
        raise SceneError(f"{name} is GLB version {version}; export it as glTF 2.0")
    if length > len(data):
        raise SceneError(f"{name} is cut off: {len(data)} of {length} bytes")
    chunks: dict[int, bytes] = {}
    at = 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", data, at)
        if at + 8 + size > length:
            raise SceneError(f"{name} is broken: a chunk leads out of the file; export it again")
        chunks.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size + -size % 4
    if _JSON_CHUNK not in chunks:
        raise SceneError(f"{name} is broken: it has no JSON; export it again")
    return chunks[_JSON_CHUNK], chunks.get(_BIN_CHUNK)
