"""The worker's side of one connection, pure: what came in, what may be said next, which jobs are held.

Theory of operation. A connection is awake or asleep.

* Awake, it may grab: ``wanted`` says how many GRAB_JOB_UNIQ it would like to send now, ``grab(n)`` makes them. Each is
  answered by one JOB_ASSIGN_UNIQ or NO_JOB, in order. The wish grows with success: it starts at one, every assigned job
  raises it by one, so it doubles with each round trip, and the first NO_JOB sets it back. Thus a worker that wakes for
  one job grabs one or two, and a worker at a full queue soon keeps all its slots in flight.
* After a NO_JOB it grabs no more; when the last grab is answered ``may_sleep`` is true and ``sleep()`` makes the
  PRE_SLEEP. A job server with a runnable job answers that by NOOP at once, so none is missed in between.
* A NOOP wakes it, and it always grabs then, because a job server sends only one NOOP to a sleeper until it grabs.
* ``probe()`` wakes it without a NOOP: the safety net against a wake-up that never came.

Where NOOP and NO_JOB alternate without any job, ``fruitless_wakes`` counts, for a caller that backs off.

A job is held from its assignment to its one final packet; ``finish`` refuses a second. Draining, the connection neither
grabs nor sleeps, takes what its open grabs still bring, and is ``idle`` when nothing is open and nothing held.
CANT_DO and RESET_ABILITIES are never sent, because gearmand requeues the jobs held; CAN_DO_TIMEOUT neither, because
gearmand mistakes its timer.

An ERROR packet has no handle. JOB_NOT_FOUND is about a job that was already gone; any other code answers the oldest
open request. A job server without GRAB_JOB_UNIQ (Gearman::Server in Perl) answers it that way, and GRAB_JOB is used
then. For that job server WORK_EXCEPTION is not the end of a job, so WORK_FAIL follows it.

Source: gearmand's protocol document, and its observed behaviour (tests/conformance).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gearworker.errors import InvalidWorkerState, ProtocolError
from gearworker.protocol.codec import (
    DEFAULT_MAX_PACKET_BYTES,
    Decoder,
    Oversized,
    encode_request,
    encode_work,
    encode_work_fail,
)
from gearworker.protocol.codec import Event as DecoderEvent
from gearworker.protocol.packets import RESPONSE_MAGIC, Packet, PacketType

_T = PacketType
_GRAB, _ECHO = "grab", "echo"
_JOB_NOT_FOUND: Final = b"JOB_NOT_FOUND"


class JobAssigned(NamedTuple):
    """A job is held now; its fields are raw, and ``unique`` is empty where the client gave none."""

    handle: bytes
    task: bytes
    unique: bytes
    data: bytes


class JobTooLarge(NamedTuple):
    """A job over the size limit is held now; its payload was dropped, so it can only be failed."""

    handle: bytes
    task: bytes
    unique: bytes
    body_bytes: int


class Echoed(NamedTuple):
    """The job server answered an ECHO_REQ; it has taken everything that was sent before."""

    data: bytes


class Refused(NamedTuple):
    """The job server sent an ERROR."""

    code: bytes
    text: bytes


class GrabUnanswered(NamedTuple):
    """So many grabs came back without a job; their slots are free again."""

    grabs: int


WorkerEvent = JobAssigned | JobTooLarge | Echoed | Refused | GrabUnanswered
_Append = Callable[[WorkerEvent], None]


class WorkerProtocol:
    """The state of one worker connection.

    Args:
        tasks: names of the tasks to serve, the most urgent first: gearmand serves the last registered first.
        client_id: shown by the admin command ``workers``; up to 127 bytes.
        max_grabs: no more grabs than this are ever in flight.
        max_packet_bytes: a larger job is reported as ``JobTooLarge``.
    """

    __slots__ = (
        "_decoder",
        "_exhausted",
        "_grab_packet",
        "_knows_uniq",
        "_max_grabs",
        "_open",
        "_window",
        "asleep",
        "client_id",
        "draining",
        "fruitless_wakes",
        "grabs",
        "held",
        "tasks",
    )

    def __init__(
        self,
        tasks: Sequence[bytes],
        client_id: bytes = b"",
        *,
        max_grabs: int = 1,
        max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES,
    ) -> None:
        self.tasks = tuple(tasks)
        self.client_id = client_id
        self.grabs = 0
        self.held: set[bytes] = set()
        self.asleep = False
        self.draining = False
        self.fruitless_wakes = 0
        self._decoder = Decoder(RESPONSE_MAGIC, max_packet_bytes=max_packet_bytes)
        self._grab_packet = encode_request(_T.GRAB_JOB_UNIQ)
        self._knows_uniq = True
        self._open: deque[str] = deque()  # the requests not answered yet, oldest first
        self._max_grabs = max_grabs
        self._window = 1
        self._exhausted = False

    # ------------------------------------------------------------------ to send

    def hello(self) -> bytes:
        """The first packets of a connection: who we are and what we can do.

        Raises:
            ProtocolError: a name that gearmand would not take.
        """
        greeting = encode_request(_T.SET_CLIENT_ID, self.client_id) if self.client_id else b""
        return greeting + b"".join(encode_request(_T.CAN_DO, task) for task in reversed(self.tasks))

    @property
    def wanted(self) -> int:
        """How many grabs it would like to send now."""
        if self.asleep or self._exhausted or self.draining:
            return 0
        return max(0, min(self._window, self._max_grabs) - self.grabs)

    def grab(self, count: int) -> bytes:
        """Grab so many jobs; a slot has to be reserved for each before."""
        self.grabs += count
        self.asleep = False
        self._open.extend([_GRAB] * count)
        return self._grab_packet * count

    @property
    def may_sleep(self) -> bool:
        """Whether there is nothing to grab and no answer to wait for, so that PRE_SLEEP is due."""
        return self._exhausted and not self.grabs and not self.asleep and not self.draining

    def sleep(self) -> bytes:
        """Ask to be woken by a NOOP."""
        self.asleep = True
        return encode_request(_T.PRE_SLEEP)

    def probe(self) -> None:
        """Wake up without having been woken."""
        self.asleep = False
        self._exhausted = False

    def drain(self) -> None:
        """Grab no more from now on."""
        self.draining = True

    @property
    def idle(self) -> bool:
        """Whether nothing is held and no grab is open."""
        return not self.held and not self.grabs

    def echo(self, data: bytes) -> bytes:
        """Ask for an ``Echoed`` with this data."""
        self._open.append(_ECHO)
        return encode_request(_T.ECHO_REQ, data)

    def update(self, packet_type: PacketType, handle: bytes, *args: bytes) -> bytes:
        """A WORK_DATA, WORK_WARNING or WORK_STATUS of a job held.

        Args:
            args: the data, or the two numbers of a status.

        Raises:
            InvalidWorkerState: the job is not held on this connection, or no more.
        """
        if handle not in self.held:
            raise InvalidWorkerState(f"job {_shown(handle)} has ended; {packet_type.name} comes too late")
        return encode_work(packet_type, handle, b"\0".join(args))

    def finish(self, packet_type: PacketType, handle: bytes, data: bytes = b"") -> bytes:
        """The one final packet of a job held: WORK_COMPLETE, WORK_EXCEPTION or WORK_FAIL (which has no data).

        Raises:
            InvalidWorkerState: the job is not held on this connection, or no more.
        """
        try:
            self.held.remove(handle)
        except KeyError:
            raise InvalidWorkerState(
                f"job {_shown(handle)} has ended already; {packet_type.name} comes too late"
            ) from None
        if packet_type is _T.WORK_FAIL:
            return encode_work_fail(handle)
        packet = encode_work(packet_type, handle, data)
        if packet_type is _T.WORK_EXCEPTION and not self._knows_uniq:
            packet += encode_work_fail(handle)
        return packet

    # ------------------------------------------------------------------ received

    def receive(self, data: bytes) -> list[WorkerEvent]:
        """Take received bytes; give what happened.

        Raises:
            ProtocolError: the job server broke the protocol; the connection is of no more use. Jobs that came whole in
                the same bytes are given up with it, and the job server assigns them again; their grabs count as
                unanswered, because nobody has heard of them.
        """
        grabs = self.grabs
        try:
            return self._receive(data)
        except ProtocolError:
            self.grabs = grabs
            raise

    def _receive(self, data: bytes) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        append, new = events.append, tuple.__new__
        unanswered = 0
        for event in self._decoder.feed(data):
            if type(event) is Packet:
                packet_type, args = event
                if packet_type is _T.JOB_ASSIGN_UNIQ:
                    self._close_grab(packet_type)
                    self._hold(args[0])
                    append(new(JobAssigned, args))
                elif packet_type is _T.NO_JOB:
                    self._close_grab(packet_type)
                    self._exhausted = True
                    self._window = 1
                    unanswered += 1
                elif packet_type is _T.NOOP:
                    self._noop()
                else:
                    unanswered += self._receive_rare(packet_type, args, append)
            else:
                self._receive_broken(event, append)
        if unanswered:
            append(GrabUnanswered(unanswered))
        return events

    def _close_grab(self, packet_type: PacketType) -> None:
        opened = self._open
        if not opened or opened.popleft() is not _GRAB:
            raise ProtocolError(f"{packet_type.name} came without a grab that it could answer")
        self.grabs -= 1

    def _hold(self, handle: bytes) -> None:
        if handle in self.held:
            raise ProtocolError(f"job {_shown(handle)} was assigned while it is held")
        self.held.add(handle)
        if self._window < self._max_grabs:
            self._window += 1
        self._exhausted = False
        self.fruitless_wakes = 0

    def _noop(self) -> None:
        if self.asleep:
            self.fruitless_wakes += 1
        self.asleep = False
        self._exhausted = False

    def _receive_rare(self, packet_type: PacketType, args: list[bytes], append: _Append) -> int:
        """Packets off the path of every job; gives how many grabs they leave without a job."""
        if packet_type is _T.JOB_ASSIGN:
            self._close_grab(packet_type)
            self._hold(args[0])
            append(JobAssigned(args[0], args[1], b"", args[2]))
        elif packet_type is _T.ECHO_RES:
            if not self._open or self._open.popleft() is not _ECHO:
                raise ProtocolError("ECHO_RES came out of order")
            append(Echoed(args[0]))
        elif packet_type is _T.ERROR:
            return self._receive_error(args, append)
        elif packet_type is not _T.OPTION_RES:
            raise ProtocolError(f"{packet_type.name} is no packet for a worker")
        return 0

    def _receive_error(self, args: list[bytes], append: _Append) -> int:
        append(Refused(args[0], args[1]))
        if args[0] == _JOB_NOT_FOUND or not self._open or self._open.popleft() is not _GRAB:
            return 0
        if not self._knows_uniq:
            raise ProtocolError(f"the job server refuses GRAB_JOB: {_shown(args[0])} {_shown(args[1])}")
        self.grabs -= 1
        if not self.grabs:
            self._knows_uniq = False
            self._grab_packet = encode_request(_T.GRAB_JOB)
        return 1

    def _receive_broken(self, event: DecoderEvent, append: _Append) -> None:
        if isinstance(event, ProtocolError):
            raise event
        if not isinstance(event, Oversized):
            raise ProtocolError("a line of text came where packets were expected")
        packet_type, args, body_bytes = event
        if packet_type not in (_T.JOB_ASSIGN_UNIQ, _T.JOB_ASSIGN) or len(args) < 2:
            raise ProtocolError(f"{packet_type.name} came with {body_bytes} bytes, over the limit")
        self._close_grab(packet_type)
        self._hold(args[0])
        append(JobTooLarge(args[0], args[1], args[2] if len(args) > 2 else b"", body_bytes))


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
