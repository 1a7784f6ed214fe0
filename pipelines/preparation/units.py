"""The commit protocol of preparation: when a unit of work exists, and what its files may be trusted to be.

    <out>/<files of the unit>            written first
    <out>/commits/<stage>/<unit>.json    written last: from then on the unit exists

A unit's `key` is a hash of everything that decides it: content of the source, settings, weights, and the numbers that
came from other units. A commit counts only if it holds the expected key and its files have the size it says. So units
may be made in any order, by anyone, more than once, and a crash anywhere leaves nothing that is taken for whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.hashes import fingerprint, sha256_file
from pipelines.storage import Storage

FORMAT = 1  # of commits; another number is another key, so that what an older version made is made anew
_READERS = 16  # commits read at once


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is made and committed at once.

    Args:
        stage: sources, scan, depth or controls.
        name: of the commit's file; unique within the stage.
        task: all that the stage is told: URIs, ranges and small numbers; JSON.
        decides: what the key is made of; JSON.
        cost: how much work it is, in the stage's own measure (bytes or frames).
        uris: of the source it comes from, and of others with the same content; for errors.
        said: what it is within the source, for errors.
    """

    stage: str
    name: str
    task: Mapping[str, Any]
    decides: Any
    cost: float
    uris: tuple[str, ...]
    said: str

    @property
    def key(self) -> str:
        return fingerprint([FORMAT, self.stage, self.decides])


@dataclass(frozen=True, kw_only=True)
class UnitCommit:
    """A unit that exists."""

    unit: str
    key: str
    files: Mapping[str, Mapping[str, Any]]  # name below OUT: sha256, bytes
    result: Mapping[str, Any]  # small: what later stages and tables need to know

    def in_place(self, sizes: Mapping[str, int]) -> bool:
        """Whether all its files are there, by the sizes of all files."""
        return all(sizes.get(name) == said["bytes"] for name, said in self.files.items())


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a stage hands to be committed: files in a local folder under their final names, and a small result."""

    folder: Path
    result: Mapping[str, Any] = field(default_factory=dict)

    def files(self) -> list[tuple[str, Path]]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [(path.relative_to(self.folder).as_posix(), path) for path in paths]


class UnitStore:
    """Commits under one URI."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def read(self, stage: str, unit: str) -> UnitCommit | None:
        """The commit, whatever its key, or None."""
        try:
            return UnitCommit(**json.loads(self.storage.read(commit_name(stage, unit))))
        except (FileNotFoundError, ValueError, TypeError):  # not a commit of ours: the unit does not exist
            return None

    def read_all(self, stage: str, units: Iterable[str] | None = None) -> dict[str, UnitCommit]:
        """The commits of a stage that are there, by unit; only of `units` if given."""
        present = [Path(name).stem for name in self.storage.list(f"commits/{stage}")]
        if units is not None:
            wanted = set(units)
            present = [unit for unit in present if unit in wanted]
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda unit: self.read(stage, unit), present)
        return {commit.unit: commit for commit in found if commit is not None}

    def committed(
        self, units: Sequence[Unit], complete: Callable[[UnitCommit, Mapping[str, int]], bool] = UnitCommit.in_place
    ) -> dict[str, UnitCommit]:
        """Those of one stage's units that exist.

        Args:
            complete: whether a commit's files are all there that are needed, given the sizes of all files in OUT.
        """
        if not units:
            return {}
        (stage,) = {unit.stage for unit in units}
        keys = {unit.name: unit.key for unit in units}
        commits = self.read_all(stage, keys)
        files = {name for commit in commits.values() for name in commit.files}
        top = {name for name in files if "/" not in name}
        sizes = self.sizes({name.split("/", 1)[0] for name in files - top})
        sizes |= {name: size for name in top if (size := self.storage.size(name)) is not None}
        return {
            name: commit for name, commit in commits.items() if commit.key == keys[name] and complete(commit, sizes)
        }

    def sizes(self, folders: Iterable[str]) -> dict[str, int]:
        """Bytes of all files in and below some folders."""
        return {name: size for folder in sorted(folders) for name, size in self.storage.walk(folder).items()}

    def exists(self, stage: str, name: str, key: str) -> UnitCommit | None:
        """The commit of one unit if it counts."""
        commit = self.read(stage, name)
        if commit is None or commit.key != key:
            return None
        sizes = {file: size for file in commit.files if (size := self.storage.size(file)) is not None}
        return commit if commit.in_place(sizes) else None

    def commit(self, stage: str, name: str, key: str, made: Made) -> UnitCommit:
        """Write a unit's files, then its commit."""
        before = self.read(stage, name)
        if before is not None and before.key != key:
            self.storage.delete(commit_name(stage, name))  # what it vouches for is about to be replaced
        files = {}
        for file, path in made.files():
            self.storage.put(file, path)
            files[file] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        commit = UnitCommit(unit=name, key=key, files=files, result=dict(made.result))
        self.storage.write(commit_name(stage, name), json.dumps(asdict(commit), indent=1, ensure_ascii=False).encode())
        return commit

    def begin(self, stage: str, name: str, run: str) -> int:
        """Note that a worker of this run begins a unit; how many have before, all of which died over it."""
        marker = attempt_name(stage, name)
        try:
            said = json.loads(self.storage.read(marker))
            died = said["died"] + 1 if said["run"] == run else 0
        except (FileNotFoundError, ValueError):
            died = 0
        self.storage.write(marker, json.dumps({"run": run, "died": died}).encode())
        return died

    def end(self, stage: str, name: str) -> None:
        """The unit was committed, or failed without killing its worker."""
        self.storage.delete(attempt_name(stage, name))


def commit_name(stage: str, unit: str) -> str:
    return f"commits/{stage}/{unit}.json"


def attempt_name(stage: str, unit: str) -> str:
    return f"attempts/{stage}/{unit}.json"
