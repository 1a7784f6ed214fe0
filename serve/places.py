"""Where a job's files lie below the server's home: names only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.storage import Storage, open_storage

FOLDERS = ("inputs", "prepared", "videos")


class Places:
    """`inputs/<id>/`: what was uploaded; `prepared/<id>/`: controls made of a source; `videos/<id>/`: commits.py's."""

    def __init__(self, home: str) -> None:
        self.storage: Storage = open_storage(home)

    @property
    def videos(self) -> str:
        """Where `longvie generate` would say --out."""
        return f"{self.storage.uri}/videos"

    def prepared(self, job_id: str) -> str:
        return f"{self.storage.uri}/prepared/{job_id}"

    def input(self, job_id: str, name: str) -> str:
        """The URI of an uploaded file."""
        return f"{self.storage.uri}/{self.input_name(job_id, name)}"

    def input_name(self, job_id: str, name: str) -> str:
        return f"inputs/{job_id}/{name}"

    def clip(self, job_id: str, name: str) -> str:
        """What the engine makes of an upload that goes on: before.mp4, first_frame.png, carry.safetensors."""
        return f"prepared/{job_id}/{name}"

    def before(self, job_id: str, request: Mapping[str, Any]) -> str | None:
        """The video that one begins with, if it begins with one."""
        if "before" in request["files"]:
            return self.input_name(job_id, request["files"]["before"])
        return self.clip(job_id, "before.mp4") if "clip" in request["files"] else None

    def segment(self, job_id: str, index: int) -> str:
        return f"videos/{job_id}/segments/{index:05d}.mp4"

    def carry(self, job_id: str, index: int) -> str:
        return f"videos/{job_id}/carry/{index:05d}.safetensors"

    def video(self, job_id: str) -> str:
        return f"videos/{job_id}/video.mp4"

    def kept(self, job_id: str, count: int) -> list[str]:
        """What a video holds that has so many segments, the manifest first."""
        kinds = (("segments", "mp4"), ("carry", "safetensors"), ("commits", "json"))
        files = [f"{kind}/{index:05d}.{suffix}" for index in range(count) for kind, suffix in kinds]
        return [f"videos/{job_id}/{name}" for name in ("manifest.json", *files)]

    def delete(self, job_id: str) -> int:
        """Remove every file of a job, temporaries of dead writers, too; how many there were."""
        count = 0
        for folder in FOLDERS:
            for name in self.storage.walk(f"{folder}/{job_id}"):
                self.storage.delete(name)
                count += 1
            self.storage.delete_empty_folders(f"{folder}/{job_id}")
        return count
