"""Counting jobs, and the counts of several processes made one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gearworker.counts import (
    DURATION_BUCKETS_S,
    JobCounter,
    JobServerCounts,
    PoolCounts,
    TaskCounts,
    WorkerCounts,
    merge,
)
from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType


def job(task: str = "t", data: bytes = b"12345") -> GearmanJob:
    made = GearmanJob(None, "H:1", task, "u", data)
    made.data_bytes = len(data)
    return made


class Pool:
    def __init__(self, name: str, running: int = 0, reserved: int = 0, free: int = 0) -> None:
        self.name, self.running, self.reserved, self.free = name, [None] * running, reserved, free


def worker(*pools: Pool) -> Any:
    class FakeWorker:
        pass

    made: Any = FakeWorker()
    made.pools = list(pools)
    return made


def process(jobs: int, **gauges: Any) -> WorkerCounts:
    task = TaskCounts(in_progress=gauges.get("in_progress", 0), bytes_in=jobs, bytes_out=jobs, durations_sum_s=jobs)
    task.outcomes["complete"] = task.packets["data"] = task.durations[2] = jobs
    return WorkerCounts(
        tasks={"t": task},
        pools={"default": PoolCounts(*gauges.get("slots", (0, 0, 0)))},
        job_servers={"a:1": JobServerCounts(gauges.get("up", True), gauges.get("reconnects", 0))},
        hub_lag_s=gauges.get("lag_s", 0.0),
    )


def test_a_job_is_in_progress_and_then_counted_by_its_outcome() -> None:
    counter = JobCounter(["t"])
    counter.before_job(job())
    assert counter.tasks["t"].in_progress == 1
    counter.after_update(job(), PacketType.WORK_DATA, 7)
    counter.after_update(job(), PacketType.WORK_STATUS, 0)
    counter.after_job(job(), "exception", 0.003, 11, ValueError())
    counts = counter.tasks["t"]
    assert (counts.in_progress, counts.bytes_in, counts.bytes_out) == (0, 5, 18)
    assert counts.outcomes == {**dict.fromkeys(counts.outcomes, 0), "exception": 1}
    assert counts.packets == {"data": 1, "warning": 0, "status": 1}
    assert counts.durations_sum_s == 0.003


@pytest.mark.parametrize(
    ("duration_s", "bucket"),
    [(0.0, 0), (0.001, 0), (0.0011, 1), (1.0, 9), (300.0, 15), (300.1, 16)],
)
def test_a_duration_falls_into_the_bucket_whose_bound_it_does_not_exceed(duration_s: float, bucket: int) -> None:
    counter = JobCounter(["t"])
    counter.before_job(job())
    counter.after_job(job(), "complete", duration_s, 0, None)
    assert len(counter.tasks["t"].durations) == len(DURATION_BUCKETS_S) + 1
    assert [n for n, count in enumerate(counter.tasks["t"].durations) if count] == [bucket]


def test_tasks_and_job_servers_show_from_the_start_and_new_ones_when_they_come() -> None:
    counter = JobCounter(["t"], ["a:1"])
    counts = counter.snapshot(worker(Pool("p")), 0.0)
    assert list(counts.tasks) == ["t"]
    assert counts.job_servers == {"a:1": JobServerCounts(up=False, reconnects=0)}
    counter.before_job(job("later"))
    assert counter.tasks["later"].in_progress == 1


def test_a_job_server_is_up_when_every_pool_has_its_connection() -> None:
    counter, two = JobCounter([], ["a:1"]), worker(Pool("p"), Pool("q"))
    counter.job_server_up("a:1", "p")
    assert not counter.snapshot(two, 0).job_servers["a:1"].up
    counter.job_server_up("a:1", "q")
    assert counter.snapshot(two, 0).job_servers["a:1"] == JobServerCounts(up=True, reconnects=0)
    counter.job_server_down("a:1", "q", "reset")
    assert not counter.snapshot(two, 0).job_servers["a:1"].up
    counter.job_server_up("a:1", "q")
    assert counter.snapshot(two, 0).job_servers["a:1"] == JobServerCounts(up=True, reconnects=1)


def test_a_snapshot_has_the_pools_slots_and_never_less_than_none_free() -> None:
    counts = JobCounter().snapshot(worker(Pool("p", 2, 1, 7), Pool("full", 3, 0, -1)), 0.5)
    assert counts.pools == {"p": PoolCounts(2, 1, 7), "full": PoolCounts(3, 0, 0)}
    assert counts.hub_lag_s == 0.5


def test_counters_of_ended_processes_stay_and_their_gauges_vanish() -> None:
    past = WorkerCounts()
    past.add_counters(process(5, in_progress=3, slots=(1, 2, 3), reconnects=2, lag_s=9))
    total = merge(past, [process(2, in_progress=1, slots=(1, 0, 4), reconnects=1, lag_s=0.25)])
    task = total.tasks["t"]
    assert (task.outcomes["complete"], task.packets["data"], task.durations[2]) == (7, 7, 7)
    assert (task.durations_sum_s, task.bytes_in, task.bytes_out) == (7, 7, 7)
    assert task.in_progress == 1
    assert total.pools == {"default": PoolCounts(1, 0, 4)}
    assert total.job_servers["a:1"].reconnects == 3
    assert total.hub_lag_s == 0.25
    assert total.jobs_ended == 7


def test_gauges_add_up_over_living_processes_and_the_lag_is_the_worst() -> None:
    living = [process(1, in_progress=n, slots=(n, n, n), lag_s=n) for n in (3, 1, 2)]
    total = merge(WorkerCounts(), living)
    assert total.tasks["t"].in_progress == 6
    assert total.pools["default"] == PoolCounts(6, 6, 6)
    assert total.hub_lag_s == 3


@pytest.mark.parametrize(("ups", "up"), [([True, True], True), ([True, False], False), ([], False)])
def test_a_job_server_is_up_when_it_is_for_every_living_process(ups: list[bool], up: bool) -> None:
    past = WorkerCounts()
    past.add_counters(process(1, up=True))
    assert merge(past, [process(1, up=one) for one in ups]).job_servers["a:1"].up is up


def test_processes_with_different_tasks_and_job_servers_are_merged() -> None:
    """In the middle of a reload the processes need not serve the same."""
    other = WorkerCounts(tasks={"new": TaskCounts()}, job_servers={"b:1": JobServerCounts(up=True)})
    total = merge(WorkerCounts(), [process(1), other])
    assert set(total.tasks) == {"t", "new"}
    assert {address: server.up for address, server in total.job_servers.items()} == {"a:1": True, "b:1": True}


def test_merging_changes_none_of_what_it_is_given() -> None:
    past, one = WorkerCounts(), process(1, in_progress=2)
    past.add_counters(process(4))
    before = msgspec.msgpack.encode([past, one])
    merge(past, [one])
    merge(past, [one])
    assert msgspec.msgpack.encode([past, one]) == before


def test_counts_cross_a_process_boundary_whole() -> None:
    counts = process(3, in_progress=1, slots=(1, 2, 3), reconnects=4, lag_s=0.5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(counts), type=WorkerCounts) == counts


def test_counts_of_one_process_are_not_those_of_another() -> None:
    one, two = WorkerCounts(), WorkerCounts()
    one.add_counters(process(1))
    assert two == WorkerCounts()
    assert two.jobs_ended == 0
