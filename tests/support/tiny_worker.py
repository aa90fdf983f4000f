"""A blocking worker on a raw socket in a native thread: what tests of clients run their jobs on.

It depends on nothing of the package, so a fault there can't hide a fault of the client.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

from gevent import monkey

_socket = monkey.get_original("socket", "socket")
_start_thread = monkey.get_original("_thread", "start_new_thread")
_new_lock = monkey.get_original("_thread", "allocate_lock")

CAN_DO, GRAB_JOB_UNIQ, PRE_SLEEP, SET_CLIENT_ID, GRAB_JOB_ALL = 1, 30, 4, 22, 39
NOOP, NO_JOB, JOB_ASSIGN_UNIQ, JOB_ASSIGN_ALL = 6, 10, 31, 40
WORK_STATUS, WORK_COMPLETE, WORK_FAIL, WORK_EXCEPTION, WORK_DATA, WORK_WARNING = 12, 13, 14, 25, 28, 29


class TinyJob:
    """One job of a TinyWorker."""

    def __init__(self, worker: TinyWorker, handle: bytes, task: bytes, unique: bytes, reducer: bytes, data: bytes):
        self.worker, self.handle, self.task, self.unique, self.reducer, self.data = (
            worker, handle, task, unique, reducer, data,
        )  # fmt: skip
        self.is_ended = False

    def send(self, packet_type: int, *args: bytes) -> None:
        """Send a packet of this job."""
        self.worker.send(packet_type, self.handle, *args)

    def end(self, packet_type: int, *args: bytes) -> None:
        """Send the job's final packet."""
        self.is_ended = True
        self.send(packet_type, *args)


class TinyWorker:
    """Runs handlers, one job after the other, in a native thread.

    Args:
        port: the job server's port on 127.0.0.1.
        handlers: by task; each is called with the TinyJob and returns the result, unless it called ``job.end`` itself.

    ``seen`` has every job that came, as (task, unique, data). A raised error closes the worker's connection.
    """

    def __init__(self, port: int, handlers: dict[str, Callable[[TinyJob], bytes | None]]) -> None:
        self.handlers = {task.encode(): handler for task, handler in handlers.items()}
        self.seen: list[tuple[str, str, bytes]] = []
        self._buffer = b""
        self._sock = _socket(2, 1)
        self._sock.connect(("127.0.0.1", port))
        self._sock.setsockopt(6, 1, 1)
        self._ended = _new_lock()
        self._ended.acquire()
        for task in self.handlers:
            self.send(CAN_DO, task)
        _start_thread(self._run, ())

    def send(self, packet_type: int, *args: bytes) -> None:
        """Send any packet."""
        body = b"\0".join(args)
        self._sock.sendall(b"\0REQ" + struct.pack(">II", packet_type, len(body)) + body)

    def _receive(self) -> tuple[int, bytes]:
        while len(self._buffer) < 12 or len(self._buffer) < 12 + int.from_bytes(self._buffer[8:12], "big"):
            data = self._sock.recv(1 << 18)
            if not data:
                raise ConnectionError
            self._buffer += data
        size = int.from_bytes(self._buffer[8:12], "big")
        packet = int.from_bytes(self._buffer[4:8], "big"), self._buffer[12 : 12 + size]
        self._buffer = self._buffer[12 + size :]
        return packet

    def _run(self) -> None:
        try:
            self.send(GRAB_JOB_ALL)
            while True:
                packet_type, body = self._receive()
                if packet_type == NO_JOB:
                    self.send(PRE_SLEEP)
                elif packet_type == NOOP:
                    self.send(GRAB_JOB_ALL)
                elif packet_type in (JOB_ASSIGN_UNIQ, JOB_ASSIGN_ALL):
                    self._work(packet_type, body)
                    self.send(GRAB_JOB_ALL)
        except (OSError, ConnectionError):
            pass
        finally:
            self._sock.close()
            self._ended.release()

    def _work(self, packet_type: int, body: bytes) -> None:
        if packet_type == JOB_ASSIGN_ALL:
            handle, task, unique, reducer, data = body.split(b"\0", 4)
        else:
            handle, task, unique, data = body.split(b"\0", 3)
            reducer = b""
        self.seen.append((task.decode(), unique.decode(), data))
        job = TinyJob(self, handle, task, unique, reducer, data)
        result = self.handlers[task](job)
        if not job.is_ended:
            job.end(WORK_COMPLETE, result or b"")

    def close(self) -> None:
        """End the connection, and wait for the thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(2)
        self._ended.acquire(True, 5)
        self._ended.release()

    def __enter__(self) -> TinyWorker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
