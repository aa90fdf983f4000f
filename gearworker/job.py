"""Jobs as users meet them: ``GearmanJob`` in a handler, ``GearmanJobRequest`` in a client, states and priorities.

Names, attributes and order of arguments are those that python-gearman 2.0 documented.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from gearworker.encoders import BYTES, Encoder
from gearworker.protocol.packets import PacketType

PRIORITY_NONE: Final = None
PRIORITY_LOW: Final = "LOW"
PRIORITY_HIGH: Final = "HIGH"

JOB_UNKNOWN: Final = "UNKNOWN"
JOB_PENDING: Final = "PENDING"
JOB_CREATED: Final = "CREATED"
JOB_FAILED: Final = "FAILED"
JOB_COMPLETE: Final = "COMPLETE"

_MAX_STATUS: Final = 2**32 - 1


class JobConnection(Protocol):
    """What a running job needs of the connection that it came on."""

    @property
    def address(self) -> str:
        """The job server's address."""

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        """Send a packet of this job: WORK_DATA, WORK_WARNING or WORK_STATUS."""


class GearmanJob:
    """One job: what a handler gets and what a request is made of.

    Args:
        connection: the connection it came on; None for a job that has none, whose updates then go nowhere, so that a
            handler can be called as a plain function in tests.
        handle: the job server's name for it; valid on that job server only. None before submission.
        task: the task's name.
        unique: the client's key for coalescing; None where the client gave none.
        data: the payload, as the task's encoder decoded it.

    Attributes:
        attempt: 1 for the first run in this process, counted up by the task's retries.
        status: the last (numerator, denominator) sent, None before the first.
        data_bytes: the payload's size on the wire, in bytes.
        started_at: ``time.monotonic()`` when its handler was first called; 0.0 before.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "attempt",
        "connection",
        "data",
        "data_bytes",
        "encoder",
        "handle",
        "started_at",
        "status",
        "task",
        "unique",
    )

    def __init__(
        self, connection: JobConnection | None, handle: str | None, task: str, unique: str | None, data: Any
    ) -> None:
        self.connection = connection
        self.handle = handle
        self.task = task
        self.unique = unique
        self.data = data
        self.data_bytes = 0
        self.encoder: Encoder = BYTES
        self.attempt = 1
        self.status: tuple[int, int] | None = None
        self.started_at = 0.0

    def send_data(self, data: Any) -> None:
        """Send a part of the result to the waiting clients (WORK_DATA).

        Args:
            data: bytes, or what the task's encoder takes.

        Raises:
            ConnectionLost: the connection this job came on has ended.
            PayloadError: the encoder can't encode the data.

        Switches: while the connection's output is over its high-water mark.
        """
        self._send(PacketType.WORK_DATA, self.encoder.encode(data))

    def send_warning(self, data: Any) -> None:
        """Send a warning to the waiting clients (WORK_WARNING). Arguments and errors as in ``send_data``."""
        self._send(PacketType.WORK_WARNING, self.encoder.encode(data))

    def send_status(self, numerator: int, denominator: int) -> None:
        """Tell the job server how far the job is (WORK_STATUS).

        Args:
            numerator: steps done, a whole number from 0 to 4294967295.
            denominator: steps in all, likewise.

        Raises:
            ValueError: not such numbers; a job server would store something else.
            ConnectionLost: the connection this job came on has ended.
        """
        for name, value in (("numerator", numerator), ("denominator", denominator)):
            if not isinstance(value, int) or not 0 <= value <= _MAX_STATUS:
                raise ValueError(f"send_status: {name} is {value!r}, not a whole number from 0 to {_MAX_STATUS}")
        self.status = (numerator, denominator)
        self._send(PacketType.WORK_STATUS, b"%d" % numerator, b"%d" % denominator)

    def _send(self, packet_type: PacketType, *args: bytes) -> None:
        if self.connection is not None:
            self.connection.send_update(self, packet_type, *args)

    def to_dict(self) -> dict[str, Any]:
        """The job as a dict with the keys task, job_handle, unique and data."""
        return {"task": self.task, "job_handle": self.handle, "unique": self.unique, "data": self.data}

    def __repr__(self) -> str:
        return f"<GearmanJob task={self.task!r} handle={self.handle!r} unique={self.unique!r}>"


class RequestWatcher(Protocol):
    """Whoever wants to hear of every change of a request."""

    def request_changed(self, request: GearmanJobRequest) -> None:
        """The request has changed its state or got an update."""


class GearmanJobRequest:
    """A job as its client sees it: what was asked for, how far it is, what came of it.

    Theory of operation. A request is UNKNOWN to every job server, PENDING once it was sent, CREATED once a job server
    has it, and in the end COMPLETE or FAILED. A lost connection makes it UNKNOWN again, unless it is a background job
    that was accepted: that one is the job server's now. Two ways lead to FAILED besides the job's own failure: a job
    server that refuses the submit, and a client that learns that no result will come (the job server no longer knows
    the job, or the result is too large or can't be decoded). ``exception`` then holds the error.

    Args:
        gearman_job: the job.
        initial_priority: PRIORITY_NONE, PRIORITY_LOW or PRIORITY_HIGH.
        background: nobody waits for the result.
        max_attempts: how often it is sent until a job server accepts it.

    Attributes:
        result: what the job returned, decoded; None before the state is COMPLETE.
        exception: what a WORK_EXCEPTION carried, decoded (as it came where it can't be), or a ``GearmanError`` where
            the job did not fail by itself; None for a plain WORK_FAIL.
        state: one of the JOB_* constants.
        timed_out: the last wait ended before what it waited for had come.
        status: ``{}``, or a dict with handle, known, running, numerator, denominator, and time_received (Unix time).
        connection_attempts: how often it was sent since it was last without an accepting job server.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_data_updates",
        "_warning_updates",
        "_watchers",
        "background",
        "connection_attempts",
        "exception",
        "gearman_job",
        "has_fresh_unique",
        "max_connection_attempts",
        "priority",
        "result",
        "state",
        "status",
        "submission",
        "timed_out",
    )

    def __init__(
        self,
        gearman_job: GearmanJob,
        initial_priority: str | None = PRIORITY_NONE,
        background: bool = False,
        max_attempts: int = 1,
    ) -> None:
        self.gearman_job = gearman_job
        self.priority = initial_priority
        self.background = background
        self.max_connection_attempts = max_attempts
        self.has_fresh_unique = False
        self.submission: Submission | None = None
        self._watchers: list[RequestWatcher] = []
        self._clear()

    def _clear(self) -> None:
        self.connection_attempts = 0
        self.result: Any = None
        self.exception: Any = None
        self.state = JOB_UNKNOWN
        self.timed_out = False
        self.status: dict[str, Any] = {}
        # A deque takes 600 bytes, and most requests never get an update.
        self._data_updates: deque[Any] | None = None
        self._warning_updates: deque[Any] | None = None
