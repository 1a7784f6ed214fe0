"""The embedded model is small, complete, loads, and follows its controls on scenes it has never seen."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from longvie.models.loading import TINY, load_pipeline
from longvie.pipeline import LongViePipeline
from longvie.scenes import TEST_SEEDS
from longvie.training.data import scene_controls
from longvie.types import Segment

MAX_BYTES = 20_000_000
SCENES = TEST_SEEDS[:4]

pytestmark = pytest.mark.skipif(not (TINY / "model_index.json").is_file(), reason="the embedded model is not here")


@pytest.fixture(scope="module")
def pipe() -> LongViePipeline:
    return load_pipeline()


def test_it_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in TINY.rglob("*") if file.is_file()) < MAX_BYTES
    assert (TINY / "README.md").is_file()


def test_it_loads_without_a_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("diffusers", "transformers"):  # they keep their records from other handlers
        monkeypatch.setattr(logging.getLogger(library), "propagate", True)
    load_pipeline()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_it_loads_quickly() -> None:
    started = time.process_time()  # of this process alone: other work on the machine does not count
    load_pipeline()
    assert time.process_time() - started < 5


def test_it_knows_its_size_and_nothing_of_where_it_was_made(pipe: LongViePipeline) -> None:
    assert (pipe.config.height, pipe.config.width, pipe.segment_length) == (64, 96, 17)
    assert not any("_name_or_path" in path.read_text() for path in TINY.rglob("*.json"))


def test_controls_beat_no_controls(pipe: LongViePipeline) -> None:
    length = pipe.segment_length
    segment = Segment(index=0, start=0, num_frames=length, num_valid=length)
    errors = {"both": 0.0, "none": 0.0}
    for seed in SCENES:
        scene = scene_controls(seed, length, length, pipe.config.height, pipe.config.width)
        maps = scene.at(segment)
        for name, controls in (("both", {"dense": maps.dense, "sparse": maps.sparse}), ("none", {})):
            generator = torch.Generator().manual_seed(seed)
            made = pipe(scene.frames[0], scene.caption, generator=generator, **controls).frames
            assert made.shape == scene.frames.shape
            errors[name] += (made.float() - scene.frames.float()).square().mean().item()
    assert errors["both"] < errors["none"]
