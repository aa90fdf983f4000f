"""The families of the processes themselves."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from gearworker.service.exposition import ProcessesCollector
from gearworker.service.fleet import Restarts


class FakeProcess:
    def __init__(self, pid: int, *, ready: bool = True) -> None:
        self.pid, self.ready, self.silent_s, self.rss_bytes, self.cpu_s = pid, ready, 0.25, 1024 * pid, 1.5


class FakeSupervisor:
    wanted = 3

    class fleet:
        restarts = Restarts(crash=1, blocked=2, recycled=3, reload=4)
        processes = (FakeProcess(7), FakeProcess(8, ready=False))


def registry() -> CollectorRegistry:
    supervisor: Any = FakeSupervisor()
    made = CollectorRegistry()
    made.register(ProcessesCollector(supervisor))
    return made


def test_processes_by_state_and_restarts_by_reason() -> None:
    found = registry()
    states = {
        state: found.get_sample_value("gearworker_processes", {"state": state})
        for state in ("wanted", "running", "ready")
    }
    assert states == {"wanted": 3, "running": 2, "ready": 1}
    reasons = ("crash", "blocked", "recycled", "reload")
    assert [found.get_sample_value("gearworker_process_restarts_total", {"reason": r}) for r in reasons] == [1, 2, 3, 4]


def test_what_each_process_uses() -> None:
    found = registry()
    for pid in ("7", "8"):
        labels = {"process": pid}
        assert found.get_sample_value("gearworker_process_heartbeat_age_seconds", labels) == 0.25
        assert found.get_sample_value("gearworker_process_resident_bytes", labels) == 1024 * int(pid)
        assert found.get_sample_value("gearworker_process_cpu_seconds_total", labels) == 1.5


def test_the_families_are_the_promised_ones() -> None:
    assert {family.name for family in registry().collect()} == {
        "gearworker_processes",
        "gearworker_process_restarts",
        "gearworker_process_heartbeat_age_seconds",
        "gearworker_process_resident_bytes",
        "gearworker_process_cpu_seconds",
    }
