"""Manifests of a prepared folder for each row: controls left out, exchanged, or made less exact.

Only `blurred` and `masked` need files of their own; they lie in OUT/controls/<kind>/ and are made once. What a row asks
for is an ordinary manifest, which `longvie generate` takes by hand, too.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from longvie.controls.tracks import Tracks
from longvie.media import CONTROL, GREY, Video, local_path, write_video
from pipelines.bench.ablations import BLUR, MASKED, Controls
from pipelines.errors import UserError
from pipelines.evaluation.folders import Reference, ReferenceVideo
from pipelines.generation.inputs import read_rows, to_manifest
from pipelines.hashes import fingerprint, sha256_file
from pipelines.progress import Report
from pipelines.storage import Storage


def write_manifest(reference: Reference, controls: Controls, storage: Storage, report: Report) -> str:
    """The URI of the manifest for a row's controls."""
    rows = {row.video_id: row for row in read_rows(reference.uri)}
    written = []
    for at, video in enumerate(reference.videos):
        row, length = rows[video.video_id], video.num_frames
        dense, sparse = row.dense, row.sparse
        if controls in ("sparse", "none"):
            dense = ()
        if controls in ("dense", "none"):
            sparse = ()
        if controls == "shuffled":
            dense, sparse = others(reference, at)
        if controls == "blurred":
            dense = _made(storage, "blurred", video, reference, report)
        if controls == "masked":
            sparse = _made(storage, "masked", video, reference, report)
        written.append(to_manifest(replace(row, dense=dense, sparse=sparse, num_frames=length)))
    name = f"manifests/{controls}.jsonl"
    storage.write(name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written).encode())
    return f"{storage.uri}/{name}"


def others(reference: Reference, at: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Dense and sparse controls of the next video that is at least as long, around the circle.

    Of the longest video, those of the longest other, whose whole segments begin again when they end.
    """
    videos, wanted = reference.videos, reference.videos[at]
    others = [videos[(at + step) % len(videos)] for step in range(1, len(videos))]
    for other in others:
        if other.num_frames >= wanted.num_frames:
            return other.dense, other.sparse
    longest = max(others, key=lambda video: video.num_frames, default=wanted)
    whole = (longest.num_frames - 1) // (reference.settings["segment_length"] - 1)
    if longest is wanted or not whole:
        raise UserError(
            f"{wanted.video_id} has no other video whose controls it could be given; leave the controls ablation out "
            "with --only, or add a video"
        )
    count = len(wanted.dense)
    turns = -(-count // whole)
    return (longest.dense[:whole] * turns)[:count], (longest.sparse[:whole] * turns)[:count]


def _made(
    storage: Storage, kind: Controls, video: ReferenceVideo, reference: Reference, report: Report
) -> tuple[str, ...]:
    """The control files of a kind for one video; those that exist are kept."""
    uris = []
    for index, (dense, tracks) in enumerate(zip(video.dense, video.tracks, strict=True)):
        given = dense if kind == "blurred" else tracks
        if given is None:
            raise UserError(f"{video.video_id} has no tracks, so none can be masked; leave robustness out of --only")
        key = fingerprint([sha256_file(Path(local_path(given))), BLUR, MASKED])[:16]
        name = f"controls/{kind}/{video.video_id}/{index:05d}-{key}.mp4"
        uris.append(f"{storage.uri}/{name}")
        if storage.size(name) is not None:
            continue
        with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
            path = Path(folder) / "control.mp4"
            if kind == "blurred":
                write_video(path, blurred(given), reference.settings["fps"], codec=GREY)
            else:
                drawn = masked(given, index).render(reference.settings["height"], reference.settings["width"])
                write_video(path, drawn, reference.settings["fps"], codec=CONTROL)
            storage.put(name, path)
        report("note", text=f"{kind} control of {video.video_id}, segment {index}")
    return tuple(uris)


def blurred(dense: str) -> np.ndarray:
    """A dense control, each pixel the mean of BLUR x BLUR around it: uint8 (t, h, w, 3)."""
    video = Video(dense)
    frames = video.read(range(video.info.num_frames))
    return np.stack([cv2.blur(frame, (BLUR, BLUR)) for frame in frames])


def masked(tracks: str, seed: int) -> Tracks:
    """Tracks of one segment without MASKED of their points, drawn from the segment's number."""
    whole = Tracks.load(local_path(tracks))
    count = whole.points.shape[1]
    kept = np.random.default_rng(seed).permutation(count)[round(MASKED * count) :]
    kept.sort()
    depth = None if whole.depth is None else whole.depth[kept]
    return Tracks(points=whole.points[:, kept], visibility=whole.visibility[:, kept], depth=depth)
