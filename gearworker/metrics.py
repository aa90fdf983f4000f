"""What a worker counts, and how Prometheus sees it.

Counting happens in plain integers on the path of every job; the Prometheus client's families are made from them when
somebody scrapes. Labels are names of registered tasks, pools and job servers only, so a stranger can't grow them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import gevent
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gearworker.job import GearmanJob
from gearworker.middleware import OUTCOMES, Middleware, Outcome
from gearworker.protocol.packets import PacketType

if TYPE_CHECKING:
    from gearworker.worker.worker import Worker

DURATION_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LAG_INTERVAL_S: Final = 0.25
_UPDATE_TYPES: Final = {
    PacketType.WORK_DATA: "data",
    PacketType.WORK_WARNING: "warning",
    PacketType.WORK_STATUS: "status",
}


class TaskCounts:
    """What is counted for one task."""

    __slots__ = ("bytes_in", "bytes_out", "durations", "durations_sum_s", "in_progress", "outcomes", "packets")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.packets = dict.fromkeys(_UPDATE_TYPES.values(), 0)
        self.durations = [0] * (len(DURATION_BUCKETS_S) + 1)
        self.durations_sum_s = 0.0
        self.in_progress = 0
        self.bytes_in = 0
        self.bytes_out = 0


class JobMetrics(Middleware):
    """Counts jobs, their durations, packets and bytes, and the state of the job servers.

    Args:
        tasks: names of the tasks served; they show from the start, at zero.
        job_servers: their addresses; they show from the start, as down.
    """

    def __init__(self, tasks: Iterable[str] = (), job_servers: Iterable[str] = ()) -> None:
        self.tasks: dict[str, TaskCounts] = {task: TaskCounts() for task in tasks}
        self.connected: dict[str, set[str]] = {address: set() for address in job_servers}
        self.reconnects: dict[str, int] = dict.fromkeys(self.connected, 0)
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
        counts.packets[_UPDATE_TYPES[packet_type]] += 1
        counts.bytes_out += data_bytes

    def job_server_up(self, address: str, pool: str) -> None:
        """Note the connection; the second and later ones of a pool are reconnects."""
        self.connected.setdefault(address, set()).add(pool)
        self.reconnects.setdefault(address, 0)
        if (address, pool) in self._seen:
            self.reconnects[address] += 1
        self._seen.add((address, pool))

    def job_server_down(self, address: str, pool: str, reason: str) -> None:
        """Note the lost connection."""
        self.connected.setdefault(address, set()).discard(pool)


class HubLag:
    """Measures how late the hub comes round: the longest delay of a timer since the last look."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._worst_s = 0.0
        self._due_at = 0.0
        self._greenlet: gevent.Greenlet[[], Any] | None = None

    def start(self) -> None:
        """Measure in the background."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Stop measuring."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _run(self) -> None:
        while True:
            self._due_at = self._clock() + _LAG_INTERVAL_S
            gevent.sleep(_LAG_INTERVAL_S)
            self._worst_s = max(self._worst_s, self._clock() - self._due_at)

    def take_s(self) -> float:
        """The longest delay since this was last called, in seconds."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return max(0.0, worst_s)


class WorkerCollector(Collector):
    """Gives Prometheus the families of a worker.

    Args:
        metrics: what was counted.
        worker: for the state of its pools.
        hub_lag: for the delay of its hub.
    """

    def __init__(self, metrics: JobMetrics, worker: Worker, hub_lag: HubLag) -> None:
        self._metrics, self._worker, self._hub_lag = metrics, worker, hub_lag

    def collect(self) -> Iterator[Metric]:
        """The families, as they are now."""
        yield from self._collect_jobs()
        yield from self._collect_traffic()
        yield from self._collect_worker()

    def _collect_jobs(self) -> Iterator[Metric]:
        jobs = CounterMetricFamily("gearworker_jobs", "Jobs ended, by outcome", labels=["task", "outcome"])
        durations = HistogramMetricFamily(
            "gearworker_job_duration_seconds", "Time from a handler's first call to its end", labels=["task"]
        )
        progress = GaugeMetricFamily("gearworker_jobs_in_progress", "Jobs whose handler runs now", labels=["task"])
        for task, counts in self._metrics.tasks.items():
            for outcome, count in counts.outcomes.items():
                jobs.add_metric([task, outcome], count)
            durations.add_metric([task], _cumulated(counts.durations), counts.durations_sum_s)
            progress.add_metric([task], counts.in_progress)
        yield from (jobs, durations, progress)

    def _collect_traffic(self) -> Iterator[Metric]:
        packets = CounterMetricFamily("gearworker_job_packets", "Updates that jobs sent", labels=["task", "type"])
        volume = CounterMetricFamily(
            "gearworker_job_bytes", "Bytes of payloads (in), results and updates (out)", labels=["task", "direction"]
        )
        for task, counts in self._metrics.tasks.items():
            for packet_type, count in counts.packets.items():
                packets.add_metric([task, packet_type], count)
            volume.add_metric([task, "in"], counts.bytes_in)
            volume.add_metric([task, "out"], counts.bytes_out)
        yield from (packets, volume)

    def _collect_worker(self) -> Iterator[Metric]:
        slots = GaugeMetricFamily("gearworker_pool_slots", "Slots of a pool, by state", labels=["pool", "state"])
        for pool in self._worker.pools:
            slots.add_metric([pool.name, "running"], len(pool.running))
            slots.add_metric([pool.name, "reserved"], pool.reserved)
            slots.add_metric([pool.name, "free"], max(0, pool.free))
        up = GaugeMetricFamily(
            "gearworker_job_server_up", "1 where every pool is connected to it", labels=["job_server"]
        )
        reconnects = CounterMetricFamily(
            "gearworker_reconnects", "Connections made after the first", labels=["job_server"]
        )
        for address, pools in self._metrics.connected.items():
            up.add_metric([address], float(len(pools) == len(self._worker.pools)))
        for address, count in self._metrics.reconnects.items():
            reconnects.add_metric([address], count)
        lag = GaugeMetricFamily("gearworker_hub_lag_seconds", "Longest delay of the event loop since the last scrape")
        lag.add_metric([], self._hub_lag.take_s())
        yield from (slots, up, reconnects, lag)


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    """Counts of single buckets as Prometheus wants them: each with all below it."""
    total, buckets = 0, []
    for bound, count in zip([*map(_bound, DURATION_BUCKETS_S), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _bound(seconds: float) -> str:
    return str(float(seconds))


def make_registry(metrics: JobMetrics, worker: Worker, hub_lag: HubLag) -> CollectorRegistry:
    """A Prometheus registry with the worker's families and those of the process."""
    registry = CollectorRegistry()
    registry.register(WorkerCollector(metrics, worker, hub_lag))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
