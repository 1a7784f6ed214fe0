"""Videos that begin with another: an extension goes on where it ends, a remix keeps its first segments."""

from __future__ import annotations

import hashlib
from typing import Any

from longvie.media import Video, write_image
from serve.admission import Admission, Fill, fingerprint_of
from serve.errors import ApiError, invalid, not_found
from serve.inputs import lay_out
from serve.schemas import ExtensionRequest, RemixRequest, one_each
from serve.settings import Owner
from serve.store import Job
from serve.uploads import Uploads


def extend(door: Admission, asked: ExtensionRequest, owner: Owner, key: str | None, fill: Fill | None = None) -> Job:
    """A video that goes on where a finished one ends, without controls of its own.

    Args:
        fill: puts an uploaded video into uploads, in place of an id.
    """
    door.check_room()
    with door.uploads() as uploads:
        if fill is None:
            if asked.video is None:
                raise invalid(
                    "video", "video is missing; give {id}, or the file as a part of a multipart body", "missing"
                )
            video_id = asked.video if isinstance(asked.video, str) else asked.video.id
            return _extend_own(door, asked, owner, key, _found(door, video_id, owner), uploads)
        if asked.video is not None:
            raise invalid("video", "video is given twice, by its id and as a file")
        fill(uploads)
        uploads.probe()
        own = door.store.by_content(owner.name, uploads.sha256["clip"])
        if own is not None:  # it was downloaded from here: its history is known
            return _extend_own(door, asked, owner, key, own, uploads)
        return _extend_clip(door, asked, owner, key, uploads)


def _extend_own(
    door: Admission, asked: ExtensionRequest, owner: Owner, key: str | None, before: Job, uploads: Uploads
) -> Job:
    if before.status != "completed" or before.video is None:
        raise ApiError(409, "video_not_completed", f"{before.id} is {before.status}; only what is done goes on")
    fingerprint = fingerprint_of({"extension": asked.model_dump(), "of": before.id})
    if (known := door.known(owner, key, fingerprint)) is not None:
        return known
    said = before.request
    try:
        door.places.storage.get(door.places.video(before.id), uploads.path("before"))
        door.places.storage.get(door.places.carry(before.id, before.num_segments - 1), uploads.path("carry"))
    except FileNotFoundError as error:
        raise not_found(before.id) from error
    last = Video(uploads.path("before"))
    write_image(uploads.path("first_frame"), last.read(range(last.info.num_frames - 1, last.info.num_frames))[0])
    request = {
        "files": {"first_frame": "first_frame", "before": "before", "carry": "carry"},
        "carry_sha256": hashlib.sha256(uploads.path("carry").read_bytes()).hexdigest(),
        "extends": before.id,
        "fps": said["fps"],
    }
    prompt = asked.prompt or said["prompts"][-1]
    return _record(
        door, asked, owner, key, uploads, fingerprint, request, before.video["num_frames"], prompt, said["seed"],
        said["config"],
    )  # fmt: skip


def _extend_clip(door: Admission, asked: ExtensionRequest, owner: Owner, key: str | None, uploads: Uploads) -> Job:
    """Of a video from elsewhere, at the model's rate and size: the engine brings it there."""
    fingerprint = fingerprint_of({"extension": asked.model_dump(), "clip": uploads.sha256["clip"]})
    if (known := door.known(owner, key, fingerprint)) is not None:
        return known
    card = door.settings.card
    config = {"height": card.height, "width": card.width}
    request = {"files": {"clip": "clip"}, "fps": float(card.fps)}
    return _record(
        door,
        asked,
        owner,
        key,
        uploads,
        fingerprint,
        request,
        uploads.probed["clip"].resampled,
        asked.prompt,
        0,
        config,
    )


def _record(
    door: Admission,
    asked: ExtensionRequest,
    owner: Owner,
    key: str | None,
    uploads: Uploads,
    fingerprint: str,
    request: dict[str, Any],
    before_frames: int,
    prompt: str | None,
    seed: int,
    config: dict[str, Any],
) -> Job:
    prompts = door.prompts(prompt, asked.segments)
    added = door.num_frames(asked.seconds, asked.num_frames, len(asked.segments or ()) or 1, None, shared=True)
    door.check_length(before_frames + added)
    count = door.count(prompts, added + 1)
    steps = asked.steps or config.get("num_inference_steps") or door.settings.card.num_inference_steps
    door.check_steps(steps)
    changed = {"num_inference_steps": asked.steps, "guidance_scale": asked.guidance_scale}
    whole = {
        **request,
        "before_frames": before_frames,
        "prompts": prompts,
        "seed": seed if asked.seed is None else asked.seed,
        "num_frames": added + 1,  # with the frame that both share
        "config": {**config, **{name: value for name, value in changed.items() if value is not None}},
    }
    return door.record(uploads, whole, owner, key, fingerprint, count, steps, asked.priority)


def remix(door: Admission, video_id: str, asked: RemixRequest, owner: Owner, key: str | None) -> Job:
    """A video from the same inputs, which keeps the first segments to the byte and makes the others anew.

    What is kept is copied into the new job's folder, commits and all; the engine goes on from there as from its own.
    """
    door.check_room()
    before = _found(door, video_id, owner)
    start, count = asked.from_segment, before.num_segments
    if start >= count:
        raise invalid("from_segment", f"from_segment is {start}; {video_id} has segments 0..{count - 1}")
    if before.segments_done < start:
        message = f"{video_id} has {before.segments_done} segments now; from_segment {start} needs all before it"
        raise ApiError(409, "segments_missing", message, "from_segment")
    fingerprint = fingerprint_of({"remix": video_id, "asked": asked.model_dump()})
    if (known := door.known(owner, key, fingerprint)) is not None:
        return known
    old = one_each(before.request["prompts"], count)
    if asked.prompt is None and asked.segments is None:
        new = old[start:]
    else:
        given = door.prompts(asked.prompt, asked.segments)
        if len(given) not in (1, count - start):
            message = f"{len(given)} segments, but {count - start} are made anew: give 1 or {count - start}"
            raise invalid("segments", message)
        new = one_each(given, count - start)
    request = {
        **before.request,
        "prompts": old[:start] + new,
        "seed": before.request["seed"] if asked.seed is None else asked.seed,
        "remixes": before.id,
        "from_segment": start,
    }
    with door.uploads() as uploads:

        def copy(name: str, target: str) -> None:
            storage.get(name, uploads.path("kept"))
            storage.put(target, uploads.path("kept"))

        def keep(job_id: str) -> None:
            for name, target in zip(places.kept(before.id, start), places.kept(job_id, start), strict=True):
                copy(name, target)

        places, storage = door.places, door.places.storage
        try:
            lay_out(door.store, places, before)
            for name in request["files"].values():
                storage.get(places.input_name(before.id, name), uploads.path(name))
            return door.record(
                uploads,
                request,
                owner,
                key,
                fingerprint,
                count,
                before.num_steps,
                asked.priority,
                keep if start else _no,
            )
        except FileNotFoundError as error:
            raise not_found(video_id) from error


def _no(job_id: str) -> None:
    pass


def _found(door: Admission, video_id: str, owner: Owner) -> Job:
    job = door.store.get(video_id, owner.name)
    if job is None:
        raise not_found(video_id)
    return job
