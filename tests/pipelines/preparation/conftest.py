from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.preparation.prepare_helpers import run, write_clips


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A manifest of two clips with depth; tests leave it as it is."""
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def prepared(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is prepared of it; tests leave it as it is."""
    out = tmp_path_factory.mktemp("prepared")
    summary = run(source, out, cond_json=True)
    assert not summary.failed(strict=True)
    assert (summary.num_videos, summary.num_segments) == (2, 6)
    return out
