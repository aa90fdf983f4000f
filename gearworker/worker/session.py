"""One pool's conversation with one job server, from its connection to its end.

A session joins a ``Connection``, a ``WorkerProtocol`` and a ``Pool``. It is what ``job.connection`` is in a handler,
and so the reason why no result ever goes out on another connection than its job came on: a new connection has a new
session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

import gevent
from gevent.event import Event

from gearworker.errors import ConnectionLost, InvalidWorkerState, ProtocolError
from gearworker.job import GearmanJob
from gearworker.middleware import call_hook
from gearworker.net.connection import Connection
from gearworker.protocol.codec import DEFAULT_MAX_PACKET_BYTES
from gearworker.protocol.packets import PacketType
from gearworker.protocol.worker import (
    Echoed,
    GrabUnanswered,
    JobAssigned,
    JobTooLarge,
    Refused,
    WorkerEvent,
    WorkerProtocol,
)
from gearworker.worker.heartbeat import Heartbeat
from gearworker.worker.pool import Pool
from gearworker.worker.thread_updates import ThreadUpdates

log = logging.getLogger(__name__)

_REGISTERED: Final = b"registered"
_HEARTBEAT: Final = b"heartbeat"
_DRAINED: Final = b"drained"
_STALLED_TICKS: Final = 2
_FRUITLESS_WAKES: Final = 8
_MAX_REST_S: Final = 0.1
"""The longest pause of a connection that the job server wakes more than ``_FRUITLESS_WAKES`` times without a job."""


@dataclass(frozen=True)
class LinkSettings:
    """How a connection to a job server is kept; all times in seconds.

    Args:
        connect_timeout_s: for name look-up, connection and TLS together.
        heartbeat_s: after so long without a byte from the job server it is asked for an echo.
        heartbeat_timeout_s: a connection whose echo takes longer is given up.
        reconnect_max_s: the longest delay between attempts to connect.
        poll_s: a sleeping connection grabs after so long in any case.
        max_packet_bytes: a larger job is failed, its payload never held in memory.
    """

    connect_timeout_s: float = 5.0
    heartbeat_s: float = 15.0
    heartbeat_timeout_s: float = 10.0
    reconnect_max_s: float = 10.0
    poll_s: float = 10.0
    max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES


class Session:
    """A pool's conversation over one connection.

    Args:
        connection: to the job server; the session ends with it.
        protocol: a new one.
        pool: where the jobs run.
        tasks: the names of the tasks served, raw and as text.
        settings: of the link.
        on_registered: called once, when the job server has taken the registration of the tasks.
        after_update: hooks called for each update sent.
    """

    def __init__(
        self,
        connection: Connection,
        protocol: WorkerProtocol,
        pool: Pool,
        tasks: Mapping[bytes, str],
        settings: LinkSettings,
        *,
        on_registered: Callable[[], None],
        after_update: tuple[Callable[[GearmanJob, PacketType, int], None], ...] = (),
    ) -> None:
        self.address = connection.address
        self.registered = False
        self._connection = connection
        self._protocol = protocol
        self._pool = pool
        self._tasks = tasks
        self._settings = settings
        self._on_registered = on_registered
        self._after_update = after_update
        self._idle = Event()
        self._drained = Event()
        self._resting = False
        self._reading_paused = False
        self._received_at = monotonic()
        self._slept_at = 0.0
        self._heartbeat = Heartbeat(settings.heartbeat_s, settings.heartbeat_timeout_s)
        self._stalled_ticks = 0
        self._lent = 0  # slots given back for grabs that a silent job server may still answer
        self._thread_updates = ThreadUpdates(connection, self._write_update)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.closed

    # ------------------------------------------------------------------ life

    def serve(self) -> str:
        """Talk until the connection ends; give the reason. Switches: all the time."""
        connection, protocol, pool = self._connection, self._protocol, self._pool
        try:
            connection.write(protocol.hello() + protocol.echo(_REGISTERED))
            pool.schedule_refill()
            while True:
                data = connection.recv()
                self._received_at = monotonic()
                for event in protocol.receive(data):
                    if type(event) is JobAssigned:
                        self._take_job(event)
                    else:
                        self._handle_rare(event)
                if protocol.may_sleep:
                    self._go_to_sleep()
                pool.schedule_refill()
                if pool.in_flight_bytes > pool.max_in_flight_bytes:
                    self._pause_reading()
        except ConnectionLost:
            pass
        except ProtocolError as error:
            connection.close(f"protocol error: {error}")
        finally:
            self._end()
        return connection.close_reason

    def _end(self) -> None:
        self._connection.close()
        self._protocol.drain()
        self._pool.give_back(self._protocol.grabs - self._lent)
        self._idle.set()
        self._drained.set()

    def drain(self) -> None:
        """Take no new jobs, wait until all that came are answered and the job server has the answers; then close.

        Switches: until then. The caller sets the deadline.
        """
        protocol, connection = self._protocol, self._connection
        protocol.drain()
        try:
            while not protocol.idle and not self.closed:
                self._idle.clear()
                self._idle.wait()
            connection.write(protocol.echo(_DRAINED))
            self._drained.wait()
        except ConnectionLost:
            return
        self.close("drained")

    def close(self, reason: str) -> None:
        """End the connection at once. The job server gives what was held to somebody else."""
        self._connection.close(reason)

    def abandon(self) -> None:
        """In a forked child: let go of the connection, which is the parent's."""
        self._connection.abandon()

    def _pause_reading(self) -> None:
        self._reading_paused = True
        try:
            self._pool.wait_for_budget()
        finally:
            self._reading_paused = False
            self._received_at = monotonic()

    # ------------------------------------------------------------------ what came

    def _take_job(self, assigned: JobAssigned) -> None:
        raw_handle, raw_task, raw_unique, data = assigned
        if self._lent:
            self._return_lent(1)
        task = self._tasks.get(raw_task)
        if task is None:
            log.error("job server %s assigned a job of task %r, which is not served here", self.address, raw_task)
            self._fail_unseen(raw_handle)
            return
        unique = raw_unique.decode("utf-8", "surrogateescape") if raw_unique else None
        job = GearmanJob(self, raw_handle.decode("utf-8", "surrogateescape"), task, unique, data)
        job.data_bytes = len(data)
        self._pool.dispatch(job)

    def _handle_rare(self, event: WorkerEvent) -> None:
        if isinstance(event, GrabUnanswered):
            lent = min(event.grabs, self._lent)
            self._lent -= lent
            self._pool.give_back(event.grabs - lent)
            self._check_idle()
        elif isinstance(event, Echoed):
            self._handle_echo(event.data)
        elif isinstance(event, JobTooLarge):
            if self._lent:
                self._return_lent(1)
            log.error(
                "job %r of task %r failed: its payload of %d bytes is over the limit of %d",
                event.handle, event.task, event.body_bytes, self._settings.max_packet_bytes,
            )  # fmt: skip
            self._fail_unseen(event.handle)
        elif isinstance(event, Refused):
            log.warning("job server %s answered with an error: %r %r", self.address, event.code, event.text)

    def _handle_echo(self, data: bytes) -> None:
        self._heartbeat.answered()
        if data == _DRAINED:
            self._drained.set()
        elif not self.registered:
            self.registered = True
            self._on_registered()

    def _fail_unseen(self, raw_handle: bytes) -> None:
        """Fail a job that no slot ever saw."""
        self._pool.give_back(1)
        packet = self._protocol.finish(PacketType.WORK_FAIL, raw_handle)
        if not self.closed:  # else the jobs behind this one in what came would take their slots along
            self._connection.write(packet)
        self._check_idle()

    def _return_lent(self, count: int) -> None:
        self._lent -= count
        self._pool.take_back(count)

    # ------------------------------------------------------------------ grabbing and sleeping

    @property
    def wanted(self) -> int:
        """How many more jobs it would grab now."""
        return 0 if self._resting or self.closed else self._protocol.wanted

    def grab(self, count: int) -> None:
        """Grab so many jobs, for which slots are reserved."""
        self._connection.write(self._protocol.grab(count))

    def _go_to_sleep(self) -> None:
        self._slept_at = monotonic()
        self._connection.write(self._protocol.sleep())
        excess = self._protocol.fruitless_wakes - _FRUITLESS_WAKES
        if excess > 0 and not self._resting:
            # The job server wakes us again and again and then has no job: don't spin with it.
            self._resting = True
            gevent.spawn_later(min(_MAX_REST_S, 0.001 * 2.0 ** min(excess, 10)), self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._pool.schedule_refill()

    def tick(self) -> None:
        """Called about once a second: heartbeat, safety-net grab, grabs that a silent job server leaves unanswered."""
        if self.closed or self._reading_paused:
            return
        now = monotonic()
        silent_s = now - self._received_at
        action = self._heartbeat.tick(silent_s, ask_now=not self.registered)
        if action == "give up":
            self.close(f"no answer to a heartbeat within {self._settings.heartbeat_timeout_s:g} s")
            return
        if action == "ask":
            self._connection.write(self._protocol.echo(_HEARTBEAT))
        if self._protocol.asleep and now - self._slept_at >= self._settings.poll_s:
            self._protocol.probe()
            self._pool.schedule_refill()
        self._stalled_ticks = self._stalled_ticks + 1 if self._protocol.grabs and silent_s >= 1.0 else 0
        unlent = self._protocol.grabs - self._lent
        if self._stalled_ticks >= _STALLED_TICKS and unlent > 0:
            # A job server that hangs must not keep the slots from the others.
            self._lent += unlent
            self._pool.give_back(unlent)

    # ------------------------------------------------------------------ what a job sends

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        """Send WORK_DATA, WORK_WARNING or WORK_STATUS of a job, from its greenlet or native thread.

        Raises:
            ConnectionLost: the connection that the job came on has ended.
            InvalidWorkerState: the job has ended.

        Switches: while the connection's output is over its high-water mark.
        """
        if self._thread_updates.is_foreign_thread:
            self._check_running(job, packet_type)
            self._thread_updates.put(job, packet_type, args)
            return
        self._write_update(job, packet_type, args)
        if self._connection.unsent_bytes > self._connection.high_water_bytes:
            self._connection.wait_writable()

    def finish(self, job: GearmanJob, packet_type: PacketType, data: bytes) -> bool:
        """Send the final packet of a job.

        Returns: False where the connection has ended, so that nobody can be told.

        Switches: while the connection's output is over its high-water mark.
        """
        connection, protocol = self._connection, self._protocol
        if self._thread_updates:
            self._thread_updates.flush()
        try:
            packet = protocol.finish(packet_type, _raw(job), data)
            self._pool.schedule_refill()
            connection.write(packet)
            if connection.unsent_bytes > connection.high_water_bytes:
                connection.wait_writable()
        except ConnectionLost:
            return False
        if protocol.draining:
            self._check_idle()
        return True

    def _check_idle(self) -> None:
        if self._protocol.idle:
            self._idle.set()

    def _check_running(self, job: GearmanJob, packet_type: PacketType) -> None:
        if self.closed:
            raise ConnectionLost(self.address, self._connection.close_reason)
        if _raw(job) not in self._protocol.held:
            raise InvalidWorkerState(f"job {job.handle} has ended; {packet_type.name} comes too late")

    def _write_update(self, job: GearmanJob, packet_type: PacketType, args: tuple[bytes, ...]) -> None:
        if self.closed:
            raise ConnectionLost(self.address, self._connection.close_reason)
        self._connection.write(self._protocol.update(packet_type, _raw(job), *args))
        for hook in self._after_update:
            call_hook(hook, job, packet_type, len(args[0]) if packet_type is not PacketType.WORK_STATUS else 0)


def _raw(job: GearmanJob) -> bytes:
    assert job.handle is not None
    return job.handle.encode("utf-8", "surrogateescape")
