"""What stands between ``GearmanWorker`` and the engine: one call of ``work()``, and one job's connection.

``Shift`` collects what happens during a call of ``work()``, from whatever side, and wakes it. ``Exchange`` is a job's
connection as its callback meets it, and sees that the job is answered exactly once, whoever answers it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.monkey import get_original

from gearworker.client.hub import leave_parent_at_fork
from gearworker.errors import FailJob, InvalidWorkerState
from gearworker.job import GearmanJob
from gearworker.middleware import Middleware, Outcome
from gearworker.protocol.packets import PacketType
from gearworker.worker.worker import Worker

log = logging.getLogger(__name__)

_LAST_MOMENT_S: Final = 1.0
"""How long the jobs in hand have when ``work()`` ends by an exception from outside, such as KeyboardInterrupt."""

_thread_id: Callable[[], int] = get_original("_thread", "get_ident")


class Shift(Middleware):
    """One call of ``work()``, in the hub of its thread.

    Attributes:
        error: what ``work()`` is to raise.
        has_changed: the tasks or the client id are others now.
        away: the job servers that refused the last attempt to connect, with their reasons.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.has_changed = False
        self.away: dict[str, str] = {}
        self._worker: Worker | None = None
        self._ended_at: float | None = None
        self._stops = 0
        self._is_held = False
        self._is_active = False
        self._something = Event()
        self._hub = gevent.get_hub()
        leave_parent_at_fork(self)

    def begin(self, worker: Worker) -> None:
        """Go on with this engine."""
        self._worker = worker
        self.has_changed = False
        self.away.clear()

    # ------------------------------------------------------------------ from any thread, also in signal handlers

    def stop(self) -> None:
        """Note that it shall end; the second time, at once."""
        self._stops += 1
        self._ended_at = self._ended_at or monotonic()
        self._hub.loop.run_callback_threadsafe(self._wake)

    def change(self) -> None:
        """Note that tasks or client id have changed."""
        self.has_changed = True
        self._hub.loop.run_callback_threadsafe(self._wake)

    def _wake(self) -> None:
        self.hold_if_ended()
        self._something.set()

    # ------------------------------------------------------------------ in the hub's thread

    def end(self, error: BaseException | None = None) -> None:
        """Note that it shall end, and what it is to raise."""
        self._ended_at = self._ended_at or monotonic()
        self.error = self.error or error
        self._wake()

    @property
    def ends(self) -> bool:
        """Whether ``work()`` ends."""
        return self._ended_at is not None

    @property
    def is_over(self) -> bool:
        """Whether the engine has to end, with ``work()`` or for another one with other tasks."""
        return self.has_changed or self._ended_at is not None

    @property
    def is_busy(self) -> bool:
        """Whether jobs run."""
        return self._worker is not None and bool(self._worker.running_jobs())

    def hold_if_ended(self) -> None:
        """Once it shall end, take every slot, so that nothing is grabbed from this moment on."""
        if self._ended_at is not None and not self._is_held and self._worker is not None:
            self._is_held = True
            for pool in self._worker.pools:
                pool.take_back(pool.concurrency)

    def wait(self, timeout_s: float | None) -> None:
        """Wait until something happens. Switches: yes."""
        self._something.wait(timeout_s)
        self._something.clear()

    def take_activity(self) -> bool:
        """Whether jobs ended or job servers came or went since the last call."""
        is_active, self._is_active = self._is_active, False
        return is_active

    def finish(self, grace_s: float) -> None:
        """Take no more jobs, finish those in hand, and disconnect.

        Args:
            grace_s: how long that may take once ``work()`` ends, in seconds; other tasks alone press nobody.

        Switches: until then.
        """
        assert self._worker is not None
        drains = [gevent.spawn(link.drain) for link in self._worker.links]
        for drain in drains:
            drain.link(lambda _: self._something.set())
        try:
            while not all(drain.ready() for drain in drains) or self.is_busy:
                left_s = self._left_s(grace_s)
                if self._stops > 1 or (left_s is not None and left_s <= 0):
                    log.warning("jobs still run; the job servers give them to others")
                    return
                self.wait(left_s)
        finally:
            gevent.killall(drains)

    def _left_s(self, grace_s: float) -> float | None:
        if self._ended_at is None:
            return None
        is_pressed = self.error is not None and not isinstance(self.error, Exception)
        return self._ended_at + (_LAST_MOMENT_S if is_pressed else grace_s) - monotonic()

    def leave_parent(self) -> None:
        """In a forked child: let go of the connections, or a dead parent's jobs would not be run by somebody else."""
        for link in self._worker.links if self._worker is not None else ():
            if link.session is not None:
                link.session.abandon()

    # ------------------------------------------------------------------ told by the engine

    def after_job(
        self, job: GearmanJob, outcome: Outcome, duration_s: float, result_bytes: int, error: BaseException | None
    ) -> None:
        self._is_active = True
        self._something.set()

    def job_server_up(self, address: str, pool: str) -> None:
        self.away.pop(address, None)
        self._is_active = True
        self._something.set()

    def job_server_down(self, address: str, pool: str, reason: str) -> None:
        self._is_active = True
        self._something.set()

    def job_server_away(self, address: str, pool: str, reason: str) -> None:
        self.away[address] = reason
        self._something.set()


class Exchange:
    """A job's connection as its callback meets it.

    Args:
        session: the engine's.
        callback: the job's, also when its task is not registered any more.

    Attributes:
        answer: the type of the final packet, once it was sent.
        error: what the job failed with.
    """

    __slots__ = ("_is_delivered", "_session", "_thread", "answer", "callback", "error")

    def __init__(self, session: Any, callback: Callable[[Any, GearmanJob], Any]) -> None:
        self.callback = callback
        self.answer: PacketType | None = None
        self.error: BaseException | None = None
        self._session = session
        self._thread = _thread_id()
        self._is_delivered = False

    @property
    def address(self) -> str:
        """The job server's address."""
        return str(self._session.address)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return bool(self._session.closed)

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        """Send WORK_DATA, WORK_WARNING or WORK_STATUS. Errors and switches as the engine's."""
        self._session.send_update(job, packet_type, *args)

    def send_answer(self, job: GearmanJob, packet_type: PacketType, data: bytes) -> None:
        """Send the final packet.

        Raises:
            InvalidWorkerState: it was sent before, or this is not the thread that runs the job.
        """
        if self.answer is not None:
            raise InvalidWorkerState(f"job {job.handle} got {packet_type.name}, but {self.answer.name} was sent before")
        if _thread_id() != self._thread:
            raise InvalidWorkerState(f"job {job.handle} got {packet_type.name} in another thread than its callback's")
        self.answer = packet_type
        self._is_delivered = self._session.finish(job, packet_type, data)

    def close(self, job: GearmanJob) -> BaseException | None:
        """See that the job is answered when its hooks are through; give what it failed with."""
        if self.answer is None:
            self.send_answer(job, PacketType.WORK_FAIL, b"")
            return self.error or FailJob("its hooks left it without an answer")
        if self.error is None and self.answer is not PacketType.WORK_COMPLETE:
            return FailJob(f"its callback sent {self.answer.name}")
        return self.error

    def give_back(self, reason: str) -> None:
        """End the connection where the job is not answered, so that the job server gives it to somebody else."""
        if self.answer is None:
            self._session.close(reason)

    def finish(self, job: GearmanJob, packet_type: PacketType, data: bytes) -> bool:
        """What the engine calls last; it is left to answer only where a greenlet was killed.

        Returns: False where the connection ended before the answer was sent.
        """
        if self.answer is None:
            self.send_answer(job, PacketType.WORK_FAIL, b"")
        return self._is_delivered
