"""scenes.parquet: what each prepared video was made from, so that any number can be traced to a seed and a category."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from longvie.scenes import WORLD
from pipelines.preparation.columns import write_table
from pipelines.preparation.units import UnitCommit
from pipelines.scenes.options import ScenePlan
from pipelines.storage import Storage

NAME = "scenes.parquet"


def _field(name: str, type_: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, type_, nullable=False, metadata={"meaning": meaning})


SCENES = pa.schema(
    [
        _field("video_id", pa.string(), "as in videos.parquet"),
        _field("split", pa.string(), "train, validation or test: whose seed it is"),
        _field("seed", pa.int64(), "of the scene"),
        _field("world", pa.int64(), "version of the world that made it"),
        _field("place", pa.string(), "indoor or outdoor"),
        _field("light", pa.string(), "day, night, or changing between them"),
        _field("camera", pa.string(), "static or moving"),
        _field("ground", pa.string(), "what the floor is made of"),
        _field("objects", pa.list_(pa.string()), "that are in the video at some time"),
        _field("num_frames", pa.int64(), "of the video"),
    ]
)


def write_scenes(storage: Storage, plans: Sequence[ScenePlan], commits: Mapping[str, UnitCommit]) -> None:
    """Write the table, unless it stands there already; rows in the order of seeds."""
    with storage.open("videos.parquet") as file:
        videos = pyarrow.parquet.read_table(io.BytesIO(file.read()), columns=["video_id", "source"]).to_pylist()
    ids = {row["source"].rsplit("/", 1)[1]: row["video_id"] for row in videos}
    rows: list[dict[str, Any]] = [
        {
            "video_id": ids[f"{plan.stem}.mp4"],
            "split": plan.split,
            "seed": plan.seed,
            "world": WORLD,
            "num_frames": plan.num_frames,
            **{name: commits[plan.stem].result[name] for name in ("place", "light", "camera", "ground", "objects")},
        }
        for plan in plans
    ]
    with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
        path = Path(folder) / NAME
        write_table(path, rows, SCENES)
        data = path.read_bytes()
    try:
        if storage.read(NAME) == data:
            return
    except FileNotFoundError:
        pass
    storage.write(NAME, data)
