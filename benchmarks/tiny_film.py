"""The embedded model on a film it has not seen: `python benchmarks/tiny_film.py PREPARED [--model DIR] [--strip PNG]`.

    python -m longvie.training.film big_buck_bunny.mp4 --held-out --out out/held-out
    longvie prepare out/held-out --model tiny --out out/held-out-prepared

PSNR by segment, in means over all shots that have that many whole ones: with both controls, with none, and each
segment's own true first frame, kept. One noise seed a shot.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny import BOTH, NONE, Without, psnr
from torch import Tensor

from longvie.config import GenerationConfig
from longvie.long_video import LongVideoRequest, generate_long_video
from longvie.media import Video, resampled
from longvie.models.loading import TINY, load_pipeline
from longvie.pipeline import LongViePipeline
from longvie.training.data import SceneControls
from pipelines.encoding.prepared import PreparedData, PreparedSegment, read_prepared
from pipelines.storage import local_path_of

MAX_SEGMENTS = 6
SHOWN = (0, 4, 8, 16, 24, 32, 48, 64, 96)  # frames of a strip


def shots(prepared: PreparedData) -> dict[str, SceneControls]:
    """The whole segments of each shot that has two and more; at most `MAX_SEGMENTS`."""
    by_video: dict[str, list[PreparedSegment]] = defaultdict(list)
    for segment in prepared.segments:
        if segment.num_valid == prepared.segment_length and len(by_video[segment.video_id]) < MAX_SEGMENTS:
            by_video[segment.video_id].append(segment)
    return {name: _shot(prepared, segments) for name, segments in by_video.items() if len(segments) > 1}


def _shot(prepared: PreparedData, segments: list[PreparedSegment]) -> SceneControls:
    start, count = segments[0].source_start, len(segments) * (prepared.segment_length - 1) + 1
    how: dict[str, Any] = {**prepared.frames, "start": start, "stop": start + count}
    frames = np.concatenate(list(resampled(local_path_of(segments[0].source), **how)))
    dense, sparse = ([_control(prepared, getattr(one, kind).name) for one in segments] for kind in ("dense", "sparse"))
    return SceneControls(
        frames=torch.from_numpy(frames),
        caption=segments[0].prompt or "a video",
        dense=torch.cat([dense[0], *(part[1:] for part in dense[1:])]),
        sparse_by_segment=tuple(sparse),
    )


def _control(prepared: PreparedData, name: str) -> Tensor:
    video = Video(Path(prepared.uri) / name)
    return torch.from_numpy(video.read(range(video.info.num_frames)))


def made(pipe: LongViePipeline, shot: SceneControls, kept: frozenset[str], seed: int) -> Tensor:
    request = LongVideoRequest(
        first_frame=shot.frames[0],
        controls=Without(shot, kept),
        prompts=(shot.caption,),
        num_frames=len(shot.frames),
        seed=seed,
        config=GenerationConfig.for_pipeline(pipe.config),
    )
    return torch.cat([result.frames for result in generate_long_video(pipe, request)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--strip", type=Path, help="picture of the three longest shots: truth, both, none")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    pipe = load_pipeline(arguments.model)
    step = pipe.segment_length - 1
    table: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    rows = []
    found = sorted(shots(read_prepared(arguments.prepared)).items(), key=lambda item: -len(item[1].frames))
    for number, (_, shot) in enumerate(found):
        videos = {"both": made(pipe, shot, BOTH, number), "none": made(pipe, shot, NONE, number)}
        for start in range(0, len(shot.frames) - 1, step):
            truth = shot.frames[start + 1 : start + 1 + step]
            parts = {name: video[start + 1 : start + 1 + step] for name, video in videos.items()}
            parts["frozen"] = shot.frames[start : start + 1].expand_as(truth)
            for name, part in parts.items():
                table[name][start // step + 1].append(psnr(part, truth))
        if number < 3:
            shown = [k for k in SHOWN if k < len(shot.frames)]
            rows += [torch.cat(list(video[shown]), dim=1) for video in (shot.frames, *videos.values())]
    for segment, values in table["both"].items():
        means = {name: round(float(np.mean(table[name][segment])), 2) for name in table}
        print(json.dumps({"segment": segment, "shots": len(values), **means}))
    if arguments.strip:
        width = max(row.shape[1] for row in rows)
        padded = [torch.nn.functional.pad(row, (0, 0, 0, width - row.shape[1])) for row in rows]
        picture = Image.fromarray(torch.cat(padded).numpy())
        picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(arguments.strip)


if __name__ == "__main__":
    main()
