from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation.evaluate import Evaluated
from tests.pipelines.evaluation.evaluation_helpers import Made, run


@pytest.mark.usefixtures("ray_here")
def test_workers_give_the_same_scores_as_this_process(
    made: Made, evaluated: tuple[Path, Evaluated], tmp_path: Path
) -> None:
    done, log = run(made, tmp_path / "out", workers=2)
    assert done.complete
    assert done.num_made == len(log.of("unit")) == evaluated[1].num_made
    for name in ("scores.parquet", "summary.json"):
        assert (tmp_path / "out" / name).read_bytes() == (evaluated[0] / name).read_bytes()
