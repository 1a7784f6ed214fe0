"""Removes what is no longer anybody's: expired videos, files of deleted ones, uploads that never became a job."""

from __future__ import annotations

import logging

from pipelines.errors import storage_errors
from serve.places import Places
from serve.store import JobStore

logger = logging.getLogger(__name__)


def tidy(store: JobStore, places: Places) -> int:
    """One round; how many jobs' files were removed. What cannot be removed now stays on the list."""
    for job_id in store.expired():
        store.delete(job_id)
    removed = 0
    for job_id in store.trash():
        try:
            places.delete(job_id)
        except storage_errors():
            logger.exception("the files of %s cannot be removed now", job_id)
            continue
        store.forget_trash(job_id)
        removed += 1
    return removed
