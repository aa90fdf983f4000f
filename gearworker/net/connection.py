"""One connection to a peer: one socket, one reader, one writer that sends in batches, bounded output.

Theory of operation. The owner reads by calling ``recv`` from one greenlet. Anybody in the same hub writes by ``write``,
which only appends; the first write of a turn of the hub's loop wakes the writer greenlet, which runs when the turn's
other greenlets have run, so all packets of a turn go out in one send. Whoever writes much calls ``wait_writable``
between: it waits while more than ``high_water_bytes`` are unsent, so a peer that does not read holds up its producers
instead of filling the memory. A connection never reconnects: when it ends, reading, writing and waiting raise
``ConnectionLost``.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket as stdlib_socket
from typing import Any, Final

import gevent
from gevent import socket
from gevent.event import Event
from gevent.monkey import get_original

from gearworker.errors import ConnectionLost, ServerUnavailable
from gearworker.net.address import Address

RECV_BYTES: Final = 256 * 1024
HIGH_WATER_BYTES: Final = 1024 * 1024
_POLLRDHUP: Final = getattr(select, "POLLRDHUP", 0)  # errors and hang-ups are reported in any case
_YIELD_BYTES: Final = RECV_BYTES // 4

_KEEPALIVE: Final = (
    (stdlib_socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),
    (stdlib_socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (stdlib_socket.IPPROTO_TCP, "TCP_KEEPCNT", 2),
)


class Connection:
    """A connected stream socket with a batching writer.

    Args:
        sock: a connected gevent socket, plain or TLS; the connection owns it from now on.
        address: the peer's name for errors and logs.
        high_water_bytes: above this many unsent bytes ``wait_writable`` waits.
    """

    def __init__(
        self,
        sock: Any,
        address: str,
        *,
        high_water_bytes: int = HIGH_WATER_BYTES,
    ) -> None:
        self.address = address
        self.closed = False
        self.close_reason = ""
        self.unsent_bytes = 0
        self.high_water_bytes = high_water_bytes
        self._sock = sock
        self._out: list[bytes] = []
        self._receive_buffer = bytearray(RECV_BYTES)
        self._receive_view = memoryview(self._receive_buffer)
        self._received_much = False
        self._drained = Event()
        self._drained.set()
        self._hub = gevent.get_hub()
        self._parked = False
        self._writer = gevent.spawn(self._write_batches)

    def recv(self) -> bytes:
        """What the peer sent, up to 256 KiB.

        Raises:
            ConnectionLost: the peer closed the connection, or it broke.

        Switches: until something is there; and after much input even then, so that a fast peer can't starve the rest.
        """
        if self._received_much:
            gevent.sleep(0)
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)
        try:
            count = self._sock.recv_into(self._receive_buffer)
        except OSError as error:
            self.close(_reason(error))
            raise ConnectionLost(self.address, self.close_reason) from None
        if not count:
            self.close("the peer closed the connection")
            raise ConnectionLost(self.address, self.close_reason)
        self._received_much = count >= _YIELD_BYTES
        return bytes(self._receive_view[:count])

    def write(self, data: bytes) -> None:
        """Append to the output; it leaves at the end of this turn of the loop.

        Raises:
            ConnectionLost: the connection has ended.

        Switches: never.
        """
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)
        self._out.append(data)
        self.unsent_bytes += len(data)
        if self._parked:
            self._parked = False
            self._hub.loop.run_callback(self._writer.switch)

    def wait_writable(self) -> None:
        """Wait while the output is over its high-water mark.

        Raises:
            ConnectionLost: the connection has ended.

        Switches: while the output is over its high-water mark.
        """
        while self.unsent_bytes > self.high_water_bytes and not self.closed:
            self._drained.clear()
            self._drained.wait()
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was written is with the kernel.

        Returns: False where the time ran out or the connection ended first.

        Switches: yes.
        """
        with gevent.Timeout(timeout_s, False):  # type: ignore[arg-type]  # False: end quietly; the stubs don't know
            while self.unsent_bytes and not self.closed:
                self._drained.clear()
                self._drained.wait()
        return not self.unsent_bytes and not self.closed

    def close(self, reason: str = "closed") -> None:
        """End the connection at once; unsent output is dropped. Idempotent.

        Switches: never.
        """
        if self.closed:
            return
        self.closed = True
        self.close_reason = reason
        self._out.clear()
        self.unsent_bytes = 0
        self._drained.set()
        self._sock.close()
        if self._writer is not gevent.getcurrent():
            self._writer.kill(block=False)

    def abandon(self) -> None:
        """In a forked child: let go of the peer, whose connection is the parent's, without a word to it."""
        if not self.closed:
            replace_descriptor(self._sock.fileno())

    def peer_has_ended(self) -> bool:
        """Whether the peer has ended the connection, also where this hub did not run since. Switches: never."""
        if self.closed:
            return True
        poller = get_original("select", "poll")()
        poller.register(self._sock.fileno(), _POLLRDHUP)
        return bool(poller.poll(0))

    def _write_batches(self) -> None:
        """The writer greenlet's life: gather, send, park."""
        out = self._out
        while not self.closed:
            if not out:
                self._parked = True
                self._hub.switch()
                continue
            batch = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            try:
                self._sock.sendall(batch)
            except OSError as error:
                self.close(_reason(error))
                return
            if not self.closed:
                self.unsent_bytes -= len(batch)
                if self.unsent_bytes <= self.high_water_bytes and not self._drained.is_set():
                    self._drained.set()


def replace_descriptor(descriptor: int) -> None:
    """Put nothing in a file descriptor's place, which stays taken: whoever closes it later closes no stranger's."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, descriptor, inheritable=False)
        get_original("os", "close")(nothing)  # gevent's own waits for a loop, which a forked child may never turn


def connect(
    address: Address,
    *,
    timeout_s: float = 5.0,
    high_water_bytes: int = HIGH_WATER_BYTES,
) -> Connection:
    """Connect to a peer; its name is looked up afresh each time.

    Args:
        address: where it is.
        timeout_s: for the name look-up, the connection and the TLS handshake together.
        high_water_bytes: as for ``Connection``.

    Raises:
        ServerUnavailable: it can't be reached, or not in time, or TLS can't be agreed on.

    Switches: yes.
    """
    timeout = gevent.Timeout(timeout_s)
    sock: Any = None
    try:
        with timeout:
            sock = _open(address)
            if address.tls is not None:
                sock = _wrap_tls(sock, address)
    except gevent.Timeout as error:
        _discard(sock)
        if error is not timeout:
            raise
        phase = "the TLS handshake" if sock is not None and address.tls is not None else "connecting"
        raise ServerUnavailable(str(address), f"{phase} took longer than {timeout_s:g} s") from None
    except (OSError, ValueError) as error:  # a host's name that can't be one is a ValueError
        _discard(sock)
        raise ServerUnavailable(str(address), _reason(error)) from None
    return Connection(sock, str(address), high_water_bytes=high_water_bytes)


def _open(address: Address) -> Any:
    if address.path is not None:
        unix = socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
        try:
            unix.connect(address.path)
        except BaseException:
            unix.close()
            raise
        return unix
    sock = socket.create_connection((address.host, address.port))
    tune(sock)
    return sock


def tune(sock: Any) -> None:
    """Set what every TCP connection here has: no delay for small sends, keepalive that notices a dead peer in 25 s."""
    sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
    sock.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_KEEPALIVE, 1)
    for level, name, value in _KEEPALIVE:
        option = getattr(stdlib_socket, name, None)
        if option is not None:
            sock.setsockopt(level, option, value)


def _wrap_tls(sock: Any, address: Address) -> Any:
    from gevent import ssl  # here, because most deployments use no TLS and the import is slow

    assert address.tls is not None
    tls = address.tls
    try:
        # Not create_default_context: where nothing is patched, its sockets would block the hub.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        files = ", ".join(file for file in (tls.ca, tls.cert, tls.key) if file is not None)
        raise OSError(f"TLS: can't use {files}: {_reason(error)}") from None
    try:
        return context.wrap_socket(sock, server_hostname=address.host)
    except ssl.SSLCertVerificationError as error:
        raise OSError(f"TLS: the job server's certificate is not accepted: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise OSError(f"TLS failed ({error.reason or error}); does the job server speak plaintext here?") from None


def _discard(sock: Any) -> None:
    if sock is not None:
        sock.close()


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)
