"""`UnitWorker`: a plain class that makes units with one stage and commits them; remote only at the edge (passes.py).

Rows of URIs, ranges and numbers come in and one small row a unit goes out: frames and arrays go from here to storage
and back. What is wrong with the data is a row; a fault of the program or of the storage ends the run.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import cv2
import pyarrow as pa
from av.error import FFmpegError

from pipelines.errors import storage_errors
from pipelines.preparation.units import Made, Unit, UnitStore
from pipelines.storage import Storage

T = TypeVar("T")

ROW = pa.schema([("offset", pa.int64()), ("length", pa.int64())])  # of a unit in the pass's file of tasks
RESULT = pa.schema(
    [
        ("unit", pa.string()),
        ("made", pa.bool_()),  # False: it existed, or failed
        ("seconds", pa.float64()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
    ]
)

# What broken or missing input raises. `VideoError` and `UserError` are values too.
DATA_ERRORS = (ValueError, OSError, cv2.error, FFmpegError)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
TRIES = 3  # of a unit whose input fails as a network does, and of a write
MAX_DEATHS = 3  # workers that may die over one unit before it is taken for the cause
_PAUSE_SECONDS = 0.5  # before the second try; doubled before the third


class StorageError(RuntimeError):
    """The output cannot be read or written; the run ends, and the same command goes on from what is committed."""


class Stage(Protocol):
    """One step of preparation. Weights are loaded in `__init__`."""

    name: ClassVar[str]

    def make(self, task: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """Make one unit: its files into a local folder, under their names below OUT; a small result, as JSON.

        Raises one of `DATA_ERRORS` if the input is at fault.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker of a run is told.

    Args:
        run: names the run, so that workers that died are counted within it.
        name: of the stage.
        stage: makes the stage, given the storage it reads committed files from.
        open_storage: opens `out`.
        hide_gpus: a worker without GPUs would be shown all of them by Ray.
    """

    out: str
    run: str
    name: str
    stage: Callable[[Storage], Stage]
    open_storage: Callable[[str], Storage]
    hide_gpus: bool = False


class UnitWorker:
    """Makes the units of a block of rows."""

    def __init__(self, job: Job) -> None:
        if job.hide_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        cv2.setNumThreads(1)  # a worker is given so many CPUs, and takes no more
        self._run = job.run
        self._store = UnitStore(job.open_storage(job.out))
        self._stage = job.stage(self._store.storage)
        self._tasks = tasks_name(job)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """A table of `ROW` to a table of `RESULT`."""
        results = [self.make(**self._read(row["offset"], row["length"])) for row in rows.to_pylist()]
        return pa.Table.from_pylist(results, RESULT)

    def _read(self, offset: int, length: int) -> dict[str, Any]:
        def read() -> bytes:
            with self._store.storage.open(self._tasks) as file:
                file.seek(offset)
                return file.read(length)

        return json.loads(reliably(read))

    def make(self, unit: str, key: str, task: Mapping[str, Any]) -> dict[str, Any]:
        """One unit, unless it exists; a row of `RESULT`."""
        started = time.perf_counter()
        stage = self._stage.name
        row = {"unit": unit, "made": False, "seconds": 0.0, "error": None, "attempts": 0}
        if reliably(lambda: self._store.exists(stage, unit, key)) is not None:
            return row
        died = reliably(lambda: self._store.begin(stage, unit, self._run))
        if died >= MAX_DEATHS:
            row["error"] = f"{died} workers died over it, out of memory or in a decoder; the unit is left out"
            row["attempts"] = died
        else:
            row["error"], row["attempts"] = self._try(stage, unit, key, task)
            row["made"] = row["error"] is None
        reliably(lambda: self._store.end(stage, unit))
        row["seconds"] = time.perf_counter() - started
        return row

    def _try(self, stage: str, unit: str, key: str, task: Mapping[str, Any]) -> tuple[str | None, int]:
        """Make and commit; the error, if the input is at fault, and how often it was tried."""
        for attempt in range(1, TRIES + 1):
            with tempfile.TemporaryDirectory(prefix="longvie-") as folder:
                try:
                    result = self._stage.make(task, Path(folder))
                except DATA_ERRORS as error:
                    if attempt < TRIES and may_pass(error):
                        time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
                        continue
                    return one_line(error, folder), attempt
                made = Made(folder=Path(folder), result=result)
                reliably(lambda: self._store.commit(stage, unit, key, made))  # noqa: B023  # called at once
                return None, attempt
        raise AssertionError("the last attempt returns")


_kept: dict[tuple[str, str], UnitWorker] = {}  # this process's last one


def make_units(rows: pa.Table, job: Job) -> pa.Table:
    """As a `UnitWorker` does, which this process keeps for the next block: for stages that load no weights."""
    key = (job.run, job.name)
    if key not in _kept:
        _kept.clear()
        _kept[key] = UnitWorker(job)
    return _kept[key](rows)


def reliably(action: Callable[[], T]) -> T:
    """Do something with the storage, again if it fails; `StorageError` if it keeps failing."""
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except storage_errors() as error:
            if attempt == TRIES:
                raise StorageError(f"the output cannot be read or written: {one_line(error)}") from error
            time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def one_line(error: BaseException, folder: str = "") -> str:
    """An error as one line, without the names of temporary files, so that equal faults read equally."""
    text = " ".join(str(error).split()) or type(error).__name__
    if folder:
        text = text.replace(f"{folder}/", "")
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def write_tasks(storage: Storage, job: Job, units: Sequence[Unit]) -> list[dict[str, int]]:
    """Write what a pass is to make into one file, for workers to read; where each unit stands in it, as rows of `ROW`.

    Tasks travel by this file: as rows they would fill Ray's object store with 2 KB a unit.
    """
    lines = [json.dumps({"unit": unit.name, "key": unit.key, "task": unit.task}).encode() + b"\n" for unit in units]
    offsets = itertools.accumulate((len(line) for line in lines), initial=0)
    reliably(lambda: storage.write(tasks_name(job), b"".join(lines)))
    return [{"offset": offset, "length": len(line)} for offset, line in zip(offsets, lines, strict=False)]


def tasks_name(job: Job) -> str:
    """The file of a pass's tasks; it goes at the end of the run."""
    return f"tasks/{job.name}.jsonl"


def may_pass(error: BaseException) -> bool:
    """Whether trying again may help: a network's or a disk's fault, not the file's."""
    cause = error.__cause__ or error
    return isinstance(cause, OSError) and not isinstance(cause, (*_LASTING, FFmpegError))
