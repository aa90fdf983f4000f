"""How Prometheus sees the worker processes themselves."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gearworker.service.supervisor import Supervisor


class ProcessesCollector(Collector):
    """Gives Prometheus the families of the processes themselves.

    Args:
        supervisor: of the processes.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterator[Metric]:
        """The families, as they are now."""
        supervisor, fleet = self._supervisor, self._supervisor.fleet
        states = GaugeMetricFamily("gearworker_processes", "Worker processes, by state", labels=["state"])
        states.add_metric(["wanted"], supervisor.wanted)
        states.add_metric(["running"], len(fleet.processes))
        states.add_metric(["ready"], sum(process.ready for process in fleet.processes))
        restarts = CounterMetricFamily(
            "gearworker_process_restarts", "Worker processes started in place of another", labels=["reason"]
        )
        for reason in ("crash", "blocked", "recycled", "reload"):
            restarts.add_metric([reason], getattr(fleet.restarts, reason))
        silent = GaugeMetricFamily(
            "gearworker_process_heartbeat_age_seconds", "Time since a process's hub turned", labels=["process"]
        )
        memory = GaugeMetricFamily("gearworker_process_resident_bytes", "Memory of a process", labels=["process"])
        cpu = CounterMetricFamily("gearworker_process_cpu_seconds", "CPU time of a process", labels=["process"])
        for process in fleet.processes:
            labels = [str(process.pid)]
            silent.add_metric(labels, process.silent_s)
            memory.add_metric(labels, process.rss_bytes)
            cpu.add_metric(labels, process.cpu_s)
        yield from (states, restarts, silent, memory, cpu)
