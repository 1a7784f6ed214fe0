from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from tests.pipelines.helpers import Inputs, write_inputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Jobs fix the thread count of their process; give the suite its own back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Controls of 26 frames at 32x48, in one file and in three, a first frame and a cond.json: four toy segments."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A Ray of our own, with two declared GPUs that do not exist; ended without touching any other."""
    os.environ["PYTHONPATH"] = str(ROOT)  # workers import the tests' own workers
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
