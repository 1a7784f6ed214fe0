"""Where every node is at a time: the node tree, and its animation channels sampled as glTF defines (appendix C).

It knows transforms only, and refuses what moves anything but nodes: skins and morph targets are not rigid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from longvie.mesh.gltf import Document, SceneError

_WIDTHS = {"translation": 3, "rotation": 4, "scale": 3}
_SHAPES = {3: ("VEC3",), 4: ("VEC4",)}
_NEARLY_PARALLEL = 0.9995  # cosine above which slerp becomes lerp: sin(angle) is too small to divide by (appendix C.4)


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One animated property of one node.

    Args:
        times: seconds, strictly increasing, float64.
        values: float64, (k, c), or (k, 3, c) for CUBICSPLINE: in-tangent, value, out-tangent.
    """

    path: str  # translation, rotation (quaternion x, y, z, w) or scale
    interpolation: str  # STEP, LINEAR or CUBICSPLINE
    times: Float[ndarray, " k"]
    values: Float[ndarray, ...]

    def at(self, t: float) -> Float[ndarray, " c"]:
        """The value at `t` seconds; before the first and after the last key it is that key's (appendix C.1)."""
        keys = self.values[:, 1] if self.interpolation == "CUBICSPLINE" else self.values
        if t <= self.times[0]:
            return self._unit(keys[0])
        if t >= self.times[-1]:
            return self._unit(keys[-1])
        k = int(np.searchsorted(self.times, t, side="right")) - 1
        if self.interpolation == "STEP":
            return self._unit(keys[k])
        span = self.times[k + 1] - self.times[k]
        s = (t - self.times[k]) / span
        if self.interpolation == "LINEAR":
            if self.path == "rotation":
                return slerp(self._unit(keys[k]), self._unit(keys[k + 1]), s)
            return (1 - s) * keys[k] + s * keys[k + 1]
        out_tangent, in_tangent = span * self.values[k, 2], span * self.values[k + 1, 0]
        value = (
            (2 * s**3 - 3 * s**2 + 1) * keys[k]
            + (s**3 - 2 * s**2 + s) * out_tangent
            + (-2 * s**3 + 3 * s**2) * keys[k + 1]
            + (s**3 - s**2) * in_tangent
        )  # appendix C.5
        return self._unit(value)

    def _unit(self, value: ndarray) -> ndarray:
        return unit_quaternion(value) if self.path == "rotation" else value


class NodeTree:
    """The nodes of the file's scene, parents first, and how they move."""

    def __init__(self, document: Document, animation: str | None = None) -> None:
        self._nodes = document.items("nodes")
        self.name = document.name
        self.parents = _parents(document)  # node -> parent or None, in order: a parent comes before its children
        self._rest = {node: _rest(document, node) for node in self.parents}
        self._channels = _channels(document, self.parents, animation)
        self.duration = max((c.times[-1] for cs in self._channels.values() for c in cs.values()), default=0.0)
        """Time of the last key, seconds."""

    def is_animated(self, node: int) -> bool:
        return bool(self._channels.get(node))

    def mover(self, node: int) -> int | None:
        """The nearest node, itself or above, that is animated: it carries `node` rigidly. None: `node` never moves."""
        at: int | None = node
        while at is not None and not self.is_animated(at):
            at = self.parents[at]
        return at

    def local(self, node: int, t: float) -> Float[ndarray, "4 4"]:
        """The node's transform in its parent at `t` seconds."""
        rest, channels = self._rest[node], self._channels.get(node, {})
        if isinstance(rest, np.ndarray):
            return rest
        values = {path: channels[path].at(t) if path in channels else rest[path] for path in _WIDTHS}
        return compose(values["translation"], values["rotation"], values["scale"])

    def world(self, node: int, t: float) -> Float[ndarray, "4 4"]:
        """The node's transform in the world at `t` seconds."""
        return self.relative(node, None, t)

    def relative(self, node: int, ancestor: int | None, t: float) -> Float[ndarray, "4 4"]:
        """The node's transform in the frame of an ancestor (None: the world)."""
        matrix = np.eye(4)
        at: int | None = node
        while at is not None and at != ancestor:
            matrix = self.local(at, t) @ matrix
            at = self.parents[at]
        return matrix


def unit_quaternion(value: Float[ndarray, " 4"]) -> Float[ndarray, " 4"]:
    """Scaled to length 1; a zero quaternion stands for no rotation."""
    length = np.linalg.norm(value)
    return value / length if length > 0 else np.array([0.0, 0.0, 0.0, 1.0])


def slerp(a: Float[ndarray, " 4"], b: Float[ndarray, " 4"], s: float) -> Float[ndarray, " 4"]:
    """Between unit quaternions along the shorter arc (appendix C.4)."""
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    if cosine > _NEARLY_PARALLEL:
        return unit_quaternion((1 - s) * a + s * b)
    angle = np.arccos(cosine)
    return (np.sin((1 - s) * angle) * a + np.sin(s * angle) * b) / np.sin(angle)


def compose(
    translation: Float[ndarray, " 3"], rotation: Float[ndarray, " 4"], scale: Float[ndarray, " 3"]
) -> Float[ndarray, "4 4"]:
    """T R S (§3.5.3), from a unit quaternion (x, y, z, w)."""
    x, y, z, w = rotation
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= scale
    matrix[:3, 3] = translation
    return matrix


def _parents(document: Document) -> dict[int, int | None]:
    scenes, nodes = document.items("scenes"), document.items("nodes")
    if not scenes:
        raise SceneError(f"{document.name} has no scene; export it again")
    scene = scenes[document.index(document.tree, "scene", "scenes", "the file", 0)]
    roots = document.field(scene, "nodes", list, "the scene", [])
    found: dict[int, int | None] = {}
    waiting: list[tuple[Any, int | None]] = [(root, None) for root in reversed(roots)]
    while waiting:
        given, parent = waiting.pop()
        node = document.index({"node": given}, "node", "nodes", "the scene" if parent is None else f"node {parent}")
        if node in found:
            raise SceneError(f"{document.name}: node {node} hangs in the tree twice; export it again")
        found[node] = parent
        children = document.field(nodes[node], "children", list, f"node {node}", [])
        waiting.extend((child, node) for child in reversed(children))
    return found


def _rest(document: Document, node: int) -> ndarray | Mapping[str, ndarray]:
    """A node's own transform when nothing moves: a matrix, or its three parts."""
    item, where = document.items("nodes")[node], f"node {node}"
    if "skin" in item:
        raise SceneError(
            f"{document.name}: {where} has a skin; only rigid animation is rendered: bake it or leave it out"
        )
    if "matrix" in item:
        matrix = document.numbers(item, "matrix", tuple(np.eye(4).ravel()), where).reshape(4, 4).T  # column-major
        if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
            raise SceneError(f"{document.name}: {where}: its matrix is not affine; export it again")
        return matrix
    return {
        "translation": document.numbers(item, "translation", (0, 0, 0), where),
        "rotation": unit_quaternion(document.numbers(item, "rotation", (0, 0, 0, 1), where)),
        "scale": document.numbers(item, "scale", (1, 1, 1), where),
    }


def _channels(document: Document, nodes: Mapping[int, Any], chosen: str | None) -> dict[int, dict[str, Channel]]:
    """All animations play together, or the one named; two of them at the same property would contradict each other."""
    animations = document.items("animations")
    names = [document.field(a, "name", str, f"animation {i}", str(i)) for i, a in enumerate(animations)]
    if chosen is not None and chosen not in names:
        has = f"its animations are {', '.join(names[:20])}" if names else "it has none"
        raise SceneError(f"{document.name} has no animation {chosen}; {has}")
    found: dict[int, dict[str, Channel]] = {}
    whose: dict[tuple[int, str], str] = {}
    for name, animation in zip(names, animations, strict=True):
        if chosen is not None and name != chosen:
            continue
        samplers = document.field(animation, "samplers", list, f"animation {name}")
        for number, item in enumerate(document.field(animation, "channels", list, f"animation {name}")):
            where = f"animation {name} channel {number}"
            target = document.field({"channel": item}, "channel", dict, where)
            target = document.field(target, "target", dict, where)
            node = document.index(target, "node", "nodes", where, None)
            path = document.field(target, "path", str, where)
            if node is None or node not in nodes:
                continue  # §3.11: a channel without a node is ignored; one outside the scene moves nothing seen
            if path not in _WIDTHS:
                remedy = "only rigid animation is rendered: bake it or leave it out"
                raise SceneError(f"{document.name}: {where} animates {path}; {remedy}")
            if "matrix" in document.items("nodes")[node]:
                raise SceneError(f"{document.name}: {where}: node {node} has a matrix and cannot move; export it again")
            if (node, path) in whose:
                raise SceneError(
                    f"{document.name}: animations {whose[node, path]} and {name} both move the {path} of node {node}; "
                    "choose one with --animation"
                )
            whose[node, path] = name
            at = document.field(item, "sampler", int, where)
            if not 0 <= at < len(samplers) or not isinstance(samplers[at], dict):
                raise SceneError(f"{document.name}: {where}: sampler {at} does not exist; export it again")
            found.setdefault(node, {})[path] = _sampler(document, samplers[at], path, where)
    return found


def _sampler(document: Document, sampler: Mapping[str, Any], path: str, where: str) -> Channel:
    interpolation = document.field(sampler, "interpolation", str, where, "LINEAR")
    if interpolation not in ("STEP", "LINEAR", "CUBICSPLINE"):
        raise SceneError(f"{document.name}: {where}: interpolation {interpolation} does not exist; export it again")
    times = document.accessor(document.index(sampler, "input", "accessors", where), ("SCALAR",), where)
    values = document.accessor(document.index(sampler, "output", "accessors", where), _SHAPES[_WIDTHS[path]], where)
    times, values = times[:, 0].astype(np.float64), values.astype(np.float64)
    if times[0] < 0 or (np.diff(times) <= 0).any():
        raise SceneError(f"{document.name}: {where}: its times do not increase from 0 on; export it again")
    each = 3 if interpolation == "CUBICSPLINE" else 1
    if len(values) != each * len(times):
        raise SceneError(f"{document.name}: {where} has {len(times)} times but {len(values)} values; export it again")
    if each == 3:
        values = values.reshape(len(times), 3, -1)
    return Channel(path=path, interpolation=interpolation, times=times, values=values)
