"""`longvie bench`: a benchmark's videos, every row of its ablations, scores and one report.

It leads from job to job and makes nothing itself: `longvie prepare` or `scenes`, `generate` and `evaluate` resume as
they always do, so the same command goes on where it stopped.

    <out>/scenes, film/prepared or prepared   what the videos are made from
    <out>/manifests/, controls/               what each row gives the model to follow
    <out>/runs/<suite>/<row>/<seed>/          generated
    <out>/scores/<suite>/                     evaluated; report.html of its own
    <out>/summary.json, report.html           the ablations
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow.parquet

from longvie.media import local_path
from pipelines import cluster
from pipelines.bench.ablations import FULL, Ablation, Row, chosen, rows_of
from pipelines.bench.controls import write_manifest
from pipelines.bench.options import BenchOptions
from pipelines.bench.report import write_report
from pipelines.bench.verdicts import judge
from pipelines.bench.videos import Suite, Videos, make_videos
from pipelines.errors import UserError
from pipelines.evaluation import values
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.folders import read_reference
from pipelines.evaluation.options import BASELINES, EvaluateOptions
from pipelines.generation.generate import GenerateOptions, generate
from pipelines.progress import Report
from pipelines.storage import check_writable, open_storage

NAME = "bench.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Benched:
    """What a run came to."""

    out: str
    summary: Mapping[str, Any]  # summary.json

    @property
    def complete(self) -> bool:
        return not self.summary["incomplete"]


def bench(options: BenchOptions, report: Report, report_generate: Callable[[], Report] | None = None) -> Benched:
    """Run a benchmark end to end.

    Raises:
        UserError and other `ValueError`s: what only the user can mend.
    """
    model = options.read_model()
    ablations = chosen(options.only, options.trained)
    rows = rows_of(ablations)
    for row in rows:
        if row.model is not None:
            replace(options.model, model=row.model).check()
    check_writable(options.out)
    storage = open_storage(options.out)
    _open(storage, options)
    with nullcontext() if options.workers == 0 else cluster.cluster(options.address):
        videos = make_videos(options, model, storage, report)
        for name, why in videos.missing:
            report("note", text=f"missing: {name}: {why}")
        scores = [_run_suite(options, suite, rows, storage, report) for suite in videos.suites]
    summary = _summary(options, ablations, rows, videos, scores)
    storage.write("summary.json", json.dumps(summary, indent=1, ensure_ascii=False).encode())
    storage.write("report.html", write_report(summary).encode())
    return Benched(out=storage.uri, summary=summary)


def _open(storage: Any, options: BenchOptions) -> None:
    """Refuse a folder of something else, or of another benchmark."""
    said = {"format": FORMAT, "name": options.name, "segments": options.segments, "protocol": options.protocol}
    try:
        before = json.loads(storage.read(NAME))
    except FileNotFoundError:
        before = None
        if storage.list(""):
            raise UserError(
                f"--out {storage.uri} holds something else than a benchmark; choose another folder"
            ) from None
    except ValueError as error:
        raise UserError(f"--out {storage.uri}: {NAME} was not written by longvie bench; choose another") from error
    if before is not None and before != said:
        raise UserError(
            f"--out {storage.uri} was begun as another benchmark ({before}); give the same, or another --out"
        )
    storage.write(NAME, json.dumps(said).encode())


def _run_suite(
    options: BenchOptions, suite: Suite, rows: Sequence[Row], storage: Any, report: Report
) -> dict[str, Any]:
    """Generate every row with every seed, and score them all; evaluate's summary, and where its scores lie."""
    reference = read_reference(suite.reference)
    own = open_storage(f"{storage.uri}/suites/{suite.name}")
    frames = {name: reference.settings[name] for name in ("height", "width")}
    runs = []
    for row in rows:
        manifest = write_manifest(reference, row.controls, own, report)
        for seed in range(options.seeds):
            out = f"{storage.uri}/runs/{suite.name}/{row.name}/{seed}"
            report("note", text=f"{suite.name}: {row.name}, seed {seed}")
            generate(
                GenerateOptions(
                    source=manifest,
                    out=out,
                    model=options.model if row.model is None else replace(options.model, model=row.model),
                    overrides={**frames, **row.config},
                    seed=seed,
                    workers=options.workers,
                    gpus_per_worker=options.gpus_per_worker,
                    threads_per_worker=options.threads_per_worker,
                ),
                report,
            )
            runs.append(f"{row.name}={out}")
    done = evaluate(
        EvaluateOptions(
            generated=tuple(runs),
            reference=suite.reference,
            out=f"{storage.uri}/scores/{suite.name}",
            against=FULL,
            vae=options.model.model,
            depth=options.depth,
            tracker=options.tracker,
            lpips=options.lpips,
            vbench_python=options.vbench_python,
            resamples=options.resamples,
            workers=options.workers,
            threads_per_worker=options.threads_per_worker,
            gpus_per_worker=options.gpus_per_worker or 0,
        ),
        report,
    )
    return {"suite": suite.name, "uri": done.out, "summary": done.summary}


def _summary(
    options: BenchOptions,
    ablations: Sequence[Ablation],
    rows: Sequence[Row],
    videos: Videos,
    scores: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All suites' videos as one table, and what it says of each ablation."""
    table: values.Table = {}
    incomplete = []
    for score in scores:
        out = {(row["run"], row["take"], row["video"]) for row in score["summary"]["incomplete"]}
        incomplete += [{"suite": score["suite"], **row} for row in score["summary"]["incomplete"]]
        found = values.read_values(pyarrow.parquet.read_table(local_path(f"{score['uri']}/scores.parquet")), out)
        for run, metrics in found.items():
            for metric, by_video in metrics.items():
                kept = table.setdefault(run, {}).setdefault(metric, {})
                kept.update({f"{score['suite']}/{video}": takes for video, takes in by_video.items()})
    metrics = values.names(table)
    runs = [row.name for row in rows] + [name for name in BASELINES if name in table]
    return {
        "format": FORMAT,
        "benchmark": options.name,
        "model": options.model.model or "embedded",
        "seeds": options.seeds,
        "resamples": options.resamples,
        "suites": [
            {"name": score["suite"], "scores": score["uri"], "settings": score["summary"]["settings"]}
            for score in scores
        ],
        "versions": scores[0]["summary"]["versions"],
        "missing": [{"name": name, "why": why} for name, why in videos.missing],
        "incomplete": incomplete,
        "metrics": metrics,
        "runs": {run: values.estimates(table.get(run, {}), metrics, 0, options.resamples) for run in runs},
        "titles": {row.name: row.title for row in rows},
        "ablations": [_compared(ablation, table, options) for ablation in ablations],
    }


def _compared(ablation: Ablation, table: values.Table, options: BenchOptions) -> dict[str, Any]:
    rows = []
    for row in ablation.rows:
        found = values.compare(table, row.name, FULL, ablation.metrics, 0, options.resamples)["metrics"]
        rows.append(
            {
                **asdict(row),
                "differences": found,
                "verdict": judge(row.expected, ablation.metrics[0], found),
            }
        )
    return {**asdict(ablation), "rows": rows}
