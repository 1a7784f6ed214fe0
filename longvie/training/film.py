"""A film as the embedded model learns from it: `python -m longvie.training.film FILM --out DIR`.

What is held out is cut away; each part that is left is written at the model's size and rate, and mirrored, lossless.
`longvie prepare` takes the folder: it finds the shots, and depth and tracks of the mirrored ones are their own. With
--held-out it is the other way round: what is held out is written, to be measured on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from longvie.media import CONTROL, Video, num_resampled, resampled, write_video
from longvie.training.tiny import FPS, HEIGHT, WIDTH

Span = tuple[float, float]
# Seconds of Big Buck Bunny that are never trained on: around the demo's excerpt, and one more stretch.
HELD_OUT: tuple[Span, ...] = ((100.0, 120.0), (340.0, 390.0))


def kept_spans(num_frames: int, fps: float, held_out: Sequence[Span]) -> list[tuple[int, int]]:
    """Frames (start, stop) of what lies between the spans held out, in order; those are apart and rise."""
    spans, start = [], 0
    for low, high in held_out:
        spans.append((start, min(num_frames, int(low * fps))))
        start = int(np.ceil(high * fps))
    return [(low, high) for low, high in [*spans, (start, num_frames)] if low < high]


def write_parts(film: str | Path, out: Path, held_out: Sequence[Span] = HELD_OUT) -> list[Path]:
    """Write `part-<k>.mp4` and `part-<k>-mirrored.mp4`; those that exist are left."""
    video = Video(film)
    made = []
    for k, span in enumerate(kept_spans(num_resampled(video.info, FPS), FPS, held_out)):
        made.append(_write(video, span, out / f"part-{k}.mp4"))
        made.append(_write(video, span, out / f"part-{k}-mirrored.mp4", mirrored=True))
    return made


def write_held_out(film: str | Path, out: Path, held_out: Sequence[Span] = HELD_OUT) -> list[Path]:
    """Write `held-out-<k>.mp4`, all frames of which lie within a span that is held out."""
    video = Video(film)
    spans = [(int(np.ceil(low * FPS)), int(high * FPS)) for low, high in held_out]
    return [_write(video, span, out / f"held-out-{k}.mp4") for k, span in enumerate(spans)]


def _write(video: Video, span: tuple[int, int], path: Path, *, mirrored: bool = False) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        batches = resampled(video, fps=FPS, height=HEIGHT, width=WIDTH, start=span[0], stop=span[1])
        write_video(partial, _mirrored(batches) if mirrored else batches, FPS, codec=CONTROL)
        partial.replace(path)
    return path


def _mirrored(batches: Iterator[ndarray]) -> Iterator[ndarray]:
    for batch in batches:
        yield np.ascontiguousarray(batch[:, :, ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", action="store_true", help="write what is held out instead")
    arguments = parser.parse_args()
    (write_held_out if arguments.held_out else write_parts)(arguments.film, arguments.out)


if __name__ == "__main__":
    main()
