"""For users' own tests: jobs that record what their handler sends, and a job server to run whole programs against.

A handler is a plain callable, so most tests need no job server::

    from gearworker.testing import make_job, sent

    def test_resize():
        job = make_job(resize, b"...")
        assert resize(job) == b"..."
        assert sent(job).status == [(1, 3), (2, 3), (3, 3)]

Where one is needed, ``embedded_job_server`` runs it in a thread of its own, so it serves clients and workers of any
kind: under gevent, in threads, in other processes. ``gearworker.pytest_plugin`` has it as a fixture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from gearworker.encoders import Encoder, find_encoder
from gearworker.errors import ServerUnavailable
from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType
from gearworker.task import Task

if TYPE_CHECKING:
    from gevent.event import Event

    from gearworker.jobserver import EmbeddedJobServer

_START_S: Final = 10.0
_STOP_S: Final = 10.0


class RecordingConnection:
    """A job's connection that leads nowhere and keeps what is sent.

    Attributes:
        data, warnings: what WORK_DATA and WORK_WARNING would have carried, encoded.
        status: (numerator, denominator) of each WORK_STATUS.
        updates: all three in order, as (packet type, arguments).
    """

    address = "127.0.0.1:0"

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.warnings: list[bytes] = []
        self.status: list[tuple[int, int]] = []
        self.updates: list[tuple[PacketType, tuple[bytes, ...]]] = []

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        """Keep an update. Switches: never."""
        self.updates.append((packet_type, args))
        if packet_type == PacketType.WORK_DATA:
            self.data.append(args[0])
        elif packet_type == PacketType.WORK_WARNING:
            self.warnings.append(args[0])
        elif packet_type == PacketType.WORK_STATUS:
            self.status.append((int(args[0]), int(args[1])))


def make_job(
    task: str | Task,
    data: Any = b"",
    *,
    unique: str | None = None,
    handle: str = "H:testing:1",
    encoder: str | Encoder | type[Encoder] | None = None,
) -> GearmanJob:
    """A job to call a handler with; what the handler sends is in ``sent(job)``.

    Args:
        task: the task's name, or the task itself, whose encoder then applies.
        data: the payload as the handler is to see it, that is, decoded.
        encoder: for what the handler sends, where the task is given by name.

    Raises:
        PayloadError: there is no such encoder.
    """
    name = task.name if isinstance(task, Task) else task
    job = GearmanJob(RecordingConnection(), handle, name, unique, data)
    job.encoder = task.encoder if isinstance(task, Task) and encoder is None else find_encoder(encoder)
    return job


def sent(job: GearmanJob) -> RecordingConnection:
    """What the handler sent with a job from ``make_job``.

    Raises:
        TypeError: the job is from elsewhere.
    """
    if not isinstance(job.connection, RecordingConnection):
        raise TypeError(f"{job!r} records nothing; make it with make_job")
    return job.connection


@contextlib.contextmanager
def embedded_job_server(**options: Any) -> Iterator[EmbeddedJobServer]:
    """An embedded job server on a free port, in a thread of its own, for a block of code.

    Args:
        options: as for ``EmbeddedJobServer``.

    Raises:
        ConfigError: an option can't be.
        ServerUnavailable: it can't listen, such as on a port in use.
    """
    from gearworker.jobserver import EmbeddedJobServer  # here, because it brings in gevent

    server = EmbeddedJobServer(**options)
    thread = _ServerThread(server)
    thread.start()
    try:
        yield server
    finally:
        thread.stop()


class _ServerThread:
    """Runs a job server in a native thread with a hub of its own, even in a program that is monkey patched."""

    def __init__(self, server: EmbeddedJobServer) -> None:
        from gevent import monkey

        self._server = server
        self._start_thread = monkey.get_original("_thread", "start_new_thread")
        new_lock = monkey.get_original("_thread", "allocate_lock")
        self._started, self._ended = new_lock(), new_lock()
        self._started.acquire()
        self._ended.acquire()
        self._leave: Event | None = None
        self._hub: Any = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread, and wait until the server listens."""
        self._start_thread(self._run, ())
        if not self._started.acquire(True, _START_S):
            raise ServerUnavailable(self._server.address, f"the job server did not start within {_START_S:g} s")
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop the server, and wait for its thread to end."""
        assert self._leave is not None
        self._hub.loop.run_callback_threadsafe(self._leave.set)
        self._ended.acquire(True, _STOP_S)

    def _run(self) -> None:
        import gevent
        from gevent.event import Event

        self._hub, self._leave = gevent.get_hub(), Event()
        try:
            self._server.start()
        except BaseException as error:  # handed to the caller
            self._error = error
            self._hub.destroy(destroy_loop=True)
            self._started.release()
            return
        self._started.release()
        self._leave.wait()
        self._server.stop()
        gevent.sleep(0)  # the connections' greenlets end
        self._hub.destroy(destroy_loop=True)
        self._ended.release()
