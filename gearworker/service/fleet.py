"""The worker processes that there are, and how they look together: counts, running jobs, readiness."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import gevent

from gearworker.counts import WorkerCounts, merge
from gearworker.http.app import RunningJob
from gearworker.service.channel import Start
from gearworker.service.process import Process

log = logging.getLogger(__name__)

_REPORT_TIMEOUT_S: Final = 0.5


@dataclass
class Restarts:
    """How often processes were started in place of others, by reason."""

    crash: int = 0
    blocked: int = 0
    recycled: int = 0
    reload: int = 0


class Fleet:
    """Worker processes, and the counters of those that have ended.

    Args:
        launch: starts a process; the second argument is called whenever something about it may have changed.
        changed: that function.

    Attributes:
        processes: those that live, or have ended and were not removed yet; the oldest first.
        restarts: how often processes were started in place of others.
    """

    def __init__(
        self, changed: Callable[[], None], launch: Callable[[Start, Callable[[], None]], Process] = Process
    ) -> None:
        self.processes: list[Process] = []
        self.restarts = Restarts()
        self._changed = changed
        self._launch = launch
        self._past = WorkerCounts()

    def launch(self, start: Start, replaces: Process | None = None) -> Process:
        """Start a process.

        Args:
            start: what it is to run.
            replaces: the process that is to retire when this one takes jobs.
        """
        process = self._launch(start, self._changed)
        process.replaces = replaces
        self.processes.append(process)
        return process

    def remove(self, process: Process) -> None:
        """Forget a process that has ended; its counters stay."""
        self.processes.remove(process)
        self._past.add_counters(process.counts)

    @property
    def active(self) -> list[Process]:
        """The processes that neither retire nor wait to replace another."""
        return [p for p in self.processes if p.retiring is None and p.replaces is None]

    @property
    def replacement(self) -> Process | None:
        """The process that waits to replace another, if there is one."""
        return next((p for p in self.processes if p.replaces is not None and p.retiring is None), None)

    # ------------------------------------------------------------------ the whole, for others

    @property
    def ready(self) -> int:
        """How many processes take jobs."""
        return sum(process.ready and process.retiring is None for process in self.processes)

    @property
    def started(self) -> int:
        """How many processes have imported their tasks and serve."""
        return sum(process.beat_at is not None for process in self.active)

    @property
    def silent_s(self) -> float:
        """How long the most silent hub has not turned, in seconds."""
        return max((process.silent_s for process in self.processes), default=0.0)

    @property
    def tasks(self) -> set[str]:
        """The names of the tasks served, as the processes last reported."""
        return {task for process in self.processes for task in process.counts.tasks}

    @property
    def running(self) -> int:
        """How many jobs run, as the processes last reported."""
        return sum(len(process.jobs) for process in self.processes)

    @property
    def jobs_ended(self) -> int:
        """How many jobs have ended, as the processes last reported."""
        return self._past.jobs_ended + sum(process.counts.jobs_ended for process in self.processes)

    def counts(self) -> WorkerCounts:
        """The counts of all processes, those of ended ones included. Switches: up to half a second."""
        self.ask_reports()
        return merge(self._past, [process.counts for process in self.processes])

    def running_jobs(self) -> list[RunningJob]:
        """What runs now in every process. Switches: up to half a second."""
        self.ask_reports()
        return [job for process in self.processes for job in process.jobs]

    def ask_reports(self) -> None:
        """Have every process report now.

        One whose hub is blocked does not answer; what it reported last stands for it.

        Switches: up to half a second.
        """
        gevent.wait([process.ask_report() for process in self.processes], timeout=_REPORT_TIMEOUT_S)

    def log_processes(self) -> None:
        """Log a line about each process, as it last reported."""
        for process in self.processes:
            state = process.retiring or ("ready" if process.ready else "not ready")
            log.info(
                "process %d: %s, %.0f s old, %d jobs done, %d running, %.0f MiB",
                process.pid, state, process.age_s, process.counts.jobs_ended, len(process.jobs),
                process.rss_bytes / 2**20,
            )  # fmt: skip
