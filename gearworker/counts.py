"""What a worker process counts: plain numbers on the path of every job, in structs that can cross a process boundary.

A worker counts through the ``JobCounter`` middleware. ``WorkerCounts`` is the state of one process at one moment, and
``merge`` makes one of several: counters add up over all processes that ever lived, gauges over those that live now.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from gearworker.job import GearmanJob
from gearworker.middleware import OUTCOMES, Middleware, Outcome
from gearworker.protocol.packets import PacketType

if TYPE_CHECKING:
    from gearworker.worker.worker import Worker

DURATION_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
UPDATE_TYPES: Final = {
    PacketType.WORK_DATA: "data",
    PacketType.WORK_WARNING: "warning",
    PacketType.WORK_STATUS: "status",
}


def _no_outcomes() -> dict[str, int]:
    return dict.fromkeys(OUTCOMES, 0)


def _no_packets() -> dict[str, int]:
    return dict.fromkeys(UPDATE_TYPES.values(), 0)


def _no_durations() -> list[int]:
    return [0] * (len(DURATION_BUCKETS_S) + 1)


class TaskCounts(msgspec.Struct):
    """The counts of one task. ``durations`` holds the jobs of each bucket, the last being those over every bound."""

    outcomes: dict[str, int] = msgspec.field(default_factory=_no_outcomes)
    packets: dict[str, int] = msgspec.field(default_factory=_no_packets)
    durations: list[int] = msgspec.field(default_factory=_no_durations)
    durations_sum_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    in_progress: int = 0

    def add(self, other: TaskCounts) -> None:
        """Add another process's counters; ``in_progress`` is a gauge and stays."""
        for name, count in other.outcomes.items():
            self.outcomes[name] += count
        for name, count in other.packets.items():
            self.packets[name] += count
        self.durations = [mine + theirs for mine, theirs in zip(self.durations, other.durations, strict=True)]
        self.durations_sum_s += other.durations_sum_s
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


class PoolCounts(msgspec.Struct):
    """The slots of a pool by their state."""

    running: int = 0
    reserved: int = 0
    free: int = 0


class JobServerCounts(msgspec.Struct):
    """The connections to a job server: whether every pool has one now, and how many were made after the first."""

    up: bool = False
    reconnects: int = 0


class WorkerCounts(msgspec.Struct):
    """All counts of a process, or of several together."""

    tasks: dict[str, TaskCounts] = {}
    pools: dict[str, PoolCounts] = {}
    job_servers: dict[str, JobServerCounts] = {}
    hub_lag_s: float = 0.0

    @property
    def jobs_ended(self) -> int:
        """How many jobs have ended, in any way."""
        return sum(sum(task.outcomes.values()) for task in self.tasks.values())

    def add_counters(self, other: WorkerCounts) -> None:
        """Add the counters of another process, and none of its gauges."""
        for name, task in other.tasks.items():
            self.tasks.setdefault(name, TaskCounts()).add(task)
        for address, server in other.job_servers.items():
            self.job_servers.setdefault(address, JobServerCounts()).reconnects += server.reconnects


def merge(past: WorkerCounts, living: Iterable[WorkerCounts]) -> WorkerCounts:
    """The counts of several processes together.

    Args:
        past: the counters of processes that have ended.
        living: the counts of those that live.
    """
    processes = list(living)
    total = WorkerCounts()
    for counts in (past, *processes):
        total.add_counters(counts)
    for counts in processes:
        for name, task in counts.tasks.items():
            total.tasks[name].in_progress += task.in_progress
        for name, pool in counts.pools.items():
            slots = total.pools.setdefault(name, PoolCounts())
            slots.running += pool.running
            slots.reserved += pool.reserved
            slots.free += pool.free
        total.hub_lag_s = max(total.hub_lag_s, counts.hub_lag_s)
    for address, server in total.job_servers.items():
        seen = [counts.job_servers[address].up for counts in processes if address in counts.job_servers]
        server.up = bool(seen) and all(seen)
    return total


class JobCounter(Middleware):
    """Counts jobs, their durations, packets and bytes, and the comings and goings of job servers.

    Args:
        tasks: names of the tasks served; they show from the start, at zero.
        job_servers: their addresses; they show from the start, as down.
    """

    def __init__(self, tasks: Iterable[str] = (), job_servers: Iterable[str] = ()) -> None:
        self.tasks: dict[str, TaskCounts] = {task: TaskCounts() for task in tasks}
        self._connected: dict[str, set[str]] = {address: set() for address in job_servers}
        self._reconnects: dict[str, int] = dict.fromkeys(self._connected, 0)
        self._seen: set[tuple[str, str]] = set()

    def before_job(self, job: GearmanJob) -> None:
        """Count the job as in progress, and its payload."""
        counts = self.tasks.get(job.task)
        if counts is None:
            counts = self.tasks[job.task] = TaskCounts()
        counts.in_progress += 1
        counts.bytes_in += job.data_bytes

    def after_job(
        self, job: GearmanJob, outcome: Outcome, duration_s: float, result_bytes: int, error: BaseException | None
    ) -> None:
        """Count the job by its outcome and duration, and its result."""
        counts = self.tasks[job.task]
        counts.in_progress -= 1
        counts.outcomes[outcome] += 1
        counts.bytes_out += result_bytes
        counts.durations[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1
        counts.durations_sum_s += duration_s

    def after_update(self, job: GearmanJob, packet_type: PacketType, data_bytes: int) -> None:
        """Count the packet and its data."""
        counts = self.tasks[job.task]
        counts.packets[UPDATE_TYPES[packet_type]] += 1
        counts.bytes_out += data_bytes

    def job_server_up(self, address: str, pool: str) -> None:
        """Note the connection; the second and later ones of a pool are reconnects."""
        self._connected.setdefault(address, set()).add(pool)
        self._reconnects.setdefault(address, 0)
        if (address, pool) in self._seen:
            self._reconnects[address] += 1
        self._seen.add((address, pool))

    def job_server_down(self, address: str, pool: str, reason: str) -> None:
        """Note the lost connection."""
        self._connected.setdefault(address, set()).discard(pool)

    def snapshot(self, worker: Worker, hub_lag_s: float) -> WorkerCounts:
        """The counts as they are now, with the state of the worker's pools.

        The tasks' counts are the live ones, not copies: encode or render them before anything else runs.
        """
        return WorkerCounts(
            tasks=self.tasks,
            pools={p.name: PoolCounts(len(p.running), p.reserved, max(0, p.free)) for p in worker.pools},
            job_servers={
                address: JobServerCounts(len(pools) == len(worker.pools), self._reconnects[address])
                for address, pools in self._connected.items()
            },
            hub_lag_s=hub_lag_s,
        )
