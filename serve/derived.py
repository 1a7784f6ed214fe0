"""Videos that begin with another: an extension goes on where it ends, a remix keeps its first segments."""

from __future__ import annotations

import hashlib
import tempfile

from longvie.media import Video, write_image
from serve.admission import Admission, fingerprint_of
from serve.errors import ApiError, invalid, not_found
from serve.schemas import ExtensionRequest, RemixRequest, one_each
from serve.settings import Owner
from serve.store import Job


def extend(door: Admission, asked: ExtensionRequest, owner: Owner, key: str | None) -> Job:
    """A video that goes on where a finished one ends, without controls of its own."""
    door.check_room()
    video_id = asked.video if isinstance(asked.video, str) else asked.video.id
    before = _found(door, video_id, owner)
    if before.status != "completed" or before.video is None:
        raise ApiError(409, "video_not_completed", f"{video_id} is {before.status}; only what is done goes on")
    fingerprint = fingerprint_of({"extension": asked.model_dump()})
    if (known := door.known(owner, key, fingerprint)) is not None:
        return known
    said = before.request
    prompts = door.prompts(asked.prompt or said["prompts"][-1], asked.segments)
    added = door.num_frames(asked.seconds, asked.num_frames, len(asked.segments or ()) or 1, None, shared=True)
    total = before.video["num_frames"] + added
    door.check_length(total)
    count = door.count(prompts, added + 1)
    steps = asked.steps or said["config"].get("num_inference_steps") or door.settings.card.num_inference_steps
    door.check_steps(steps)
    changed = {"num_inference_steps": asked.steps, "guidance_scale": asked.guidance_scale}
    with tempfile.TemporaryDirectory(prefix="longvie-upload-") as folder:
        uploads = door.uploads(folder)
        try:
            door.places.storage.get(door.places.video(before.id), uploads.path("before"))
            door.places.storage.get(door.places.carry(before.id, before.num_segments - 1), uploads.path("carry"))
        except FileNotFoundError as error:
            raise not_found(video_id) from error
        last = Video(uploads.path("before"))
        write_image(uploads.path("first_frame"), last.read(range(last.info.num_frames - 1, last.info.num_frames))[0])
        request = {
            "files": {"first_frame": "first_frame", "before": "before", "carry": "carry"},
            "carry_sha256": hashlib.sha256(uploads.path("carry").read_bytes()).hexdigest(),
            "before_frames": before.video["num_frames"],
            "extends": before.id,
            "prompts": prompts,
            "seed": said["seed"] if asked.seed is None else asked.seed,
            "num_frames": added + 1,  # with the frame that both share
            "fps": said["fps"],
            "config": {**said["config"], **{name: value for name, value in changed.items() if value is not None}},
        }
        return door.record(uploads, request, owner, key, fingerprint, count, steps, asked.priority)


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
    with tempfile.TemporaryDirectory(prefix="longvie-upload-") as folder:
        uploads = door.uploads(folder)

        def copy(name: str, target: str) -> None:
            storage.get(name, uploads.path("kept"))
            storage.put(target, uploads.path("kept"))

        def keep(job_id: str) -> None:
            for name, target in zip(places.kept(before.id, start), places.kept(job_id, start), strict=True):
                copy(name, target)

        places, storage = door.places, door.places.storage
        try:
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
