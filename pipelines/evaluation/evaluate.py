"""`longvie evaluate`: runs of `longvie generate` against the prepared videos they were made from.

One pass over segments (preparation's: same commits, same resume), then tables, statistics and the report. A segment
that cannot be scored is a row of errors, and its video is marked incomplete and left out of every mean.
"""

from __future__ import annotations

import functools
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longvie.metrics.fidelity import LpipsError, load_lpips, undefined_at
from longvie.models.loading import resolve_model
from pipelines import cluster
from pipelines.errors import UserError
from pipelines.evaluation import outputs
from pipelines.evaluation.folders import GeneratedVideo, Reference, read_generated, read_reference
from pipelines.evaluation.options import EvaluateOptions
from pipelines.evaluation.score_stage import ScoreSettings, ScoreStage
from pipelines.evaluation.units import baseline_units, by_true_segment, generated_units
from pipelines.evaluation.vbench import read_vbench
from pipelines.hashes import fingerprint, sha256_file
from pipelines.preparation.estimators import describe, describe_tracker
from pipelines.preparation.passes import Here, OnRay, Place
from pipelines.preparation.unit_worker import Job
from pipelines.preparation.units import Made, Unit, UnitCommit, UnitStore
from pipelines.progress import Report
from pipelines.storage import Storage, check_writable, open_storage

NAME = "evaluate.json"
FORMAT = 1
FOLDERS = ("attempts", "commits", "scores", "tasks")
FILES = (NAME, "scores.parquet", "errors.parquet", "summary.json", "report.html")
_SECONDS_A_FRAME = 0.05  # a guess that decides only how units are packed


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What a job came to."""

    out: str
    summary: Mapping[str, Any]  # summary.json
    num_made: int
    errors: Sequence[Mapping[str, Any]]

    @property
    def complete(self) -> bool:
        return not self.errors and not self.summary["incomplete"]


def evaluate(
    options: EvaluateOptions, report: Report, open_storage: Callable[[str], Storage] = open_storage
) -> Evaluated:
    """Score all runs that the options name.

    Raises:
        UserError and other `ValueError`s: what only the user can mend; nothing has been made then.
        StorageError: OUT cannot be read or written; what is committed stays.
    """
    check_writable(options.out)
    reference = read_reference(options.reference)
    videos = [video for run in options.runs for video in read_generated(run, reference)]
    storage = open_storage(options.out)
    _open(storage, options.restart)
    for name, why in undefined_at(reference.settings["height"], reference.settings["width"]).items():
        report("note", text=f"{name} is not reported: it {why}")
    with _place(options) as place:
        settings = _settings(options, place)
        lengths = {
            video.video_id: max(sum(s.num_valid - (s.index > 0) for s in video.segments), 1)
            for video in videos
            if video.files
        }
        units = by_true_segment(
            generated_units(videos, reference, settings) + baseline_units(lengths, reference, settings)
        )
        commits, errors, num_made = _score(units, settings, storage, open_storage, place, report)
    vbench = read_vbench(options, videos, reference, storage)
    return _finish(options, reference, videos, settings, storage, units, commits, errors, num_made, vbench)


def _open(storage: Storage, restart: bool) -> None:
    try:
        ours = json.loads(storage.read(NAME)).get("format") == FORMAT
    except FileNotFoundError:
        ours = None
    except (ValueError, AttributeError):
        ours = False
    if ours is False or (ours is None and storage.walk("commits")):
        raise UserError(f"--out {storage.uri} holds something else than an evaluation; choose another folder")
    if restart:
        for folder in FOLDERS:
            for name in sorted(storage.walk(folder)):
                storage.delete(name)
            storage.delete_empty_folders(folder)
        for name in FILES:
            storage.delete(name)
    storage.write(NAME, json.dumps({"format": FORMAT}).encode())


@contextmanager
def _place(options: EvaluateOptions) -> Iterator[Place]:
    if options.workers == 0:
        yield Here()
        return
    with cluster.cluster(options.address):
        placement = cluster.place_stage(
            "score",
            options.workers,
            options.gpus_per_worker,
            options.threads_per_worker,
            options.wait_for_nodes,
            "--workers, --gpus-per-worker or --threads-per-worker",
        )
        yield OnRay(placements={"score": placement}, loading=frozenset({"score"}))


def _settings(options: EvaluateOptions, place: Place) -> ScoreSettings:
    device = "cuda" if options.gpus_per_worker else "cpu"
    threads = options.threads_per_worker
    depth = place.call("score", describe, options.depth, device, "float32", 8, threads)
    if depth.polarity is None:
        raise UserError(f"--depth {options.depth} does not estimate depth; give builtin or a depth estimator")
    tracker = place.call("score", describe_tracker, options.tracker, device, "float32", threads)
    if options.lpips:
        try:
            place.call("score", _try_lpips)
        except LpipsError as error:
            raise UserError(str(error)) from error
    vae = None
    if options.vae != "none":
        vae = str(resolve_model(options.vae))
        weights = sorted((Path(vae) / "vae").glob("*.safetensors"))
        vae = f"{vae}#{fingerprint([sha256_file(path) for path in weights])}"
    return ScoreSettings(
        depth=options.depth,
        depth_fingerprint=depth.fingerprint,
        depth_polarity=depth.polarity,
        tracker=options.tracker,
        tracker_fingerprint=tracker.fingerprint,
        lpips=options.lpips,
        vae=vae,
        threads=threads,
        device=device,
    )


def _try_lpips() -> None:
    load_lpips()


def _score(
    units: Sequence[Unit],
    settings: ScoreSettings,
    storage: Storage,
    open_storage: Callable[[str], Storage],
    place: Place,
    report: Report,
) -> tuple[dict[str, UnitCommit], list[dict[str, Any]], int]:
    """The pass; the commits that exist after it, rows of errors, and how many units it made."""
    store = UnitStore(storage)
    commits = store.committed(units)
    left = [unit for unit in units if unit.name not in commits]
    report("stage", stage="score", num_units=len(units), num_done=len(commits), cost=sum(unit.cost for unit in left))
    job = Job(
        out=storage.uri,
        run=secrets.token_hex(8),
        name="score",
        stage=functools.partial(ScoreStage, settings),
        open_storage=open_storage,
    )
    errors, seconds, num_made = [], 0.0, 0
    for result in place.run(left, job, _SECONDS_A_FRAME):
        unit = result.unit
        seconds += result.seconds
        num_made += result.made
        if result.error is not None:
            errors.append(
                {
                    **{name: unit.task[name] for name in ("run", "take", "video")},
                    "segment": unit.task["segment"]["index"],
                    "uri": unit.uris[0],
                    "error": result.error,
                    "attempts": result.attempts,
                }
            )
        report(
            "unit",
            stage="score",
            unit=unit.name,
            said=unit.said,
            source=unit.uris[0],
            made=result.made,
            error=result.error,
            seconds=round(result.seconds, 3),
            cost=unit.cost,
        )
    storage.delete("tasks/score.jsonl")
    report("stage done", stage="score", num_made=num_made, seconds=seconds, cost=sum(unit.cost for unit in left))
    order = {unit.name: at for at, unit in enumerate(units)}
    errors.sort(key=lambda row: (row["run"], row["take"], row["video"], row["segment"]))
    found = store.committed(units)
    return dict(sorted(found.items(), key=lambda item: order[item[0]])), errors, num_made


def _finish(
    options: EvaluateOptions,
    reference: Reference,
    videos: Sequence[GeneratedVideo],
    settings: ScoreSettings,
    storage: Storage,
    units: Sequence[Unit],
    commits: Mapping[str, UnitCommit],
    errors: Sequence[Mapping[str, Any]],
    num_made: int,
    vbench: Sequence[Mapping[str, Any]],
) -> Evaluated:
    with tempfile.TemporaryDirectory(prefix="longvie-") as name:
        folder = Path(name)
        summary = outputs.write_outputs(
            folder, options, reference, videos, settings, storage, units, commits, errors, vbench
        )
        made = Made(folder=folder)
        key = fingerprint({name: sha256_file(path) for name, path in made.files()})
        if UnitStore(storage).exists("outputs", "outputs", key) is None:
            UnitStore(storage).commit("outputs", "outputs", key, made)
    return Evaluated(out=storage.uri, summary=summary, num_made=num_made, errors=errors)
