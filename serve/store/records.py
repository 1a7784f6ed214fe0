"""What the store is given and gives back: jobs as values, and why one is not recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class QueueFull(RuntimeError):
    """As many jobs wait as may."""


class Conflict(RuntimeError):
    """An idempotency key came again with another request."""


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to be recorded; `request` is all that the engine needs to make it, but for files.

    Args:
        inputs: content of small files, by their names.
    """

    id: str
    owner: str
    request: Mapping[str, Any]
    num_segments: int
    num_steps: int
    owner_concurrency: int | None = None
    priority: int = 0
    inputs: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A job to be recorded, if as many do not wait already, and once for each idempotency key of an owner."""

    new: NewJob
    queue_limit: int | None = None
    key: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is. Times are Unix seconds."""

    number: int
    id: str
    owner: str
    owner_concurrency: int | None
    priority: int
    status: str
    request: dict[str, Any] = field(repr=False)
    num_segments: int
    segments_done: int
    step: int
    num_steps: int
    stage: str | None
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    error_code: str | None
    error_message: str | None
    video: dict[str, Any] | None
    cancel_requested: bool
    token: int
    worker: str | None
    lease_until: float | None
    failures: int

    @property
    def progress(self) -> int:
        """Percent, of denoising steps; 100 only when the video is there."""
        if self.status == "completed":
            return 100
        done = self.segments_done * self.num_steps + min(self.step, self.num_steps)
        return min(99, 100 * done // max(1, self.num_segments * self.num_steps))
