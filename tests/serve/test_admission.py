"""Requests that come together are recorded together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from serve.admission import GroupCommit
from serve.store import Busy, Conflict, Entry, Job, JobStore, NewJob, QueueFull


class CountedStore(JobStore):
    """Knows how many jobs each transaction was for."""

    transactions: list[int]

    def create_at_once(self, entries: Sequence[Entry]) -> list[Job | QueueFull | Conflict]:
        self.transactions.append(len(entries))
        return super().create_at_once(entries)


@pytest.fixture
def store(tmp_path: Path) -> CountedStore:
    store = CountedStore(f"sqlite:///{tmp_path}/jobs.sqlite")
    store.transactions = []
    return store


def entries(count: int, **changes: object) -> list[Entry]:
    return [
        Entry(new=NewJob(id=f"video_{k}", owner="a", request={}, num_segments=1, num_steps=1), **changes)  # type: ignore[arg-type]
        for k in range(count)
    ]


def test_requests_of_one_moment_share_a_transaction(store: CountedStore) -> None:
    async def ask() -> list[Job]:
        group = GroupCommit(store)
        made = await asyncio.gather(*map(group.create, entries(5)))
        return [
            *made,
            await group.create(Entry(new=NewJob(id="later", owner="a", request={}, num_segments=1, num_steps=1))),
        ]

    made = asyncio.run(ask())
    assert store.transactions == [5, 1]
    assert made == [store.get(job.id) for job in made]
    assert store.counts()["queued"] == 6


def test_each_is_told_what_became_of_its_own(store: CountedStore) -> None:
    async def ask() -> list[Job | BaseException]:
        group = GroupCommit(store)
        return await asyncio.gather(*map(group.create, entries(3, queue_limit=2)), return_exceptions=True)

    assert [type(one) for one in asyncio.run(ask())] == [Job, Job, QueueFull]
    assert store.counts()["queued"] == 2


def test_all_are_told_that_another_writes(store: CountedStore) -> None:
    async def ask() -> list[Job | BaseException]:
        group = GroupCommit(store)
        with store.database.write():
            refused = await asyncio.gather(*map(group.create, entries(2)), return_exceptions=True)
        return [*refused, await group.create(entries(1)[0])]

    assert [type(one) for one in asyncio.run(ask())] == [Busy, Busy, Job]


def test_one_whose_client_has_gone_is_not_recorded(store: CountedStore) -> None:
    async def ask() -> Job:
        group = GroupCommit(store)
        gone, stays = (asyncio.ensure_future(group.create(entry)) for entry in entries(2))
        asyncio.get_running_loop().call_soon(gone.cancel)
        await asyncio.sleep(0)
        return await stays

    assert asyncio.run(ask()).id == "video_1"
    assert store.counts()["queued"] == 1
