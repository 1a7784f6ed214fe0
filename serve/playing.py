"""Routes that play: a video's file, its events, and HLS while it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.responses import Response

from longvie.media import VideoError, local_path
from pipelines.errors import UserError
from pipelines.generation.inputs import read_rows
from serve.content import file_response, preview, thumbnail
from serve.errors import ApiError, not_found
from serve.events import last_event, stream
from serve.hls import PLAYLIST, SEGMENT, fragments, playlist
from serve.inputs import lay_out
from serve.rooms import OwnerOf, Rooms, RoomsOf, said
from serve.store import Job

playing = APIRouter(prefix="/v1/videos", tags=["videos"])


@playing.get(
    "/{video_id}/content",
    response_class=Response,
    responses={
        200: {"content": {"video/mp4": {}, "image/webp": {}}, "description": "The file."},
        206: {"content": {"video/mp4": {}}, "description": "The range asked for."},
        **said(401, 404, 409, 416, 422),
    },
)
def video_content(
    video_id: str,
    owner: OwnerOf,
    rooms: RoomsOf,
    variant: Literal["video", "thumbnail", "dense", "sparse", "source", "first_frame"] = "video",
    segment: Annotated[int, Query(ge=0, le=10_000_000, description="Of dense and sparse.")] = 0,
    range_header: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range")] = None,
) -> Response:
    """The finished video; its first frame as WebP once the first segment exists; a segment's depth or tracks as a small
    moving WebP, once they are known; or what was uploaded for it."""
    job, places = rooms.job(video_id, owner), rooms.places
    try:
        if variant == "video":
            if job.status != "completed" or job.video is None:
                raise ApiError(409, "video_not_completed", f"{video_id} is {job.status}; its file is not there yet")
            name = places.video(job.id)
            return file_response(places.storage, name, SEGMENT, job.video["sha256"], range_header, if_range)
        if variant == "thumbnail":
            if not job.segments_done:
                raise ApiError(409, "video_not_started", f"{video_id} has no segment yet")
            path = local_path(f"{places.storage.uri}/{places.segment(job.id, 0)}")
            return Response(thumbnail(Path(path)), media_type="image/webp")
        lay_out(rooms.store, places, job)
        if variant in ("dense", "sparse"):
            uri, start = _control(rooms, job, variant, segment)
            made = preview(uri, start, start + rooms.settings.card.segment_length, job.request["fps"])
            return Response(made, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"})
        if variant not in job.request["files"]:
            raise ApiError(404, "no_such_variant", f"{video_id} was made without {variant}", "variant")
        name = places.input_name(job.id, variant)
        return file_response(places.storage, name, "application/octet-stream", job.id, range_header, if_range)
    except (FileNotFoundError, VideoError) as error:  # deleted a moment ago
        raise not_found(video_id) from error


@playing.get(
    "/{video_id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events."}, **said(401, 404)},
)
def video_events(
    video_id: str,
    owner: OwnerOf,
    rooms: RoomsOf,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=64)] = None,
) -> StreamingResponse:
    """States, steps and segments as server-sent events, from the beginning or from Last-Event-ID on."""
    job = rooms.job(video_id, owner)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    lines = stream(rooms.store, job.id, last_event(last_event_id))
    return StreamingResponse(lines, headers=headers, media_type="text/event-stream")


@playing.get(
    "/{video_id}/hls/playlist.m3u8",
    response_class=PlainTextResponse,
    responses={200: {"content": {PLAYLIST: {}}, "description": "The playlist."}, **said(401, 404)},
)
def video_playlist(video_id: str, owner: OwnerOf, rooms: RoomsOf) -> Response:
    """An HLS playlist that grows by an entry with each finished segment, and is closed when the video ends."""
    job = rooms.job(video_id, owner)
    frames, longest = _entries(rooms, job)
    ended = job.status in ("completed", "failed")
    text = playlist(frames, job.request["fps"], longest, ended)
    return Response(text, media_type=PLAYLIST, headers={"Cache-Control": "no-cache"})


@playing.get(
    "/{video_id}/hls/{name}",
    response_class=Response,
    responses={200: {"content": {SEGMENT: {}}, "description": "A part."}, **said(401, 404)},
)
def video_fragment(video_id: str, name: str, owner: OwnerOf, rooms: RoomsOf) -> Response:
    """`init.mp4`, or an entry of the playlist."""
    job = rooms.job(video_id, owner)
    frames, _ = _entries(rooms, job)
    number, dot, kind = name.partition(".")
    if name == "init.mp4":
        index = 0
    elif dot and kind == "m4s" and len(number) == 5 and number.isascii() and number.isdigit():
        index = int(number)
    else:
        index = len(frames)
    if index >= len(frames):
        raise ApiError(404, "no_such_segment", f"{video_id} has no {name[:32]} now", "name")
    places = rooms.places
    before = places.before(job.id, job.request)
    path = before if before and not index else places.segment(job.id, index - (1 if before else 0))
    try:
        local = local_path(f"{places.storage.uri}/{path}")
    except ValueError as error:  # deleted a moment ago
        raise not_found(video_id) from error
    made = fragments(local, sum(frames[:index]), job.request["fps"], index)
    headers = {"Cache-Control": "private, max-age=3600"}  # an entry never changes
    return Response(made.init if name == "init.mp4" else made.media, media_type=SEGMENT, headers=headers)


def _entries(rooms: Rooms, job: Job) -> tuple[list[int], int]:
    """Frames of each entry of a playlist, and of the longest that may come. What a video continues is the first."""
    made = [count for count, _, _ in rooms.store.segments(job.id)]
    before = [job.request["before_frames"]] if rooms.places.before(job.id, job.request) else []
    longest = max([rooms.settings.card.segment_length, *before])
    ready = (
        made or "clip" not in job.request["files"]
    )  # an upload is brought to the model's size before a segment is made
    return (before if ready else []) + made, longest


def _control(rooms: Rooms, job: Job, variant: Literal["dense", "sparse"], segment: int) -> tuple[str, int]:
    """The control file in which a segment lies, and at which frame it begins there."""
    if segment >= job.num_segments:
        raise ApiError(404, "no_such_segment", f"{job.id} has {job.num_segments} segments", "segment")
    start = segment * (rooms.settings.card.segment_length - 1)
    if variant in job.request["files"]:
        return rooms.places.input(job.id, job.request["files"][variant]), start
    if "source" not in job.request["files"]:
        raise ApiError(404, "no_such_variant", f"{job.id} was made without {variant}", "variant")
    try:
        row = read_rows(rooms.places.prepared(job.id))[0]
    except UserError as error:
        raise ApiError(409, "not_prepared", f"{job.id}: its source is not prepared yet", "variant") from error
    return getattr(row, variant)[segment], 0
