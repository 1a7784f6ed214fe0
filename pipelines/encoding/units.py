"""From prepared segments to units: what is encoded and committed at once, and all that decides it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from longvie.training.encoded_layout import EncodedMeta
from pipelines.encoding.prepared import PreparedData, PreparedSegment
from pipelines.hashes import fingerprint
from pipelines.preparation.units import Unit

STAGE = "encode"
EMPTY_UNIT = "empty"


def identity(meta: EncodedMeta) -> str:
    """SHA-256 over the encoders and every setting that decides encoded data."""
    return fingerprint(meta.to_json())


def shard_units(prepared: PreparedData, meta: EncodedMeta, stamps: Mapping[str, str | None]) -> list[Unit]:
    """One a shard: up to `segments_per_shard` segments of one video, those with a prompt.

    Args:
        stamps: of sources, so that a change during the run is noticed.
    """
    units = []
    for (video_id, shard), group in itertools.groupby(
        prepared.segments, lambda one: (one.video_id, one.segment // meta.segments_per_shard)
    ):
        segments = [one for one in group if one.prompt is not None]
        if not segments:
            continue
        first = segments[0]
        name = f"{video_id}-{shard:05d}"
        units.append(
            Unit(
                stage=STAGE,
                name=name,
                task={
                    "name": name,
                    "video_id": video_id,
                    "source": first.source,
                    "stamp": stamps[first.source],
                    "segments": [_task(one) for one in segments],
                },
                decides=[identity(meta), video_id, first.source_sha256, prepared.frames, [_task(s) for s in segments]],
                cost=sum(one.num_valid for one in segments),
                uris=(first.source,),
                said=f"{video_id} segments {first.segment} to {segments[-1].segment}",
            )
        )
    return units


def empty_unit(prepared: PreparedData, meta: EncodedMeta) -> Unit:
    """What stands for an absent prompt and first frame."""
    return Unit(
        stage=STAGE,
        name=EMPTY_UNIT,
        task={"name": EMPTY_UNIT},
        decides=[identity(meta), EMPTY_UNIT],
        cost=meta.segment_length,
        uris=(prepared.uri,),
        said=EMPTY_UNIT,
    )


def _task(one: PreparedSegment) -> dict[str, Any]:
    return {
        "segment": one.segment,
        "num_segments": one.num_segments,
        "num_valid": one.num_valid,
        "start": one.source_start,
        "prompt": one.prompt,
        "dense": None if one.dense is None else asdict(one.dense),
        "sparse": None if one.sparse is None else asdict(one.sparse),
    }
