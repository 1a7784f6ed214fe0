"""What goes in and out over HTTP, as pydantic models: the shape that open video servers share, and our own fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.store import Job

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Scale = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
Reference = Annotated[
    str,
    Field(
        max_length=200_000_000,
        description="`data:` URI with base64, or a URL if the server allows its host. Files go with multipart.",
    ),
]


class SegmentRequest(BaseModel):
    """One segment of the video, in order."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(description="What it shows.", examples=["a red ball rolls over grass"])


class Controls(BaseModel):
    """What the video follows: depth and tracks as videos, or a source video to take them from."""

    model_config = ConfigDict(extra="forbid")

    dense: Reference | None = Field(None, description="Depth as a video, near black and far white.")
    sparse: Reference | None = Field(None, description="Tracks drawn as a video.")
    source: Reference | None = Field(
        None, description="A video to be prepared as `longvie prepare` does, or `sample`: the server's own."
    )


class VideoRequest(BaseModel):
    """A video to be made. Fields that are left out take the model's defaults."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "a video", "controls": {"source": "sample"}, "seconds": "4", "seed": 7},
                {
                    "segments": [{"prompt": "a red ball"}, {"prompt": "a blue ball"}],
                    "controls": {"source": "sample"},
                    "steps": 1,
                },
            ]
        },
    )

    model: str | None = Field(None, max_length=256, description="One of GET /v1/models; the server has one.")
    prompt: str | None = Field(None, description="Of all segments.")
    segments: list[SegmentRequest] | None = Field(None, min_length=1, description="A prompt for each segment.")
    seconds: str | float | None = Field(
        None, description="Length; default: all that the controls have.", examples=["4"]
    )
    num_frames: int | None = Field(None, ge=1, le=10_000_000, description="Length in frames, in place of seconds.")
    size: str | None = Field(None, description="WIDTHxHEIGHT.", examples=["96x64"])
    input_reference: Reference | dict[str, Any] | None = Field(
        None, description="First frame, by its name elsewhere; also `{image_url}`."
    )
    first_frame: Reference | None = Field(None, description="Image that the video starts with.")
    controls: Controls | None = None
    seed: Seed = 0
    steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(None, description="Denoising steps a segment.")
    guidance_scale: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] | None = None
    negative_prompt: str | None = None
    dense_scale: Scale | None = None
    sparse_scale: Scale | None = None
    noise: Literal["unified", "fresh"] | None = None
    normalization: Literal["video", "segment"] | None = None
    fit: Literal["crop", "pad", "stretch"] | None = None
    priority: int = Field(0, ge=-100, le=100, description="Higher goes first; at most what the token allows.")


class Extended(BaseModel):
    """The finished video to go on from."""

    id: str = Field(max_length=64)


class ExtensionRequest(BaseModel):
    """A finished video, or one that is uploaded, to be continued from its last frame and history."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"video": {"id": "video_0123"}, "prompt": "it turns to night", "seconds": "4"}]
        },
    )

    video: Extended | str | None = Field(None, description="`{id}`, or its id; in a multipart body also a file.")
    prompt: str | None = None
    segments: list[SegmentRequest] | None = Field(None, min_length=1)
    seconds: str | float | None = Field(None, description="What is added.", examples=["4"])
    num_frames: int | None = Field(None, ge=1, le=10_000_000, description="What is added, in frames.")
    seed: Seed | None = Field(None, description="Default: the video's own.")
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] | None = None
    priority: int = Field(0, ge=-100, le=100)


class RemixRequest(BaseModel):
    """A video from the inputs of another: its first segments are kept, the others made anew."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "it turns to night", "from_segment": 2, "seed": 8}]}
    )

    prompt: str | None = Field(None, description="Of the segments made anew; default: as they were.")
    segments: list[SegmentRequest] | None = Field(None, min_length=1, description="A prompt for each of those.")
    from_segment: int = Field(0, ge=0, le=10_000_000, description="The first that is made anew.")
    seed: Seed | None = Field(None, description="Of the segments made anew; default: as it was.")
    priority: int = Field(0, ge=-100, le=100)


class JobError(BaseModel):
    code: str = Field(examples=["cancelled", "invalid_input", "engine_lost", "engine_error"])
    message: str


class SegmentState(BaseModel):
    """One segment of a video: whether it exists, is being made, or waits."""

    index: int
    prompt: str
    status: Literal["queued", "in_progress", "completed"]
    step: int
    num_steps: int


_VIDEO: dict[str, Any] = {
    "id": "video_5b1c0e7d3f5a4c9e8d7b6a5f4e3d2c1b",
    "object": "video",
    "model": "longvie-tiny",
    "status": "in_progress",
    "progress": 50,
    "created_at": 1764200000,
    "started_at": 1764200001,
    "prompt": "a red ball",
    "seconds": "4.125",
    "size": "96x64",
    "seed": 7,
    "num_frames": 33,
    "fps": 8.0,
    "stage": "generating",
    "num_segments": 2,
    "segments_done": 1,
    "segments": [
        {"index": 0, "prompt": "a red ball", "status": "completed", "step": 1, "num_steps": 1},
        {"index": 1, "prompt": "a red ball", "status": "in_progress", "step": 0, "num_steps": 1},
    ],
    "variants": ["thumbnail", "dense", "sparse", "source"],
}


class Video(BaseModel):
    """A video and how far it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [_VIDEO]})

    id: str = Field(examples=["video_5b1c0e7d3f5a4c9e8d7b6a5f4e3d2c1b"])
    object: Literal["video"] = "video"
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(ge=0, le=100, description="Percent of denoising steps; 100 when the video is there.")
    created_at: int
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    prompt: str
    seconds: str
    size: str = Field(examples=["96x64"])
    seed: int
    num_frames: int
    fps: float
    stage: Literal["preparing", "generating"] | None = None
    num_segments: int
    segments_done: int
    segments: list[SegmentState]
    cancel_requested: bool = False
    extends: str | None = Field(None, description="The video that this one continues.")
    remixed_from_video_id: str | None = Field(None, description="The video whose first segments this one keeps.")
    from_segment: int | None = Field(None, description="The first segment that is not that video's.")
    variants: list[str] = Field(
        description="What GET /v1/videos/{id}/content has now.", examples=[["thumbnail", "source"]]
    )
    sha256: str | None = Field(None, description="Of the finished file.")
    bytes: int | None = None
    error: JobError | None = None


class VideoList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [_VIDEO],
                    "first_id": _VIDEO["id"],
                    "last_id": _VIDEO["id"],
                    "has_more": False,
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": _VIDEO["id"], "object": "video.deleted", "deleted": True}]}
    )

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


class Model(BaseModel):
    """The server's model and its own defaults."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "longvie"
    width: int
    height: int
    fps: int
    segment_length: int
    steps: int
    guidance_scale: float
    size_multiple: int


class ModelList(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {
                            "id": "longvie-tiny",
                            "object": "model",
                            "created": 0,
                            "owned_by": "longvie",
                            "width": 96,
                            "height": 64,
                            "fps": 8,
                            "segment_length": 17,
                            "steps": 1,
                            "guidance_scale": 1.0,
                            "size_multiple": 8,
                        }
                    ],
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetail(BaseModel):
    code: str
    message: str
    param: str | None = None
    type: str


class ErrorBody(BaseModel):
    """Every refusal looks like this."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "too_long",
                        "message": "seconds: 80 frames, but the controls have 26",
                        "param": "seconds",
                        "type": "invalid_request_error",
                    }
                }
            ]
        }
    )

    error: ErrorDetail


def video_of(job: Job, model: str) -> Video:
    """What a client is told of a job. It is not validated: all of it is ours, and it is told at every poll."""
    request = job.request
    config = request["config"]
    before = request.get("before_frames", 0)
    num_frames = before + request["num_frames"] - (1 if before else 0)
    prompts = one_each(request["prompts"], job.num_segments)
    states = []
    for index, prompt in enumerate(prompts):
        done, at_it = index < job.segments_done, index == job.segments_done and job.status == "in_progress"
        states.append(
            SegmentState.model_construct(
                index=index,
                prompt=prompt,
                status="completed" if done else "in_progress" if at_it else "queued",
                step=job.num_steps if done else min(job.step, job.num_steps) if at_it else 0,
                num_steps=job.num_steps,
            )
        )
    error = JobError.model_construct(code=job.error_code, message=job.error_message or "") if job.error_code else None
    return Video.model_construct(
        id=job.id,
        object="video",
        model=model,
        status=job.status,
        progress=job.progress,
        created_at=int(job.created_at),
        started_at=_second(job.started_at),
        completed_at=_second(job.completed_at),
        expires_at=_second(job.expires_at),
        prompt=request["prompts"][0],
        seconds=f"{num_frames / request['fps']:g}",
        size=f"{config['width']}x{config['height']}",
        seed=request["seed"],
        num_frames=num_frames,
        fps=request["fps"],
        stage=job.stage,
        num_segments=job.num_segments,
        segments_done=job.segments_done,
        segments=states,
        cancel_requested=job.cancel_requested,
        extends=request.get("extends"),
        remixed_from_video_id=request.get("remixes"),
        from_segment=request.get("from_segment"),
        variants=_variants(job),
        sha256=job.video["sha256"] if job.video else None,
        bytes=job.video["bytes"] if job.video else None,
        error=error,
    )


def _variants(job: Job) -> list[str]:
    files = job.request["files"]
    prepared = "source" in files and (job.segments_done > 0 or job.stage == "generating")
    there = {
        "video": job.status == "completed",
        "thumbnail": job.segments_done > 0,
        "dense": prepared or "dense" in files,
        "sparse": prepared or "sparse" in files,
        "source": "source" in files,
        "first_frame": "first_frame" in files,
    }
    return [name for name, exists in there.items() if exists]


def one_each(prompts: list[str], count: int) -> list[str]:
    """A prompt a segment, of one for all or of as many."""
    return prompts * count if len(prompts) == 1 else prompts[:count]


def _second(time: float | None) -> int | None:
    return None if time is None else int(time)
