"""A film as the embedded model learns from it: `python -m longvie.training.film FILM --out DIR`.

What is held out is cut away; each part that is left is written at the model's size and rate, and mirrored, lossless.
`longvie prepare` takes the folder: it finds the shots, and depth and tracks of the mirrored ones are their own.
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
    out.mkdir(parents=True, exist_ok=True)
    video = Video(film)
    size = {"fps": FPS, "height": HEIGHT, "width": WIDTH}
    made = []
    for k, (start, stop) in enumerate(kept_spans(num_resampled(video.info, FPS), FPS, held_out)):
        for name, flip in ((f"part-{k}.mp4", False), (f"part-{k}-mirrored.mp4", True)):
            if not (out / name).exists():
                partial = out / f".{name}.partial"
                batches = resampled(video, **size, start=start, stop=stop)
                write_video(partial, _mirrored(batches) if flip else batches, FPS, codec=CONTROL)
                partial.replace(out / name)
            made.append(out / name)
    return made


def _mirrored(batches: Iterator[ndarray]) -> Iterator[ndarray]:
    for batch in batches:
        yield np.ascontiguousarray(batch[:, :, ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    write_parts(arguments.film, arguments.out)


if __name__ == "__main__":
    main()
