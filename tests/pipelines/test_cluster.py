"""Where work is placed: GPUs pinned and never shared, CPU workers that see none, refusals instead of hangs."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray

from pipelines.cluster import Placement, can_place, capacity, cluster, place, remote_worker
from pipelines.errors import UserError

pytestmark = pytest.mark.usefixtures("ray_here")


class Looking:
    """A plain class that says what its process sees."""

    def see(self) -> dict[str, Any]:
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        return {"pid": os.getpid(), "gpus": ray.get_gpu_ids(), **{name: os.environ.get(name) for name in names}}

    def progress(self) -> int:
        return os.getpid()


def test_gpu_workers_have_their_own_gpu() -> None:
    placement = place(2, 1, 1, num_videos=2)
    workers = [remote_worker(Looking, placement).remote() for _ in range(2)]
    seen = ray.get([worker.see.remote() for worker in workers])
    assert sorted(view["CUDA_VISIBLE_DEVICES"] for view in seen) == ["0", "1"]
    assert seen[0]["pid"] != seen[1]["pid"]
    for worker in workers:
        ray.kill(worker)


def test_a_worker_with_two_gpus_has_both() -> None:
    worker = remote_worker(Looking, place(1, 2, 1, num_videos=1)).remote()
    assert ray.get(worker.see.remote())["CUDA_VISIBLE_DEVICES"] == "0,1"
    ray.kill(worker)


def test_a_cpu_worker_sees_no_gpu() -> None:
    worker = remote_worker(Looking, place(1, 0, 2, num_videos=1)).remote()
    seen = ray.get(worker.see.remote())
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["gpus"] == []
    assert (seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"]) == ("2", "2")
    assert ray.get(worker.progress.options(concurrency_group="watch").remote()) == seen["pid"]
    ray.kill(worker)


def test_defaults_follow_the_cluster_and_the_work() -> None:
    assert place(None, None, 1, num_videos=9) == Placement(workers=2, gpus_per_worker=1, threads_per_worker=1)
    assert place(None, None, 1, num_videos=1).workers == 1
    assert place(None, 0, 2, num_videos=9) == Placement(workers=1, gpus_per_worker=0, threads_per_worker=2)
    assert place(5, None, 1, num_videos=2).workers == 2, "no more workers than videos"
    assert (place(1, 1, 1, 1).device, place(1, 0, 1, 1).device) == ("cuda", "cpu")


@pytest.mark.parametrize(
    ("workers", "gpus", "threads", "message"),
    [
        (1, 3, 1, r"1 worker\(s\) with 3 GPU and 1 CPU each do not fit: .* has 2 CPU, 2 GPU on 1 node"),
        (2, 2, 1, r"2 worker\(s\) with 2 GPU .* room for 1"),
        (None, 3, 1, "room for 0"),
        (None, 0, 3, "room for 0"),
        (3, 0, 1, "room for 2; lower --workers"),
    ],
)
def test_what_does_not_fit_is_refused(workers: int | None, gpus: int, threads: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        place(workers, gpus, threads, num_videos=9)


def test_waiting_for_nodes_ends() -> None:
    """A cluster that does not grow is waited for no longer than was asked."""
    with pytest.raises(UserError, match="do not fit"):
        place(1, 3, 1, num_videos=1, wait_seconds=1.5)


def test_one_worker_never_spans_two_nodes() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}]
    assert capacity(nodes, {"CPU": 1, "GPU": 2}) == 0
    assert capacity(nodes, {"CPU": 1, "GPU": 1}) == 2
    assert capacity(nodes, {"CPU": 3}) == 4
    assert capacity([], {"CPU": 1}) == 0


def test_can_place() -> None:
    assert can_place(Placement(workers=1, gpus_per_worker=2, threads_per_worker=1))
    assert not can_place(Placement(workers=1, gpus_per_worker=3, threads_per_worker=1))


def test_a_ray_that_runs_is_used_and_left_running() -> None:
    before = ray.get_runtime_context().get_job_id()
    with cluster():
        assert ray.get_runtime_context().get_job_id() == before
    assert ray.is_initialized()
