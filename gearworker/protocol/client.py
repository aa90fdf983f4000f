"""The client's side of one connection, pure: which answer belongs to which request, and which job to which requests.

Theory of operation. Packets of a client fall into two kinds.

* Questions are answered in the order in which they were asked: a submit by JOB_CREATED, GET_STATUS by STATUS_RES and so
  on. The answers carry nothing to match them by, so ``_open`` keeps the questions in order and an answer belongs to the
  oldest. An ERROR has no handle either; it too answers the oldest. Any other answer than the oldest question may have
  breaks the protocol, because from there on every answer would reach the wrong request.
* WORK_* packets name a job by its handle. A job is tracked from its JOB_CREATED to its final packet, for foreground
  requests only: a background job is never heard of again, so nothing is kept of it.

Several requests of one connection may share a job, when they have the same task and unique. The job server then sends
each packet as often as the connection has submitted, so each request gets one copy, in turn. A final packet ends the
job for all of them at once, and its further copies, whose handle is no longer tracked, are dropped.

The requests are opaque here: whatever object a question was asked with comes back with its answer.

Source: gearmand's protocol document, and its observed behaviour (tests/conformance).
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any, Final, NamedTuple

from gearworker.errors import ProtocolError
from gearworker.protocol.codec import DEFAULT_MAX_PACKET_BYTES, Decoder, Oversized, encode_request
from gearworker.protocol.packets import (
    HEADER,
    MAX_ARGUMENT_BYTES,
    MAX_BODY_BYTES,
    REQUEST_MAGIC,
    RESPONSE_MAGIC,
    Packet,
    PacketType,
)

_T = PacketType
_ANSWERS: Final = frozenset({_T.JOB_CREATED, _T.STATUS_RES, _T.STATUS_RES_UNIQUE, _T.ECHO_RES, _T.OPTION_RES, _T.ERROR})
_UPDATES: Final = frozenset({_T.WORK_DATA, _T.WORK_WARNING, _T.WORK_STATUS})
_FINALS: Final = frozenset({_T.WORK_COMPLETE, _T.WORK_FAIL, _T.WORK_EXCEPTION})

SUBMITS: Final[dict[tuple[str | None, bool], PacketType]] = {
    (None, False): _T.SUBMIT_JOB,
    (None, True): _T.SUBMIT_JOB_BG,
    ("HIGH", False): _T.SUBMIT_JOB_HIGH,
    ("HIGH", True): _T.SUBMIT_JOB_HIGH_BG,
    ("LOW", False): _T.SUBMIT_JOB_LOW,
    ("LOW", True): _T.SUBMIT_JOB_LOW_BG,
}
"""The packet that submits a job, by (priority, background)."""


class Delivery(NamedTuple):
    """A packet and the request that it is for; None where the job server sent an ERROR that nobody asked for."""

    request: Any
    packet: Packet | Oversized


class Submission(NamedTuple):
    """A job in the form in which it is submitted, checked.

    Args:
        type: the packet type.
        head: all arguments before the payload, each with the NUL behind it.
        data: the payload.
    """

    type: PacketType
    head: bytes
    data: bytes


class _Tracked:
    """A foreground job: the requests that wait for it, whose turn it is, and whether it has been silent."""

    __slots__ = ("quiet", "requests", "turn")

    def __init__(self, request: Any) -> None:
        self.requests = [request]
        self.turn = 0
        self.quiet = False

    def next(self) -> Any:
        request = self.requests[self.turn]
        self.turn = (self.turn + 1) % len(self.requests)
        return request


@lru_cache(maxsize=1024)
def task_bytes(task: str) -> bytes:
    """A task's name for the wire.

    Raises:
        ProtocolError: it is empty, too long or holds a NUL.
    """
    if not isinstance(task, str):
        raise ProtocolError(f"task {task!r} is no str")
    raw = task.encode("utf-8", "surrogateescape")
    limit = MAX_ARGUMENT_BYTES["task"]
    if not 0 < len(raw) <= limit or b"\0" in raw:
        raise ProtocolError(f"task {task!r}: a task's name has 1 to {limit} bytes and no NUL, this one has {len(raw)}")
    return raw


def unique_bytes(unique: str) -> bytes:
    """A unique for the wire.

    Raises:
        ProtocolError: it is empty, too long, holds a NUL, or is ``-``, which gearmand takes as no unique at all.
    """
    if not isinstance(unique, str):
        raise ProtocolError(f"unique {unique!r} is no str")
    raw = unique.encode("utf-8", "surrogateescape")
    limit = MAX_ARGUMENT_BYTES["unique"]
    if not 0 < len(raw) <= limit or b"\0" in raw:
        raise ProtocolError(f"unique {unique!r}: a unique has 1 to {limit} bytes and no NUL, this one has {len(raw)}")
    if raw == b"-":
        raise ProtocolError("unique '-': gearmand compares the payloads of such jobs and keeps one of them only")
    return raw


class ClientProtocol:
    """One connection of a client. A new connection needs a new object.

    Args:
        max_packet_bytes: the largest body that is delivered whole.
    """

    __slots__ = ("_decoder", "_open", "_tracked")

    def __init__(self, *, max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES) -> None:
        self._decoder = Decoder(RESPONSE_MAGIC, max_packet_bytes=max_packet_bytes)
        self._open: deque[tuple[PacketType, Any, bool]] = deque()
        self._tracked: dict[bytes, _Tracked] = {}

    @property
    def open_questions(self) -> int:
        """How many questions have no answer yet."""
        return len(self._open)

    @property
    def tracked_jobs(self) -> int:
        """How many jobs have no final packet yet."""
        return len(self._tracked)

    def submit(self, request: Any, submission: Submission, *, background: bool) -> bytes:
        """Submit a job; answered by JOB_CREATED or ERROR.

        Raises:
            ProtocolError: the payload is larger than a packet can be.
        """
        packet_type, head, data = submission
        size = len(head) + len(data)
        if size > MAX_BODY_BYTES:
            raise ProtocolError(f"{packet_type.name} of {size} bytes; the protocol's limit is {MAX_BODY_BYTES}")
        self._open.append((_T.JOB_CREATED, request, not background))
        return b"".join((HEADER.pack(REQUEST_MAGIC, packet_type, size), head, data))

    def get_status(self, request: Any, handle: bytes) -> bytes:
        """Ask for a job's status; answered by STATUS_RES."""
        return self._ask(_T.STATUS_RES, request, _T.GET_STATUS, handle)

    def get_unique_status(self, request: Any, unique: bytes) -> bytes:
        """Ask for the status of the job of a unique; answered by STATUS_RES_UNIQUE."""
        return self._ask(_T.STATUS_RES_UNIQUE, request, _T.GET_STATUS_UNIQUE, unique)

    def echo(self, request: Any, data: bytes) -> bytes:
        """Have the job server send data back; answered by ECHO_RES."""
        return self._ask(_T.ECHO_RES, request, _T.ECHO_REQ, data)

    def set_option(self, request: Any, option: bytes) -> bytes:
        """Set an option of the connection, of which there is ``exceptions``; answered by OPTION_RES or ERROR."""
        return self._ask(_T.OPTION_RES, request, _T.OPTION_REQ, option)

    def _ask(self, answer: PacketType, request: Any, question: PacketType, argument: bytes) -> bytes:
        packet = encode_request(question, argument)
        self._open.append((answer, request, False))
        return packet

    def receive(self, data: bytes) -> list[Delivery | ProtocolError]:
        """Take received bytes; give the packets with their requests, in order.

        A ``ProtocolError`` is the last item: the connection can't be followed any further and has to be closed.
        """
        deliveries: list[Delivery | ProtocolError] = []
        for event in self._decoder.feed(data):
            if isinstance(event, ProtocolError):
                deliveries.append(event)
                break
            if isinstance(event, (Packet, Oversized)):
                error = self._take(event, deliveries)
            else:
                error = ProtocolError(f"the job server sent a text line to a client: {event.line[:80]!r}")
            if error is not None:
                deliveries.append(error)
                break
        return deliveries

    def _take(self, packet: Packet | Oversized, deliveries: list[Delivery | ProtocolError]) -> ProtocolError | None:
        packet_type = packet.type
        if packet_type in _ANSWERS:
            return self._take_answer(packet, deliveries)
        if packet_type not in _FINALS and packet_type not in _UPDATES:
            return ProtocolError(f"the job server sent {packet_type.name} to a client")
        if not packet.args:
            return ProtocolError(f"{packet_type.name} is too large, and it names no handle")
        if packet_type in _UPDATES:
            tracked = self._tracked.get(packet.args[0])
            if tracked is not None:
                tracked.quiet = False
                deliveries.append(Delivery(tracked.next(), packet))
            return None
        # gearmand lets a NUL slip in behind the handle of the WORK_FAIL that stands for a WORK_EXCEPTION.
        job = self._tracked.pop(packet.args[0].rstrip(b"\0"), None)
        for request in job.requests if job is not None else ():
            deliveries.append(Delivery(request, packet))
        return None

    def _take_answer(
        self, packet: Packet | Oversized, deliveries: list[Delivery | ProtocolError]
    ) -> ProtocolError | None:
        packet_type = packet.type
        if isinstance(packet, Oversized):
            return ProtocolError(f"{packet_type.name} with a body of {packet.body_bytes} bytes")
        if not self._open:
            if packet_type is not _T.ERROR:
                return ProtocolError(f"the job server sent {packet_type.name}, and nothing was asked")
            deliveries.append(Delivery(None, packet))
            return None
        expected, request, is_foreground = self._open.popleft()
        if packet_type is not expected and packet_type is not _T.ERROR:
            return ProtocolError(f"the job server sent {packet_type.name} where {expected.name} was due")
        if is_foreground and packet_type is _T.JOB_CREATED:
            handle = packet.args[0]
            tracked = self._tracked.get(handle)
            if tracked is None:
                self._tracked[handle] = _Tracked(request)
            else:
                tracked.requests.append(request)
        deliveries.append(Delivery(request, packet))
        return None

    def silent_jobs(self) -> list[bytes]:
        """The handle of each tracked job that has sent nothing since this was last called."""
        silent = []
        for handle, job in self._tracked.items():
            if job.quiet:
                silent.append(handle)
            job.quiet = True
        return silent

    def drop(self, handle: bytes) -> list[Any]:
        """Track a job no longer, because it is lost; gives its requests."""
        job = self._tracked.pop(handle, None)
        return job.requests if job is not None else []

    def lost(self) -> list[Any]:
        """The connection has ended: gives every request that had a question or a job open, each as often."""
        requests = [request for _, request, _ in self._open]
        for job in self._tracked.values():
            requests += job.requests
        self._open.clear()
        self._tracked.clear()
        return requests
