"""Every error that gearworker raises, in one tree.

    GearmanError                        the root; catch it to catch all of ours
    ├── ConfigError                     a configuration that can't be used: file, key, line, reason
    ├── TaskError                       a task that can't be registered or found
    ├── PayloadError                    data that an encoder can't encode or decode
    ├── FailJob                         raised by a handler: end this job with WORK_FAIL, quietly
    ├── JobTimeout                      a job ran into its time limit
    ├── GearmanConnectionError          no conversation with a job server
    │   ├── ServerUnavailable           it can't be reached at all
    │   ├── ConnectionLost              it could, and then the connection ended
    │   └── ExceededConnectionAttempts  it was tried as often as allowed
    ├── ProtocolError                   bytes that break the Gearman protocol, ours or theirs
    │   ├── UnknownCommandError         a packet type outside the table
    │   └── JobServerError              an ERROR packet: code and text
    ├── JobFailed                       a job ended with WORK_FAIL or WORK_EXCEPTION
    ├── JobLost                         an accepted job that its job server no longer knows
    └── InvalidState                    an order of events that can't be
        ├── InvalidClientState
        ├── InvalidWorkerState
        └── InvalidAdminClientState

Each carries what it knows as attributes, so that callers never parse messages.
"""

from __future__ import annotations

from typing import Any


class GearmanError(Exception):
    """The root of every error raised by gearworker."""


class ConfigError(GearmanError):
    """A configuration that can't be used.

    Args:
        reason: what is wrong, in one sentence.
        file: the configuration file, where there is one.
        key: the path to the guilty key, such as ``pools.images.concurrency``.
        line: its line in the file, from 1.
    """

    def __init__(
        self, reason: str, *, file: str | None = None, key: str | None = None, line: int | None = None
    ) -> None:
        self.reason, self.file, self.key, self.line = reason, file, key, line
        place = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(": ".join(part for part in (place, key, reason) if part))


class TaskError(GearmanError):
    """A task that can't be registered (a doubled or unusable name, a bad option) or found."""


class PayloadError(GearmanError):
    """Data that an encoder can't turn into bytes, or bytes that it can't turn into data."""


class FailJob(GearmanError):
    """Raised by a handler to end its job with WORK_FAIL; logged without a traceback.

    Args:
        reason: why, for the log; the client is told nothing, since WORK_FAIL has no room for it.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


class JobTimeout(GearmanError):
    """A job ran longer than its time limit.

    Args:
        timeout_s: the limit, in seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(f"the job ran longer than its limit of {timeout_s:g} s")


class GearmanConnectionError(GearmanError):
    """No conversation with a job server.

    Args:
        address: the job server's address as text, such as ``127.0.0.1:4730``.
        reason: what went wrong.
    """

    def __init__(self, address: str | None, reason: str) -> None:
        self.address, self.reason = address, reason
        super().__init__(f"{address}: {reason}" if address else reason)


class ServerUnavailable(GearmanConnectionError):
    """A job server, or every one of them, can't be reached."""


class ConnectionLost(GearmanConnectionError):
    """The connection ended; what was under way on it did not finish here."""


class ExceededConnectionAttempts(GearmanConnectionError):
    """A request was tried as often as its max_connection_attempts allows."""


class ProtocolError(GearmanError):
    """Bytes that break the Gearman protocol, in what came or in what was about to be sent."""


class UnknownCommandError(ProtocolError):
    """A packet type that the table does not have.

    Args:
        number: the type as it came on the wire.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"packet type {number} is unknown")


class JobServerError(ProtocolError):
    """An ERROR packet from a job server.

    Args:
        code: such as ``QUEUE_ERROR``.
        text: the job server's explanation.
        address: the job server, where known.
    """

    def __init__(self, code: str, text: str, address: str | None = None) -> None:
        self.code, self.text, self.address = code, text, address
        super().__init__(": ".join(part for part in (address, code, text) if part))


class JobFailed(GearmanError):
    """A job ended with WORK_FAIL or WORK_EXCEPTION.

    Args:
        request: the request (a ``GearmanJobRequest``); its ``exception`` is what the worker said, None where it said
            nothing.
    """

    def __init__(self, request: Any) -> None:
        self.request = request
        self.exception = reason = request.exception
        if isinstance(reason, bytes):
            reason = reason.decode("utf-8", "replace")
        job = request.gearman_job
        super().__init__(f"job {job.handle} of task {job.task} failed" + (f": {reason}" if reason is not None else ""))


class JobLost(GearmanError):
    """A job server accepted a job and then no longer knew it, before any result came.

    Args:
        handle: the job's handle.
        address: the job server.
    """

    def __init__(self, handle: str, address: str | None = None) -> None:
        self.handle, self.address = handle, address
        super().__init__(f"{address or 'the job server'} no longer knows job {handle}")


class InvalidState(GearmanError):
    """An order of events that can't be."""


class InvalidClientState(InvalidState):
    """A job request got an event that does not fit its state."""


class InvalidWorkerState(InvalidState):
    """A worker was asked for something that its state does not allow, such as answering a job twice."""


class InvalidAdminClientState(InvalidState):
    """An admin client was used in a way that it can't be, such as with more than one host."""
