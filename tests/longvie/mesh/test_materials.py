"""Colours where they can be known: factors, vertex colours, textures, holes, light."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from longvie.mesh import Scene, SceneWriter, load_scene
from longvie.mesh.materials import BACKGROUND, Texture, light, to_bytes
from tests.longvie.mesh.analytic import SQUARE, SQUARE_FACES

UNLIT = {"extensions": {"KHR_materials_unlit": {}}}
# glTF's v runs down: the texture's upper left corner is at (0, 0)
UV = np.stack([(SQUARE[:, 0] + 1) / 2, (1 - SQUARE[:, 1]) / 2], axis=1)


def facing(folder: Path, mesh: dict[str, Any] | None = None, **material: Any) -> Scene:
    """A square that fills the view."""
    writer = SceneWriter()
    at = writer.add_material(**material)
    node = {"mesh": writer.add_mesh(SQUARE, SQUARE_FACES, at, **{"uv": UV, **(mesh or {})})}
    writer.add_node("square", translation=(0, 0, -1), **node)
    writer.add_node("camera", camera=writer.add_camera(np.pi / 2))
    writer.write(folder / "s.glb")
    return load_scene(folder / "s.glb")


def test_srgb_round_trip() -> None:
    texture = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)[None]
    linear = Texture(texture, (33071, 33071), nearest=True).sample(
        np.stack([(np.arange(256) + 0.5) / 256, np.full(256, 0.5)], axis=1), np.ones(256)
    )
    np.testing.assert_array_equal(to_bytes(linear[:, :3]), texture[0, :, :3])


def test_factor_and_unlit(tmp_path: Path) -> None:
    scene = facing(tmp_path, colour=(0.2140411, 0, 1, 1), **UNLIT)  # sRGB 127 (IEC 61966-2-1)
    rgb = scene.render(0, 8, 8).rgb
    np.testing.assert_array_equal(np.unique(rgb.reshape(-1, 3), axis=0), [[127, 0, 255]])


def test_a_lit_square_is_as_bright_as_its_normal_says(tmp_path: Path) -> None:
    expected = to_bytes(light(np.array([[0, 0, 1]], np.float32)))
    assert (facing(tmp_path).render(0, 8, 8).rgb == expected).all()


def test_vertex_colours_are_interpolated(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    red = facing(tmp_path, mesh={"colours": colours}, **UNLIT).render(0, 16, 16, 1).rgb[..., 0]
    np.testing.assert_array_equal(red, np.broadcast_to(to_bytes((np.arange(16) + 0.5) / 16), (16, 16)))


def quarters() -> ndarray:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return image.repeat(16, axis=0).repeat(16, axis=1)


def test_a_texture_is_the_right_way_up(tmp_path: Path) -> None:
    rgb = facing(tmp_path, texture=quarters(), **UNLIT).render(0, 32, 32).rgb
    np.testing.assert_array_equal(
        [rgb[4, 4], rgb[4, 27], rgb[27, 4], rgb[27, 27]], quarters()[::16, ::16].reshape(-1, 3)
    )


def test_a_texture_transform_moves_it(tmp_path: Path) -> None:
    writer_fields = {"texture": quarters(), **UNLIT}
    scene = facing(tmp_path, **writer_fields)
    path = tmp_path / "s.glb"
    plain = scene.render(0, 32, 32).rgb
    writer = SceneWriter()
    at = writer.add_material(**writer_fields)
    look = writer.tree["materials"][at]["pbrMetallicRoughness"]["baseColorTexture"]
    look["extensions"] = {"KHR_texture_transform": {"offset": [0.5, 0]}}
    writer.add_node("square", translation=(0, 0, -1), mesh=writer.add_mesh(SQUARE, SQUARE_FACES, at, uv=UV))
    writer.add_node("camera", camera=writer.add_camera(np.pi / 2))
    writer.write(path)
    moved = load_scene(path).render(0, 32, 32).rgb
    for start in (1, 17):  # between the seams
        half = slice(start, start + 14)
        np.testing.assert_array_equal(moved[:, half], np.roll(plain, 16, axis=1)[:, half])


@pytest.mark.parametrize(
    ("wrap", "expected"), [(10497, [0, 255, 0, 255]), (33071, [0, 0, 255, 255]), (33648, [255, 0, 255, 0])]
)
def test_wrapping(wrap: int, expected: list[int]) -> None:
    image = np.zeros((1, 2, 4), np.uint8)
    image[0, 1] = 255
    texture = Texture(image, (wrap, wrap), nearest=True)
    u = np.array([-0.25, 0.25, 0.75, 1.25]) if wrap != 10497 else np.array([0.25, 0.75, 1.25, 1.75])
    if wrap == 33648:
        u = np.array([-0.75, 0.25, 1.25, 1.75])
    red = to_bytes(texture.sample(np.stack([u, u * 0], axis=1), np.ones(4)))[:, 0]
    np.testing.assert_array_equal(red, expected)


def test_a_far_texture_is_averaged() -> None:
    checkers = np.indices((64, 64)).sum(axis=0)[..., None] % 2 * 255
    texture = Texture(np.repeat(checkers, 4, axis=2).astype(np.uint8), (10497, 10497), nearest=False)
    far = texture.sample(np.random.default_rng(0).random((100, 2)), np.full(100, 64.0**2))
    np.testing.assert_allclose(far, 0.5, atol=0.01)


@pytest.mark.parametrize("mode", ["MASK", "BLEND"])
def test_holes_are_looked_through(tmp_path: Path, mode: str) -> None:
    image = np.full((32, 32, 4), 255, np.uint8)
    image[:16, :16, 3] = 0
    scene = facing(tmp_path, texture=image, alphaMode=mode, **UNLIT)
    frame = scene.render(0, 32, 32)
    assert np.isinf(frame.depth[1:15, 1:15]).all()
    assert (frame.rgb[8, 8] == to_bytes(BACKGROUND)).all()
    np.testing.assert_allclose(frame.depth[17:31], 1)
    assert bool(scene.notes) == (mode == "BLEND"), "what is drawn otherwise than the file says is said"
    tracks = scene.tracks([0, 1], np.array([[4.0, 4.0], [24.0, 24.0]]), 32, 32)
    assert np.isinf(tracks.depth[0])
    assert tracks.visibility.all()


def test_smooth_normals_shade_smoothly(tmp_path: Path) -> None:
    normals = np.array([[-1, 0, 1], [1, 0, 1], [1, 0, 1], [-1, 0, 1]]) / np.sqrt(2)
    grey = facing(tmp_path, mesh={"normals": normals}).render(0, 16, 16, 1).rgb[8, :, 0].astype(int)
    assert (np.diff(grey) >= 0)[:10].all()
    assert grey[-1] > grey[0] + 20, "the sun stands to the right"
