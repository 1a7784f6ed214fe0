from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.encoding.encode_helpers import NUM_SEGMENTS, run, write_prepared
from tests.pipelines.preparation.prepare_helpers import tree


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What encoding reads; tests leave it as it is."""
    return write_prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def encoded(prepared: Path, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it, uninterrupted; tests leave it as it is."""
    out = tmp_path_factory.mktemp("encoded")
    summary = run(prepared, out, toy_folder)
    assert not summary.failed(strict=True)
    assert (summary.num_videos, summary.num_segments) == (2, NUM_SEGMENTS)
    return out


@pytest.fixture(scope="session")
def whole(encoded: Path) -> dict[str, str]:
    """Its files."""
    return tree(encoded)
