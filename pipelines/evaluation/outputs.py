"""What stands at the top of OUT: scores.parquet, errors.parquet, summary.json and report.html."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from longvie.metrics.catalogue import metric_of
from pipelines.evaluation import values
from pipelines.evaluation.folders import GeneratedVideo, Reference
from pipelines.evaluation.options import BASELINES, EvaluateOptions
from pipelines.evaluation.report import write_report
from pipelines.evaluation.score_stage import SCORES, ScoreSettings
from pipelines.preparation.units import Unit, UnitCommit
from pipelines.storage import Storage

SUMMARY_FORMAT = 1
_VERSIONS = ("longvie", "torch", "torchmetrics", "opencv-python-headless", "numpy")

ERRORS = pa.schema(
    [
        ("run", pa.string()),
        ("take", pa.int32()),
        ("video", pa.string()),
        ("segment", pa.int32()),
        ("uri", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
    ]
)


def write_outputs(
    folder: Path,
    options: EvaluateOptions,
    reference: Reference,
    videos: Sequence[GeneratedVideo],
    settings: ScoreSettings,
    storage: Storage,
    units: Sequence[Unit],
    commits: Mapping[str, UnitCommit],
    errors: Sequence[Mapping[str, Any]],
    vbench: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write all of it into a local folder; summary.json's content.

    Args:
        commits: of scored segments, by unit, in the order of the table.
        vbench: rows of scores that VBench gave.
    """
    tables = [pyarrow.parquet.read_table(io.BytesIO(storage.read(c.result["scores"]))) for c in commits.values()]
    scores = pa.concat_tables([*tables, pa.Table.from_pylist([dict(row) for row in vbench], SCORES)])
    pyarrow.parquet.write_table(scores, folder / "scores.parquet", compression="zstd")
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([dict(row) for row in errors], ERRORS), folder / "errors.parquet", compression="zstd"
    )
    incomplete = _incomplete(videos, units, commits)
    table = values.read_values(scores, {(row["run"], row["take"], row["video"]) for row in incomplete})
    runs = [*options.names, *(name for name in BASELINES if name in table)]
    metrics = [name for name in values.names(table) if metric_of(name)]
    summary: dict[str, Any] = {
        "format": SUMMARY_FORMAT,
        "reference": reference.uri,
        "runs": [
            {
                "name": name,
                "folders": [run.uri for run in options.runs if run.name == name],
                "seeds": sorted({v.seed for v in videos if v.run.name == name and v.seed is not None}),
                "models": sorted({v.settings["model"] for v in videos if v.run.name == name and v.settings}),
                "baseline": name in BASELINES,
                "metrics": values.estimates(table.get(name, {}), metrics, options.seed, options.resamples),
            }
            for name in runs
        ],
        "against": options.base,
        "comparisons": [
            {"run": name, **values.compare(table, name, options.base, metrics, options.seed, options.resamples)}
            for name in runs
            if name != options.base
        ],
        "incomplete": incomplete,
        "num_errors": len(errors),
        "undefined": sorted({name for commit in commits.values() for name in commit.result["undefined"]}),
        "settings": {**asdict(settings), "resamples": options.resamples, "seed": options.seed},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False))
    if options.report:
        curves = values.curves(scores, runs, incomplete, options.seed)
        write_report(folder / "report.html", summary, table, curves, reference, videos)
    return summary


def _incomplete(
    videos: Sequence[GeneratedVideo], units: Sequence[Unit], commits: Mapping[str, UnitCommit]
) -> list[dict[str, Any]]:
    """The videos that no mean may hold, and why: not wholly made, or a segment that could not be scored."""
    rows = [
        {"run": video.run.name, "take": video.run.take, "video": video.video_id, "why": video.incomplete}
        for video in videos
        if video.incomplete is not None
    ]
    said = {(row["run"], row["take"], row["video"]) for row in rows}
    for unit in units:
        key = (unit.task["run"], unit.task["take"], unit.task["video"])
        if unit.name not in commits and key not in said:
            said.add(key)
            why = f"segment {unit.task['segment']['index']} could not be scored"
            rows.append({"run": key[0], "take": key[1], "video": key[2], "why": why})
    return rows
