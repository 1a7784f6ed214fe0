from __future__ import annotations

import pytest

from tests.pipelines.helpers import Inputs, write_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Controls of 26 frames at 32x48 and a first frame: four toy segments."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))
