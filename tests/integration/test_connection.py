"""One connection over every kind of socket: IPv4, IPv6, Unix, TLS; and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
import trustme
from gevent import socket, ssl
from gevent.server import StreamServer
from support.servers import Gearmand, free_port

from gearworker.errors import ConnectionLost, ServerUnavailable
from gearworker.net.address import TLS, Address
from gearworker.net.connection import Connection, connect
from gearworker.protocol.codec import Decoder, encode_request
from gearworker.protocol.packets import RESPONSE_MAGIC, PacketType

Serve = Callable[..., Any]


def echo_back(sock: Any, address: object) -> None:
    """A peer that sends back what comes."""
    while data := sock.recv(65536):
        sock.sendall(data)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server in this process; all are stopped after the test."""
    servers: list[StreamServer] = []

    def start(listener: Any, handle: Callable[..., None] = echo_back, **options: Any) -> StreamServer:
        server = StreamServer(listener, handle, **options)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(timeout=0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this test's own."""
    return trustme.CA()


@pytest.fixture
def tls_port(serve: Serve, authority: trustme.CA) -> int:
    """A TLS server for "localhost", with a certificate of the test's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return int(serve(("127.0.0.1", 0), ssl_context=context).server_port)


def assert_echoes(connection: Connection, size: int = 3_000_000) -> None:
    """What is written comes back whole, in many batches."""
    sent = bytes(range(256)) * (size // 256)
    for start in range(0, len(sent), 100_000):
        connection.write(sent[start : start + 100_000])
    received = bytearray()
    with gevent.Timeout(20):
        while len(received) < len(sent):
            received += connection.recv()
    assert received == sent
    connection.close()


@pytest.mark.gearmand
def test_gearmand_over_ipv6(start_gearmand: Callable[..., Gearmand]) -> None:
    gearmand = start_gearmand(host="::1")
    connection = connect(Address.parse(gearmand.address))
    connection.write(encode_request(PacketType.ECHO_REQ, b"over IPv6"))
    ((packet_type, args),) = Decoder(RESPONSE_MAGIC).feed(connection.recv())
    assert (packet_type, args) == (PacketType.ECHO_RES, [b"over IPv6"])
    connection.close()


def test_ipv4(serve: Serve) -> None:
    assert_echoes(connect(Address("127.0.0.1", serve(("127.0.0.1", 0)).server_port)))


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    serve(listener)
    assert_echoes(connect(Address.parse(f"unix:{path}")))


def test_tls_with_a_verified_certificate(tls_port: int, authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    assert_echoes(connect(Address("localhost", tls_port, tls=TLS(ca=str(ca)))))


def test_tls_with_a_stranger_s_certificate(tls_port: int, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    with pytest.raises(ServerUnavailable, match="certificate is not accepted"):
        connect(Address("localhost", tls_port, tls=TLS(ca=str(ca))))


def test_tls_for_another_name(tls_port: int, authority: trustme.CA, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with pytest.raises(ServerUnavailable, match="certificate is not accepted"):
        connect(Address("127.0.0.1", tls_port, tls=TLS(ca=str(ca))))


@pytest.mark.gearmand
def test_tls_against_a_gearmand_that_speaks_plaintext(gearmand: Gearmand) -> None:
    with pytest.raises(ServerUnavailable, match=r"plaintext|TLS handshake took longer"):
        connect(Address("127.0.0.1", gearmand.port, tls=TLS()), timeout_s=1)


def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port}: Connection refused"):
        connect(Address("127.0.0.1", port))


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(ServerUnavailable, match=r"nowhere\.invalid:4730"):
        connect(Address("nowhere.invalid"), timeout_s=10)


def test_a_peer_that_never_takes_the_connection() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    filler = [socket.socket() for _ in range(3)]
    for sock in filler:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    with pytest.raises(ServerUnavailable, match=r"connecting took longer than 0\.2 s"):
        connect(Address(*listener.getsockname()), timeout_s=0.2)
    for sock in [*filler, listener]:
        sock.close()


def test_the_end_is_told_to_reader_and_writer(serve: Serve) -> None:
    connection = connect(Address("127.0.0.1", serve(("127.0.0.1", 0), lambda sock, _: sock.close()).server_port))
    with pytest.raises(ConnectionLost, match="the peer closed the connection"):
        connection.recv()
    with pytest.raises(ConnectionLost):
        connection.write(b"x")
    with pytest.raises(ConnectionLost):
        connection.wait_writable()


def test_a_peer_that_does_not_read_makes_writers_wait(serve: Serve) -> None:
    go = gevent.event.Event()

    def read_later(sock: Any, address: object) -> None:
        go.wait()
        while sock.recv(1 << 20):
            pass

    connection = connect(Address("127.0.0.1", serve(("127.0.0.1", 0), read_later).server_port))
    for _ in range(20):
        connection.write(b"x" * 1_000_000)
    waiting = gevent.spawn(connection.wait_writable)
    assert not connection.flush(timeout_s=0.1)
    assert not waiting.ready()
    go.set()
    waiting.get(timeout=10)
    assert connection.flush(timeout_s=10)
    assert connection.unsent_bytes == 0
    connection.close()


def test_all_packets_of_a_turn_leave_in_one_send(serve: Serve) -> None:
    chunks: list[bytes] = []
    ended = gevent.event.Event()

    def collect(sock: Any, address: object) -> None:
        while data := sock.recv(1 << 20):
            chunks.append(data)
        ended.set()

    connection = connect(Address("127.0.0.1", serve(("127.0.0.1", 0), collect).server_port))
    for _ in range(1000):
        connection.write(b"0123456789")
    assert connection.flush(timeout_s=10)
    connection.close()
    assert ended.wait(10)
    assert b"".join(chunks) == b"0123456789" * 1000
    assert len(chunks) <= 2
