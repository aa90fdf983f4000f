"""The embedded job server: a gevent shell around ``gearworker.protocol.server``, for development and for tests.

Theory of operation. Each connection has a reader greenlet, which feeds the decoder with what came and the brain with
the decoder's events; the brain names what to send to whom, and the connections' writers send it at the end of the turn
of the loop, one send per connection. A peer that does not read its answers is not read from either, and one that lets
its output grow over the limit is closed. One timer waits for the next job with a time in the future.

It listens on the loopback interface only: Gearman knows no authentication. Its queue is in memory and ends with it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket as stdlib_socket
import time
from types import TracebackType
from typing import Any, Final

import gevent
from gevent.server import StreamServer

from gearworker.errors import ConfigError, ConnectionLost, ServerUnavailable
from gearworker.net.address import Address
from gearworker.net.connection import Connection, tune
from gearworker.protocol.codec import DEFAULT_MAX_PACKET_BYTES, Decoder
from gearworker.protocol.packets import REQUEST_MAGIC
from gearworker.protocol.server import JobServer, Limits, Outputs
from gearworker.protocol.server_text import Identity
from gearworker.version import __version__

_BACKLOG: Final = 512
_LAST_WORDS_S: Final = 1.0
"""How long a connection that is closed for bad input may take for the answers before it."""
_LONGEST_WAIT_S: Final = 3600.0
_MAX_HOST_NAME_BYTES: Final = 40
_UNUSABLE: Final = re.compile(r"[^A-Za-z0-9._-]")

logger = logging.getLogger(__name__)


class EmbeddedJobServer:
    """A job server in this process.

    Args:
        host: a loopback address, or "localhost".
        port: 0 for a free one, which ``port`` then names; it is kept for the next ``start``.
        max_connections, max_jobs, max_job_bytes: what it holds at most.
        max_packet_bytes: the largest payload that it takes.
        max_output_bytes: what may wait for a peer that does not read; then it is closed.

    Raises:
        ConfigError: the host is not a loopback address.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_connections: int = 1_000,
        max_jobs: int = 200_000,
        max_job_bytes: int = 512 * 1024 * 1024,
        max_packet_bytes: int = DEFAULT_MAX_PACKET_BYTES,
        max_output_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.host = _loopback(host)
        self.port = port
        self.max_packet_bytes = max_packet_bytes
        self.max_output_bytes = max_output_bytes
        self._limits = Limits(jobs=max_jobs, job_bytes=max_job_bytes, connections=max_connections)
        self._listener: StreamServer | None = None
        self._brain = self._new_brain()
        self._connections: dict[int, Connection] = {}
        self._count = 0
        self._timer: gevent.Greenlet[..., None] | None = None
        self._timer_due_s = 0.0

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        return str(Address(self.host, self.port))

    def start(self) -> None:
        """Listen, with an empty queue. Idempotent.

        Raises:
            ServerUnavailable: it can't listen there, such as on a port in use.
        """
        if self._listener is not None:
            return
        listener = StreamServer((self.host, self.port), self._serve, backlog=_BACKLOG)
        try:
            listener.start()
        except OSError as error:
            # Not the error's own text: gevent puts the address into it once more.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ServerUnavailable(self.address, f"can't listen: {reason}") from None
        self.port = int(listener.server_port or self.port)
        self._brain = self._new_brain()
        self._listener = listener
        logger.warning("embedded job server on %s: for development only, its queue is lost when it stops", self.address)

    def stop(self) -> None:
        """Close the listener and every connection; queued jobs are lost. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        for connection in list(self._connections.values()):
            connection.close("the job server stops")
        self._connections.clear()
        if self._timer is not None:
            self._timer.kill(block=False)
            self._timer = None

    def __enter__(self) -> EmbeddedJobServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _new_brain(self) -> JobServer:
        host_name = _UNUSABLE.sub("-", stdlib_socket.gethostname())[:_MAX_HOST_NAME_BYTES]
        identity = Identity(
            version=f"gearworker-{__version__}".encode(),
            pid=os.getpid(),
            log_level=logging.getLevelName(logger.getEffectiveLevel()).encode(),
            handle_prefix=b"H:" + host_name.encode(),
        )
        return JobServer(identity, self._limits)

    # One connection

    def _serve(self, sock: Any, peer_address: tuple[Any, ...]) -> None:
        """A connection's life, in a greenlet of its own."""
        brain = self._brain
        self._count += 1
        number = self._count
        if not brain.connect(number, str(peer_address[0]).encode(), sock.fileno()):
            logger.warning("embedded job server: refused a connection, there are %d", self._limits.connections)
            sock.close()
            return
        connection = self._connections[number] = Connection(sock, f"connection {number}")
        try:
            tune(sock)
            self._read(brain, number, connection)
        except (ConnectionLost, OSError):  # it may end before it is tuned
            pass
        finally:
            connection.close("closed by the job server")
            self._connections.pop(number, None)
            self._deliver(brain.disconnect(number))

    def _read(self, brain: JobServer, number: int, connection: Connection) -> None:
        """Take what comes until the connection ends or is to be closed."""
        decoder = Decoder(REQUEST_MAGIC, max_packet_bytes=self.max_packet_bytes)
        while True:
            events = decoder.feed(connection.recv())
            if self._listener is None:
                return
            goes_on = self._deliver(brain.receive(number, events, time.time()))
            if brain.next_due_s is not None:
                self._set_timer()
            if not goes_on:
                connection.flush(_LAST_WORDS_S)
                return
            if connection.unsent_bytes > connection.high_water_bytes:
                connection.wait_writable()

    def _deliver(self, outputs: Outputs) -> bool:
        """Hand outputs to their connections; whether the one that caused them goes on."""
        connections, goes_on = self._connections, True
        for number, data in outputs:
            if data is None:
                goes_on = False
                continue  # what follows may be for others
            connection = connections.get(number)
            if connection is None or connection.closed:
                continue
            connection.write(data)
            if connection.unsent_bytes > self.max_output_bytes:
                logger.warning("embedded job server: closed %s, which does not read", connection.address)
                connection.close("it does not read")
        return goes_on

    # Jobs for later

    def _set_timer(self) -> None:
        due_s = self._brain.next_due_s
        if due_s is None or (self._timer is not None and self._timer_due_s <= due_s):
            return
        if self._timer is not None:
            self._timer.kill(block=False)
        self._timer_due_s = due_s
        self._timer = gevent.spawn_later(min(max(due_s - time.time(), 0.0), _LONGEST_WAIT_S), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._deliver(self._brain.tick(time.time()))
        self._set_timer()


def _loopback(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass
    raise ConfigError(
        f"the embedded job server listens on loopback addresses only, not on {host!r}: anyone who reaches a job "
        "server can read and submit jobs"
    )
