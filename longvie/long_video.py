"""THE loop: a long video is a fold over its segments. Start reading here.

`(segment, controls, carry) -> result` is all there is; streaming, resuming, cancelling and moving to another machine
follow from it. It knows no files, no Ray and no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from longvie import sampling
from longvie.config import GenerationConfig, check_seed
from longvie.pipeline import LongViePipeline, LongViePipelineOutput
from longvie.segments import num_segments, plan_segments
from longvie.types import Carry, ControlMaps, ControlSource, Frames, Image, Segment, SegmentResult

OnStep = Callable[[int, int], None]  # (steps done, steps in all), after each denoising step; may raise to stop


@dataclass(frozen=True, kw_only=True)
class LongVideoRequest:
    """One long video to be made.

    Args:
        first_frame: uint8 (height, width, 3), already of the config's size.
        controls: says the controls of any segment, at that size.
        prompts: one for all segments, or one a segment.
        num_frames: of the whole video, at least 1.
        seed: of the unified noise.
    """

    first_frame: Image
    controls: ControlSource
    prompts: tuple[str, ...]
    num_frames: int
    seed: int
    config: GenerationConfig

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; a video has at least 1 frame")
        if tuple(self.first_frame.shape) != (self.config.height, self.config.width, 3):
            raise ValueError(
                f"first_frame is {tuple(self.first_frame.shape)}; fit it to "
                f"({self.config.height}, {self.config.width}, 3) first"
            )

    def prompt(self, segment: Segment) -> str:
        return self.prompts[0] if len(self.prompts) == 1 else self.prompts[segment.index]

    def check_prompts(self, segment_length: int) -> None:
        """Raise `ValueError` unless there is one prompt, or one a segment."""
        needed = num_segments(self.num_frames, segment_length)
        if len(self.prompts) not in (1, needed):
            raise ValueError(
                f"{len(self.prompts)} prompts for {needed} segments ({self.num_frames} frames, {segment_length} a "
                f"segment); give 1 or {needed}"
            )


def generate_long_video(
    pipe: LongViePipeline, request: LongVideoRequest, carry: Carry | None = None, on_step: OnStep | None = None
) -> Iterator[SegmentResult]:
    """Yield each segment as it is done; continue from `carry` if one is given.

    Resuming from any carry gives the same frames as the uninterrupted run, on one machine with one thread count.
    """
    request.check_prompts(pipe.segment_length)
    carry = carry or Carry.start(request.first_frame, request.seed)
    for segment in plan_segments(request.num_frames, pipe.segment_length)[carry.next_index :]:
        result = run_segment(pipe, request, segment, carry, on_step)
        yield result
        carry = result.carry


def run_segment(
    pipe: LongViePipeline, request: LongVideoRequest, segment: Segment, carry: Carry, on_step: OnStep | None = None
) -> SegmentResult:
    """Make one segment from what the one before left behind."""
    started = time.perf_counter()
    config = request.config
    controls = _normalized(request.controls.at(segment), config)
    shape = pipe.noise_shape(segment.num_frames, config.height, config.width)

    def after_step(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if on_step is not None:
            on_step(step + 1, config.num_inference_steps)
        return tensors

    output = pipe(
        image=carry.first_frame,
        prompt=request.prompt(segment),
        negative_prompt=config.negative_prompt,
        dense=controls.dense,
        sparse=controls.sparse,
        history=carry.history if config.history else None,
        num_frames=segment.num_frames,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        dense_scale=config.dense_scale,
        sparse_scale=config.sparse_scale,
        latents=sampling.segment_noise(shape, carry.seed, segment.index, config.noise),
        callback_on_step_end=after_step,
    )
    frames: Frames = cast(LongViePipelineOutput, output).frames
    made = frames[: segment.num_valid]
    return SegmentResult(
        segment=segment,
        frames=frames[segment.new_frames],
        carry=Carry(
            next_index=segment.index + 1,
            first_frame=made[-1].clone(),
            history=made[max(0, len(made) - pipe.num_history_frames) :].clone(),
            seed=carry.seed,
        ),
        seconds=time.perf_counter() - started,
    )


def _normalized(controls: ControlMaps, config: GenerationConfig) -> ControlMaps:
    """For the ablation, undo the video-wide scaling: the segment's own 5th..95th percentile becomes 0..255."""
    if config.normalization == "video" or controls.dense is None:
        return controls
    dense = controls.dense.numpy().astype(np.float32)
    low, high = np.percentile(dense, (5, 95))
    stretched = (dense - low) / max(high - low, 1.0) * 255
    return ControlMaps(dense=torch.from_numpy(stretched.clip(0, 255).astype(np.uint8)), sparse=controls.sparse)
