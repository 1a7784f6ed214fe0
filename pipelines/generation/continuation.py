"""Whether a video's folder may be continued, and from which segment: same settings, or a refusal that says why not.

Prompts and seeds may differ from segment to segment (`--from-segment`); what is in force lies in manifest.json, so a
plain rerun finishes what a redo began. Everything enters the links of commits.py: nothing is ever mixed by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from longvie.segments import plan_segments
from pipelines.errors import UserError
from pipelines.generation.commits import Commit, VideoStore
from pipelines.generation.plan import VideoJob, VideoPlan
from pipelines.hashes import fingerprint


@dataclass(frozen=True, kw_only=True)
class Redo:
    """Make segments from `segment` on again, with another prompt or seed if given."""

    segment: int
    prompt: str | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What is in force for one video, as manifest.json keeps it.

    Args:
        requested_prompts, requested_seed: as the user's input says, to notice when that changes.
        prompts, seeds: in force, one a segment.
        takes: how often each segment was begun anew with `--from-segment`; part of its link.
        epoch: how often the whole video was begun anew with `--restart`.
    """

    requested_prompts: tuple[str, ...]
    requested_seed: int
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    takes: tuple[int, ...]
    epoch: int = 0

    @staticmethod
    def fresh(plan: VideoPlan, seed: int, epoch: int = 0) -> Decided:
        count = plan.num_segments
        return Decided(
            requested_prompts=plan.prompts,
            requested_seed=seed,
            prompts=plan.prompts,
            seeds=(seed,) * count,
            takes=(0,) * count,
            epoch=epoch,
        )

    @staticmethod
    def from_manifest(content: Mapping[str, Any]) -> Decided:
        return Decided(
            requested_prompts=tuple(content["requested_prompts"]),
            requested_seed=content["requested_seed"],
            prompts=tuple(content["prompts"]),
            seeds=tuple(content["seeds"]),
            takes=tuple(content["takes"]),
            epoch=content["epoch"],
        )


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A job, what of it exists, and how its folder must be opened before work goes on."""

    job: VideoJob
    store: VideoStore
    commits: tuple[Commit, ...]
    manifest: dict[str, Any]  # to be written before work begins
    finished: bool  # nothing is left to do
    truncate: bool  # forget commits from len(commits) on: they belong to what was before

    @property
    def num_left(self) -> int:
        return self.job.num_segments - len(self.commits)

    def open(self) -> None:
        """Make the folder say what it is about to hold. The manifest comes first: from then on old commits are void."""
        if self.finished:
            return
        self.store.write_manifest(self.manifest)
        if self.truncate:
            self.store.truncate(len(self.commits))


def continue_video(
    plan: VideoPlan,
    store: VideoStore,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    seed: int | None = None,
    restart: bool = False,
    redo: Redo | None = None,
) -> Continuation:
    """Compare what is asked for with what the folder holds. Writes nothing.

    Args:
        settings: `VideoPlan.settings`; a difference to those the video was begun with is refused.
        about: what else manifest.json shall say (inputs, versions).
        seed: where the plan says none.
    """
    seed = plan.seed if plan.seed is not None else seed
    before = _manifest_to_restart(store) if restart else store.read_manifest()
    if restart or before is None:
        if redo is not None:
            raise UserError(f"--from-segment {redo.segment}: {store.uri} does not exist yet; run without it first")
        decided = Decided.fresh(plan, seed or 0, epoch=before["decided"]["epoch"] + 1 if before else 0)
    else:
        _refuse_mixing(store, before["settings"], settings)
        decided = Decided.from_manifest(before["decided"])
        decided = _unchanged(plan, store, decided, seed) if redo is None else _redone(plan, decided, redo)
    job = VideoJob(plan=plan, prompts=decided.prompts, seeds=decided.seeds, links=_links(plan, settings, decided))
    commits = () if restart else tuple(store.commits(job.links))
    if redo is not None and len(commits) < redo.segment:
        raise UserError(
            f"--from-segment {redo.segment}: only {len(commits)} segments before it exist; run without it first"
        )
    manifest = {
        "video_id": plan.video_id,
        "status": "running",
        "settings": dict(settings),
        "decided": asdict(decided),
        **about,
        "video": None,
    }
    finished = (
        len(commits) == job.num_segments
        and before is not None
        and before.get("status") == "done"
        and store.has_video(before.get("video"))
    )
    return Continuation(
        job=job,
        store=store,
        commits=commits,
        manifest=manifest,
        finished=finished,
        truncate=restart or redo is not None or len(commits) < job.num_segments,
    )


def _links(plan: VideoPlan, settings: Mapping[str, Any], decided: Decided) -> tuple[str, ...]:
    """One a segment: a hash over all that decides it and every segment before."""
    link = fingerprint({"settings": dict(settings), "epoch": decided.epoch})
    links = []
    for segment in plan_segments(plan.num_frames, plan.segment_length):
        k = segment.index
        own = {
            "segment": asdict(segment),
            "prompt": decided.prompts[k],
            "seed": decided.seeds[k],
            "take": decided.takes[k],
        }
        link = fingerprint({"before": link, **own})
        links.append(link)
    return tuple(links)


def _refuse_mixing(store: VideoStore, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        told = ", ".join(_difference(key, before.get(key), now.get(key)) for key in changed)
        raise UserError(
            f"{store.uri} was begun with other settings ({told}); segments are not mixed: give the same again, "
            "another --out, or --restart to begin anew"
        )


def _difference(key: str, before: Any, now: Any) -> str:
    if key in ("model", "first_frame", "dense", "sparse"):
        return f"{key} has other content"
    return f"{key} was {before!r}, is {now!r}"


def _unchanged(plan: VideoPlan, store: VideoStore, decided: Decided, seed: int | None) -> Decided:
    seed = seed or 0
    if seed != decided.requested_seed:
        raise UserError(
            f"{store.uri} was begun with seed {decided.requested_seed}, now it is {seed}; give the same again, "
            "another --out, or --restart to begin anew"
        )
    if plan.prompts != decided.requested_prompts:
        first = next(k for k, (a, b) in enumerate(zip(plan.prompts, decided.requested_prompts, strict=True)) if a != b)
        raise UserError(
            f"{store.uri}: the prompt of segment {first} has changed; give the same again, --from-segment {first} to "
            "make it and all after it anew, or --restart"
        )
    return decided


def _redone(plan: VideoPlan, decided: Decided, redo: Redo) -> Decided:
    k, count = redo.segment, plan.num_segments
    if not 0 <= k < count:
        raise UserError(f"--from-segment {k}: {plan.video_id} has segments 0..{count - 1}")
    if plan.prompts[:k] != decided.requested_prompts[:k]:
        first = next(i for i in range(k) if plan.prompts[i] != decided.requested_prompts[i])
        raise UserError(
            f"--from-segment {k}: the prompt of segment {first} has changed too; give --from-segment {first}"
        )
    prompts = decided.prompts[k:] if plan.prompts == decided.requested_prompts else plan.prompts[k:]
    requested_seed = plan.seed if plan.seed is not None else decided.requested_seed
    seed = redo.seed if redo.seed is not None else requested_seed if requested_seed != decided.requested_seed else None
    return replace(
        decided,
        requested_prompts=plan.prompts,
        requested_seed=requested_seed,
        prompts=decided.prompts[:k] + ((redo.prompt,) * (count - k) if redo.prompt is not None else prompts),
        seeds=decided.seeds[:k] + ((seed,) * (count - k) if seed is not None else decided.seeds[k:]),
        takes=decided.takes[:k] + tuple(take + 1 for take in decided.takes[k:]),
    )


def _manifest_to_restart(store: VideoStore) -> dict[str, Any] | None:
    try:
        return store.read_manifest()
    except UserError:  # what is there will be replaced, whatever it is
        return None
