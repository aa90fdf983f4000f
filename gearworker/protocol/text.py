"""The admin commands of a job server: request lines, replies and what they mean, side by side.

Theory of operation. A request is one line; there is no length in front of a reply, so whoever asks must know how it
ends: ``AdminRequest`` carries the line, the kind of its reply and the function that reads it. Feed what arrives to
``AdminRequest.is_complete`` and, once that is true, the whole to ``AdminRequest.parse``. One request is open at a time,
so nothing may follow a reply; that makes the end of a list recognisable even where a listed name looks like the end.

Job servers print names raw. A task may hold spaces and tabs, a client id spaces and colons, so lines are read as bytes
and from the right. Text is decoded as UTF-8 with ``surrogateescape``: any byte survives the way there and back.

Source: gearmand 1.1.20, libgearman-server/text.cc, and its answers to experiments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from gearworker.errors import JobServerError, ProtocolError
from gearworker.protocol.packets import MAX_ARGUMENT_BYTES

MAX_WORDS: Final = 5
"""A line of more words makes gearmand close the connection without an answer."""
MAX_QUEUE_SIZE: Final = 2**31 - 1

OK: Final = b"OK\r\n"
LIST_END: Final = b".\n"
ERR_UNKNOWN_JOB: Final = b"ERR UNKNOWN_JOB\r\n"
ERR_UNKNOWN_ERROR: Final = b"ERR UNKNOWN_ERROR\r\n"
ERR_UNKNOWN_SHOW_ARGUMENTS: Final = b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"
ERR_FUNCTION_NOT_FOUND: Final = b"ERR function not found\r\n"
ERR_FUNCTION_IN_USE: Final = b"ERR there are still connected workers or executing clients\r\n"

_SPACES: Final = re.compile(rb" +")
_UNUSABLE: Final = re.compile(rb"[\s\0]")
_SHOWN_BYTES: Final = 200

T = TypeVar("T")


class TaskStatus(NamedTuple):
    """A line of ``status``. ``total`` counts queued and running jobs, as the job server prints it."""

    task: str
    total: int
    running: int
    workers: int


class PriorityStatus(NamedTuple):
    """A line of ``prioritystatus``: the queued jobs of a task by priority, running ones not counted."""

    task: str
    high: int
    normal: int
    low: int
    workers: int


class WorkerStatus(NamedTuple):
    """A line of ``workers``: one connection of any kind, with the tasks it can do; a client has none."""

    file_descriptor: int
    ip: str
    client_id: str
    tasks: tuple[str, ...]


class JobStatus(NamedTuple):
    """A line of ``show jobs``. ``ignored``: cancelled or abandoned, it is dropped when its turn comes."""

    handle: str
    retries: int
    ignored: bool
    background: bool


@dataclass(frozen=True, slots=True)
class AdminRequest(Generic[T]):
    """One admin command: what to send, where its reply ends and what the reply means.

    Args:
        line: the request with its line end.
        is_list: the reply is a list that ends with a line of one dot; otherwise it is one line.
        read: turns a whole reply that is no ERR into the result.
    """

    line: bytes
    is_list: bool
    read: Callable[[bytes], T]

    def is_complete(self, reply: bytes) -> bool:
        """Whether what has arrived is the whole reply; an ERR is one line, whatever was asked for."""
        if not self.is_list or (reply.startswith(b"ERR ") and reply.endswith(b"\r\n") and reply.count(b"\n") == 1):
            return reply.endswith(b"\n")
        return reply == LIST_END or reply.endswith(b"\n" + LIST_END)

    def parse(self, reply: bytes) -> T:
        """The meaning of a whole reply.

        Raises:
            JobServerError: the reply is an ERR.
            ProtocolError: the reply is not complete or not what this command is answered with.
        """
        if not self.is_complete(reply):
            raise ProtocolError(f"the reply to {self.line.strip()!r} is not complete: {reply[-_SHOWN_BYTES:]!r}")
        if reply.startswith(b"ERR ") and reply.count(b"\n") == 1:
            raise _error_of(reply)
        return self.read(reply)


def _error_of(reply: bytes) -> JobServerError:
    message = _decode(reply[4:].rstrip(b"\r\n"))
    code, _, text = message.partition(" ")
    return JobServerError(code, text.replace("+", " ")) if code.isupper() else JobServerError("ERR", message)


# Requests


def status() -> AdminRequest[tuple[TaskStatus, ...]]:
    """``status``: jobs and workers of every task."""
    return _list_request(b"status", _read_task_status)


def priority_status() -> AdminRequest[tuple[PriorityStatus, ...]]:
    """``prioritystatus``: queued jobs of every task by priority. gearmand alone has it."""
    return _list_request(b"prioritystatus", _read_priority_status)


def workers() -> AdminRequest[tuple[WorkerStatus, ...]]:
    """``workers``: every connection, clients and the asking one too."""
    return _list_request(b"workers", _read_worker_status)


def show_jobs() -> AdminRequest[tuple[JobStatus, ...]]:
    """``show jobs``: every job, queued or running."""
    return _list_request(b"show jobs", _read_job_status)


def show_unique_jobs() -> AdminRequest[tuple[str, ...]]:
    """``show unique jobs``: the unique of every job, empty ones included."""
    return _list_request(b"show unique jobs", _decode)


def version() -> AdminRequest[str]:
    """``version``: the job server's version, such as ``1.1.20+ds``."""
    return _line_request(b"version", lambda reply: _decode(_after_ok(reply)))


def getpid() -> AdminRequest[int]:
    """``getpid``: the job server's process id."""
    return _line_request(b"getpid", _read_pid)


def verbose() -> AdminRequest[str]:
    """``verbose``: the job server's log level, such as ``ERROR``."""
    return _line_request(b"verbose", lambda reply: _decode(_after_ok(reply)))


def cancel_job(handle: str | bytes) -> AdminRequest[None]:
    """``cancel job``: a queued job is never run; the clients of a running one get WORK_FAIL.

    Raises:
        ProtocolError: the handle can't be sent. Its reply, parsed: JobServerError ``UNKNOWN_JOB``.
    """
    return _line_request(b"cancel job " + _word("handle", handle, MAX_ARGUMENT_BYTES["handle"]), _read_ok)


def maxqueue(task: str | bytes, *sizes: int) -> AdminRequest[None]:
    """``maxqueue``: refuse further jobs of a task once that many are queued and running. 0 is no limit.

    Args:
        task: its name; gearmand answers OK for one that it does not know, and does nothing.
        sizes: none for no limit, one for all priorities, or three for high, normal and low.

    Raises:
        ProtocolError: the task's name or a size can't be sent.
    """
    if len(sizes) not in (0, 1, 3):
        raise ProtocolError(f"maxqueue takes no size, one or three (high, normal, low), not {len(sizes)}")
    for size in sizes:
        if not isinstance(size, int) or not 0 <= size <= MAX_QUEUE_SIZE:
            raise ProtocolError(f"maxqueue: {size!r} is not a whole number from 0 to {MAX_QUEUE_SIZE}")
    return _line_request(b" ".join([b"maxqueue", _task(task), *(b"%d" % size for size in sizes)]), _read_ok)


def create_function(task: str | bytes) -> AdminRequest[None]:
    """``create function``: make a task known before a worker or a job names it."""
    return _line_request(b"create function " + _task(task), _read_ok)


def drop_function(task: str | bytes) -> AdminRequest[None]:
    """``drop function``: forget a task that no worker can do. On gearmand its queued jobs are lost."""
    return _line_request(b"drop function " + _task(task), _read_ok)


def shutdown(*, graceful: bool = True) -> AdminRequest[None]:
    """``shutdown``: stop the job server. The Perl server has it; gearmand answers ERR UNKNOWN_COMMAND."""
    return _line_request(b"shutdown graceful" if graceful else b"shutdown", _read_ok)


def _line_request(words: bytes, read: Callable[[bytes], T]) -> AdminRequest[T]:
    # gearmand cuts the last letter off `create function NAME` where the line ends with \n alone.
    return AdminRequest(words + b"\r\n", False, read)


def _list_request(words: bytes, read_line: Callable[[bytes], T]) -> AdminRequest[tuple[T, ...]]:
    def read(reply: bytes) -> tuple[T, ...]:
        return tuple(read_line(line) for line in reply[: -len(LIST_END)].split(b"\n")[:-1])

    return AdminRequest(words + b"\r\n", True, read)


def _task(task: str | bytes) -> bytes:
    return _word("task", task, MAX_ARGUMENT_BYTES["task"])


def _word(what: str, value: str | bytes, limit_bytes: int) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    if not raw:
        raise ProtocolError(f"{what} is empty")
    if _UNUSABLE.search(raw):
        raise ProtocolError(f"{what} {value!r} holds white space or a NUL; a text command can't carry it")
    if len(raw) > limit_bytes:
        raise ProtocolError(f"{what} has {len(raw)} bytes; the limit is {limit_bytes}")
    return raw


# Reading replies


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _malformed(command: str, line: bytes) -> ProtocolError:
    return ProtocolError(f"{command}: can't read the line {line[:_SHOWN_BYTES]!r}")


def _columns(command: str, line: bytes, count: int) -> tuple[bytes, list[int]]:
    """The name on the left, which may hold tabs, and the numbers to the right of it."""
    name, *numbers = line.rsplit(b"\t", count)
    if len(numbers) != count or not all(number.isdigit() for number in numbers):
        raise _malformed(command, line)
    return name, [int(number) for number in numbers]


def _read_task_status(line: bytes) -> TaskStatus:
    task, numbers = _columns("status", line, 3)
    return TaskStatus(_decode(task), *numbers)


def _read_priority_status(line: bytes) -> PriorityStatus:
    task, numbers = _columns("prioritystatus", line, 4)
    return PriorityStatus(_decode(task), *numbers)


def _read_worker_status(line: bytes) -> WorkerStatus:
    """``FD IP ID : TASK TASK``; the last colon that stands alone ends the id, which may hold others."""
    file_descriptor, _, rest = line.partition(b" ")
    ip, _, rest = rest.partition(b" ")
    client_id, colon, tasks = (rest + b" ").rpartition(b" : ")
    if not colon or not file_descriptor.isdigit() or not ip:
        raise _malformed("workers", line)
    names = tuple(_decode(task) for task in tasks.split(b" ") if task)
    return WorkerStatus(int(file_descriptor), _decode(ip), _decode(client_id), names)


def _read_job_status(line: bytes) -> JobStatus:
    handle, (retries, ignored, background) = _columns("show jobs", line, 3)
    return JobStatus(_decode(handle), retries, bool(ignored), bool(background))


def _after_ok(reply: bytes) -> bytes:
    """What an ``OK`` carries; the Perl server leaves the ``OK`` out."""
    return reply.rstrip(b"\r\n").removeprefix(b"OK ")


def _read_pid(reply: bytes) -> int:
    pid = _after_ok(reply)
    if not pid.isdigit():
        raise _malformed("getpid", reply)
    return int(pid)


def _read_ok(reply: bytes) -> None:
    if reply.rstrip(b"\r\n") != b"OK":
        raise ProtocolError(f"expected OK, got {reply[:_SHOWN_BYTES]!r}")


# The job server's side


def split_words(line: bytes) -> list[bytes]:
    """The words of a request line, as gearmand splits it: at runs of spaces; a word ends at a NUL."""
    return [word.partition(b"\0")[0] for word in _SPACES.split(line)]


def format_status(rows: Iterable[tuple[bytes, int, int, int]]) -> bytes:
    """The reply to ``status`` of rows (task, total, running, workers)."""
    return b"".join(b"%b\t%d\t%d\t%d\n" % row for row in rows) + LIST_END


def format_priority_status(rows: Iterable[tuple[bytes, int, int, int, int]]) -> bytes:
    """The reply to ``prioritystatus`` of rows (task, high, normal, low, workers)."""
    return b"".join(b"%b\t%d\t%d\t%d\t%d\n" % row for row in rows) + LIST_END


def format_workers(rows: Iterable[tuple[int, bytes, bytes, Iterable[bytes]]]) -> bytes:
    """The reply to ``workers`` of rows (file descriptor, ip, client id, tasks)."""
    return (
        b"".join(b"%d %b %b :%b\n" % (fd, ip, i, b"".join(b" " + t for t in ts)) for fd, ip, i, ts in rows) + LIST_END
    )


def format_jobs(rows: Iterable[tuple[bytes, int, bool, bool]]) -> bytes:
    """The reply to ``show jobs`` of rows (handle, retries, ignored, background)."""
    return b"".join(b"%b\t%d\t%d\t%d\n" % row for row in rows) + LIST_END


def format_unique_jobs(uniques: Iterable[bytes]) -> bytes:
    """The reply to ``show unique jobs``."""
    return b"".join(unique + b"\n" for unique in uniques) + LIST_END


def format_value(value: bytes) -> bytes:
    """The reply to ``version``, ``getpid`` and ``verbose``."""
    return b"OK %b\n" % value


def format_incomplete(command: bytes) -> bytes:
    """The reply to a known command that lacks arguments."""
    return b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+%b\r\n" % command


def format_unknown_command(command: bytes) -> bytes:
    """The reply to a command that there is not."""
    return b"ERR UNKNOWN_COMMAND Unknown+server+command%b\r\n" % command
