"""How Prometheus sees a worker: metric families, made from counts when somebody scrapes.

Labels are names of registered tasks, pools and job servers only, so a stranger can't grow them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Final

import gevent
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gearworker.counts import DURATION_BUCKETS_S, WorkerCounts

_LAG_INTERVAL_S: Final = 0.25
_BOUNDS: Final = (*(str(float(bound)) for bound in DURATION_BUCKETS_S), "+Inf")


class HubLag:
    """Measures how late the hub comes round: the longest delay of a timer since the last look.

    Args:
        clock: monotonic, in seconds.

    Attributes:
        worst_s: that delay so far, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.worst_s = 0.0
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
            due_at = self._clock() + _LAG_INTERVAL_S
            gevent.sleep(_LAG_INTERVAL_S)
            self.worst_s = max(self.worst_s, self._clock() - due_at)

    def take_s(self) -> float:
        """The longest delay since this was last called, in seconds."""
        worst_s, self.worst_s = self.worst_s, 0.0
        return worst_s


class CountsCollector(Collector):
    """Gives Prometheus the families of a worker.

    Args:
        counts: gives the counts as they are now.
    """

    def __init__(self, counts: Callable[[], WorkerCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """The families, as they are now."""
        counts = self._counts()
        yield from _job_families(counts)
        yield from _traffic_families(counts)
        yield from _worker_families(counts)


def _job_families(counts: WorkerCounts) -> Iterator[Metric]:
    jobs = CounterMetricFamily("gearworker_jobs", "Jobs ended, by outcome", labels=["task", "outcome"])
    durations = HistogramMetricFamily(
        "gearworker_job_duration_seconds", "Time from a handler's first call to its end", labels=["task"]
    )
    progress = GaugeMetricFamily("gearworker_jobs_in_progress", "Jobs whose handler runs now", labels=["task"])
    for task, counted in counts.tasks.items():
        for outcome, count in counted.outcomes.items():
            jobs.add_metric([task, outcome], count)
        durations.add_metric([task], _cumulated(counted.durations), counted.durations_sum_s)
        progress.add_metric([task], counted.in_progress)
    yield from (jobs, durations, progress)


def _traffic_families(counts: WorkerCounts) -> Iterator[Metric]:
    packets = CounterMetricFamily("gearworker_job_packets", "Updates that jobs sent", labels=["task", "type"])
    volume = CounterMetricFamily(
        "gearworker_job_bytes", "Bytes of payloads (in), results and updates (out)", labels=["task", "direction"]
    )
    for task, counted in counts.tasks.items():
        for packet_type, count in counted.packets.items():
            packets.add_metric([task, packet_type], count)
        volume.add_metric([task, "in"], counted.bytes_in)
        volume.add_metric([task, "out"], counted.bytes_out)
    yield from (packets, volume)


def _worker_families(counts: WorkerCounts) -> Iterator[Metric]:
    slots = GaugeMetricFamily("gearworker_pool_slots", "Slots of a pool, by state", labels=["pool", "state"])
    for name, pool in counts.pools.items():
        slots.add_metric([name, "running"], pool.running)
        slots.add_metric([name, "reserved"], pool.reserved)
        slots.add_metric([name, "free"], pool.free)
    up = GaugeMetricFamily("gearworker_job_server_up", "1 where every pool is connected", labels=["job_server"])
    reconnects = CounterMetricFamily("gearworker_reconnects", "Connections made after the first", labels=["job_server"])
    for address, server in counts.job_servers.items():
        up.add_metric([address], float(server.up))
        reconnects.add_metric([address], server.reconnects)
    lag = GaugeMetricFamily("gearworker_hub_lag_seconds", "Longest delay of the event loop since the last scrape")
    lag.add_metric([], counts.hub_lag_s)
    yield from (slots, up, reconnects, lag)


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    """Counts of single buckets as Prometheus wants them: each with all below it."""
    total, buckets = 0, []
    for bound, count in zip(_BOUNDS, counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def make_registry(*collectors: Collector) -> CollectorRegistry:
    """A Prometheus registry with these collectors and those of the process itself."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
