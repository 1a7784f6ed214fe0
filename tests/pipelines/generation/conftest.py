from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.helpers import NUM_SEGMENTS, Inputs, run


@pytest.fixture(scope="session")
def done(inputs: Inputs, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video made without interruption; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("done")
    (outcome,) = run(inputs.manifest(folder, inputs.row()), folder / "out", toy_folder)
    assert (outcome.status, outcome.made) == ("done", NUM_SEGMENTS)
    return folder / "out" / "a"
