"""Metrics: the families and labels that dashboards count on, in both formats."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from gearworker.counts import DURATION_BUCKETS_S, JobServerCounts, PoolCounts, TaskCounts, WorkerCounts
from gearworker.metrics import CountsCollector, HubLag, make_registry

OURS = {
    "gearworker_jobs": {"task", "outcome"},
    "gearworker_job_duration_seconds": {"task"},
    "gearworker_jobs_in_progress": {"task"},
    "gearworker_job_packets": {"task", "type"},
    "gearworker_job_bytes": {"task", "direction"},
    "gearworker_pool_slots": {"pool", "state"},
    "gearworker_job_server_up": {"job_server"},
    "gearworker_reconnects": {"job_server"},
    "gearworker_hub_lag_seconds": set(),
}


def counts() -> WorkerCounts:
    resize = TaskCounts(durations_sum_s=4.5, bytes_in=10, bytes_out=20, in_progress=2)
    resize.outcomes.update(complete=7, fail=1, exception=2, timeout=3, lost=4)
    resize.packets.update(data=5, warning=6, status=7)
    resize.durations[0] = 3
    resize.durations[1] = 2
    resize.durations[-1] = 1
    return WorkerCounts(
        tasks={"resize": resize, 'q"uo\\te\n': TaskCounts()},
        pools={"default": PoolCounts(running=1, reserved=2, free=3)},
        job_servers={"a:1": JobServerCounts(up=True, reconnects=2), "b:1": JobServerCounts()},
        hub_lag_s=0.25,
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(CountsCollector(counts))
    return made


def value(registry: CollectorRegistry, name: str, **labels: str) -> Any:
    return registry.get_sample_value(name, labels)


def test_families_and_labels_are_the_promised_ones(registry: CollectorRegistry) -> None:
    found = {
        family.name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for family in registry.collect()
    }
    assert found == OURS


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("gearworker_jobs_total", {"task": "resize", "outcome": "complete"}, 7),
        ("gearworker_jobs_total", {"task": "resize", "outcome": "fail"}, 1),
        ("gearworker_jobs_total", {"task": "resize", "outcome": "exception"}, 2),
        ("gearworker_jobs_total", {"task": "resize", "outcome": "timeout"}, 3),
        ("gearworker_jobs_total", {"task": "resize", "outcome": "lost"}, 4),
        ("gearworker_jobs_in_progress", {"task": "resize"}, 2),
        ("gearworker_job_packets_total", {"task": "resize", "type": "data"}, 5),
        ("gearworker_job_packets_total", {"task": "resize", "type": "warning"}, 6),
        ("gearworker_job_packets_total", {"task": "resize", "type": "status"}, 7),
        ("gearworker_job_bytes_total", {"task": "resize", "direction": "in"}, 10),
        ("gearworker_job_bytes_total", {"task": "resize", "direction": "out"}, 20),
        ("gearworker_pool_slots", {"pool": "default", "state": "running"}, 1),
        ("gearworker_pool_slots", {"pool": "default", "state": "reserved"}, 2),
        ("gearworker_pool_slots", {"pool": "default", "state": "free"}, 3),
        ("gearworker_job_server_up", {"job_server": "a:1"}, 1),
        ("gearworker_job_server_up", {"job_server": "b:1"}, 0),
        ("gearworker_reconnects_total", {"job_server": "a:1"}, 2),
        ("gearworker_hub_lag_seconds", {}, 0.25),
    ],
)
def test_a_sample_has_its_value(
    registry: CollectorRegistry, name: str, labels: dict[str, str], expected: float
) -> None:
    assert value(registry, name, **labels) == expected


def test_the_histogram_adds_up(registry: CollectorRegistry) -> None:
    name = "gearworker_job_duration_seconds"
    buckets = [value(registry, f"{name}_bucket", task="resize", le=str(float(bound))) for bound in DURATION_BUCKETS_S]
    assert buckets == [3, *[5] * (len(DURATION_BUCKETS_S) - 1)]
    assert value(registry, f"{name}_bucket", task="resize", le="+Inf") == 6
    assert value(registry, f"{name}_count", task="resize") == 6
    assert value(registry, f"{name}_sum", task="resize") == 4.5


def test_both_formats_can_be_written_with_odd_names_escaped(registry: CollectorRegistry) -> None:
    plain, open_metrics = generate_latest(registry), generate_openmetrics(registry)
    assert b'gearworker_jobs_in_progress{task="q\\"uo\\\\te\\n"} 0.0' in plain
    assert b'gearworker_jobs_total{outcome="complete",task="resize"} 7.0' in plain.replace(b" \n", b"\n")
    assert open_metrics.endswith(b"# EOF\n")


def test_the_process_is_in_the_registry_too() -> None:
    registry = make_registry(CountsCollector(counts))
    names = {family.name for family in registry.collect()}
    assert set(OURS) <= names
    assert "python_gc_objects_collected" in names


def test_hub_lag_is_the_worst_delay_since_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    delays = iter([0.25, 0.75, 0.3])

    def sleep(seconds: float) -> None:
        try:
            now[0] += next(delays)
        except StopIteration:
            raise gevent.GreenletExit from None

    lag = HubLag(lambda: now[0])
    monkeypatch.setattr("gearworker.metrics.gevent.sleep", sleep)
    lag.start()
    assert lag._greenlet is not None
    lag._greenlet.join(timeout=5)
    assert lag.take_s() == pytest.approx(0.5)
    assert lag.take_s() == 0.0
    lag.stop()
