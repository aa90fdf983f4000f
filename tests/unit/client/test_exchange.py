"""Choosing among job servers, submitting again, and what a chosen unique is kept from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from support.fake_connection import FakeNet, FakeServer

from gearworker.client.exchange import Exchange
from gearworker.client.link import Link
from gearworker.client.submission import prepare
from gearworker.client.waiting import Deadline
from gearworker.encoders import BYTES
from gearworker.errors import ExceededConnectionAttempts, InvalidClientState, JobServerError, ServerUnavailable
from gearworker.job import JOB_CREATED, JOB_FAILED, JOB_PENDING, JOB_UNKNOWN, GearmanJob, GearmanJobRequest
from gearworker.net.address import Address
from gearworker.protocol.packets import Packet
from gearworker.protocol.packets import PacketType as T


def soon() -> Deadline:
    """A deadline that begins now."""
    return Deadline(5)


ADDRESSES = [f"10.0.0.{number}:4730" for number in range(1, 5)]


@pytest.fixture
def servers() -> list[FakeServer]:
    return [FakeServer(address) for address in ADDRESSES]


@pytest.fixture
def make(servers: list[FakeServer], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Exchange]:
    monkeypatch.setattr("gearworker.client.link.connect", FakeNet(*servers).connect)

    def exchange(addresses: list[str], **options: Any) -> Exchange:
        uniques = iter(f"fresh-{number}" for number in range(10**9))
        return Exchange(
            lambda: [Link(Address.parse(address)) for address in addresses], fresh_unique=uniques.__next__, **options
        )

    return exchange


def request_of(
    unique: str | None = None, *, background: bool = False, attempts: int = 1, fresh: str = "fresh"
) -> GearmanJobRequest:
    request = GearmanJobRequest(GearmanJob(None, None, "t", unique, b"x"), background=background, max_attempts=attempts)
    prepare(request, BYTES, lambda: fresh)
    return request


def order(exchange: Exchange, unique: str) -> list[str]:
    return [link.address for link in exchange._rank(unique.encode())]


def test_the_order_of_servers_is_the_same_in_every_process(make: Callable[..., Exchange]) -> None:
    """Pinned: a change here splits the jobs of old and new clients."""
    exchange = make(ADDRESSES)
    firsts = [ADDRESSES.index(order(exchange, unique)[0]) for unique in "abcdef"]
    assert firsts == [2, 1, 1, 0, 3, 2]
    assert order(make(ADDRESSES[::-1]), "a") == order(exchange, "a")


def test_a_server_that_leaves_moves_only_its_own_uniques(make: Callable[..., Exchange]) -> None:
    everyone, fewer = make(ADDRESSES), make(ADDRESSES[:3])
    for number in range(200):
        unique = f"unique {number}"
        assert [address for address in order(everyone, unique) if address != ADDRESSES[3]] == order(fewer, unique)


def test_uniques_spread_evenly(make: Callable[..., Exchange]) -> None:
    exchange = make(ADDRESSES)
    firsts = Counter(order(exchange, f"unique {number}")[0] for number in range(4000))
    assert set(firsts) == set(ADDRESSES)
    assert 850 < min(firsts.values()) <= max(firsts.values()) < 1150


def test_shuffling_has_no_order(make: Callable[..., Exchange]) -> None:
    exchange = make(ADDRESSES, shuffle=True)
    assert len({tuple(order(exchange, "a")) for _ in range(100)}) > 5


def test_the_next_server_takes_over_and_the_first_is_left_in_peace_for_a_while(
    make: Callable[..., Exchange], servers: list[FakeServer]
) -> None:
    exchange = make(ADDRESSES[:2])
    by_address = {server.address: server for server in servers}
    first, second = (by_address[address] for address in order(exchange, "fresh"))
    first.is_up = False
    for _ in range(5):
        request = request_of()
        exchange.accept([request], soon())
        assert request.gearman_job.connection.address == second.address  # type: ignore[union-attr]
    assert first.attempts == 1


def test_all_servers_are_tried_before_a_call_fails_even_resting_ones(
    make: Callable[..., Exchange], servers: list[FakeServer]
) -> None:
    exchange = make(ADDRESSES[:3])
    for server in servers:
        server.is_up = False
    for attempt in (1, 2):
        with pytest.raises(ServerUnavailable, match="refused") as caught:
            exchange.accept([request_of()], soon())
        assert [server.attempts for server in servers[:3]] == [attempt] * 3
        assert all(address in str(caught.value) for address in ADDRESSES[:3])


def test_no_servers(make: Callable[..., Exchange]) -> None:
    with pytest.raises(ServerUnavailable, match="no job servers"):
        make([]).accept([request_of()], soon())


def test_lost_submits_are_sent_again_until_the_attempts_are_used_up(
    make: Callable[..., Exchange], servers: list[FakeServer]
) -> None:
    servers[0]._answer = lambda connection, packet: connection.hang_up()
    foreground, background = request_of(attempts=3), request_of(attempts=3, background=True)
    exchange = make(ADDRESSES[:1])
    for request in (foreground, background):
        with pytest.raises(ExceededConnectionAttempts, match="3 times"):
            exchange.accept([request], soon())
        assert (request.state, request.connection_attempts) == (JOB_UNKNOWN, 3)
    uniques = [packet.args[1] for packet in servers[0].packets]
    assert len(set(uniques[:3])) == 3
    assert len(set(uniques[3:])) == 1


def test_acceptance_in_the_second_attempt(make: Callable[..., Exchange], servers: list[FakeServer]) -> None:
    def answer(connection: Any, packet: Packet) -> None:
        if len(servers[0].packets) == 1:
            connection.hang_up()
        else:
            servers[0].accept(connection, packet)

    servers[0]._answer = answer
    request = request_of(attempts=2)
    make(ADDRESSES[:1]).accept([request], soon())
    assert (request.state, request.connection_attempts, request.timed_out) == (JOB_CREATED, 2, False)


def test_a_wait_that_is_too_short(make: Callable[..., Exchange], servers: list[FakeServer]) -> None:
    servers[0]._answer = lambda connection, packet: None
    request = request_of()
    make(ADDRESSES[:1]).submit([request], True, Deadline(0.02))
    assert (request.state, request.timed_out) == (JOB_PENDING, True)


@pytest.mark.parametrize("others_up", [True, False])
def test_a_loss_while_waiting(make: Callable[..., Exchange], servers: list[FakeServer], others_up: bool) -> None:
    exchange = make(ADDRESSES[:2])
    request = request_of()
    exchange.accept([request], soon())
    mine = next(server for server in servers if server.connections)
    for server in servers:
        server.is_up = others_up
    waiting = gevent.spawn(exchange.complete, [request], soon())
    gevent.sleep(0)
    mine.connections[0].hang_up()
    if others_up:
        waiting.get()
    else:
        with pytest.raises(ServerUnavailable, match=f"{mine.address} was lost"):
            waiting.get()
    assert (request.state, request.timed_out) == (JOB_UNKNOWN, False)


class Unique:
    """A job server that knows one thing of every unique."""

    def __init__(self, server: FakeServer, *, known: int = 0, running: int = 0, clients: int = 0) -> None:
        self.fields = [b"%d" % field for field in (known, running, 0, 0, clients)]
        self.server = server
        server._answer = self.answer

    def answer(self, connection: Any, packet: Packet) -> None:
        if packet.type == T.GET_STATUS_UNIQUE:
            connection.send(T.STATUS_RES_UNIQUE, packet.args[0], *self.fields)
        else:
            self.server.accept(connection, packet)


@pytest.mark.parametrize(
    ("background", "known", "running", "clients", "state"),
    [
        (False, 0, 0, 0, JOB_CREATED),
        (False, 1, 0, 1, JOB_CREATED),
        (False, 1, 1, 2, JOB_CREATED),
        (False, 1, 0, 0, JOB_FAILED),
        (False, 1, 1, 0, JOB_FAILED),
        (True, 0, 0, 0, JOB_CREATED),
        (True, 1, 1, 0, JOB_CREATED),
        (True, 1, 0, 1, JOB_FAILED),
        (True, 1, 1, 1, JOB_FAILED),
    ],
)
def test_a_chosen_unique_is_looked_up(
    make: Callable[..., Exchange], servers: list[FakeServer], background: bool, known: int, running: int, clients: int,
    state: str,
) -> None:  # fmt: skip
    Unique(servers[0], known=known, running=running, clients=clients)
    request, neighbour = request_of("mine", background=background), request_of()
    make(ADDRESSES[:1]).accept([request, neighbour], soon())
    assert (request.state, neighbour.state) == (state, JOB_CREATED)
    if state == JOB_FAILED:
        assert isinstance(request.exception, InvalidClientState)
        assert "'mine'" in str(request.exception)
    assert servers[0].packets[0].type == T.GET_STATUS_UNIQUE


def test_a_server_that_cannot_look_up_uniques_gets_them_as_they_are(
    make: Callable[..., Exchange], servers: list[FakeServer]
) -> None:
    def answer(connection: Any, packet: Packet) -> None:
        if packet.type == T.GET_STATUS_UNIQUE:
            connection.send(T.ERROR, b"server_error", b"unknown")
        else:
            servers[0].accept(connection, packet)

    servers[0]._answer = answer
    exchange = make(ADDRESSES[:1])
    request = request_of("mine")
    exchange.accept([request], soon())
    assert request.state == JOB_CREATED
    with pytest.raises(JobServerError, match="server_error"):
        exchange.find_unique(b"mine", soon())


def test_uniques_of_the_client_s_own_are_not_looked_up(
    make: Callable[..., Exchange], servers: list[FakeServer]
) -> None:
    make(ADDRESSES[:1]).accept([request_of()], soon())
    make(ADDRESSES[:1], check_uniques=False).accept([request_of("mine")], soon())
    assert {packet.type for packet in servers[0].packets} == {T.SUBMIT_JOB}


def test_a_loss_while_uniques_are_looked_up_uses_up_an_attempt(
    make: Callable[..., Exchange], servers: list[FakeServer]
) -> None:
    servers[0]._answer = lambda connection, packet: connection.hang_up()
    request = request_of("mine", attempts=2)
    with pytest.raises(ExceededConnectionAttempts, match="2 times"):
        make(ADDRESSES[:1]).accept([request], soon())
    assert len(servers[0].packets) == 2


def test_find_unique_asks_until_one_knows_it(make: Callable[..., Exchange], servers: list[FakeServer]) -> None:
    exchange = make(ADDRESSES[:3])
    by_address = {server.address: server for server in servers}
    first, second, third = (by_address[address] for address in order(exchange, "mine"))
    first.is_up = False
    Unique(second)
    Unique(third, known=1, running=1, clients=3)
    assert exchange.find_unique(b"mine", soon()) == (True, True, 0, 0, 3)
    third.is_up = False
    third.connections[0].hang_up()
    gevent.sleep(0.01)
    assert exchange.find_unique(b"mine", soon()).known is False
    for server in servers:
        server.is_up = False
        for connection in server.connections:
            connection.hang_up()
    gevent.sleep(0.01)
    with pytest.raises(ServerUnavailable):
        exchange.find_unique(b"mine", soon())


def test_requests_whose_links_are_gone(make: Callable[..., Exchange]) -> None:
    old, new = make(ADDRESSES[:2]), make(ADDRESSES[:2])
    foreground, background = request_of(), request_of(background=True, fresh="other")
    old.accept([foreground, background], soon())
    assert not new.has(foreground.gearman_job.connection)
    new.adopt(foreground)
    new.adopt(background)
    assert (foreground.state, background.state) == (JOB_UNKNOWN, JOB_CREATED)
    assert new.has(background.gearman_job.connection)


def test_statuses_of_what_was_never_submitted_here(make: Callable[..., Exchange]) -> None:
    request = request_of()
    make(ADDRESSES[:1]).ask_statuses([request], soon())
    assert (request.status, request.timed_out) == ({}, False)
    request.submit_sent(None)
    request.job_created("H:1")
    with pytest.raises(InvalidClientState, match="not submitted"):
        make(ADDRESSES[:1]).ask_statuses([request], soon())
