"""A job as its client sees it: ``GearmanJobRequest``, its states and priorities.

Theory of operation. A request is UNKNOWN to every job server, PENDING once it was sent, CREATED once a job server has
it, and in the end COMPLETE or FAILED. A lost connection makes it UNKNOWN again, unless it is a background job that was
accepted: that one is the job server's now. Two ways lead to FAILED besides the job's own failure: a job server that
refuses the submit, and a client that learns that no result will come (the job server no longer knows the job, or the
result is too large or can't be decoded). ``exception`` then holds the error. Any other order of events raises
``InvalidClientState`` and changes nothing.
"""

from __future__ import annotations

import warnings
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from gearworker.encoders import Encoder
from gearworker.errors import InvalidClientState, JobFailed
from gearworker.protocol.client import Submission

if TYPE_CHECKING:
    from gearworker.job import GearmanJob, JobConnection

PRIORITY_NONE: Final = None
PRIORITY_LOW: Final = "LOW"
PRIORITY_HIGH: Final = "HIGH"

JOB_UNKNOWN: Final = "UNKNOWN"
JOB_PENDING: Final = "PENDING"
JOB_CREATED: Final = "CREATED"
JOB_FAILED: Final = "FAILED"
JOB_COMPLETE: Final = "COMPLETE"


class RequestWatcher(Protocol):
    """Whoever wants to hear of every change of a request."""

    def request_changed(self, request: GearmanJobRequest) -> None:
        """The request has changed its state or got an update."""


class GearmanJobRequest:
    """A job as its client sees it: what was asked for, how far it is, what came of it; compared by identity.

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
        connection_attempts: how often it was sent until it was accepted; from 0 again where the caller has an accepted
            one, whose connection was lost, submitted again.
        was_accepted: a job server has accepted it since it was last submitted by the caller.
        has_fresh_unique: the client made the unique, so it is nobody else's.
        submission: the job as it is sent, once a client has prepared it.
    """

    when_to_run: float | None = None
    """Unix time before which no worker gets the job; None for at once."""
    reducer: str | None = None
    """The task's name of the reducer, for a reduce job."""
    encoder: Encoder | None = None
    """For the payload and what comes back, where it is not the client's."""

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
        "was_accepted",
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
        self.was_accepted = False
        self.result: Any = None
        self.exception: Any = None
        self.state: str = JOB_UNKNOWN
        self.timed_out = False
        self.status: dict[str, Any] = {}
        # A deque takes 600 bytes, and most requests never get an update.
        self._data_updates: deque[Any] | None = None
        self._warning_updates: deque[Any] | None = None

    @property
    def job(self) -> GearmanJob:
        """Another name of ``gearman_job``."""
        return self.gearman_job

    @property
    def complete(self) -> bool:
        """Whether a background job was accepted, or a foreground job has ended."""
        if self.background:
            return self.state == JOB_CREATED
        return self.state in (JOB_COMPLETE, JOB_FAILED)

    @property
    def data_updates(self) -> deque[Any]:
        """What WORK_DATA brought, decoded, oldest first; take items out as you like."""
        if self._data_updates is None:
            self._data_updates = deque()
        return self._data_updates

    @property
    def warning_updates(self) -> deque[Any]:
        """What WORK_WARNING brought, decoded, oldest first; take items out as you like."""
        if self._warning_updates is None:
            self._warning_updates = deque()
        return self._warning_updates

    @property
    def status_updates(self) -> deque[tuple[int, int]]:
        """Deprecated: at most one (numerator, denominator); use ``status``."""
        warnings.warn("status_updates is deprecated, use status", DeprecationWarning, stacklevel=2)
        if not self.status:
            return deque()
        return deque([(self.status["numerator"], self.status["denominator"])])

    @property
    def server_status(self) -> dict[str, Any]:
        """Deprecated: use ``status``."""
        warnings.warn("server_status is deprecated, use status", DeprecationWarning, stacklevel=2)
        return self.status

    def result_or_raise(self) -> Any:
        """The result of a job that completed.

        Raises:
            JobFailed: the job failed.
            Exception: what it failed with otherwise, such as JobLost, JobServerError, or a decoder's error.
            InvalidClientState: it has not ended.
        """
        if self.state == JOB_COMPLETE:
            return self.result
        if self.state == JOB_FAILED:
            raise self.exception if isinstance(self.exception, Exception) else JobFailed(self)
        raise InvalidClientState(f"{self!r} has no result")

    def reset(self) -> None:
        """Forget results, state, attempts, handle and connection, so that the job can be submitted afresh."""
        self._clear()
        self.submission = None
        self.gearman_job.connection = None
        self.gearman_job.handle = None
        self._changed()

    def submit_sent(self, connection: JobConnection | None) -> None:
        """It was sent on a connection: UNKNOWN → PENDING."""
        self._move(JOB_UNKNOWN, JOB_PENDING, "a submit")
        self.gearman_job.connection = connection
        self.connection_attempts += 1
        self.timed_out = False

    def job_created(self, handle: str) -> None:
        """A job server accepted it: PENDING → CREATED."""
        self._move(JOB_PENDING, JOB_CREATED, "JOB_CREATED")
        self.gearman_job.handle = handle
        self.was_accepted = True
        if self.background:
            self.submission = None
        self._changed()

    def work_complete(self, data: bytes) -> None:
        """The job returned: CREATED → COMPLETE, or FAILED with the decoder's error as ``exception``."""
        self._move(JOB_CREATED, JOB_COMPLETE, "WORK_COMPLETE")
        try:
            self.result = self.gearman_job.encoder.decode(data)
        except Exception as error:  # whatever a user's decoder raises; it is the request's outcome
            self.exception, self.state = error, JOB_FAILED
        self._changed()

    def work_fail(self) -> None:
        """The job failed: CREATED → FAILED."""
        self._move(JOB_CREATED, JOB_FAILED, "WORK_FAIL")
        self._changed()

    def work_exception(self, data: bytes) -> None:
        """The job failed with an exception: CREATED → FAILED, because no WORK_FAIL follows."""
        self._move(JOB_CREATED, JOB_FAILED, "WORK_EXCEPTION")
        try:
            self.exception = self.gearman_job.encoder.decode(data)
        except Exception:  # an exception's text need not be in the task's encoding
            self.exception = data
        self._changed()

    def work_data(self, data: bytes) -> None:
        """A part of the result came; where it can't be decoded the request ends FAILED."""
        self._take_update("WORK_DATA", "data", data)

    def work_warning(self, data: bytes) -> None:
        """A warning came; where it can't be decoded the request ends FAILED."""
        self._take_update("WORK_WARNING", "warning", data)

    def work_status(self, numerator: int, denominator: int, time_received: float) -> None:
        """The job said how far it is; that replaces ``status``."""
        self._move(JOB_CREATED, JOB_CREATED, "WORK_STATUS")
        self.status_received(True, True, numerator, denominator, time_received)

    def status_received(
        self, known: bool, running: bool, numerator: int, denominator: int, time_received: float
    ) -> None:
        """The job server answered a GET_STATUS; that replaces ``status`` in any state."""
        self.status = {
            "handle": self.gearman_job.handle,
            "known": known,
            "running": running,
            "numerator": numerator,
            "denominator": denominator,
            "time_received": time_received,
        }
        self._changed()

    def failed(self, error: Exception) -> None:
        """It ends without an outcome of the job: PENDING or CREATED → FAILED with the error as ``exception``."""
        if self.state not in (JOB_PENDING, JOB_CREATED):
            raise InvalidClientState(f"{self!r} can't take {type(error).__name__}: its state is {self.state}")
        self.state, self.exception = JOB_FAILED, error
        self._changed()

    def connection_lost(self) -> None:
        """Its connection ended: PENDING or CREATED → UNKNOWN; an accepted background job stays as it is."""
        if self.state not in (JOB_PENDING, JOB_CREATED):
            raise InvalidClientState(f"{self!r} can't lose its connection: its state is {self.state}")
        if self.complete:
            return
        self.state = JOB_UNKNOWN
        self.gearman_job.handle = None
        self._changed()

    def take_update(self, kind: str, value: Any) -> None:
        """Keep an update; ``kind`` is "data" or "warning"."""
        (self.data_updates if kind == "data" else self.warning_updates).append(value)

    def _take_update(self, event: str, kind: str, data: bytes) -> None:
        self._move(JOB_CREATED, JOB_CREATED, event)
        try:
            value = self.gearman_job.encoder.decode(data)
        except Exception as error:  # whatever a user's decoder raises; it is the request's outcome
            self.failed(error)
            return
        self.take_update(kind, value)
        self._changed()

    def _move(self, before: str, after: str, event: str) -> None:
        if self.state != before or (self.background and before == JOB_CREATED):
            raise InvalidClientState(f"{self!r} can't take {event}: its state is {self.state}")
        self.state = after

    def watch(self, watcher: RequestWatcher) -> None:
        """Tell a watcher of every change from now on."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: RequestWatcher) -> None:
        """Tell a watcher no more."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def _changed(self) -> None:
        if self._watchers:
            for watcher in tuple(self._watchers):
                watcher.request_changed(self)

    def __repr__(self) -> str:
        job = self.gearman_job
        return (
            f"<GearmanJobRequest task={job.task!r} unique={job.unique!r} priority={self.priority!r} "
            f"background={self.background!r} state={self.state!r} timed_out={self.timed_out!r}>"
        )
