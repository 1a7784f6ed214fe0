"""The commit protocol: when a unit exists, and when it does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.preparation.options import PrepareOptions
from pipelines.preparation.passes import pack
from pipelines.preparation.recipe import MAX_STRETCH, SUPPLIED, Estimator, seconds_a_cost, stretches
from pipelines.preparation.units import Made, Unit, UnitStore, commit_name
from pipelines.storage import LocalStorage


def unit(name: str = "u", decides: str = "settings", cost: float = 1.0) -> Unit:
    return Unit(stage="depth", name=name, task={}, decides=decides, cost=cost, uris=("a.mp4",), said="file")


def write(folder: Path, **files: bytes) -> Made:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)
    return Made(folder=folder, result={"n": 1})


@pytest.fixture
def store(tmp_path: Path) -> UnitStore:
    return UnitStore(LocalStorage(tmp_path / "out"))


def test_a_unit_exists_once_it_is_committed(store: UnitStore, tmp_path: Path) -> None:
    one = unit()
    assert not store.committed([one])
    store.commit("depth", "u", one.key, write(tmp_path / "made", depth__x=b"12345"))
    commit = store.committed([one])["u"]
    assert commit.result == {"n": 1}
    assert commit.files["depth/x"]["bytes"] == 5
    assert store.exists("depth", "u", one.key) == commit


def test_another_key_is_another_unit(store: UnitStore, tmp_path: Path) -> None:
    store.commit("depth", "u", unit().key, write(tmp_path / "made", depth__x=b"12345"))
    assert not store.committed([unit(decides="other settings")])
    assert store.exists("depth", "u", unit(decides="other settings").key) is None


@pytest.mark.parametrize("damage", ["gone", "shorter", "commit"])
def test_a_commit_without_its_files_does_not_count(store: UnitStore, tmp_path: Path, damage: str) -> None:
    one = unit()
    store.commit("depth", "u", one.key, write(tmp_path / "made", depth__x=b"12345"))
    if damage == "gone":
        store.storage.delete("depth/x")
    elif damage == "shorter":
        store.storage.write("depth/x", b"1234")
    else:
        store.storage.write(commit_name("depth", "u"), b'{"unit": "u"')
    assert not store.committed([one])
    assert store.exists("depth", "u", one.key) is None


def test_an_old_commit_goes_before_its_files_are_replaced(store: UnitStore, tmp_path: Path) -> None:
    """A crash between must not leave a commit that vouches for another's bytes."""
    store.commit("depth", "u", unit().key, write(tmp_path / "made", depth__x=b"12345"))

    class Dying(LocalStorage):
        def put(self, name: str, source: Path) -> None:
            super().put(name, source)
            raise KeyboardInterrupt

    dying = UnitStore(Dying(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        dying.commit("depth", "u", "other key", write(tmp_path / "made", depth__x=b"54321"))
    assert not store.committed([unit()])


def test_deaths_are_counted_within_a_run(store: UnitStore) -> None:
    assert [store.begin("scan", "u", "run") for _ in range(3)] == [0, 1, 2]
    assert store.begin("scan", "u", "another run") == 0
    store.end("scan", "u")
    assert store.begin("scan", "u", "another run") == 0


def test_the_key_is_of_what_decides() -> None:
    assert unit().key == dataclasses.replace(unit(), cost=9.0, uris=("b.mp4",), task={"uri": "elsewhere"}).key
    assert unit().key != dataclasses.replace(unit(), stage="scan").key


@given(
    costs=st.lists(st.floats(0.001, 100), max_size=80), workers=st.integers(1, 8), seconds=st.sampled_from([0.01, 1.0])
)
def test_blocks_hold_every_unit_once_in_order(costs: list[float], workers: int, seconds: float) -> None:
    units = [unit(str(i), cost=cost) for i, cost in enumerate(costs)]
    blocks = pack(units, workers, seconds)
    assert [one for block in blocks for one in block] == units
    assert all(blocks)


def test_small_units_share_a_block_and_large_ones_do_not() -> None:
    small = pack([unit(str(i)) for i in range(200)], workers=2, seconds_a_cost=0.02)
    assert 10 <= len(small) <= 24, "200 tasks of 20 ms as 16 blocks cost 1.04x a plain pool"
    assert len(pack([unit(str(i)) for i in range(10)], workers=2, seconds_a_cost=3.0)) == 10
    many = [len(block) for block in pack([unit(str(i)) for i in range(500)], workers=2, seconds_a_cost=3.0)]
    assert len(many) <= 10
    assert many == sorted(many, reverse=True)
    assert many[-1] < 500 / 10 / 4, "workers end together"
    assert len(pack([unit(str(i)) for i in range(500)], workers=50, seconds_a_cost=3.0)) > 100


def test_segments_of_small_frames_share_a_task_and_large_ones_hardly() -> None:
    def blocks(size: str) -> int:
        options = PrepareOptions(
            inputs=("a.mp4",), out="out", fps=8, size=size, segment_length=17, depth=SUPPLIED, sparse="lucas-kanade"
        )
        dense, sparse = (Estimator(spec=spec, fingerprint="") for spec in (options.depth, options.sparse))
        segments = [
            Unit(stage="controls", name=f"{i}", task={}, decides="", cost=17, uris=(f"{i // 6}.mp4",), said="")
            for i in range(1200)
        ]
        return len(pack(segments, 2, seconds_a_cost("controls", options.recipe(dense, sparse))))

    assert blocks("96x64") <= 1200 / 10
    assert blocks("640x352") >= 1200 / 2


@settings(max_examples=200)
@given(num_frames=st.integers(1, 3000), segment_length=st.integers(2, 300))
def test_stretches_cover_a_shot_once(num_frames: int, segment_length: int) -> None:
    """In whole segments, none a single frame but a shot of one."""
    parts = stretches(num_frames, segment_length)
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == num_frames
    assert all(start % (segment_length - 1) == 0 for start, _ in parts)
    lengths = [stop - start for start, stop in parts]
    assert min(lengths) >= min(2, num_frames)
    assert max(lengths) <= max(MAX_STRETCH, segment_length - 1) + 1
