from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation.evaluate import Evaluated
from tests.pipelines.evaluation.evaluation_helpers import Made, run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, toy_folder: Path) -> Made:
    return Made(tmp_path_factory.mktemp("made"), toy_folder)


@pytest.fixture(scope="session")
def evaluated(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluated]:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return out, run(made, out, report=True)[0]
