"""A link: connecting, coming back with growing delays, what it logs and tells, and how it ends. No socket anywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from gearworker.errors import ConnectionLost, ServerUnavailable
from gearworker.middleware import Middleware
from gearworker.net.address import Address
from gearworker.protocol.codec import Decoder, encode_response
from gearworker.protocol.packets import REQUEST_MAGIC, Packet, PacketType
from gearworker.worker import link as link_module
from gearworker.worker.link import Link
from gearworker.worker.pool import Pool

REGISTERED = encode_response(PacketType.ECHO_RES, b"registered")


class FakeConnection:
    address = "there:4730"

    def __init__(self) -> None:
        self.closed, self.close_reason, self.unsent_bytes, self.high_water_bytes = False, "", 0, 1000
        self.written = b""
        self.inbox: list[bytes] = []
        self.something = Event()

    def recv(self) -> bytes:
        while not self.inbox and not self.closed:
            self.something.clear()
            self.something.wait()
        if self.inbox:
            return self.inbox.pop(0)
        raise ConnectionLost(self.address, self.close_reason)

    def put(self, data: bytes) -> None:
        self.inbox.append(data)
        self.something.set()
        turn()

    def write(self, data: bytes) -> None:
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)
        self.written += data

    def close(self, reason: str = "closed") -> None:
        if not self.closed:
            self.closed, self.close_reason = True, reason
            self.something.set()


class Told(Middleware):
    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def job_server_up(self, address: str, pool: str) -> None:
        self.events.append(("up", address, pool))

    def job_server_down(self, address: str, pool: str, reason: str) -> None:
        self.events.append(("down", address, pool, reason))

    def job_server_away(self, address: str, pool: str, reason: str) -> None:
        self.events.append(("away", address, pool, reason))


def turn() -> None:
    for _ in range(5):
        gevent.sleep(0)


class Network:
    """Where the link connects to, in place of the real thing."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.attempts = 0
        self.error: Exception | None = None
        self.hold: Event | None = None
        self.delays: list[float] = []
        self.now = 0.0

    def connect(self, address: Address, *, timeout_s: float) -> FakeConnection:
        self.attempts += 1
        if self.hold is not None:
            self.hold.wait()
        if self.error is not None:
            raise self.error
        self.connections.append(FakeConnection())
        return self.connections[-1]

    def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        self.now += seconds
        gevent.sleep(0)
        if len(self.delays) >= 12:
            Event().wait()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()

    class FakeGevent:
        spawn, Greenlet, sleep = gevent.spawn, gevent.Greenlet, made.sleep

    monkeypatch.setattr(link_module, "connect", made.connect)
    monkeypatch.setattr(link_module, "gevent", FakeGevent)
    monkeypatch.setattr(link_module, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def link(network: Network, told: Told) -> Iterator[Link]:
    pool = Pool("p", 2, lambda job: None)
    made = Link(Address.parse("there"), pool, ["urgent", "later"], client_id="i" * 200, middleware=[told])
    yield made
    made.stop()
    pool.kill()


def test_it_registers_its_tasks_and_tells_who_listens(link: Link, network: Network, told: Told) -> None:
    assert not link.registered
    link.start()
    turn()
    (connection,) = network.connections
    packets = Decoder(REQUEST_MAGIC).feed(connection.written)
    assert packets[:3] == [
        Packet(PacketType.SET_CLIENT_ID, [b"i" * 127]), Packet(PacketType.CAN_DO, [b"later"]),
        Packet(PacketType.CAN_DO, [b"urgent"]),
    ]  # fmt: skip
    assert not link.registered
    connection.put(REGISTERED)
    assert link.registered
    assert told.events == [("up", "there:4730", "p")]


def test_a_lost_connection_is_told_and_replaced_by_a_new_session(
    link: Link, network: Network, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    link.start()
    turn()
    network.connections[0].put(REGISTERED)
    first = link.session
    network.connections[0].close("cable cut")
    turn()
    assert told.events[-1] == ("down", "there:4730", "p", "cable cut")
    assert "lost job server there:4730, pool p: cable cut" in caplog.text
    assert len(network.connections) == 2
    assert link.session is not first
    assert link.pool.free + 1 == link.pool.concurrency  # the one grab of the new session


def test_an_absent_job_server_is_tried_again_with_growing_delays_and_few_words(
    link: Link, network: Network, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    network.error = ServerUnavailable("there:4730", "connection refused")
    link.start()
    with gevent.Timeout(5):
        while len(network.delays) < 12:
            gevent.sleep(0)
    full = [min(10.0, 0.1 * 2**n) for n in range(12)]
    assert all(half / 2 <= delay <= half for half, delay in zip(full, network.delays, strict=True))
    lines = [record.getMessage() for record in caplog.records]
    assert set(lines) == {"no job server at there:4730, pool p: connection refused; trying again"}
    assert len(lines) <= 1 + sum(network.delays) / 30
    assert link.wanted == 0
    assert told.events == [("away", "there:4730", "p", "connection refused")] * 12


def test_a_connection_that_lasted_makes_the_delays_start_over_and_one_that_did_not_does_not(
    link: Link, network: Network
) -> None:
    link.start()
    for n in range(5):
        turn()
        network.connections[n].put(REGISTERED)
        network.connections[n].close("short")
        turn()
    assert network.delays[4] >= 0.8
    network.connections[5].put(REGISTERED)
    network.now += 5
    network.connections[5].close("long")
    turn()
    assert network.delays[5] <= 0.1


def test_a_connection_that_ends_before_its_registration_is_an_absent_job_server(
    link: Link, network: Network, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    link.start()
    turn()
    network.connections[0].close("closed by the peer")
    turn()
    assert told.events == [("away", "there:4730", "p", "closed by the peer")]
    assert "no job server at there:4730, pool p: closed by the peer; trying again" in caplog.text


def test_a_fault_of_ours_costs_a_connection_and_not_the_link(
    link: Link, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    network.error = RuntimeError("unforeseen")
    link.start()
    turn()
    network.error = None
    with gevent.Timeout(5):
        while not network.connections:
            gevent.sleep(0)
    assert "there:4730, pool p, broke" in caplog.text


def test_a_drain_while_it_connects_closes_what_comes(link: Link, network: Network) -> None:
    network.hold = Event()
    link.start()
    turn()
    link.drain()
    network.hold.set()
    turn()
    assert network.connections[0].closed
    assert network.connections[0].written == b""
    assert network.attempts == 1


def test_a_drained_link_stays_away(link: Link, network: Network, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    link.start()
    turn()
    connection = network.connections[0]
    connection.put(REGISTERED + encode_response(PacketType.NO_JOB))
    drain = gevent.spawn(link.drain)
    turn()
    connection.put(encode_response(PacketType.ECHO_RES, b"drained"))
    drain.join(timeout=5)
    turn()
    assert connection.close_reason == "drained"
    assert network.attempts == 1
    assert caplog.records == []
    assert not link.registered
    link.drain()


def test_stop_closes_at_once_and_is_idempotent(link: Link, network: Network) -> None:
    link.stop()
    link.start()
    turn()
    assert network.attempts == 0


def test_stop_ends_a_connection_that_serves(link: Link, network: Network, told: Told) -> None:
    link.start()
    turn()
    network.connections[0].put(REGISTERED)
    link.stop()
    link.stop()
    assert network.connections[0].close_reason == "stopped"
    assert link.pool.free == 2


def test_a_tick_without_a_session_does_nothing(link: Link) -> None:
    link.tick()
    assert link.session is None
