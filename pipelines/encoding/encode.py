"""`longvie encode`: a prepared folder in; what training reads, as a model's encoders see it, out.

    <out>/encode.json, empty.safetensors, shards/, samples.parquet   see longvie/training/encoded_layout.py
          errors.parquet                                             what could not be encoded
          commits/                                                   what exists; see preparation/units.py

Shard by shard, in any order, on any worker; a shard exists when its commit does, the folder when samples.parquet does.
Whatever happens, the same command again makes what is missing and nothing else.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longvie.models.encoders import encoder_fingerprint, read_encoder_config
from longvie.models.loading import check_components, read_pipeline_config
from longvie.training.encoded_layout import EMPTY, FORMAT, META, SAMPLE_ROWS, SAMPLES, SHARDS, EncodedMeta
from pipelines import cluster
from pipelines.encoding.options import EncodeOptions
from pipelines.encoding.prepared import PreparedData, read_prepared
from pipelines.encoding.stage import EncodeJob, EncodeStage
from pipelines.encoding.units import EMPTY_UNIT, STAGE, empty_unit, identity, shard_units
from pipelines.errors import UserError, first_line, storage_errors
from pipelines.fetch import stamp_of
from pipelines.preparation.columns import ERRORS, write_table
from pipelines.preparation.long_videos import source_units
from pipelines.preparation.pass_run import PassRun, StageSummary
from pipelines.preparation.passes import Here, OnRay, Place
from pipelines.preparation.recipe import differences
from pipelines.preparation.sources import Source
from pipelines.preparation.stages import SourcesStage
from pipelines.preparation.tidy import clean, forget
from pipelines.preparation.units import Made, Unit, UnitCommit, UnitStore, commit_name
from pipelines.progress import Report
from pipelines.storage import Storage, check_writable, open_storage

FOLDERS = ("attempts", "commits", SHARDS, "tasks")
FILES = (SAMPLES, META, EMPTY, "errors.parquet")  # in the order in which they are forgotten


@dataclass(kw_only=True)
class EncodeSummary:
    """What a run came to."""

    num_videos: int
    num_segments: int
    errors: list[dict[str, Any]]
    stages: list[StageSummary]

    def failed(self, strict: bool) -> bool:
        """Whether the run is a failure: nothing came out, or something is missing and that is not allowed."""
        return not self.num_segments or (strict and bool(self.errors))


def encode(
    options: EncodeOptions, report: Report, open_storage: Callable[[str], Storage] = open_storage
) -> EncodeSummary:
    """Encode all segments of a prepared folder.

    Args:
        open_storage: opens OUT, in this process and in the workers.

    Raises:
        UserError, CheckpointError: what only the user can mend; nothing has been made then.
        StorageError: OUT cannot be read or written; what is committed stays.
    """
    prepared = read_prepared(options.prepared)
    check_writable(options.out)
    model = _model(options.model)
    config, encoders = read_pipeline_config(model), read_encoder_config(model)
    check_components(config.path)
    sha256 = encoder_fingerprint(model)
    options.meta(prepared, config, encoders, sha256, "cpu")  # what does not fit is refused before Ray starts
    with _place(options) as (place, device):
        meta = options.meta(prepared, config, encoders, sha256, device)
        run = EncodeRun(
            prepared=prepared,
            model=model,
            meta=meta,
            storage=open_storage(options.out),
            open=open_storage,
            place=place,
            report=report,
        )
        try:
            if options.restart:
                forget(run.storage, FOLDERS, FILES)
            _open_meta(run.storage, meta)
            _check_named(run.store, prepared, prune=options.prune)
        except storage_errors() as error:
            raise UserError(
                f"--out {options.out} cannot be used ({first_line(error)}); choose another place"
            ) from error
        if (config.height, config.width) != (meta.height, meta.width):
            made = f"{config.width}x{config.height}"
            report("note", text=f"{prepared.uri} is {meta.width}x{meta.height}, the model's own size is {made}")
        sources = {one.source for one in prepared.segments}
        report("sources", num_sources=len(sources), placement=str(place))
        return run.all()


@dataclass(kw_only=True)
class EncodeRun(PassRun):
    """One run over one OUT."""

    prepared: PreparedData
    model: str | None
    meta: EncodedMeta

    def seconds_a_cost(self, stage: str) -> float:
        """Of one byte of a source; of one frame with the embedded model."""
        return {"sources": 3e-9, STAGE: 0.02}[stage]

    def all(self) -> EncodeSummary:
        """Both passes, then the tables; what it came to."""
        stamps = {uri: stamp_of(uri) for uri in sorted({one.source for one in self.prepared.segments})}
        for one in self.prepared.segments:
            if one.prompt is None:
                self.fail((one.source,), STAGE, one.said, "preparation has no prompt for it; see its errors.parquet", 1)
        self._forget_failures()
        units = [empty_unit(self.prepared, self.meta), *shard_units(self.prepared, self.meta, stamps)]
        there = self.store.committed(units)
        left = [unit for unit in units if unit.name not in there]
        if left:  # from here on the folder is unfinished, and says so
            self.storage.delete(SAMPLES)
            self.storage.delete(commit_name("outputs", "outputs"))
        good = self._unchanged(left, stamps)
        job = EncodeJob(prepared=self.prepared.uri, frames=self.prepared.frames, model=self.model, meta=self.meta)
        wanted = [unit for unit in units if unit.name in there or unit.name in good]
        commits = self.make(STAGE, functools.partial(EncodeStage, job), wanted)
        rows: list[dict[str, Any]] = []
        for unit in wanted:
            result = commits[unit.name].result if unit.name in commits else {}
            for failed in result.get("errors", ()):
                said = f"{result['video_id']} segment {failed['segment']}"
                self.fail(unit.uris, STAGE, said, failed["error"], 1)
                self.report("note", text=f"{said}: {failed['error']}")
            for number, row in enumerate(result.get("rows", ())):
                rows.append({"shard": result["shard"], "row": number, "video_id": result["video_id"], **row})
        if EMPTY_UNIT not in commits:  # without it the folder cannot be trained on
            rows.clear()
        rows.sort(key=lambda row: (row["video_id"], row["segment"]))
        self._finish(rows)
        return EncodeSummary(
            num_videos=len({row["video_id"] for row in rows}),
            num_segments=len(rows),
            errors=self.errors,
            stages=self.stages,
        )

    def _forget_failures(self) -> None:
        """Shards that lack segments are tried again: what was wrong may have been mended."""
        for name, commit in self.store.read_all(STAGE).items():
            if commit.result.get("errors"):
                self.storage.delete(commit_name(STAGE, name))

    def _unchanged(self, left: Sequence[Unit], stamps: Mapping[str, str | None]) -> set[str]:
        """The names of those units whose source is still what was prepared; each source is hashed once."""
        expected = {one.source: one.source_sha256 for one in self.prepared.segments}
        needed = sorted({unit.uris[0] for unit in left if unit.uris[0] in expected})
        units = source_units([Source(uri=uri, where=self.prepared.uri) for uri in needed], stamps)
        commits = self.make("sources", SourcesStage, units)
        changed = {uri for uri, unit in zip(needed, units, strict=True) if unit.name not in commits}
        for uri, unit in zip(needed, units, strict=True):
            if uri not in changed and commits[unit.name].result["sha256"] != expected[uri]:
                self.fail((uri,), "sources", "file", "is not what was prepared; run longvie prepare again", 1)
                changed.add(uri)
        return {unit.name for unit in left if unit.uris[0] not in changed}

    def _finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The tables; then everything goes that nothing vouches for."""
        self.errors.sort(key=lambda row: (row["source"], row["stage"], row["unit"]))
        unit = Unit(
            stage="outputs", name="outputs", task={}, decides=[rows, self.errors], cost=0, uris=(), said="tables"
        )
        commit = self.store.exists(unit.stage, unit.name, unit.key)
        if commit is None:
            with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
                write_table(Path(folder) / "errors.parquet", self.errors, ERRORS)
                write_table(Path(folder) / SAMPLES, rows, SAMPLE_ROWS)
                made = Made(folder=Path(folder))
                assert [name for name, _ in made.files()][-1] == SAMPLES, "it comes last: the folder is whole then"
                commit = self.store.commit(unit.stage, unit.name, unit.key, made)
        self.known["outputs"] = {unit.name: commit}
        known = {stage: units for stage, units in self.known.items() if stage != "sources"}
        clean(self.storage, known, set(), keep_others=False, folders=FOLDERS, files=FILES)


def _open_meta(storage: Storage, meta: EncodedMeta) -> None:
    """Keep what decides the data in OUT; `UserError` if OUT was made by another model or with other settings."""
    content = {**meta.to_json(), "fingerprint": identity(meta)}
    try:
        before: Any = json.loads(storage.read(META))
    except FileNotFoundError:
        before = None
    except ValueError:
        before = {}
    if before == content:
        return
    remedy = "choose another --out, or begin anew with --restart"
    if before is not None:
        if not isinstance(before, dict) or before.get("format") != FORMAT:
            raise UserError(f"{storage.uri}/{META} was not written by this version of longvie; {remedy}")
        before.pop("fingerprint", None)
        said = differences(before, meta.to_json())
        raise UserError(f"{storage.uri} was encoded with {said}; data of two kinds is not mixed: {remedy}")
    storage.write(META, json.dumps(content, indent=2, ensure_ascii=False).encode())


def _check_named(store: UnitStore, prepared: PreparedData, *, prune: bool) -> None:
    """`UserError` if OUT holds videos that PREPARED no longer has: they are not to vanish by accident."""
    if prune:
        return
    named = {one.video_id for one in prepared.segments}
    commits: Mapping[str, UnitCommit] = store.read_all(STAGE)
    held = {commit.result["video_id"] for commit in commits.values() if "video_id" in commit.result}
    missing = sorted(held - named)
    if missing:
        raise UserError(
            f"{store.storage.uri} also holds {missing[0]}"
            + (f" and {len(missing) - 1} more videos" if len(missing) > 1 else "")
            + f", which {prepared.uri} does not have: give --prune to remove them, or choose another --out"
        )


@contextmanager
def _place(options: EncodeOptions) -> Iterator[tuple[Place, str]]:
    """Where the passes run, checked before anything begins, and on which device the encoders work."""
    if options.workers == 0:
        yield Here(), "cuda" if torch.cuda.is_available() else "cpu"
        return
    with cluster.cluster(options.address):
        light = cluster.place_stage("sources", options.workers, 0.0, 1, options.wait_for_nodes)
        remedy = "--workers, --gpus-per-worker or --threads-per-worker"
        heavy = cluster.place_stage(
            STAGE,
            options.workers,
            options.gpus_per_worker,
            options.threads_per_worker,
            options.wait_for_nodes,
            remedy,
        )
        yield OnRay(placements={"sources": light, STAGE: heavy}, loading=frozenset([STAGE])), heavy.device


def _model(given: str | None) -> str | None:
    """The model for processes with another working folder; a hub name stays as it is."""
    if given is None or given == "tiny":
        return None
    return str(Path(given).absolute()) if Path(given).exists() else given
