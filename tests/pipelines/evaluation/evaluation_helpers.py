"""A prepared folder, two runs of it and their evaluation: made by what conftest.py keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from longvie.media import write_video
from pipelines.evaluation.evaluate import Evaluated, evaluate
from pipelines.evaluation.options import EvaluateOptions
from tests.pipelines import helpers
from tests.pipelines.helpers import Log
from tests.pipelines.preparation.prepare_helpers import depth_of, moving, write_manifest
from tests.pipelines.preparation.prepare_helpers import run as prepare

FRAMES = {"a": 21, "b": 17, "c": 17}  # three segments of the toy's nine frames, two and two


class Made:
    """A prepared folder of three videos, and two runs of it; the second with two noise seeds."""

    def __init__(self, folder: Path, toy: Path) -> None:
        config = json.loads((toy / "model_index.json").read_text())
        rows = []
        for seed, (name, count) in enumerate(FRAMES.items()):
            frames = moving(count, seed, 32, 48)
            write_video(folder / f"{name}.mp4", frames, config["fps"])
            np.save(folder / f"{name}.npy", depth_of(count, seed, 32, 48))
            rows.append({"uri": f"{name}.mp4", "depth": f"{name}.npy", "depth_polarity": "depth", "prompt": name})
        self.reference = str(folder / "prepared")
        options = {"fps": config["fps"], "segment_length": config["segment_length"]}
        prepare(write_manifest(folder, rows), self.reference, **options)
        self.runs = []
        for name, more in (("one", {"seed": 0}), ("two-0", {"seed": 1}), ("two-1", {"seed": 2})):
            helpers.run(self.reference, folder / name, toy, **more)
            self.runs.append(f"{name.partition('-')[0]}={folder / name}")
        self.toy = str(toy)


def run(made: Made, out: Path, runs: list[str] | None = None, **options: Any) -> tuple[Evaluated, Log]:
    log = Log()
    given = {"workers": 0, "vae": made.toy, "resamples": 200, "report": False, **options}
    chosen = EvaluateOptions(
        generated=tuple(runs or made.runs), reference=given.pop("reference", made.reference), out=str(out), **given
    )
    return evaluate(chosen, log), log
