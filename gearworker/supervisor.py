"""The processes as a whole: start, watch, replace, reload, stop. It never runs users' code.

Theory of operation. Everything that happens, a signal, a process's news or the passing of a quarter of a second, only
wakes the loop; ``_step`` then looks at the whole and acts. Each process is in one of these states:

    starting  ->  serving  ->  retiring  ->  ended
        \\________________________________/

* There shall be ``wanted`` processes that are not retiring. One too few: one is started, after a crash not before a
  delay that grows from 1 to 30 s. One too many: the oldest retires.
* A process that is to be replaced (recycled by jobs, memory or age; or all of them by a reload) goes on until its
  replacement takes jobs, and only then retires. One replacement is under way at a time.
* Retiring means drained within the grace, then killed.
* A process whose hub is silent for ``warn_s`` has its stack logged; at ``blocked_s`` it is killed, and replaced as
  after a crash.
* Processes that can't even start end everything where none ever could; a reload whose first process can't start is
  given up, and the old processes stay, with the old configuration.

Worker processes are fresh interpreters, so a reload takes new code. Each holds one end of a channel, and ends by itself
when the supervisor is gone.

Signals: TERM and INT drain everything, a second one stops at once, as QUIT does; HUP reloads configuration and code;
TTIN and TTOU want one process more or less; USR1 logs the state; USR2 has every process log its jobs and stacks.
Exit codes: 0 after a drain; 2 where the processes can't start; 3 where the grace was over; 128 and the signal's number
after a stop at once.
"""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event

from gearworker.channel import Start
from gearworker.config import Config
from gearworker.counts import WorkerCounts, merge
from gearworker.errors import GearmanError
from gearworker.http.app import RunningJob
from gearworker.net.backoff import Backoff
from gearworker.process import Process, describe_exit
from gearworker.stopping import EXIT_GRACE_OVER

log = logging.getLogger(__name__)

EXIT_CANT_START: Final = 2
STEP_S: Final = 0.25
_REPORT_TIMEOUT_S: Final = 0.5
_GRACE_MARGIN_S: Final = 3.0
_STABLE_S: Final = 30.0
_MAX_FAILED_STARTS: Final = 3
_SIGNALS: Final = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU,
    signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


@dataclass
class Restarts:
    """How often processes were started again, by reason."""

    crash: int = 0
    blocked: int = 0
    recycled: int = 0
    reload: int = 0


@dataclass
class _Limits:
    """The limits after which one process is recycled, with its own share of chance, so that not all go at once."""

    max_jobs: float
    max_rss_bytes: float
    max_age_s: float

    @classmethod
    def of(cls, config: Config, chance: Callable[[], float] = random.random) -> _Limits:
        recycle = config.recycle
        splay = 0.9 + 0.2 * chance()
        return cls(recycle.max_jobs * splay, recycle.max_rss, recycle.max_age_s * splay)

    def reason(self, process: Process) -> str | None:
        """Why a process is to be recycled now; None where it is not."""
        if self.max_jobs and process.counts.jobs_ended >= self.max_jobs:
            return f"{process.counts.jobs_ended} jobs done"
        if self.max_age_s and process.age_s >= self.max_age_s:
            return f"{process.age_s:.0f} s old"
        if self.max_rss_bytes and (rss := process.rss_bytes) >= self.max_rss_bytes:
            return f"{rss / 2**20:.0f} MiB resident"
        return None


@dataclass
class _Reload:
    """A reload under way: the configuration to take over, and the processes still to be replaced."""

    config: Config
    start: Start
    remaining: list[Process] = field(default_factory=list)
    confirmed: bool = False


class Supervisor:
    """Starts, watches and replaces worker processes.

    Args:
        config: the configuration to begin with.
        start: what worker processes are told to run.
        reload: reads the configuration anew; raises ``GearmanError`` where it can't be used.
        on_change: called after each step with a line about the state, such as for systemd.
    """

    def __init__(
        self,
        config: Config,
        start: Start,
        reload: Callable[[], tuple[Config, Start]],
        on_change: Callable[[Supervisor], None] = lambda supervisor: None,
    ) -> None:
        self.config = config
        self.wanted = process_count(config)
        self.processes: list[Process] = []
        self.restarts = Restarts()
        self.stopping: signal.Signals | None = None
        self.reloading: _Reload | None = None
        self._start = start
        self._read_config = reload
        self._on_change = on_change
        self._past = WorkerCounts()
        self._limits: dict[Process, _Limits] = {}
        self._wake = Event()
        self._signals: list[signal.Signals] = []
        self._backoff = Backoff(first_s=1.0, cap_s=30.0)
        self._next_start_at = 0.0
        self._failed_starts = 0
        self._ever_started = False
        self._exit_code: int | None = None
        self._grace_over = False
        self._at_once: signal.Signals | None = None

    # ------------------------------------------------------------------ the loop

    def run(self) -> int:
        """Supervise until a signal ends it; give the exit code. Switches: all the time."""
        watchers = [gevent.signal_handler(number, self._note, number) for number in _SIGNALS]
        try:
            while self._exit_code is None:
                for number in self._take_signals():
                    self._act_on(number)
                self._step()
                self._on_change(self)
                if self._exit_code is None:
                    self._wake.wait(STEP_S)
                    self._wake.clear()
            return self._exit_code
        finally:
            for watcher in watchers:
                watcher.cancel()
            for process in self.processes:
                process.kill()

    def _note(self, number: signal.Signals) -> None:
        self._signals.append(number)
        self._wake.set()

    def _take_signals(self) -> list[signal.Signals]:
        taken, self._signals = self._signals, []
        return taken

    def _step(self) -> None:
        """Look at the whole, and do what is due."""
        for process in [p for p in self.processes if p.exit_code is not None]:
            self._bury(process)
        for process in self.processes:
            self._watch(process)
        if self.stopping is not None:
            if not self.processes:
                self._exit_code = self._final_code()
            return
        self._hand_over()
        self._recycle()
        self._continue_reload()
        self._fill_up()

    # ------------------------------------------------------------------ signals

    def _act_on(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._stop(number)
        elif number == signal.SIGHUP:
            self._begin_reload()
        elif number == signal.SIGTTIN:
            self.wanted += 1
            log.info("SIGTTIN: %d processes wanted", self.wanted)
        elif number == signal.SIGTTOU:
            self.wanted = max(1, self.wanted - 1)
            log.info("SIGTTOU: %d processes wanted", self.wanted)
        elif number == signal.SIGUSR1:
            gevent.spawn(self._log_state)
        elif number == signal.SIGUSR2:
            for process in self.processes:
                process.log_stacks()

    def _stop(self, number: signal.Signals) -> None:
        grace_s = self.config.shutdown.grace_s
        if self.stopping is None and number != signal.SIGQUIT:
            log.info("%s: draining %d processes, up to %g s", number.name, len(self.processes), grace_s)
            for process in self.processes:
                process.drain("stopped", grace_s + _GRACE_MARGIN_S)
        else:
            log.warning("%s: stopping at once; the job servers give unfinished jobs to others", number.name)
            self._at_once = number
            for process in self.processes:
                process.stop_at_once()
        self.stopping = number

    def _final_code(self) -> int:
        if self._at_once is not None:
            return 128 + self._at_once
        if self._grace_over:
            return EXIT_GRACE_OVER
        log.info("drained, every job answered")
        return 0

    def _log_state(self) -> None:
        self._ask_reports()
        log.info("%s", self.status())
        for process in self.processes:
            state = process.retiring or ("ready" if process.ready else "not ready")
            log.info(
                "process %d: %s, %.0f s old, %d jobs done, %d running, %.0f MiB",
                process.pid, state, process.age_s, process.counts.jobs_ended, len(process.jobs),
                process.rss_bytes / 2**20,
            )  # fmt: skip

    # ------------------------------------------------------------------ processes

    @property
    def active(self) -> list[Process]:
        """The processes that neither retire nor wait to replace another."""
        return [p for p in self.processes if p.retiring is None and p.replaces is None]

    def _launch(self, start: Start, config: Config, replaces: Process | None = None) -> Process:
        process = Process(start, self._wake.set)
        process.replaces = replaces
        self.processes.append(process)
        self._limits[process] = _Limits.of(config)
        log.info("process %d started", process.pid)
        return process

    def _fill_up(self) -> None:
        active = self.active
        for process in active[: max(0, len(active) - self.wanted)]:
            process.drain("one process less wanted", self.config.shutdown.grace_s + _GRACE_MARGIN_S)
        missing = self.wanted - len(active)
        if missing <= 0 or monotonic() < self._next_start_at:
            return
        # The first one shows whether processes can start at all; its errors are printed once, not once a process.
        for _ in range(missing if self._ever_started else int(not active)):
            self._launch(self._start, self.config)

    def _watch(self, process: Process) -> None:
        if process.beat_at is not None and not self._ever_started:
            self._ever_started = True
            self._wake.set()
        if process.kill_at is not None and monotonic() >= process.kill_at:
            log.error("process %d did not end in time and is killed", process.pid)
            process.kill_at = None
            self._grace_over = True
            process.kill()
        watchdog, silent_s = self.config.watchdog, process.silent_s
        if watchdog.warn_s and silent_s >= watchdog.warn_s and not process.stack_logged:
            process.stack_logged = True
            gevent.spawn(_log_blocked, process, silent_s)
        if watchdog.blocked_s and silent_s >= watchdog.blocked_s and process.kill_at is None:
            log.error("process %d: its hub has not turned for %.1f s; replacing it", process.pid, silent_s)
            self.restarts.blocked += 1
            process.retiring = process.retiring or "blocked"
            process.kill()

    def _bury(self, process: Process) -> None:
        """A process has ended: keep its counters, and see whether that was in order."""
        self.processes.remove(process)
        del self._limits[process]
        self._past.add_counters(process.counts)
        assert process.exit_code is not None
        if process.exit_code == EXIT_GRACE_OVER:
            self._grace_over = True
        if process.retiring is not None:
            log.info("process %d ended (%s), %s", process.pid, process.retiring, describe_exit(process.exit_code))
            return
        if process.exit_code == 0:
            log.info("process %d drained and ended by itself; starting another", process.pid)
            return
        log.error("process %d ended unexpectedly: %s", process.pid, describe_exit(process.exit_code))
        self.restarts.crash += 1
        if self.reloading is not None and not self.reloading.confirmed and process.replaces is not None:
            log.error("reload given up: the new process can't start; the old ones go on with the old configuration")
            self.reloading = None
        elif process.beat_at is None and not self._ever_started:
            self._count_failed_start(process.exit_code)
        if process.age_s > _STABLE_S:
            self._backoff.reset()
        delay_s = self._backoff.next_s()
        self._next_start_at = monotonic() + delay_s
        if self._exit_code is None and self.stopping is None:
            log.info("starting again in %.1f s", delay_s)

    def _count_failed_start(self, exit_code: int) -> None:
        self._failed_starts += 1
        if exit_code == EXIT_CANT_START or self._failed_starts >= _MAX_FAILED_STARTS:
            log.error("the worker processes can't start; stopping (the reason is above)")
            self._exit_code = EXIT_CANT_START if exit_code == EXIT_CANT_START else 1

    # ------------------------------------------------------------------ replacing

    def _replacement(self) -> Process | None:
        return next((p for p in self.processes if p.replaces is not None and p.retiring is None), None)

    def _hand_over(self) -> None:
        """Where a replacement takes jobs, the process that it replaces retires."""
        new = self._replacement()
        if new is None or new.replaces is None:
            return
        old = new.replaces
        # Without a job server nobody is ever ready; then it is enough that the new one has started.
        if new.ready or (new.beat_at is not None and not old.ready):
            if self.reloading is not None:
                self._confirm_reload(self.reloading)
            new.replaces = None
            old.drain("replaced", self.config.shutdown.grace_s + _GRACE_MARGIN_S)
        elif old.exit_code is not None:
            new.replaces = None

    def _replace(self, old: Process, start: Start, config: Config) -> None:
        self._launch(start, config, replaces=old)

    def _recycle(self) -> None:
        if self._replacement() is not None or self.reloading is not None or monotonic() < self._next_start_at:
            return
        for process in self.active:
            reason = self._limits[process].reason(process)
            if reason is not None and process.beat_at is not None:
                log.info("process %d is recycled: %s", process.pid, reason)
                self.restarts.recycled += 1
                # A limit that every process reaches at once must not make this spin.
                self._next_start_at = monotonic() + 1.0
                self._replace(process, self._start, self.config)
                return

    # ------------------------------------------------------------------ reloading

    def _begin_reload(self) -> None:
        try:
            config, start = self._read_config()
        except GearmanError as error:
            log.error("reload refused, the old configuration stays: %s", error)
            return
        log.info("SIGHUP: reloading configuration and code")
        self.reloading = _Reload(config, start, [p for p in self.processes if p.retiring is None])

    def _continue_reload(self) -> None:
        reload = self.reloading
        if reload is None or self._replacement() is not None:
            return
        reload.remaining = [p for p in reload.remaining if p in self.processes and p.retiring is None]
        if reload.remaining:
            self.restarts.reload += 1
            self._replace(reload.remaining.pop(0), reload.start, reload.config)
        else:
            self._confirm_reload(reload)
            log.info("reloaded: every process runs the new configuration and code")
            self.reloading = None

    def _confirm_reload(self, reload: _Reload) -> None:
        """A process runs the new configuration, so it is good: it holds for all from now on."""
        if not reload.confirmed:
            reload.confirmed = True
            if process_count(reload.config) != process_count(self.config):
                self.wanted = process_count(reload.config)
            self.config, self._start = reload.config, reload.start

    # ------------------------------------------------------------------ the whole, for others

    @property
    def alive(self) -> bool:
        """Whether no process is past its watchdog's limit."""
        limit_s = self.config.watchdog.blocked_s
        return not limit_s or all(process.silent_s < limit_s for process in self.processes)

    @property
    def ready(self) -> bool:
        """Whether a process takes jobs, and nothing is being stopped."""
        return self.stopping is None and any(p.ready and p.retiring is None for p in self.processes)

    @property
    def started(self) -> bool:
        """Whether as many processes as wanted have imported their tasks and serve."""
        return sum(process.beat_at is not None for process in self.active) >= self.wanted

    @property
    def tasks(self) -> set[str]:
        """The names of the tasks served, as the processes last reported."""
        return {task for process in self.processes for task in process.counts.tasks}

    def counts(self) -> WorkerCounts:
        """The counts of all processes, those of ended ones included; asked for now, within half a second."""
        self._ask_reports()
        return merge(self._past, [process.counts for process in self.processes])

    def running_jobs(self) -> list[RunningJob]:
        """What runs now in every process; asked for now, within half a second."""
        self._ask_reports()
        return [job for process in self.processes for job in process.jobs]

    def _ask_reports(self) -> None:
        """A process whose hub is blocked does not answer; what it reported last stands for it."""
        gevent.wait([process.ask_report() for process in self.processes], timeout=_REPORT_TIMEOUT_S)

    def status(self) -> str:
        """The state in a line that people like to read."""
        ready = sum(process.ready for process in self.processes)
        running = sum(len(process.jobs) for process in self.processes)
        done = merge(self._past, [process.counts for process in self.processes]).jobs_ended
        if self.stopping is not None:
            return f"draining: {len(self.processes)} processes left, {running} jobs running"
        what = "reloading, " if self.reloading is not None else ""
        return f"{what}{ready} of {self.wanted} processes ready, {running} jobs running, {done} done"


def process_count(config: Config) -> int:
    """How many worker processes a configuration asks for."""
    return len(os.sched_getaffinity(0)) if config.processes == "auto" else config.processes


def _log_blocked(process: Process, silent_s: float) -> None:
    stack = process.take_blocked_stack()
    extra = {"stack": stack}
    log.error("process %d: its hub has not turned for %.1f s; it is blocked in", process.pid, silent_s, extra=extra)
