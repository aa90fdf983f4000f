"""The supervisor: starts, watches, replaces, reloads and stops worker processes. It never runs users' code.

Theory of operation. Everything that happens, a signal, a process's news or the passing of a quarter of a second, only
wakes the loop; ``step`` then looks at the whole and acts.

* There shall be ``wanted`` processes that are not retiring. One too few: one is started, after a crash not before a
  delay that grows from 1 to 30 s. One too many: the oldest retires, those first that take no jobs.
* A process that is to be replaced (recycled by jobs, memory or age; or by a reload, each that does not run the new
  configuration) goes on until its replacement takes jobs, and only then retires. One replacement is under way at a
  time.
* Retiring means drained within the grace, then killed.
* A process whose hub is silent for ``warn_s`` has its stack logged; at ``blocked_s`` it is killed and
  replaced. Time in which the supervisor itself stood still (a paused container) is nobody's silence.
* Where the first process can't even start, everything ends. A new configuration holds for all once a process with it
  takes jobs; a reload whose first process ends before that is given up, and the old processes stay, with the old
  configuration. A second HUP begins anew, without waiting for a first process that does not come up.

Worker processes are fresh interpreters, so a reload takes new code. Each holds one end of a channel, and ends by itself
when the supervisor is gone.

Signals: TERM and INT drain everything, a second one stops at once, as QUIT does; HUP reloads configuration and code;
TTIN and TTOU want one process more or less; USR1 logs the state; USR2 has every process log its jobs and stacks.
Exit codes: 0 after a drain; 2 where the processes can't start for a reason that they gave, 1 where they just crash or
one crashed while it drained; 3 where the grace was over; 128 and the signal's number after a stop at once.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event

from gearworker.config import Config
from gearworker.errors import GearmanError
from gearworker.service.channel import Start
from gearworker.service.fleet import Fleet
from gearworker.service.process import Process, describe_exit
from gearworker.service.recycling import Limits
from gearworker.service.starts import EXIT_CRASHED, Starts
from gearworker.service.stopping import EXIT_GRACE_OVER

log = logging.getLogger(__name__)

STEP_S: Final = 0.25
_GRACE_MARGIN_S: Final = 3.0
_BLOCKED: Final = "blocked"
_SIGNALS: Final = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU,
    signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a process runs: the configuration, and the message that tells it."""

    config: Config
    start: Start


class Supervisor:
    """Keeps worker processes running.

    Args:
        config: the configuration to begin with.
        start: what worker processes are told to run.
        reload: reads the configuration anew; raises ``GearmanError`` where it can't be used.
        on_change: called after each step.
        make_fleet: makes the fleet, given what it shall call on changes.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        config: Config,
        start: Start,
        reload: Callable[[], tuple[Config, Start]],
        on_change: Callable[[Supervisor], None] = lambda supervisor: None,
        make_fleet: Callable[[Callable[[], None]], Fleet] = Fleet,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.wanted = process_count(config)
        self.stopping: signal.Signals | None = None
        self._plan = _Plan(config, start)
        self._read_config = reload
        self._on_change = on_change
        self._wake = Event()
        self.fleet = make_fleet(self._wake.set)
        self._signals: list[signal.Signals] = []
        self._clock = clock
        self._reload: _Plan | None = None
        self._plans: dict[Process, _Plan] = {}
        self._limits: dict[Process, Limits] = {}
        self._starts = Starts(clock)
        self._stepped_at = clock()
        self._exit_code: int | None = None
        self._at_once: signal.Signals | None = None
        self._grace_over = False
        self._crashed_draining = False

    # ------------------------------------------------------------------ the loop

    def run(self) -> int:
        """Supervise until a signal ends it; give the exit code. Switches: all the time."""
        watchers = [gevent.signal_handler(number, self.note, number) for number in _SIGNALS]
        try:
            while (exit_code := self.step()) is None:
                self._wake.wait(STEP_S)
                self._wake.clear()
            return exit_code
        finally:
            for watcher in watchers:
                watcher.cancel()
            for process in self.fleet.processes:
                process.kill()

    def note(self, number: signal.Signals) -> None:
        """Take a signal, to be acted on in the next step."""
        self._signals.append(number)
        self._wake.set()

    def step(self) -> int | None:
        """Look at the whole, and do what is due; give the exit code where it is over."""
        self._excuse_own_absence()
        signals, self._signals = self._signals, []
        for number in signals:
            self._act_on(number)
        for process in [p for p in self.fleet.processes if p.exit_code is not None]:
            self._bury(process)
        for process in self.fleet.processes:
            self._watch(process)
        if self.stopping is not None:
            if not self.fleet.processes and self._exit_code is None:
                self._exit_code = self._final_code()
        elif self._exit_code is None:
            self._hand_over()
            self._recycle()
            self._continue_reload()
            self._fill_up()
        self._on_change(self)
        return self._exit_code

    def _excuse_own_absence(self) -> None:
        """Where this step comes late, the beats of the time between were not read, and may have been sent."""
        now = self._clock()
        late_s, self._stepped_at = now - self._stepped_at - STEP_S, now
        if late_s > STEP_S:
            for process in self.fleet.processes:
                if process.beat_at is not None:
                    process.beat_at = min(now, process.beat_at + late_s)

    # ------------------------------------------------------------------ signals

    def _act_on(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._stop(number)
        elif number == signal.SIGHUP and self.stopping is None:
            self._begin_reload()
        elif number in (signal.SIGTTIN, signal.SIGTTOU) and self.stopping is None:
            self.wanted = max(1, self.wanted + (1 if number == signal.SIGTTIN else -1))
            log.info("%s: %d processes wanted", number.name, self.wanted)
        elif number == signal.SIGUSR1:
            gevent.spawn(self._log_state)
        elif number == signal.SIGUSR2:
            for process in self.fleet.processes:
                process.log_stacks()

    def _stop(self, number: signal.Signals) -> None:
        if self.stopping is None and number != signal.SIGQUIT:
            grace_s = self.config.shutdown.grace_s
            log.info("%s: draining %d processes, up to %g s", number.name, len(self.fleet.processes), grace_s)
            for process in self.fleet.processes:
                self._retire(process, "stopped")
        else:
            log.warning("%s: stopping at once; the job servers give unfinished jobs to others", number.name)
            self._at_once = number
            for process in self.fleet.processes:
                process.stop_at_once()
        self.stopping = number

    def _final_code(self) -> int:
        if self._at_once is not None:
            return 128 + self._at_once
        if self._grace_over:
            return EXIT_GRACE_OVER
        if self._crashed_draining:
            return EXIT_CRASHED
        log.info("drained, every job answered")
        return 0

    def _log_state(self) -> None:
        self.fleet.ask_reports()
        log.info("%s", self.status())
        self.fleet.log_processes()

    # ------------------------------------------------------------------ processes

    def _launch(self, plan: _Plan, replaces: Process | None = None) -> bool:
        """Start a process; False where the system has none to give."""
        try:
            process = self.fleet.launch(plan.start, replaces)
        except OSError as error:
            log.error("no process can be started: %s", error.strerror or error)
            self._exit_code = self._starts.note_failure(EXIT_CRASHED)
            if self._exit_code is None:
                self._starts.note_loss()
            return False
        self._plans[process], self._limits[process] = plan, Limits(plan.config.recycle)
        log.info("process %d started", process.pid)
        return True

    def _retire(self, process: Process, reason: str) -> None:
        process.drain(reason, self.config.shutdown.grace_s + _GRACE_MARGIN_S)

    def _fill_up(self) -> None:
        active = self.fleet.active
        by_use = sorted(active, key=lambda process: process.ready)
        for process in by_use[: max(0, len(active) - self.wanted)]:
            self._retire(process, "one process less wanted")
        missing = self.wanted - len(active)
        if missing <= 0 or not self._starts.due:
            return
        if self._reload is not None and not active:  # nobody is there to be replaced: the new one begins at once
            self._launch(self._reload)
            return
        # The first one shows whether processes can start at all; its errors are printed once, not once a process.
        for _ in range(missing if self._starts.proven else int(not active)):
            if not self._launch(self._plan):
                return

    def _watch(self, process: Process) -> None:
        if process.beat_at is not None and not self._starts.proven:
            self._starts.proven = True
            self._wake.set()
        if process.kill_at is not None and self._clock() >= process.kill_at:
            log.error("process %d did not end in time and is killed", process.pid)
            process.kill_at = None
            self._grace_over = self._grace_over or self.stopping is not None
            process.kill()
        watchdog, silent_s = self.config.watchdog, process.silent_s
        if watchdog.warn_s and silent_s >= watchdog.warn_s and not process.stack_logged:
            process.stack_logged = True
            gevent.spawn(_log_blocked, process, silent_s)
        elif watchdog.blocked_s and silent_s >= watchdog.blocked_s and process.retiring != _BLOCKED:
            log.error("process %d: its hub has not turned for %.1f s; replacing it", process.pid, silent_s)
            self.fleet.restarts.blocked += 1
            process.retiring = _BLOCKED
            process.kill()

    def _bury(self, process: Process) -> None:
        """A process has ended: keep its counters, and see whether that was in order."""
        exit_code = process.exit_code
        assert exit_code is not None
        self.fleet.remove(process)
        plan = self._plans.pop(process)
        del self._limits[process]
        if self.stopping is not None and process.beat_at is not None:
            self._grace_over = self._grace_over or exit_code == EXIT_GRACE_OVER
            self._crashed_draining = self._crashed_draining or exit_code not in (0, EXIT_GRACE_OVER)
        if process.retiring is not None:
            log.info("process %d ended (%s), %s", process.pid, process.retiring, describe_exit(exit_code))
        elif exit_code == 0 and process.beat_at is not None:
            log.info("process %d drained and ended by itself", process.pid)
        else:
            log.error("process %d ended unexpectedly: %s", process.pid, describe_exit(exit_code))
            self.fleet.restarts.crash += 1
        if process.retiring in (None, _BLOCKED) and self.stopping is None:
            self._after_loss(process, plan, exit_code)

    def _after_loss(self, process: Process, plan: _Plan, exit_code: int) -> None:
        """A process is missing that nobody meant to end; however it went, another one might go the same way."""
        if plan is self._reload and plan is not self._plan:
            log.error("reload given up: the new process can't start; the old ones go on with the old configuration")
            self._reload = None
        elif process.beat_at is None:
            self._exit_code = self._starts.note_failure(exit_code)
        if self._exit_code is None:
            self._starts.note_loss(process.age_s)

    # ------------------------------------------------------------------ replacing

    def _hand_over(self) -> None:
        """Where a replacement takes jobs, the process that it replaces retires."""
        new = self.fleet.replacement
        if new is None or new.replaces is None:
            return
        old = new.replaces
        # Without a job server nobody is ever ready; then it is enough that the new one has started.
        if new.ready or (new.beat_at is not None and not old.ready):
            self._adopt(self._plans[new])
            new.replaces = None
            self._retire(old, "replaced")
        elif old.exit_code is not None or old.retiring is not None:  # it goes anyway
            new.replaces = None

    def _recycle(self) -> None:
        if self.fleet.replacement is not None or self._reload is not None or not self._starts.due:
            return
        for process in self.fleet.active:
            reason = self._limits[process].reason(process)
            if reason is not None and process.beat_at is not None:
                log.info("process %d is recycled: %s", process.pid, reason)
                self.fleet.restarts.recycled += 1
                # A limit that every process reaches at once must not make this spin.
                self._starts.pause(1.0)
                self._launch(self._plan, replaces=process)
                return

    # ------------------------------------------------------------------ reloading

    @property
    def reloading(self) -> bool:
        """Whether a reload is under way."""
        return self._reload is not None

    def _begin_reload(self) -> None:
        try:
            plan = _Plan(*self._read_config())
        except GearmanError as error:
            log.error("reload refused, the old configuration stays: %s", error)
            return
        log.info("SIGHUP: reloading configuration and code")
        waiting = self.fleet.replacement
        if waiting is not None and self._plans[waiting] is not self._plan:
            self._retire(waiting, "overtaken by another reload")
        self._reload = plan
        self._starts.begin_anew()

    def _continue_reload(self) -> None:
        plan = self._reload
        if plan is None or self.fleet.replacement is not None:
            return
        active = self.fleet.active
        outdated = [process for process in active if self._plans[process] is not plan]
        if outdated and self._starts.due:
            self.fleet.restarts.reload += 1
            self._launch(plan, replaces=outdated[0])
        elif not outdated and any(process.beat_at is not None for process in active):
            self._adopt(plan)
            self._reload = None
            log.info("reloaded: every process runs the new configuration and code")

    def _adopt(self, plan: _Plan) -> None:
        """A process runs this configuration, so it is good: it holds for all from now on."""
        if plan is not self._plan:
            if process_count(plan.config) != process_count(self.config):
                self.wanted = process_count(plan.config)
            self._plan = plan

    # ------------------------------------------------------------------ the whole, for others

    @property
    def config(self) -> Config:
        """The configuration that holds."""
        return self._plan.config

    @property
    def alive(self) -> bool:
        """Whether no process is past its watchdog's limit."""
        limit_s = self.config.watchdog.blocked_s
        return not limit_s or self.fleet.silent_s < limit_s

    @property
    def ready(self) -> bool:
        """Whether a process takes jobs, and nothing is being stopped."""
        return self.stopping is None and self.fleet.ready > 0

    @property
    def started(self) -> bool:
        """Whether as many processes as wanted have imported their tasks and serve."""
        return self.fleet.started >= self.wanted

    def status(self) -> str:
        """The state in a line that people like to read."""
        fleet = self.fleet
        if self.stopping is not None:
            return f"draining: {len(fleet.processes)} processes left, {fleet.running} jobs running"
        what = "reloading, " if self.reloading else ""
        return (
            f"{what}{fleet.ready} of {self.wanted} processes ready, {fleet.running} jobs running, "
            f"{fleet.jobs_ended} done"
        )


def process_count(config: Config) -> int:
    """How many worker processes a configuration asks for."""
    return len(os.sched_getaffinity(0)) if config.processes == "auto" else config.processes


def _log_blocked(process: Process, silent_s: float) -> None:
    extra = {"stack": process.take_blocked_stack()}
    log.error("process %d: its hub has not turned for %.1f s; it is blocked in", process.pid, silent_s, extra=extra)
