"""How far a segment's depth range is from its video's in long synthetic scenes, and what that does to a control.

    python benchmarks/scenes.py                       # 8 test scenes, one of each kind, 2 minutes at 8 frames a second
    python benchmarks/scenes.py --num-frames 97       # as short as the embedded model was trained on

Prints, for each scene and over all: the 5th and 95th percentile of the video; the ratio of the widest to the narrowest
range of its segments (1: a range per segment would do no harm); and by how many grey levels, of 255, scaling per
segment makes the dense control jump where two segments meet, in the one frame that they share. Then frames a second.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from longvie.controls.normalize import depth_range, normalize_depth
from longvie.scenes import BALANCED, TEST_SEEDS, Category, render_scene
from longvie.segments import plan_segments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8, help="how many, from the first test seed on")
    parser.add_argument("--num-frames", type=int, default=961)
    parser.add_argument("--segment-length", type=int, default=17)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    arguments = parser.parse_args()
    size = (arguments.height, arguments.width)
    spans, lows, highs, jumps, processor = [], [], [], [], 0.0
    print(f"{'scene':<32} {'p5..p95':>14} {'p5 ratio':>9} {'p95 ratio':>9} {'range ratio':>11} {'jump':>6}")
    for index in range(arguments.scenes):
        category = BALANCED[index % len(BALANCED)]
        started = time.process_time()
        video = render_scene(TEST_SEEDS[index], arguments.num_frames, *size, category=category)
        processor += time.process_time() - started
        ranges, jump = measure(video.depth, arguments.segment_length)
        low, high = depth_range(video.depth)
        ratios = ranges.max(axis=0) / ranges.min(axis=0)
        span = np.ptp(ranges, axis=1)
        spans.append(span.max() / span.min())
        lows.append(ratios[0])
        highs.append(ratios[1])
        jumps.append(jump)
        print(
            f"{TEST_SEEDS[index]} {_said(category):<24} {low:6.1f}..{high:5.1f} {ratios[0]:>9.2f} {ratios[1]:>9.2f} "
            f"{spans[-1]:>11.2f} {jump:>6.1f}"
        )
    print(
        f"median over {arguments.scenes} scenes of {arguments.num_frames} frames: widest to narrowest range of a "
        f"segment {np.median(spans):.2f}, its p5 {np.median(lows):.2f}, its p95 {np.median(highs):.2f}; jump at a seam "
        f"{np.mean(jumps):.1f} grey levels with a range a segment, 0 with the video's"
    )
    count = arguments.scenes * arguments.num_frames
    print(
        f"{count / processor:.0f} frames/s of {size[0]}x{size[1]} on one core ({1e3 * processor / count:.2f} ms of CPU)"
    )


def measure(depth: np.ndarray, segment_length: int) -> tuple[np.ndarray, float]:
    """The range of every segment (n, 2), and the mean jump of the shared frames' grey under those ranges."""
    segments = plan_segments(len(depth), segment_length)
    ranges = [depth_range(depth[s.start : s.start + s.num_valid]) for s in segments]
    jumps = [0.0]
    for segment, before, after in zip(segments[1:], ranges, ranges[1:], strict=False):
        shared = depth[segment.start : segment.start + 1]
        one, other = (normalize_depth(shared, *bounds).astype(float) for bounds in (before, after))
        jumps.append(float(np.abs(one - other).mean()))
    return np.array(ranges), float(np.mean(jumps[1:] or jumps))


def _said(category: Category) -> str:
    return f"{category.place} {category.light} {category.camera}"


if __name__ == "__main__":
    main()
