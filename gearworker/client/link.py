"""One job server as a client sees it, in one hub: kept connected on demand, its answers carried to the requests.

Theory of operation. A link connects when it is first needed and again after a loss, never by itself. All that a
client has under way at this job server goes over the one connection: any number of greenlets write, one reader greenlet
carries what comes back to the requests, which tell whoever watches them.

While anything is open a second greenlet looks after it. Questions that stay unanswered with nothing received at all for
``answer_timeout_s`` mean a dead connection, which is closed. Foreground jobs that were silent for
``status_interval_s`` are asked for by GET_STATUS; one that the job server no longer knows ends FAILED with ``JobLost``,
because a result would have come before that answer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import gevent
from gevent.lock import BoundedSemaphore

from gearworker.client.waiting import Answered, Deadline
from gearworker.errors import (
    ConnectionLost,
    InvalidClientState,
    JobLost,
    JobServerError,
    PayloadError,
    ProtocolError,
    ServerUnavailable,
)
from gearworker.net.address import Address
from gearworker.net.backoff import Backoff
from gearworker.net.connection import Connection, connect
from gearworker.protocol.client import ClientProtocol
from gearworker.protocol.codec import DEFAULT_MAX_PACKET_BYTES, Oversized
from gearworker.protocol.packets import Packet, PacketType
from gearworker.request import JOB_CREATED, JOB_PENDING, GearmanJobRequest

_log = logging.getLogger(__name__)
_T = PacketType
_TICK_S: Final = 1.0
_MIN_CONNECT_S: Final = 0.1
_CHUNK_BYTES: Final = 64 * 1024


class Link:
    """One job server, in one hub.

    Args:
        address: where it is.
        connect_timeout_s: for each attempt to connect.
        answer_timeout_s: how long questions may stay open while nothing at all is received.
        status_interval_s: how long a foreground job may be silent before the job server is asked whether it knows it.
        max_packet_bytes: larger results end their request.
    """

    def __init__(
        self,
        address: Address,
        *,
        connect_timeout_s: float = 5.0,
        answer_timeout_s: float = 10.0,
        status_interval_s: float = 5.0,
        max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES,
    ) -> None:
        self.parsed_address = address
        self.address = str(address)
        self._connect_timeout_s = connect_timeout_s
        self._answer_ticks = max(1, round(answer_timeout_s / _TICK_S))
        self._status_ticks = max(1, round(status_interval_s / _TICK_S))
        self._max_packet_bytes = max_packet_bytes
        self._connection: Connection | None = None
        self._protocol = ClientProtocol(max_packet_bytes=max_packet_bytes)
        self._connecting = BoundedSemaphore(1)
        self._backoff = Backoff(0.1, 10.0)
        self._rests_until = 0.0
        self._receives = 0
        self._watcher: gevent.Greenlet[..., None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._connection is not None and not self._connection.closed

    @property
    def is_resting(self) -> bool:
        """Whether it could not be reached a moment ago, so that others should be tried first."""
        return time.monotonic() < self._rests_until

    def notice_end(self) -> None:
        """Notice an idle connection that the job server has ended while this hub did not run. Never switches."""
        protocol = self._protocol
        if (
            self._connection is not None
            and not (protocol.open_questions or protocol.tracked_jobs)
            and self._connection.peer_has_ended()
        ):
            self.close("the job server ended the connection")

    def open(self, deadline: Deadline) -> None:
        """Connect where there is no connection.

        Raises:
            ServerUnavailable: the job server can't be reached in time.

        Switches: yes, unless it is connected.
        """
        if self.is_connected:
            return
        if not self._connecting.acquire(timeout=deadline.remaining_s(self._connect_timeout_s)):
            raise ServerUnavailable(self.address, "still connecting")
        try:
            if not self.is_connected:
                self._connect(max(deadline.remaining_s(self._connect_timeout_s) or 0.0, _MIN_CONNECT_S))
        finally:
            self._connecting.release()

    def _connect(self, timeout_s: float) -> None:
        try:
            connection = connect(self.parsed_address, timeout_s=timeout_s)
        except ServerUnavailable:
            self._rests_until = time.monotonic() + self._backoff.next_s()
            raise
        self._backoff.reset()
        self._rests_until = 0.0
        self._connection = connection
        self._protocol = ClientProtocol(max_packet_bytes=self._max_packet_bytes)
        self.ask(self._protocol.set_option, _ignore, b"exceptions")
        gevent.spawn(self._read, connection, self._protocol)

    def close(self, reason: str = "the client was closed") -> None:
        """End the connection; what is open on it is lost. Never switches."""
        connection = self._connection
        if connection is not None:
            connection.close(reason)
            self._lose(connection, self._protocol)

    def abandon(self) -> None:
        """In a forked child: put our copy of the parent's socket out of service, without a word to the job server."""
        if self._connection is not None:
            self._connection.abandon()

    def send_update(self, job: object, packet_type: PacketType, *args: bytes) -> None:
        """Refuse: only the worker that runs a job sends updates of it."""
        raise InvalidClientState(f"a client can't send {packet_type.name} of its own job")

    def submit(self, requests: Iterable[GearmanJobRequest]) -> None:
        """Send UNKNOWN requests, which become PENDING.

        Raises:
            ConnectionLost: the connection ended. Those sent become UNKNOWN, the others are as they were.
            InvalidClientState: one is not UNKNOWN or not prepared. Those before it were sent.

        Switches: between chunks of 64 KiB, while the output is over its high-water mark.
        """
        connection, protocol = self._live_connection(), self._protocol
        pieces: list[bytes] = []
        size_bytes = 0
        try:
            for request in requests:
                submission = request.submission
                if submission is None:
                    raise InvalidClientState(f"{request!r} was not prepared")
                request.submit_sent(self)
                piece = protocol.submit(request, submission, background=request.background)
                pieces.append(piece)
                size_bytes += len(piece)
                if size_bytes >= _CHUNK_BYTES:
                    self._write_pieces(connection, pieces)
                    size_bytes = 0
                    gevent.sleep(0)
                    connection.wait_writable()
        finally:
            # Also those before one that can't be sent: the protocol counts on their answers, and would take those of
            # later questions for them.
            if pieces:
                self._write_pieces(connection, pieces)

    def _write_pieces(self, connection: Connection, pieces: list[bytes]) -> None:
        connection.write(b"".join(pieces))
        pieces.clear()
        self._watch()

    def ask(self, question: Callable[..., bytes], answered: Answered, *args: bytes) -> None:
        """Ask the job server something.

        Args:
            question: a method of ``ClientProtocol`` that takes the asker and the arguments.
            answered: called with the answer, in the reader; it may not switch.

        Raises:
            ConnectionLost: there is no connection.
        """
        connection = self._live_connection()
        connection.write(question(answered, *args))
        self._watch()

    @property
    def protocol(self) -> ClientProtocol:
        """The protocol state of the current connection; changes with it."""
        return self._protocol

    def wait_writable(self) -> None:
        """Wait while the output is over its high-water mark.

        Raises:
            ConnectionLost: there is no connection.
        """
        self._live_connection().wait_writable()

    def _live_connection(self) -> Connection:
        if self._connection is None or self._connection.closed:
            raise ConnectionLost(self.address, self._connection.close_reason if self._connection else "not connected")
        return self._connection

    def _read(self, connection: Connection, protocol: ClientProtocol) -> None:
        """The reader greenlet's life."""
        try:
            while True:
                self._take(protocol, connection.recv())
        except ConnectionLost:
            pass
        except ProtocolError as error:
            connection.close(str(error))
            _log.error("%s: %s; the connection is closed", self.address, error)
        except Exception as error:
            connection.close(f"{type(error).__name__}: {error}")
            _log.exception("%s: an error while reading; the connection is closed", self.address)
        self._lose(connection, protocol)

    def _take(self, protocol: ClientProtocol, data: bytes) -> None:
        """Carry what was received to the askers. A function of its own, so that a waiting reader holds none of them."""
        self._receives += 1
        for delivery in protocol.receive(data):
            if isinstance(delivery, ProtocolError):
                raise delivery
            self._deliver(delivery.request, delivery.packet)

    def _deliver(self, asker: Any, packet: Packet | Oversized) -> None:
        if isinstance(asker, GearmanJobRequest):
            if asker.gearman_job.connection is not self:
                return
            if packet.type in (_T.JOB_CREATED, _T.ERROR):
                self._deliver_acceptance(asker, packet)
            elif asker.state == JOB_CREATED and asker.gearman_job.handle == _text(packet.args[0].rstrip(b"\0")):
                self._deliver_work(asker, packet)
        elif asker is not None:
            asker(packet)
        else:
            _log.warning("%s: ERROR %s", self.address, " ".join(map(_text, packet.args)))

    def _deliver_acceptance(self, request: GearmanJobRequest, packet: Packet | Oversized) -> None:
        if request.state != JOB_PENDING:
            return
        if packet.type is _T.JOB_CREATED:
            request.job_created(_text(packet.args[0]))
            return
        error = JobServerError(_text(packet.args[0]), _text(packet.args[1]), self.address)
        _log.warning("job of task %s refused: %s", request.gearman_job.task, error)
        request.failed(error)

    def _deliver_work(self, request: GearmanJobRequest, packet: Packet | Oversized) -> None:
        packet_type, args = packet.type, packet.args
        if packet_type is _T.WORK_FAIL:
            request.work_fail()
        elif packet_type is _T.WORK_STATUS:
            request.work_status(_number(args[1]), _number(args[2]), time.time())
        elif isinstance(packet, Oversized):
            limit = self._max_packet_bytes
            request.failed(PayloadError(f"{packet_type.name} of {packet.body_bytes} bytes; the limit is {limit}"))
        elif packet_type is _T.WORK_COMPLETE:
            request.work_complete(args[1])
        elif packet_type is _T.WORK_DATA:
            request.work_data(args[1])
        elif packet_type is _T.WORK_WARNING:
            request.work_warning(args[1])
        else:
            request.work_exception(args[1])

    def _lose(self, connection: Connection, protocol: ClientProtocol) -> None:
        if self._connection is connection:
            self._connection = None
            self._stop_watching()
        for asker in protocol.lost():
            if not isinstance(asker, GearmanJobRequest):
                asker(None)
            elif asker.gearman_job.connection is self and asker.state in (JOB_PENDING, JOB_CREATED):
                asker.connection_lost()

    def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher is not gevent.getcurrent():
            watcher.kill(block=False)

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = gevent.spawn(self._look_after, self._live_connection(), self._protocol)

    def _look_after(self, connection: Connection, protocol: ClientProtocol) -> None:
        """The life of the greenlet that looks after what is open.

        It counts turns, not seconds: after a time in which the hub did not run, the reader gets its chance first.
        """
        ticks = unanswered_ticks = 0
        receives = self._receives
        while not connection.closed and (protocol.open_questions or protocol.tracked_jobs):
            gevent.sleep(_TICK_S)
            ticks += 1
            is_unanswered = protocol.open_questions and receives == self._receives
            unanswered_ticks = unanswered_ticks + 1 if is_unanswered else 0
            receives = self._receives
            if unanswered_ticks >= self._answer_ticks:
                connection.close(f"no answer for {self._answer_ticks * _TICK_S:g} s")
            elif ticks % self._status_ticks == 0 and not connection.closed:
                self._ask_for_silent_jobs(connection, protocol)
        self._watcher = None
        if self.is_connected and (self._protocol.open_questions or self._protocol.tracked_jobs):
            self._watch()

    def _ask_for_silent_jobs(self, connection: Connection, protocol: ClientProtocol) -> None:
        packets = [
            protocol.get_status(partial(self._learn_status, protocol, handle), handle)
            for handle in protocol.silent_jobs()
        ]
        if packets:
            connection.write(b"".join(packets))

    def _learn_status(self, protocol: ClientProtocol, handle: bytes, answer: Packet | None) -> None:
        if answer is None or answer.type is not _T.STATUS_RES or answer.args[1] != b"0":
            return
        error = JobLost(_text(handle), self.address)
        for request in protocol.drop(handle):
            if request.gearman_job.connection is self and request.state == JOB_CREATED:
                request.failed(error)


def _ignore(answer: Packet | None) -> None:
    """Take no notice of an answer."""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _number(raw: bytes) -> int:
    """A number as a job server stores it: digits in front, else 0."""
    try:
        return int(raw)
    except ValueError:
        return 0
