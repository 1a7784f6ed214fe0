"""What is refused, in one line that names file and remedy; and what other programs may write, which is read."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

import longvie.mesh.geometry
import longvie.mesh.gltf
from longvie.mesh import Scene, SceneError, SceneWriter, load_scene
from tests.longvie.mesh.analytic import SQUARE, SQUARE_FACES


def small() -> SceneWriter:
    """A textured square that moves, and a camera."""
    writer = SceneWriter()
    material = writer.add_material(texture=np.full((2, 2, 3), 200, np.uint8))
    mesh = writer.add_mesh(SQUARE, SQUARE_FACES, material, uv=(SQUARE[:, :2] + 1) / 2)
    node = writer.add_node("square", mesh=mesh, translation=(0, 0, -4))
    writer.animate(node, "translation", np.array([0.0, 1.0]), np.array([[0.0, 0, -4], [1, 0, -4]]))
    writer.add_node("camera", camera=writer.add_camera(1.0))
    return writer


def load(folder: Path, tree: dict[str, Any] | None = None, data: bytes | None = None, **choices: str) -> Scene:
    path = folder / "s.glb"
    if data is None:
        writer = small()
        if tree is not None:
            writer.tree = tree
        data = writer.to_bytes()
    path.write_bytes(data)
    return load_scene(path, **choices)


def refused(folder: Path, *said: str, **given: Any) -> None:
    with pytest.raises(SceneError) as caught:
        load(folder, **given)
    message = str(caught.value)
    assert "\n" not in message
    assert "s.glb" in message
    for words in said:
        assert words in message


def render_or_refuse(path: Path) -> None:
    said = ""
    try:
        load_scene(path).render(0.5, 4, 4)
    except SceneError as error:
        said = str(error)
    assert "\n" not in said


Change = Callable[[dict[str, Any]], Any]

CHANGES: list[tuple[str, Change]] = [
    ("skin", lambda t: t["nodes"][0].update(skin=0)),
    ("morph targets", lambda t: t["meshes"][0]["primitives"][0].update(targets=[{"POSITION": 0}])),
    ("animates weights", lambda t: t["animations"][0]["channels"][0]["target"].update(path="weights")),
    ("has no camera", lambda t: t["nodes"][1].pop("camera")),
    ("has 2 cameras; choose one with --camera: camera, other", lambda t: second_camera(t)),
    ("KHR_draco_mesh_compression", lambda t: t.update(extensionsRequired=["KHR_draco_mesh_compression"])),
    ("EXT_meshopt_compression", lambda t: t.update(extensionsRequired=["EXT_meshopt_compression"])),
    ("EXT_mesh_gpu_instancing", lambda t: t.update(extensionsUsed=["EXT_mesh_gpu_instancing"])),
    ("KHR_animation_pointer", lambda t: t.update(extensionsUsed=["KHR_animation_pointer"])),
    ("XYZ_unheard_of", lambda t: t.update(extensionsRequired=["XYZ_unheard_of"])),
    ("glTF 1.0", lambda t: t["asset"].update(version="1.0")),
    ("twice", lambda t: t["nodes"][0].update(children=[0])),
    ("twice", lambda t: t["scenes"][0]["nodes"].append(0)),
    ("no scene", lambda t: t.pop("scenes")),
    ("not one of", lambda t: t["nodes"][0].update(mesh=7)),
    ("not one of", lambda t: t["nodes"][0].update(mesh=-1)),
    ("not a whole number", lambda t: t["nodes"][0].update(mesh=True)),
    ("not a whole number", lambda t: t["nodes"][0].update(mesh="0")),
    ("2 numbers instead of 3", lambda t: t["nodes"][1].update(translation=[0, 0])),
    ("not finite", lambda t: t["nodes"][1].update(translation=[0, 0, float("inf")])),
    ("not affine", lambda t: t["nodes"].append({"matrix": [2.0] * 16}) or t["scenes"][0]["nodes"].append(2)),
    ("type VEC3", lambda t: t["meshes"][0]["primitives"][0].update(indices=0)),
    ("leads out of its buffer", lambda t: t["accessors"][0].update(count=10_000)),
    ("leads out of its buffer", lambda t: t["bufferViews"][1].update(byteLength=1 << 30)),
    ("leads out of its buffer", lambda t: t["accessors"][0].update(byteOffset=-4)),
    ("componentType 7", lambda t: t["accessors"][0].update(componentType=7)),
    ("past its 4 vertices", lambda t: t["accessors"][0].update(count=4) or point_past(t)),
    ("times but", lambda t: t["animations"][0]["samplers"][0].update(interpolation="CUBICSPLINE")),
    ("interpolation BEZIER", lambda t: t["animations"][0]["samplers"][0].update(interpolation="BEZIER")),
    ("both move the translation of node 0", lambda t: t["animations"].append(t["animations"][0])),
    ("has a matrix and cannot move", lambda t: t["nodes"][0].update(matrix=np.eye(4).ravel().tolist())),
    ("no TEXCOORD_0", lambda t: t["meshes"][0]["primitives"][0]["attributes"].pop("TEXCOORD_0")),
    ("not a readable image", lambda t: t["images"][0].update(bufferView=1)),
    ("yfov", lambda t: t["cameras"][0]["perspective"].update(yfov=4.0)),
    ("sees nothing", lambda t: t["cameras"][0]["perspective"].update(znear=0.0)),
    ("mode 9", lambda t: t["meshes"][0]["primitives"][0].update(mode=9)),
    ("no surfaces", lambda t: t["meshes"][0]["primitives"][0].update(mode=1)),
    ("too large to compute with", lambda t: t["nodes"][0].update(scale=[1e30] * 3)),
    ("scale the scene down", lambda t: within_a_giant(t)),
]


def second_camera(tree: dict[str, Any]) -> None:
    tree["nodes"].append({"name": "other", "camera": 0})
    tree["scenes"][0]["nodes"].append(2)


def within_a_giant(tree: dict[str, Any]) -> None:
    tree.pop("animations")
    tree["nodes"][0].update(scale=[1e10] * 3)
    tree["nodes"].append({"children": [0], "scale": [1e10] * 3})
    tree["scenes"][0]["nodes"] = [2, 1]


def point_past(tree: dict[str, Any]) -> None:
    """Take the positions' bytes for indices: floats read as numbers far too large."""
    indices = tree["meshes"][0]["primitives"][0]["indices"]
    tree["accessors"][indices].update(bufferView=tree["accessors"][0]["bufferView"])


@pytest.mark.parametrize(("said", "change"), CHANGES, ids=[f"{k}: {said}" for k, (said, _) in enumerate(CHANGES)])
def test_refused_in_one_line(tmp_path: Path, said: str, change: Change) -> None:
    tree = small().tree
    change(tree)
    refused(tmp_path, said, tree=tree)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("../secret.bin", "leads out of the scene's folder"),
        ("/etc/passwd", "leads out of the scene's folder"),
        ("a/../../secret.bin", "leads out of the scene's folder"),
        ("%2e%2e/secret.bin", "leads out of the scene's folder"),
        ("link.bin", "leads out of the scene's folder"),
        ("http://127.0.0.1:9/x.bin", "leads out of the scene's folder"),
        ("file:///etc/passwd", "leads out of the scene's folder"),
        ("missing.bin", "does not exist"),
        ("data:application/octet-stream;base64,!!", "not base64"),
        ("data:application/octet-stream;base64,AAAA", "fewer than it says"),
    ],
)
def test_buffers_lie_in_the_scenes_folder(tmp_path: Path, uri: str, said: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(10_000))
    folder = tmp_path / "scenes"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    writer = small()
    tree = {**writer.tree, "buffers": [{"byteLength": 1000, "uri": uri}]}
    (folder / "s.gltf").write_text(json.dumps(tree))
    with pytest.raises(SceneError, match=said):
        load_scene(folder / "s.gltf")


@pytest.mark.parametrize("external", [True, False])
def test_gltf_with_its_buffer_beside_it_or_within(tmp_path: Path, external: bool) -> None:
    data = small().to_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    tree, binary = json.loads(data[20 : 20 + size]), data[28 + size :]
    (tmp_path / "some data.bin").write_bytes(binary)
    tree["buffers"][0]["uri"] = (
        "some%20data.bin" if external else f"data:application/octet-stream;base64,{base64.b64encode(binary).decode()}"
    )
    (tmp_path / "s.gltf").write_text(json.dumps(tree))
    same = load(tmp_path).render(0.5, 16, 16)
    other = load_scene(tmp_path / "s.gltf").render(0.5, 16, 16)
    np.testing.assert_array_equal(same.rgb, other.rgb)
    np.testing.assert_array_equal(same.depth, other.depth)


def test_broken_files(tmp_path: Path) -> None:
    whole = small().to_bytes()
    refused(tmp_path, "not a GLB file", data=b"")
    refused(tmp_path, "not a GLB file", data=b"garbage" * 100)
    refused(tmp_path, "version 1", data=whole[:4] + struct.pack("<I", 1) + whole[8:])
    refused(tmp_path, "cut off", data=whole[:-8])
    refused(tmp_path, "does not parse", data=whole[:20] + b"}" + whole[21:])
    for path in (tmp_path / "missing.glb", tmp_path):
        with pytest.raises(SceneError, match="does not exist or is not a file"):
            load_scene(path)
    (tmp_path / "s.gltf").write_text("[1]")
    with pytest.raises(SceneError, match="not an object"):
        load_scene(tmp_path / "s.gltf")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(longvie.mesh.geometry, "MAX_TRIANGLES", 1)
        refused(tmp_path, "more than 1 triangles")
    with monkeypatch.context() as patch:
        patch.setattr(longvie.mesh.gltf, "MAX_TEXTURE_PIXELS", 3)
        refused(tmp_path, "textures exceed 3 pixels")
    with monkeypatch.context() as patch:
        patch.setattr(longvie.mesh.gltf, "MAX_FILE_BYTES", 100)
        refused(tmp_path, "at most 0 are read")
    with monkeypatch.context() as patch:
        patch.setattr(longvie.mesh.gltf, "MAX_ITEMS", 1)
        refused(tmp_path, "at most 1 are read")


def test_choices(tmp_path: Path) -> None:
    refused(tmp_path, "has no camera c", "its cameras are camera", camera="c")
    refused(tmp_path, "has no animation walk", "all", animation="walk")
    assert load(tmp_path, camera="camera", animation="all").duration == 1.0
    tree = small().tree
    second_camera(tree)
    assert load(tmp_path, tree=tree, camera="other").camera.name == "other"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_rendered_never_a_crash(data: st.DataObject, tmp_path_factory: Any) -> None:
    whole = bytearray(small().to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.glb"
    path.write_bytes(bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) // 2]))]))
    render_or_refuse(path)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.just(1 << 70),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_wrong_value_anywhere_is_refused_or_rendered_never_a_crash(
    data: st.DataObject, tmp_path_factory: Any
) -> None:
    writer = small()
    places: list[tuple[Any, Any]] = []

    def collect(item: Any) -> None:
        pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, value in pairs:
            places.append((item, key))
            collect(value)

    collect(writer.tree)
    item, key = data.draw(st.sampled_from(places))
    item[key] = data.draw(VALUES)
    path = tmp_path_factory.getbasetemp() / "wrong.glb"
    path.write_bytes(writer.to_bytes())
    render_or_refuse(path)


def test_a_file_that_trimesh_wrote(tmp_path: Path) -> None:
    """An independent writer: names, matrices and buffers as trimesh lays them out."""
    scene = trimesh.Scene()
    place = trimesh.transformations.translation_matrix((0.5, 0, -5))
    scene.add_geometry(trimesh.creation.box(extents=(1, 2, 3)), transform=place)
    scene.camera.fov = (60, 60)
    scene.camera_transform = np.eye(4)
    (tmp_path / "s.glb").write_bytes(scene.export(file_type="glb"))
    depth = load_scene(tmp_path / "s.glb").render(0, 33, 33).depth
    assert depth[16, 16] == pytest.approx(3.5)
    assert np.isinf(depth[0, 0])


def test_layouts_that_exporters_use(tmp_path: Path) -> None:
    """Interleaved, normalised and sparse accessors, strips and fans give the same square as plain ones."""
    plain = load(tmp_path).render(0, 16, 16).depth
    tree = small().tree
    writer = small()
    primitive = writer.tree["meshes"][0]["primitives"][0]

    interleaved = np.zeros((4, 5), np.float32)  # position and 8 bytes of something else
    interleaved[:, :3] = SQUARE
    view = writer._add_bytes(interleaved.tobytes())
    writer.tree["bufferViews"][view]["byteStride"] = 20
    accessor = {"bufferView": view, "componentType": 5126, "count": 4, "type": "VEC3"}
    primitive["attributes"]["POSITION"] = writer._add("accessors", accessor)
    primitive["indices"] = writer.add_array(np.array([[0], [1], [3], [2]]), "u1")
    primitive["mode"] = 5
    np.testing.assert_array_equal(load(tmp_path, data=writer.to_bytes()).render(0, 16, 16).depth, plain)

    primitive["indices"] = writer.add_array(np.array([[0], [1], [2], [3]]), "u1")
    primitive["mode"] = 6
    np.testing.assert_array_equal(load(tmp_path, data=writer.to_bytes()).render(0, 16, 16).depth, plain)

    quantised = writer._add_bytes((SQUARE * 127).astype(np.int8).tobytes())
    accessor = {"bufferView": quantised, "componentType": 5120, "count": 4, "type": "VEC3", "normalized": True}
    primitive["attributes"]["POSITION"] = writer._add("accessors", accessor)
    np.testing.assert_array_equal(load(tmp_path, data=writer.to_bytes()).render(0, 16, 16).depth, plain)

    corner = SQUARE.copy()
    corner[2] = (9, 9, 9)
    at = writer.add_array(corner, "f4")
    writer.tree["accessors"][at]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": writer._add_bytes(bytes([2])), "componentType": 5121},
        "values": {"bufferView": writer._add_bytes(SQUARE[2:3].astype(np.float32).tobytes())},
    }
    primitive["attributes"]["POSITION"] = at
    np.testing.assert_array_equal(load(tmp_path, data=writer.to_bytes()).render(0, 16, 16).depth, plain)
    assert tree == small().tree
