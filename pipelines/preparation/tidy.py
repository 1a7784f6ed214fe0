"""What may be removed from OUT, and when: nothing that a user's mistake or a broken network made look superfluous.

Only our own folders and files are looked at; whatever else lies in OUT stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.errors import UserError
from pipelines.preparation import recipe
from pipelines.preparation.sources import Source
from pipelines.preparation.units import UnitCommit, UnitStore, commit_name
from pipelines.storage import Storage

FOLDERS = ("attempts", "commits", "controls", "cond", "depth", "tasks")
FILES = (
    recipe.NAME,
    recipe.MANIFEST,
    "videos.parquet",
    "segments.parquet",
    "stats.parquet",
    "errors.parquet",
    "report.html",
)


def forget(storage: Storage, folders: Sequence[str] = FOLDERS, files: Sequence[str] = FILES) -> None:
    """Remove all that a job ever wrote: the commits first, so that none speaks of what is gone."""
    for name in (*_walk(storage, "commits"), *files):
        storage.delete(name)
    for folder in folders:
        for name in _walk(storage, folder):
            storage.delete(name)
        storage.delete_empty_folders(folder)


def check_named(store: UnitStore, sources: Sequence[Source], *, prune: bool) -> None:
    """`UserError` if OUT holds what was made of sources that are not named now: it is not to vanish by accident."""
    if prune:
        return
    named = {source.uri for source in sources}
    commits = store.read_all("sources").values()
    missing = sorted(uri for commit in commits if (uri := str(commit.result["uri"])) not in named)
    if missing:
        raise UserError(
            f"{store.storage.uri} also holds {missing[0]}"
            + (f" and {len(missing) - 1} more sources" if len(missing) > 1 else "")
            + ", which this command does not name: name all sources, give --prune to remove what was made of others, "
            "or choose another --out"
        )


def clean(
    storage: Storage,
    known: Mapping[str, Mapping[str, UnitCommit]],
    dropped: set[str],
    *,
    keep_others: bool,
    folders: Sequence[str] = FOLDERS,
    files: Sequence[str] = FILES,
) -> None:
    """Remove what no commit vouches for: orphans of killed workers, and units of what is no longer prepared.

    Args:
        known: the commits that count, by stage and unit.
        dropped: files to be removed although a commit names them.
        keep_others: leave commits that are not known, and their files: a source could not be read this time.
        folders, files: the job's own, beside which nothing is touched.
    """
    commits = {stage: dict(units) for stage, units in known.items()}
    if keep_others:
        store = UnitStore(storage)
        for stage in recipe.STAGES:
            commits[stage] = {**store.read_all(stage), **commits.get(stage, {})}
    keep = {commit_name(stage, unit) for stage, units in commits.items() for unit in units}
    keep |= {name for units in commits.values() for commit in units.values() for name in commit.files}
    keep -= dropped
    for folder in folders:
        for name in _walk(storage, folder):
            if name not in keep:
                storage.delete(name)
        storage.delete_empty_folders(folder)
    for name in storage.temporaries():
        if any(name.startswith(f".{file}.") for file in files):
            storage.delete(name)


def _walk(storage: Storage, folder: str) -> list[str]:
    return sorted(storage.walk(folder))
