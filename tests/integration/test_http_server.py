"""The endpoint's server on real sockets: bounds in number and time, odd clients, and its end."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from prometheus_client import CollectorRegistry

from gearworker.errors import ConfigError
from gearworker.http import server as server_module
from gearworker.http.app import EndpointApp, RunningJob, Sources
from gearworker.http.server import Endpoint

HOST = "127.0.0.1"
LIMIT = 4


def app(jobs: Any = list) -> EndpointApp:
    return EndpointApp(Sources(CollectorRegistry(), lambda: True, lambda: False, jobs))


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint with room for a few connections."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", LIMIT)
    made = Endpoint(f"{HOST}:0", app())
    made.start()
    with gevent.Timeout(20):
        yield made
    made.stop()


def connect(endpoint: Endpoint, data: bytes = b"") -> Any:
    sock = socket.create_connection((HOST, endpoint.port), timeout=10)
    sock.sendall(data)
    return sock


def read_all(sock: Any) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            received += chunk
    return received


def ask(endpoint: Endpoint, data: bytes) -> bytes:
    sock = connect(endpoint, data)
    try:
        return read_all(sock)
    finally:
        sock.close()


def test_a_request_is_answered_and_its_connection_closed(endpoint: Endpoint) -> None:
    two = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 2
    answer = ask(endpoint, two)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1") == 1  # one request a connection
    assert answer.endswith(b"\r\n\r\nalive\n")
    assert ask(endpoint, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 503 ")


def test_its_url_leads_to_it(endpoint: Endpoint) -> None:
    assert endpoint.url == f"http://{HOST}:{endpoint.port}/"
    url = endpoint.url + "livez"
    body = gevent.get_hub().threadpool.apply(lambda: urllib.request.urlopen(url, timeout=10).read())
    assert body == b"alive\n"


def test_ipv6_is_written_with_brackets() -> None:
    endpoint = Endpoint("[::1]:0", app())
    try:
        endpoint.start()
    except ConfigError:
        pytest.skip("needs IPv6 on the loopback interface")
    try:
        assert endpoint.url == f"http://[::1]:{endpoint.port}/"
    finally:
        endpoint.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_bad_requests_are_refused_and_the_next_one_is_served(endpoint: Endpoint, data: bytes) -> None:
    answer = ask(endpoint, data)
    assert answer == b"" or answer.split()[1][:1] == b"4"
    assert b"Traceback" not in answer
    assert b" 200 OK" in ask(endpoint, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")


def test_the_oldest_connection_makes_room_for_one_too_many(endpoint: Endpoint) -> None:
    slow = []
    for _ in range(LIMIT):
        slow.append(connect(endpoint, b"GET /livez HT"))
        gevent.sleep(0.01)
    assert ask(endpoint, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"alive\n")
    assert read_all(slow[0]) == b""  # closed
    slow[-1].sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
    assert read_all(slow[-1]).endswith(b"alive\n")  # the youngest still has its turn
    for sock in slow:
        sock.close()


def test_many_at_once_leave_nothing_behind(endpoint: Endpoint) -> None:
    many = [connect(endpoint) for _ in range(10 * LIMIT)]
    gevent.sleep(0.05)
    assert len(endpoint._connections._open) <= LIMIT
    assert ask(endpoint, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"alive\n")
    for sock in many:
        sock.close()
    with gevent.Timeout(10):
        while endpoint._connections._open:
            gevent.sleep(0.01)


def test_a_request_has_a_bounded_time(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    monkeypatch.setattr(server_module, "REQUEST_TIMEOUT_S", 0.2)
    dripping = connect(endpoint, b"GET /livez HTTP/1.1\r\n")
    with contextlib.suppress(OSError):
        for _ in range(100):  # each line on its own would be in time
            dripping.sendall(b"X: y\r\n")
            gevent.sleep(0.02)
        pytest.fail("it was still listened to after two seconds")
    dripping.close()


def test_an_answer_that_fails_ends_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    def jobs() -> list[RunningJob]:
        raise RuntimeError("secret")

    endpoint = Endpoint(f"{HOST}:0", app(jobs))
    endpoint.start()
    try:
        answer = ask(endpoint, b"GET /jobs HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in answer
        assert ask(endpoint, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"alive\n")
    finally:
        endpoint.stop()


def test_an_address_in_use_is_named(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match=f"can't listen on {HOST}:{endpoint.port}: .*in use") as caught:
        Endpoint(f"{HOST}:{endpoint.port}", app()).start()
    assert caught.value.key == "http.listen"


def test_stopping_ends_the_listening_and_the_connections(endpoint: Endpoint) -> None:
    waiting = connect(endpoint, b"GET /livez HT")
    gevent.sleep(0.05)
    port = endpoint.port
    endpoint.stop()
    assert read_all(waiting) == b""
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOST, port), timeout=5)
    endpoint.stop()
