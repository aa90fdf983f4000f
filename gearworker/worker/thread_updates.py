"""Updates of jobs that run in native threads, on their way into the hub that owns the connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import gevent
from gevent.monkey import get_original

from gearworker.errors import ConnectionLost, InvalidWorkerState, ProtocolError
from gearworker.job import GearmanJob
from gearworker.net.connection import Connection
from gearworker.protocol.packets import PacketType

_MAX_WAITING: Final = 32
"""So many updates may wait for the hub; then their threads wait for it."""
_POLL_S: Final = 0.005

WriteUpdate = Callable[[GearmanJob, PacketType, tuple[bytes, ...]], None]

_thread_id: Callable[[], int] = get_original("_thread", "get_ident")
_thread_sleep: Callable[[float], None] = get_original("time", "sleep")


class ThreadUpdates:
    """Takes updates in any thread and writes them in the hub's, in order; a thread that is too fast waits.

    Args:
        connection: where they go.
        write: writes one; called in the hub's thread only, which is the one that makes this object.
    """

    __slots__ = ("_connection", "_hub", "_thread", "_waiting", "_write")

    def __init__(self, connection: Connection, write: WriteUpdate) -> None:
        self._connection = connection
        self._write = write
        self._hub = gevent.get_hub()
        self._thread = _thread_id()
        self._waiting: deque[tuple[GearmanJob, PacketType, tuple[bytes, ...]]] = deque()

    @property
    def is_foreign_thread(self) -> bool:
        """Whether the caller runs in another thread than the hub's."""
        return _thread_id() != self._thread

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, job: GearmanJob, packet_type: PacketType, args: tuple[bytes, ...]) -> None:
        """In a native thread: leave an update; wait while many wait, or the connection's output is full."""
        connection, waiting = self._connection, self._waiting
        waiting.append((job, packet_type, args))
        self._hub.loop.run_callback_threadsafe(self.flush)
        while not connection.closed and (
            len(waiting) >= _MAX_WAITING or connection.unsent_bytes > connection.high_water_bytes
        ):
            _thread_sleep(_POLL_S)

    def flush(self) -> None:
        """In the hub: write all that wait. Switches: never."""
        waiting = self._waiting
        while waiting:
            try:
                self._write(*waiting.popleft())
            except (ConnectionLost, InvalidWorkerState, ProtocolError):
                continue  # the job is over; its thread is told at its next update
