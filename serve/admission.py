"""The door: whether a request can be made, and the job that it becomes. What is refused here leaves no trace."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from longvie.config import GenerationConfig, check_size
from longvie.segments import num_segments
from serve.errors import ApiError, invalid
from serve.places import Places
from serve.probe import Prober
from serve.schemas import SegmentRequest, VideoRequest
from serve.settings import Owner, ServeSettings
from serve.store import ORPHAN_SECONDS, Conflict, Entry, Job, JobStore, NewJob, QueueFull
from serve.uploads import NotAtOnce, Uploads, reference_of

_CONFIG = ("guidance_scale", "negative_prompt", "dense_scale", "sparse_scale", "noise", "normalization", "fit")
_IDS_AT_A_TIME = 64
_LOOK_SECONDS = 0.25
_MOST_IN_A_LOOK = 500  # jobs that a local store records between two looks, at most: one takes a millisecond
Fill = Callable[[Uploads], None]  # puts the files of a multipart body into a request's uploads


class Admission:
    """Turns requests into recorded jobs."""

    def __init__(self, settings: ServeSettings, store: JobStore, places: Places) -> None:
        self.settings = settings
        self.store = store
        self.places = places
        self._prober = Prober(settings.card.fps, settings.limits)
        self._ids = _NewIds(store)
        self._group = GroupCommit(store)
        self._waiting, self._looked_at = 0, float("-inf")

    async def create_at_once(self, asked: VideoRequest, owner: Owner, key: str | None, fill: Fill) -> Job:
        """As `create`, without a thread of its own: `NotAtOnce` or `Busy`, and nothing done, if it would take longer
        than recording a row."""
        if not self.store.local:
            raise NotAtOnce
        admitted = self._admit(asked, owner, key, fill, at_once=True)
        try:
            return await self._group.create(admitted) if isinstance(admitted, Entry) else admitted
        except (QueueFull, Conflict) as error:
            raise self._refusal(error) from error

    def create(self, asked: VideoRequest, owner: Owner, key: str | None, fill: Fill) -> Job:
        """A new video. Refusals are `ApiError`s; nothing is recorded or kept then."""
        admitted = self._admit(asked, owner, key, fill, at_once=False)
        return self._commit(admitted) if isinstance(admitted, Entry) else admitted

    def _admit(self, asked: VideoRequest, owner: Owner, key: str | None, fill: Fill, *, at_once: bool) -> Entry | Job:
        """A job ready to be recorded, its files stored; or the one that the key made before."""
        self.check_room()
        card = self.settings.card
        if asked.model not in (None, card.name):
            raise invalid("model", f"model {str(asked.model)[:64]!r} is not served; leave it out or give {card.name!r}")
        with self.uploads(at_once=at_once) as uploads:
            fill(uploads)
            for name, param, value in _references(asked):
                uploads.add_reference(name, param, value)
            uploads.probe()
            fingerprint = ""
            if key is not None:
                content = asked.model_dump(exclude={"first_frame", "input_reference", "controls"})
                fingerprint = fingerprint_of({"video": content, "files": uploads.sha256})
                if (known := self.known(owner, key, fingerprint)) is not None:
                    return known
            config, steps = self._config(asked)
            available = _check_files(uploads)
            prompts = self.prompts(asked.prompt, asked.segments)
            frames = self.num_frames(asked.seconds, asked.num_frames, len(asked.segments or ()), available)
            count = self.count(prompts, frames)
            request = {
                "files": {name: name for name in uploads.probed},
                "prompts": prompts,
                "seed": asked.seed,
                "num_frames": frames,
                "fps": float(card.fps),
                "config": config,
            }
            return self._entry(
                uploads, request, owner, key, fingerprint, count, steps, asked.priority, wait=not at_once
            )

    def record(
        self,
        uploads: Uploads,
        request: dict[str, Any],
        owner: Owner,
        key: str | None,
        fingerprint: str,
        count: int,
        steps: int,
        priority: int,
        keep: Callable[[str], None] = lambda job_id: None,
    ) -> Job:
        """Store the inputs, then record the job, small inputs with it; should we die in between, the janitor finds
        what was stored.

        Args:
            keep: puts what else the job begins with into its places.
        """
        return self._commit(self._entry(uploads, request, owner, key, fingerprint, count, steps, priority, keep))

    def _entry(
        self,
        uploads: Uploads,
        request: dict[str, Any],
        owner: Owner,
        key: str | None,
        fingerprint: str,
        count: int,
        steps: int,
        priority: int,
        keep: Callable[[str], None] = lambda job_id: None,
        wait: bool = True,
    ) -> Entry:
        """A job whose inputs are stored, or small enough to be recorded with it (all of them, without `wait`)."""
        job_id = self._ids.take(wait)
        inputs = {}
        for name in request["files"].values():
            content = uploads.recorded(name)
            if content is None:
                self.places.storage.put(self.places.input_name(job_id, name), uploads.path(name))
            else:
                inputs[name] = content
        keep(job_id)
        new = NewJob(
            id=job_id,
            owner=owner.name,
            owner_concurrency=owner.concurrency,
            priority=min(priority, owner.priority),
            request=request,
            num_segments=count,
            num_steps=steps,
            inputs=inputs,
        )
        limit: int | None = self.settings.limits.queued
        if not wait and self._waiting + _MOST_IN_A_LOOK < limit:
            limit = None  # counting costs more the more wait, and by the look of a moment ago there is room
        return Entry(new=new, queue_limit=limit, key=key, fingerprint=fingerprint)

    def _commit(self, entry: Entry) -> Job:
        try:
            job = self.store.create(
                entry.new, queue_limit=entry.queue_limit, key=entry.key, fingerprint=entry.fingerprint
            )
        except (QueueFull, Conflict) as error:
            self.store.discard(entry.new.id)
            raise self._refusal(error) from error
        if job.id != entry.new.id:
            self.store.discard(entry.new.id)
        return job

    def check_room(self) -> None:
        """Refuse early, before bodies are read into files, by what was so a moment ago; `create` decides."""
        now = time.monotonic()
        if now - self._looked_at > _LOOK_SECONDS:
            self._waiting, self._looked_at = self.store.waiting(), now
        if self._waiting >= self.settings.limits.queued:
            raise self._refusal(QueueFull())

    def known(self, owner: Owner, key: str | None, fingerprint: str) -> Job | None:
        try:
            return self.store.known_key(owner.name, key, fingerprint) if key is not None else None
        except Conflict as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> ApiError:
        if isinstance(error, Conflict):
            message = "this Idempotency-Key came before with another request; give a new one"
            return ApiError(409, "idempotency_conflict", message, "Idempotency-Key")
        wait = str(self.settings.limits.retry_after)
        return ApiError(429, "queue_full", "as many videos wait as may; try again later", headers={"Retry-After": wait})

    def uploads(self, *, at_once: bool = False) -> Uploads:
        return Uploads(self._prober, self.settings.limits, self.settings.url_prefixes, at_once=at_once)

    def _config(self, asked: VideoRequest) -> tuple[dict[str, Any], int]:
        card, limits = self.settings.card, self.settings.limits
        height, width = _size(asked.size) if asked.size is not None else (card.height, card.width)
        if height * width > limits.pixels:
            raise invalid("size", f"size is {width}x{height}; at most {limits.pixels:,} pixels are made", "too_large")
        steps = asked.steps or card.num_inference_steps
        self.check_steps(steps)
        given = {name: getattr(asked, name) for name in _CONFIG if getattr(asked, name) is not None}
        if len(given.get("negative_prompt", "")) > limits.prompt_characters:
            raise invalid("negative_prompt", f"negative_prompt has more than {limits.prompt_characters} characters")
        config = {"height": height, "width": width, "num_inference_steps": steps, **given}
        try:
            check_size(height, width, card.size_multiple)
        except ValueError as error:
            raise invalid("size", f"size: {error}") from error
        try:
            GenerationConfig(**{"guidance_scale": card.guidance_scale, **config})
        except ValueError as error:
            raise invalid(str(error).split(" ", 1)[0], str(error)) from error
        return config, steps

    def check_steps(self, steps: int) -> None:
        if steps > self.settings.limits.steps:
            raise invalid("steps", f"steps is {steps}; at most {self.settings.limits.steps} are made", "too_large")

    def prompts(self, prompt: str | None, segments: list[SegmentRequest] | None) -> list[str]:
        if segments is None and prompt is None:
            raise invalid("prompt", "prompt is missing; give one, or segments with a prompt each", "missing")
        prompts = [segment.prompt for segment in segments] if segments else [prompt or ""]
        for index, text in enumerate(prompts):
            param = f"segments[{index}].prompt" if segments else "prompt"
            if not text.strip():
                raise invalid(param, f"{param} is empty")
            if len(text) > self.settings.limits.prompt_characters:
                most = self.settings.limits.prompt_characters
                raise invalid(param, f"{param} has {len(text)} characters; at most {most} are read", "too_large")
        return prompts

    def num_frames(
        self,
        seconds: str | float | None,
        num_frames: int | None,
        segments: int,
        available: int | None,
        shared: bool = False,
    ) -> int:
        """How long the video is; with `shared`, how many frames are added to one that exists."""
        if seconds is not None and num_frames is not None:
            raise invalid("num_frames", "num_frames and seconds exclude each other; give one")
        step = self.settings.card.segment_length - 1
        by_segments = segments * step + (0 if shared else 1)
        if num_frames is not None:
            frames, param = num_frames, "num_frames"
        elif seconds is not None:
            frames, param = round(_seconds(seconds) * self.settings.card.fps), "seconds"
        elif segments:
            frames, param = min(by_segments, available or by_segments), "segments"
        elif available is not None:
            frames, param = available, "controls"
        else:
            raise invalid(
                "seconds", "seconds is missing; without controls nothing says how long the video is", "missing"
            )
        if frames < 1:
            raise invalid(param, f"{param}: less than one frame at {self.settings.card.fps} a second")
        if available is not None and frames > available:
            raise invalid(param, f"{param}: {frames} frames, but the controls have {available}", "too_long")
        self.check_length(frames, param)
        return frames

    def check_length(self, frames: int, param: str = "seconds") -> None:
        seconds = frames / self.settings.card.fps
        if seconds > self.settings.limits.seconds + 1 / self.settings.card.fps:
            most = self.settings.limits.seconds
            raise invalid(param, f"{param}: the video would last {seconds:g} seconds; at most {most:g}", "too_long")

    def count(self, prompts: list[str], frames: int) -> int:
        count = num_segments(frames, self.settings.card.segment_length)
        if count > self.settings.limits.segments:
            raise invalid("seconds", f"{count} segments; at most {self.settings.limits.segments} are made", "too_long")
        if len(prompts) not in (1, count):
            raise invalid("segments", f"{len(prompts)} segments, but the video has {count}: give 1 or {count}")
        return count


class _NewIds:
    """Ids for new jobs, whose files the janitor removes should the job never be recorded.

    The store is told of many at a time, so that a request need not wait for that.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._ids: list[str] = []
        self._told_at = 0.0

    def take(self, wait: bool = True) -> str:
        """One that stays expected for half of `ORPHAN_SECONDS` at least; `NotAtOnce` where it must not wait, and
        there is none."""
        if not self._lock.acquire(blocking=wait):
            raise NotAtOnce
        try:
            now = self._store.clock()
            if not self._ids or now - self._told_at > ORPHAN_SECONDS / 2:
                if not wait:
                    raise NotAtOnce
                ids = [f"video_{secrets.token_hex(16)}" for _ in range(_IDS_AT_A_TIME)]
                self._store.expect_files(ids)
                self._ids, self._told_at = ids, now
            return self._ids.pop()
        finally:
            self._lock.release()


class GroupCommit:
    """Jobs of requests that an event loop has in hand at the same moment, recorded in one transaction: what a commit
    costs, they share."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._waiting: list[tuple[Entry, asyncio.Future[Job]]] = []

    async def create(self, entry: Entry) -> Job:
        """As `JobStore.create`; `Busy` if another process writes."""
        loop = asyncio.get_running_loop()
        recorded: asyncio.Future[Job] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._record)
        self._waiting.append((entry, recorded))
        return await recorded

    def _record(self) -> None:
        waiting = [(entry, recorded) for entry, recorded in self._waiting if not recorded.cancelled()]
        self._waiting = []
        try:
            made = self._store.create_at_once([entry for entry, _ in waiting])
        except Exception as error:  # noqa: BLE001  theirs to answer, each for itself
            for _, recorded in waiting:
                recorded.set_exception(error)
            return
        for (_, recorded), job in zip(waiting, made, strict=True):
            if isinstance(job, Job):
                recorded.set_result(job)
            else:
                recorded.set_exception(job)


def _references(asked: VideoRequest) -> list[tuple[str, str, str]]:
    """File, field and text of each reference in a body."""
    controls = asked.controls
    found = [
        ("first_frame", "first_frame", asked.first_frame),
        ("first_frame", "input_reference", reference_of("input_reference", asked.input_reference)),
        ("dense", "controls.dense", controls.dense if controls else None),
        ("sparse", "controls.sparse", controls.sparse if controls else None),
        ("source", "controls.source", controls.source if controls else None),
    ]
    return [(name, param, value) for name, param, value in found if value is not None]


def _check_files(uploads: Uploads) -> int | None:
    """Whether the files go together; frames on their timeline, or None without controls."""
    probed = uploads.probed
    if "source" in probed:
        for name in ("dense", "sparse"):
            if name in probed:
                raise invalid(name, f"{name} and source exclude each other: controls are taken from a source")
        return probed["source"].resampled
    if "first_frame" not in probed:
        raise invalid("first_frame", "first_frame is missing; give an image, or controls.source", "missing")
    lengths = {name: probed[name].num_frames for name in ("dense", "sparse") if name in probed}
    if len(set(lengths.values())) > 1:
        raise invalid("sparse", f"sparse has {lengths['sparse']} frames and dense {lengths['dense']}; give the same")
    if len(lengths) == 2:
        shapes = [probed[name].width / probed[name].height for name in lengths]
        if abs(shapes[0] / shapes[1] - 1) > 0.02:  # as generation's control_files.py
            raise invalid("sparse", "sparse and dense have different shapes; they would not lie on each other")
    return next(iter(lengths.values()), None)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    numbers = [part for part in (width, height) if part.isascii() and part.isdigit() and len(part) <= 5]
    if len(numbers) < 2:
        raise invalid("size", f"size {text[:32]!r} is not WIDTHxHEIGHT, as in 96x64")
    return int(height), int(width)


def _seconds(value: str | float) -> float:
    try:
        seconds = float(value)
    except ValueError as error:
        raise invalid("seconds", f"seconds {str(value)[:32]!r} is not a number") from error
    if not (math.isfinite(seconds) and 0 < seconds < 1e7):
        raise invalid("seconds", f"seconds is {seconds}; give more than 0")
    return seconds


def fingerprint_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
