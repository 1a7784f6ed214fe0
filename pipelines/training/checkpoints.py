"""Checkpoints of a run: tensors by torch's distributed checkpoint, and a commit object that makes them exist.

    <out>/checkpoints/00000100/*.safetensors   every worker writes its part; no pickle anywhere
                      00000100.json            written last, whole or not at all

What has no commit is of a run that died while writing; it is removed by the next. Any number of workers can load what
any number wrote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from pipelines.errors import UserError
from pipelines.storage import LocalStorage, Storage

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints below one output.

    Args:
        key: of all that decides the run; commits carry it.
        keep: how many of the last stay.
    """

    def __init__(self, storage: Storage, key: str, keep: int) -> None:
        self._storage, self._key, self._keep = storage, key, keep

    def steps(self) -> list[int]:
        """How many steps had been made at each committed checkpoint, rising.

        Raises:
            UserError: one is of another run.
        """
        names = [name for name in self._storage.list(FOLDER) if name.endswith(".json")]
        for name in names:
            try:
                content: Any = json.loads(self._storage.read(f"{FOLDER}/{name}"))
            except ValueError:
                content = None
            if not isinstance(content, dict) or content.get("key") != self._key:
                raise UserError(
                    f"{self._storage.uri}/{FOLDER}/{name} is of a run with another recipe, seed, model or data; choose "
                    "another --out, or begin anew with --restart"
                )
        return sorted(int(name.removesuffix(".json")) for name in names)

    def save(self, steps_done: int, state: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
        """Write the parts of all workers, then the commit; all workers call it. Older ones than `keep` go."""
        name = f"{FOLDER}/{steps_done:08d}"
        alone = not dist.is_initialized()
        writer = HuggingFaceStorageWriter(self._path(name), save_distributed=True)
        dcp.save(dict(state), storage_writer=writer, no_dist=alone)
        if alone or dist.get_rank() == 0:
            commit = {"steps": steps_done, "key": self._key, **said}
            self._storage.write(f"{name}.json", json.dumps(commit, indent=1).encode())
            for old in self.steps()[: -self._keep]:
                self._remove(f"{old:08d}")
        if not alone:
            dist.barrier()

    def load(self, steps_done: int, state: Mapping[str, Tensor]) -> None:
        """Load a committed checkpoint into the live tensors."""
        name = f"{FOLDER}/{steps_done:08d}"
        reader = HuggingFaceStorageReader(self._path(name))
        dcp.load(dict(state), storage_reader=reader, no_dist=not dist.is_initialized())

    def tidy(self, *, everything: bool = False) -> None:
        """Remove what has no commit, or all; only while no worker writes."""
        names = self._storage.walk(FOLDER)
        whole = {name.rsplit("/", 1)[-1].removesuffix(".json") for name in names if name.endswith(".json")}
        for stem in {name.split("/")[1].removesuffix(".json") for name in names}:
            if everything or stem not in whole:
                self._remove(stem)

    def _remove(self, stem: str) -> None:
        self._storage.delete(f"{FOLDER}/{stem}.json")  # first: without it the rest is not there
        for name in self._storage.walk(f"{FOLDER}/{stem}"):
            self._storage.delete(name)
        self._storage.delete_empty_folders(FOLDER)

    def _path(self, name: str) -> str:
        return (
            str(self._storage.root / name) if isinstance(self._storage, LocalStorage) else f"{self._storage.uri}/{name}"
        )
