"""What happens to a video as server-sent events, numbered by the store; `Last-Event-ID` says where to go on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from serve.store import JobStore

POLL_SECONDS = 0.25
KEEPALIVE_SECONDS = 15.0  # proxies close silent connections


async def stream(store: JobStore, job_id: str, after: int, poll_seconds: float = POLL_SECONDS) -> AsyncIterator[str]:
    """Events from the one after `after` on, as they come; ends after the state that ends the job.

    Types: `state` {status, stage?, error?}, `step` {segment, step, num_steps}, `segment` {segment, num_frames,
    seconds}; `deleted` if the video is. Steps of a finished segment are not replayed: its `segment` says all.
    """
    yield "retry: 1000\n\n"
    told = time.monotonic()
    while True:
        job = await asyncio.to_thread(store.get, job_id)
        if job is None:
            yield "event: deleted\ndata: {}\n\n"
            return
        for number, kind, data in await asyncio.to_thread(store.events, job_id, after):
            after = number
            told = time.monotonic()
            yield f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
        if job.status in ("completed", "failed"):
            return
        if time.monotonic() - told > KEEPALIVE_SECONDS:
            told = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(poll_seconds)


def last_event(header: str | None) -> int:
    """The number that `Last-Event-ID` says; -1 where it says none of ours: everything is told."""
    text = (header or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
