"""``GearmanAdminClient``: ask one job server how it is, and change its queues.

Names and results are those that python-gearman 2.0 documented, with all other commands of gearmand on top. It is used
from greenlets and plain threads as a ``GearmanClient`` is; calls of several callers come one after the other.

A reply has nothing to match it to its request by. So whenever one did not come whole, in time and well-formed, the
connection is closed, and the next call starts on a new one: a late reply can't be taken for that of another request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Generic, TypeVar

import gevent
from gevent.lock import BoundedSemaphore

from gearworker.client.hub import Homes, parse_hosts
from gearworker.client.waiting import Deadline
from gearworker.errors import (
    ConnectionLost,
    InvalidAdminClientState,
    JobServerError,
    ProtocolError,
)
from gearworker.net.address import Address, AddressLike
from gearworker.net.connection import Connection, connect
from gearworker.protocol import text
from gearworker.protocol.codec import encode_request, encode_response
from gearworker.protocol.packets import PacketType

MAX_REPLY_BYTES: Final = 256 * 1024 * 1024
_CONNECT_S: Final = 5.0
_PING: Final = b"gearworker ping"

T = TypeVar("T")


class _Question(Generic[T]):
    """What to send, when the reply is whole, and what it means."""

    def __init__(self, data: bytes, is_complete: Callable[[bytes], bool], parse: Callable[[bytes], T]) -> None:
        self.data, self.is_complete, self.parse = data, is_complete, parse


class AdminLink:
    """The connection to the job server, in one hub.

    Args:
        address: where it is.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._in_use = BoundedSemaphore(1)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection."""
        if self._connection is not None:
            self._connection.abandon()

    def ask_for(self, request: text.AdminRequest[T], deadline: Deadline) -> T:
        """Send a text command; arguments and errors as for ``ask``."""
        return self.ask(_Question(request.line, request.is_complete, request.parse), deadline)

    def ask(self, question: _Question[T], deadline: Deadline) -> T:
        """Ask, and read the reply.

        Raises:
            ServerUnavailable: the job server can't be reached.
            ConnectionLost: it closed the connection instead of an answer.
            InvalidAdminClientState: the reply did not come in time.
            JobServerError: the reply is an ERR.
            ProtocolError: the reply is not what it should be.

        Switches: yes.
        """
        if not self._in_use.acquire(timeout=deadline.remaining_s()):
            raise InvalidAdminClientState(f"{self._address}: another call took all the time")
        try:
            reply = self._converse(question, deadline)
            return question.parse(reply)
        except JobServerError as error:
            raise JobServerError(error.code, error.text, str(self._address)) from None
        except BaseException:
            self.close()
            raise
        finally:
            self._in_use.release()

    def _converse(self, question: _Question[Any], deadline: Deadline) -> bytes:
        was_open = self._connection is not None
        try:
            return self._exchange(question, deadline)
        except ConnectionLost:
            self.close()
            if not was_open:
                raise
        # It may have been closed since the last call, as by a restart; a fresh one tells.
        return self._exchange(question, deadline)

    def _exchange(self, question: _Question[Any], deadline: Deadline) -> bytes:
        if self._connection is None:
            self._connection = connect(self._address, timeout_s=deadline.remaining_s(_CONNECT_S) or 0.001)
        self._connection.write(question.data)
        try:
            with gevent.Timeout(deadline.remaining_s(), _Late):
                return self._read(self._connection, question)
        except _Late:
            raise InvalidAdminClientState(f"{self._address}: no answer to {_name(question)} in time") from None

    def _read(self, connection: Connection, question: _Question[Any]) -> bytes:
        chunks: list[bytes] = []
        size_bytes = 0
        while True:
            chunk = connection.recv()
            chunks.append(chunk)
            size_bytes += len(chunk)
            if size_bytes > MAX_REPLY_BYTES:
                raise ProtocolError(f"the answer to {_name(question)} is over {MAX_REPLY_BYTES} bytes")
            # A list of a million jobs comes in many chunks; only one that ends a line can end it.
            if chunk.endswith(b"\n") or question.data.startswith(b"\0"):
                chunks = [b"".join(chunks)]
                if question.is_complete(chunks[0]):
                    return chunks[0]


class _Late(Exception):
    """The time for an answer ran out."""


def _name(question: _Question[Any]) -> str:
    return "the ping" if question.data.startswith(b"\0") else repr(question.data.decode(errors="replace").strip())


class GearmanAdminClient:
    """Asks one job server.

    Args:
        host_list: one job server, alone or in a list, in any form that ``Address.parse`` takes.
        poll_timeout: for each call, in seconds.

    Raises:
        InvalidAdminClientState: not exactly one host.
        ConfigError: the host can't be understood.

    Every call raises ServerUnavailable where the job server can't be reached, InvalidAdminClientState where it does not
    answer in time, JobServerError where it refuses, ConnectionLost and ProtocolError where it breaks off or talks
    nonsense. It switches in a greenlet, and in a plain thread it blocks that thread.
    """

    def __init__(
        self, host_list: Iterable[AddressLike] | AddressLike | None = None, poll_timeout: float = 10.0
    ) -> None:
        addresses = parse_hosts(host_list)
        if len(addresses) != 1:
            raise InvalidAdminClientState(f"an admin client has exactly one host, not {len(addresses)}")
        self.address = addresses[0]
        self.poll_timeout = poll_timeout
        self._homes: Homes[AdminLink] = Homes(partial(AdminLink, self.address))
        self._homes.close_with(self)

    def __enter__(self) -> GearmanAdminClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. A later call connects afresh."""
        self._homes.close()

    shutdown = close

    def ask(self, request: text.AdminRequest[T]) -> T:
        """Send any request of ``gearworker.protocol.text``; give what its reply means."""
        return self._ask(_Question(request.line, request.is_complete, request.parse))

    def _ask(self, question: _Question[T]) -> T:
        home = self._homes.here()
        answer: T = home.call(home.guest.ask, question, Deadline(self.poll_timeout))
        return answer

    def ping_server(self) -> float:
        """Have the job server echo something.

        Returns: how long that took, in seconds.
        """
        mark = _PING + os.urandom(8).hex().encode()
        expected = encode_response(PacketType.ECHO_RES, mark)

        def parse(reply: bytes) -> None:
            if reply != expected:
                raise ProtocolError(f"the job server echoed {reply[:80]!r}")

        started = time.monotonic()
        self._ask(
            _Question(encode_request(PacketType.ECHO_REQ, mark), lambda reply: len(reply) >= len(expected), parse)
        )
        return time.monotonic() - started

    def get_status(self) -> tuple[dict[str, Any], ...]:
        """Every task: dicts of task, queued, running and workers; ``queued`` counts the running jobs as well."""
        return tuple(
            {"task": row.task, "queued": row.total, "running": row.running, "workers": row.workers}
            for row in self.ask(text.status())
        )

    def get_priority_status(self) -> tuple[dict[str, Any], ...]:
        """Every task: dicts of task, high, normal, low (queued jobs, running ones not counted) and workers."""
        return tuple(row._asdict() for row in self.ask(text.priority_status()))

    def get_workers(self) -> tuple[dict[str, Any], ...]:
        """Every connection, clients too: dicts of file_descriptor, ip, client_id and tasks."""
        return tuple(row._asdict() | {"file_descriptor": str(row.file_descriptor)} for row in self.ask(text.workers()))

    def get_jobs(self) -> tuple[dict[str, Any], ...]:
        """Every job: dicts of handle, retries, ignored (cancelled or left by its clients) and background."""
        return tuple(row._asdict() for row in self.ask(text.show_jobs()))

    def get_unique_jobs(self) -> tuple[str, ...]:
        """The unique of every job."""
        return self.ask(text.show_unique_jobs())

    def get_version(self) -> str:
        """The job server's version."""
        return self.ask(text.version())

    def get_pid(self) -> int:
        """The job server's process id."""
        return self.ask(text.getpid())

    def get_verbosity(self) -> str:
        """The job server's log level."""
        return self.ask(text.verbose())

    def cancel_job(self, handle: str) -> None:
        """Cancel a job: a queued one is never run, the clients of a running one get WORK_FAIL.

        Raises:
            JobServerError: ``UNKNOWN_JOB``.
        """
        self.ask(text.cancel_job(handle))

    def send_maxqueue(self, task: str, max_size: int | tuple[int, int, int] | None = None) -> None:
        """Refuse jobs of a task (ERROR ``QUEUE_ERROR``) while so many are queued and running.

        Args:
            max_size: one number, or three for high, normal and low priority; 0 or None for no limit.
        """
        sizes = () if max_size is None else max_size if isinstance(max_size, tuple) else (max_size,)
        self.ask(text.maxqueue(task, *sizes))

    def create_function(self, task: str) -> None:
        """Make a task known before a worker or job names it."""
        self.ask(text.create_function(task))

    def drop_function(self, task: str, *, with_jobs: bool = False) -> None:
        """Forget a task that no worker can do.

        Args:
            with_jobs: even where jobs are queued; gearmand never runs them then, and tells their clients nothing.

        Raises:
            JobServerError: it is not known, or workers can do it.
            InvalidAdminClientState: it has jobs.
        """
        if not with_jobs:
            jobs = sum(row.total for row in self.ask(text.status()) if row.task == task)
            if jobs:
                raise InvalidAdminClientState(f"{self.address}: task {task} has {jobs} jobs, which would be lost")
        self.ask(text.drop_function(task))

    def send_shutdown(self, graceful: bool = True) -> None:
        """Stop the job server; gearmand has removed this command.

        Raises:
            JobServerError: ``UNKNOWN_COMMAND``: this job server can't be stopped this way.
        """
        self.close()  # a connection that stands would be taken for stale when it ends, and the command sent again
        try:
            self.ask(text.shutdown(graceful=graceful))
        except ConnectionLost:
            return  # it went before it said so
        except JobServerError as error:
            if error.code != "UNKNOWN_COMMAND":
                raise
            reason = "it has no shutdown command; send its process SIGTERM, or SIGUSR1 to let it finish its jobs"
            raise JobServerError(error.code, reason, str(self.address)) from None
