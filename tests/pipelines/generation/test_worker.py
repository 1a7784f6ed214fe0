"""The plain class that makes segments, without Ray: what it refuses, what it never does twice, how little it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from pipelines.errors import UserError
from pipelines.generation.commits import Commit
from pipelines.generation.plan import VideoJob
from pipelines.generation.worker import GeneratorWorker, WorkerConfig
from tests.pipelines.helpers import NUM_SEGMENTS, Inputs, commits_of, run

MOST_BYTES = 8192  # of a description; one frame of the toy alone has 4,608


@pytest.fixture(scope="module")
def given(
    inputs: Inputs, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[WorkerConfig, VideoJob, Commit]]:
    """What a driver hands to its worker, and gets back, in a job that is done."""
    kept: list[Any] = []

    class Keeping(GeneratorWorker):
        def make_segment(self, job: VideoJob, index: int) -> Commit:
            kept[:] = [self.config, job, super().make_segment(job, index)]
            return kept[2]

    before = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("worker")
    run(inputs.manifest(folder, inputs.row()), folder / "out", toy_folder, worker_class=Keeping)
    yield tuple(kept)
    torch.set_num_threads(before)


Given = tuple[WorkerConfig, VideoJob, Commit]


def test_only_descriptions_pass_between_driver_and_worker(given: Given) -> None:
    """No frame, carry or video: they go from the worker to storage."""
    for described in given:
        assert len(cloudpickle.dumps(described)) < MOST_BYTES, type(described)


def test_a_segment_that_exists_is_not_made_again(given: Given) -> None:
    config, job, last = given
    worker = GeneratorWorker(config)
    worker.setup(job.video_id)
    before = commits_of(Path(config.out) / job.video_id)
    assert worker.make_segment(job, NUM_SEGMENTS - 1) == last
    assert commits_of(Path(config.out) / job.video_id) == before


def test_setup_comes_first(given: Given) -> None:
    with pytest.raises(RuntimeError, match="setup"):
        GeneratorWorker(given[0]).make_segment(given[1], 0)


def test_another_model_than_planned(given: Given) -> None:
    worker = GeneratorWorker(replace(given[0], model_fingerprint="0" * 64))
    with pytest.raises(UserError, match=r"has another model at .* than the job was planned with"):
        worker.setup(given[1].video_id)


def test_an_output_that_this_node_does_not_see(given: Given, tmp_path: Path) -> None:
    worker = GeneratorWorker(replace(given[0], out=str(tmp_path)))
    with pytest.raises(UserError, match=r"does not see .*; give an output that every node sees"):
        worker.setup(given[1].video_id)


def test_segments_out_of_order(given: Given, tmp_path: Path) -> None:
    config, job, _ = given
    worker = GeneratorWorker(config)
    worker.setup(job.video_id)
    unmade = replace(job, links=tuple("0" * 64 for _ in job.links))
    with pytest.raises(RuntimeError, match="segment 2 of a was asked for, but 0 exist"):
        worker.make_segment(unmade, 2)
    with pytest.raises(RuntimeError, match=r"a has 0 of 4 segments"):
        worker.finish(unmade, {})
