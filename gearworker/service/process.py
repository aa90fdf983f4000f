"""One worker process as the supervisor sees it: started, watched, told to drain, killed, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import gevent
from gevent import socket, subprocess
from gevent.event import AsyncResult

from gearworker.counts import WorkerCounts
from gearworker.errors import ProtocolError
from gearworker.http.app import RunningJob
from gearworker.service.channel import AnyMessage, Beat, Channel, Drain, LogStacks, Report, ReportRequest, Start
from gearworker.service.child import STACK_SIGNAL
from gearworker.systemd import VARIABLES as SYSTEMD_VARIABLES

log = logging.getLogger(__name__)

_LAST_WORDS_S: Final = 0.5
_STACK_DELAY_S: Final = 0.05
_STACK_LOOKS: Final = 10
_MAX_STACK_BYTES: Final = 64 * 1024
PROGRAM: Final = (sys.executable, "-m", "gearworker", "child")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A worker process, from its start to its end.

    Args:
        start: what it is to run.
        changed: called whenever something about it may have changed, such as its end.
        program: the command that is a worker process; it gets the numbers of two descriptors.

    Raises:
        OSError: the system has no process, or no descriptor, to give.

    Attributes:
        started_at: ``time.monotonic()`` of its start.
        beat_at: of its last beat; None before the first, when its tasks were not imported yet.
        ready: whether it said that it takes jobs.
        retiring: why it was told to end, or None.
        replaces: the process that retires when this one is ready, or None.
        counts, jobs: as it last reported.
        exit_code: None while it lives; negative for the signal that ended it.
    """

    def __init__(self, start: Start, changed: Callable[[], None], program: Sequence[str] = PROGRAM) -> None:
        self.started_at = monotonic()
        self.beat_at: float | None = None
        self.ready = False
        self.retiring: str | None = None
        self.replaces: Process | None = None
        self.counts = WorkerCounts()
        self.jobs: list[RunningJob] = []
        self.exit_code: int | None = None
        self.kill_at: float | None = None
        self.stack_logged = False
        self._changed = changed
        self._report: AsyncResult[None] | None = None
        self._report_number = 0
        with contextlib.ExitStack() as unless_started:
            self._stack_fd = os.memfd_create("gearworker-stack")
            unless_started.callback(os.close, self._stack_fd)
            ours, theirs = socket.socketpair()
            unless_started.callback(ours.close)
            with theirs:
                self._popen = _spawn(program, theirs.fileno(), self._stack_fd)
            unless_started.pop_all()
        self._channel = Channel(ours)
        self._reader = gevent.spawn(self._read)
        self._reaper = gevent.spawn(self._reap)
        self._channel.send(start)

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self._popen.pid)

    @property
    def age_s(self) -> float:
        """How long ago it was started, in seconds."""
        return monotonic() - self.started_at

    @property
    def silent_s(self) -> float:
        """How long its hub has not turned, in seconds; 0 before its first beat."""
        return 0.0 if self.beat_at is None or self.exit_code is not None else monotonic() - self.beat_at

    @property
    def rss_bytes(self) -> int:
        """Its memory in use; 0 where it has ended."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    @property
    def cpu_s(self) -> float:
        """The CPU time that it has used, in seconds; 0 where it has ended."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            return 0.0

    # ------------------------------------------------------------------ orders

    def drain(self, reason: str, grace_s: float) -> None:
        """Tell it to finish its jobs and end; after the grace, and some more, it is killed."""
        if self.retiring is None:
            self.retiring = reason
            self.kill_at = monotonic() + grace_s
            gevent.spawn(self._channel.send, Drain())

    def stop_at_once(self) -> None:
        """Tell it to end without finishing its jobs."""
        self.retiring = self.retiring or "stopped"
        self.kill_at = min(self.kill_at or monotonic() + 2.0, monotonic() + 2.0)
        self._signal(signal.SIGQUIT)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._signal(signal.SIGKILL)

    def log_stacks(self) -> None:
        """Have it log its running jobs and stacks."""
        gevent.spawn(self._channel.send, LogStacks())

    def ask_report(self) -> AsyncResult[None]:
        """Ask for a report; the result is set when it has come, or the process has ended."""
        if self._report is None or self._report.ready():
            self._report = AsyncResult()
            self._report_number += 1
            if self.exit_code is None:
                gevent.spawn(self._channel.send, ReportRequest(self._report_number))
            else:
                self._report.set(None)
        return self._report

    def take_blocked_stack(self) -> str:
        """The stack that blocks its hub, written by its interpreter itself. Switches: briefly."""
        if self.exit_code is None:
            # Both have the file open at one position, so that each stack takes the place of the one before.
            os.lseek(self._stack_fd, 0, os.SEEK_SET)
            os.ftruncate(self._stack_fd, 0)
            self._signal(STACK_SIGNAL)
        stack = b""
        for _ in range(_STACK_LOOKS):
            gevent.sleep(_STACK_DELAY_S)
            if self.exit_code is not None:
                break  # its file is closed
            seen, stack = stack, os.pread(self._stack_fd, _MAX_STACK_BYTES, 0)
            if stack and stack == seen:
                break
        return stack.decode(errors="replace").strip() or "(the interpreter wrote no stack)"

    def _signal(self, number: int) -> None:
        if self._popen.returncode is None:  # afterwards the number may be another process's
            with contextlib.suppress(ProcessLookupError):  # it has just ended; its reader will say so
                os.kill(self.pid, number)

    # ------------------------------------------------------------------ what it says

    def _read(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                self._take(message)
        except ProtocolError as error:
            log.error("process %d can't be understood and is killed: %s", self.pid, error)
            self.kill()

    def _reap(self) -> None:
        """Wait for the end itself, not for the channel's, which a process that it forked may hold open."""
        self._popen.wait()
        self._reader.join(_LAST_WORDS_S)
        self._reader.kill()
        self.exit_code = self._popen.returncode
        self.ready = False
        self.jobs = []
        self._channel.close()
        os.close(self._stack_fd)
        if self._report is not None:
            self._report.set(None)
        self._changed()

    def _take(self, message: AnyMessage) -> None:
        if isinstance(message, Beat):
            news = self.beat_at is None or self.ready != message.ready
            self.beat_at = monotonic()
            self.ready = message.ready
            self.stack_logged = False
            if news:
                self._changed()
        elif isinstance(message, Report):
            self.counts, self.jobs = message.counts, message.jobs
            if self._report is not None and message.number == self._report_number:
                self._report.set(None)


def _spawn(program: Sequence[str], channel_fd: int, stack_fd: int) -> Any:
    # A session of its own keeps the terminal's Ctrl-C for the supervisor, which then drains in order.
    return subprocess.Popen(
        [*program, str(channel_fd), str(stack_fd)],
        pass_fds=(channel_fd, stack_fd),
        stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name not in SYSTEMD_VARIABLES},
        start_new_session=True,
    )


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
