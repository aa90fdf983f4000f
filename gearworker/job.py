"""Jobs as users meet them: ``GearmanJob`` in a handler, ``GearmanJobRequest`` in a client, states and priorities.

Names, attributes and order of arguments are those that python-gearman 2.0 documented.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from gearworker.encoders import BYTES, Encoder
from gearworker.errors import PayloadError
from gearworker.protocol.packets import PacketType
from gearworker.request import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    PRIORITY_NONE,
    GearmanJobRequest,
)

__all__ = [
    "GearmanJob",
    "GearmanJobRequest",
    "JobConnection",
    "PRIORITY_NONE",
    "PRIORITY_LOW",
    "PRIORITY_HIGH",
    "JOB_UNKNOWN",
    "JOB_PENDING",
    "JOB_CREATED",
    "JOB_FAILED",
    "JOB_COMPLETE",
]

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
        self._send(PacketType.WORK_DATA, self._encode(data))

    def send_warning(self, data: Any) -> None:
        """Send a warning to the waiting clients (WORK_WARNING). Arguments and errors as in ``send_data``."""
        self._send(PacketType.WORK_WARNING, self._encode(data))

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

    def _encode(self, data: Any) -> bytes:
        encoded = self.encoder.encode(data)
        if type(encoded) is not bytes:
            raise PayloadError(f"the task's encoder made {type(encoded).__name__} of the data, not bytes")
        return encoded

    def _send(self, packet_type: PacketType, *args: bytes) -> None:
        if self.connection is not None:
            self.connection.send_update(self, packet_type, *args)

    def to_dict(self) -> dict[str, Any]:
        """The job as a dict with the keys task, job_handle, unique and data."""
        return {"task": self.task, "job_handle": self.handle, "unique": self.unique, "data": self.data}

    def __repr__(self) -> str:
        return f"<GearmanJob task={self.task!r} handle={self.handle!r} unique={self.unique!r}>"
