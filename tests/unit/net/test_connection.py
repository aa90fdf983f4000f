"""A connection over a fake socket: batches, backpressure, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.queue import SimpleQueue

from gearworker.errors import ConnectionLost, ServerUnavailable
from gearworker.net import connection as connection_module
from gearworker.net.address import TLS, Address
from gearworker.net.connection import RECV_BYTES, Connection, connect


class FakeSocket:
    """Takes what is sent, at once or, while ``held``, when let; gives what was put; ends like a real one."""

    def __init__(self) -> None:
        self.sends: list[bytes] = []
        self.gate = Event()
        self.gate.set()
        self.error: OSError | None = None
        self.closed = 0
        self.inbox: SimpleQueue[bytes | OSError] = SimpleQueue()

    def sendall(self, data: bytes) -> None:
        self.gate.wait()
        if self.error is not None:
            raise self.error
        self.sends.append(data)

    def recv_into(self, buffer: Any) -> int:
        data = self.inbox.get()
        if isinstance(data, OSError):
            raise data
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.closed += 1
        self.inbox.put(OSError(9, "File descriptor was closed in another greenlet"))


def turn() -> None:
    for _ in range(3):
        gevent.sleep(0)


@pytest.fixture
def sock() -> FakeSocket:
    return FakeSocket()


@pytest.fixture
def connection(sock: FakeSocket) -> Iterator[Connection]:
    made = Connection(sock, "there:1", high_water_bytes=100)
    yield made
    made.close()
    turn()


def test_all_that_is_written_in_one_turn_leaves_in_one_send(connection: Connection, sock: FakeSocket) -> None:
    connection.write(b"a")
    connection.write(b"b")
    assert sock.sends == []
    assert connection.unsent_bytes == 2
    turn()
    assert sock.sends == [b"ab"]
    assert connection.unsent_bytes == 0
    for data in (b"c", b"d"):
        connection.write(data)
        turn()
    assert sock.sends == [b"ab", b"c", b"d"]


def test_what_is_written_during_a_send_leaves_with_the_next(connection: Connection, sock: FakeSocket) -> None:
    sock.gate.clear()
    connection.write(b"a")
    turn()
    connection.write(b"b")
    connection.write(b"c")
    assert connection.unsent_bytes == 3
    sock.gate.set()
    turn()
    assert sock.sends == [b"a", b"bc"]


def test_producers_wait_over_the_mark_until_the_peer_reads(connection: Connection, sock: FakeSocket) -> None:
    sock.gate.clear()
    connection.write(b"x" * 100)
    connection.wait_writable()
    connection.write(b"x")
    waiting = [gevent.spawn(connection.wait_writable) for _ in range(2)]
    turn()
    assert not any(greenlet.ready() for greenlet in waiting)
    sock.gate.set()
    gevent.joinall(waiting, timeout=5, raise_error=True)
    assert all(greenlet.successful() for greenlet in waiting)


def test_flush_waits_until_everything_is_sent(connection: Connection, sock: FakeSocket) -> None:
    assert connection.flush(1)
    sock.gate.clear()
    connection.write(b"x")
    assert not connection.flush(0.01)
    flushing = gevent.spawn(connection.flush, 5)
    turn()
    assert not flushing.ready()
    sock.gate.set()
    assert flushing.get(timeout=5)


@pytest.mark.parametrize("wait", ["wait_writable", "flush"])
def test_whoever_waits_is_told_of_the_end(connection: Connection, sock: FakeSocket, wait: str) -> None:
    sock.gate.clear()
    connection.write(b"x" * 101)
    turn()
    waiting = gevent.spawn(getattr(connection, wait), *([5] if wait == "flush" else []))
    turn()
    connection.close("enough")
    waiting.join(timeout=5)
    if wait == "flush":
        assert waiting.value is False
    else:
        assert isinstance(waiting.exception, ConnectionLost)
        assert str(waiting.exception) == "there:1: enough"


def test_received_bytes_are_given_as_they_come(connection: Connection, sock: FakeSocket) -> None:
    for data in (b"one", b"x" * RECV_BYTES, b"two"):
        sock.inbox.put(data)
        assert connection.recv() == data


def test_after_much_input_the_others_have_their_turn(connection: Connection, sock: FakeSocket) -> None:
    seen = list[str]()
    for data in (b"x" * RECV_BYTES, b"x"):
        sock.inbox.put(data)
    gevent.spawn(seen.append, "other")
    connection.recv()
    assert seen == []
    connection.recv()
    assert seen == ["other"]


@pytest.mark.parametrize(
    ("last", "reason"),
    [(b"", "the peer closed the connection"), (OSError(104, "Connection reset by peer"), "Connection reset by peer")],
)
def test_the_end_of_the_stream_is_connection_lost_from_then_on(
    connection: Connection, sock: FakeSocket, last: Any, reason: str
) -> None:
    sock.inbox.put(last)
    for attempt in (connection.recv, connection.recv, connection.wait_writable, lambda: connection.write(b"x")):
        with pytest.raises(ConnectionLost, match=reason) as caught:
            attempt()
        assert (caught.value.address, caught.value.reason) == ("there:1", reason)
    assert sock.closed == 1


def test_a_send_that_fails_ends_the_connection_for_its_reader_too(connection: Connection, sock: FakeSocket) -> None:
    reading = gevent.spawn(connection.recv)
    sock.error = OSError(32, "Broken pipe")
    connection.write(b"x")
    reading.join(timeout=5)
    assert str(reading.exception) == "there:1: Broken pipe"
    assert connection.closed


def test_close_is_idempotent_keeps_the_first_reason_and_drops_what_is_unsent(
    connection: Connection, sock: FakeSocket
) -> None:
    connection.write(b"x")
    connection.close("first")
    connection.close("second")
    turn()
    assert (connection.close_reason, connection.unsent_bytes, sock.closed, sock.sends) == ("first", 0, 1, [])


@pytest.mark.parametrize("when", ["unstarted", "parked", "woken", "sending"])
def test_the_writer_ends_with_the_connection(sock: FakeSocket, when: str) -> None:
    connection = Connection(sock, "there:1")
    if when != "unstarted":
        turn()
    if when == "sending":
        sock.gate.clear()
    if when in ("woken", "sending"):
        connection.write(b"x")
    if when == "sending":
        turn()
    connection.close()
    turn()
    assert connection._writer.dead


# ---------------------------------------------------------------------- connecting


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (UnicodeError("label too long"), "label too long"),
        (ValueError("embedded null character"), "embedded null character"),
        (OSError(), "OSError"),
    ],
)
def test_what_keeps_it_from_connecting_is_server_unavailable(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: Address) -> Any:
        raise error

    monkeypatch.setattr(connection_module, "_open", refuse)
    with pytest.raises(ServerUnavailable) as caught:
        connect(Address("h", 1))
    assert (caught.value.address, caught.value.reason) == ("h:1", reason)


def test_connecting_is_bounded_and_names_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_open", lambda address: Event().wait())
    with pytest.raises(ServerUnavailable, match=r"h:1: connecting took longer than 0.01 s"):
        connect(Address("h", 1), timeout_s=0.01)
    sock = FakeSocket()
    monkeypatch.setattr(connection_module, "_open", lambda address: sock)
    monkeypatch.setattr(connection_module, "_wrap_tls", lambda sock, address: Event().wait())
    with pytest.raises(ServerUnavailable, match=r"h:1: the TLS handshake took longer than 0.01 s"):
        connect(Address("h", 1, tls=TLS()), timeout_s=0.01)
    assert sock.closed == 1


def test_a_timeout_of_somebody_else_is_theirs_and_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    sock = FakeSocket()
    monkeypatch.setattr(connection_module, "_open", lambda address: sock)
    monkeypatch.setattr(connection_module, "_wrap_tls", lambda sock, address: Event().wait())
    theirs = gevent.Timeout(0.01)
    with pytest.raises(gevent.Timeout) as caught, theirs:
        connect(Address("h", 1, tls=TLS()), timeout_s=5)
    assert caught.value is theirs
    assert sock.closed == 1


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_tls_file_that_cannot_be_used_is_named(
    content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sock = FakeSocket()
    monkeypatch.setattr(connection_module, "_open", lambda address: sock)
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_text(content)
    with pytest.raises(ServerUnavailable, match=r"TLS: can't use .*ca\.pem: ") as caught:
        connect(Address("h", 1, tls=TLS(ca=str(ca))))
    assert "plaintext" not in caught.value.reason
    assert sock.closed == 1
