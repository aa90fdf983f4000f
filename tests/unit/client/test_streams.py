"""Generators over jobs, on a job server without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from support.fake_connection import FakeNet, FakeServer

from gearworker.client.exchange import Exchange
from gearworker.client.hub import Home
from gearworker.client.link import Link
from gearworker.client.streams import map_results, stream_updates
from gearworker.client.submission import prepare
from gearworker.client.updates import JobUpdate, StreamedRequest
from gearworker.encoders import BYTES
from gearworker.errors import ConnectionLost, JobFailed, JobTimeout
from gearworker.job import GearmanJob, GearmanJobRequest
from gearworker.net.address import Address
from gearworker.protocol.packets import Packet
from gearworker.protocol.packets import PacketType as T

Script = Callable[[FakeServer, Any, Packet], None]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def home(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Home[Exchange]:
    monkeypatch.setattr("gearworker.client.link.connect", FakeNet(server).connect)
    exchange = Exchange(lambda: [Link(Address.parse(server.address))], fresh_unique=lambda: "fresh")
    return Home(gevent.get_hub(), exchange)


def streamed() -> StreamedRequest:
    request = StreamedRequest(GearmanJob(None, None, "t", None, b"x"))
    prepare(request, BYTES, lambda: "fresh")
    return request


def does(server: FakeServer, *packets: tuple[Any, ...]) -> None:
    """Have the server accept each submit and send these packets of the job."""

    def answer(connection: Any, packet: Packet) -> None:
        server.accept(connection, packet)
        for packet_type, *args in packets:
            connection.send(packet_type, b"H:%d" % len(server.packets), *args)

    server._answer = answer


@pytest.mark.parametrize(
    ("final", "update"),
    [
        ((T.WORK_COMPLETE, b"end"), JobUpdate("result", b"end")),
        ((T.WORK_FAIL,), JobUpdate("fail")),
        ((T.WORK_EXCEPTION, b"why"), JobUpdate("exception", b"why")),
    ],
)
def test_a_stream(server: FakeServer, home: Home[Exchange], final: tuple[Any, ...], update: JobUpdate) -> None:
    does(server, (T.WORK_DATA, b"a"), (T.WORK_STATUS, b"1", b"2"), (T.WORK_DATA, b"b"), final)
    assert list(stream_updates(home, streamed(), 5)) == [
        JobUpdate("data", b"a"), JobUpdate("status", None, 1, 2), JobUpdate("data", b"b"), update,
    ]  # fmt: skip


def test_updates_that_came_before_the_time_ran_out_are_given(server: FakeServer, home: Home[Exchange]) -> None:
    does(server, (T.WORK_DATA, b"a"))
    updates = stream_updates(home, streamed(), 0.05)
    assert next(updates) == JobUpdate("data", b"a")
    with pytest.raises(JobTimeout):
        next(updates)


def test_a_stream_whose_connection_is_lost(server: FakeServer, home: Home[Exchange]) -> None:
    does(server, (T.WORK_DATA, b"a"))
    updates = stream_updates(home, streamed(), 5)
    assert next(updates) == JobUpdate("data", b"a")
    server.connections[0].hang_up()
    with pytest.raises(ConnectionLost, match=server.address):
        next(updates)


def requests(count: int, *, attempts: int = 1) -> Iterator[GearmanJobRequest]:
    for number in range(count):
        request = GearmanJobRequest(GearmanJob(None, None, "t", None, b"%d" % number), max_attempts=attempts)
        prepare(request, BYTES, lambda: "fresh")
        yield request


def echo(server: FakeServer) -> None:
    def answer(connection: Any, packet: Packet) -> None:
        server.accept(connection, packet)
        connection.send(T.WORK_COMPLETE, b"H:%d" % len(server.packets), packet.args[2])

    server._answer = answer


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_never_has_more_under_way_than_it_may(server: FakeServer, home: Home[Exchange], ordered: bool) -> None:
    echo(server)
    results = []
    for result in map_results(home, requests(50), 4, 5, ordered=ordered):
        assert len(server.packets) - len(results) <= 4
        results.append(result)
    assert results == [b"%d" % number for number in range(50)]


def test_a_map_of_a_job_that_fails(server: FakeServer, home: Home[Exchange]) -> None:
    does(server, (T.WORK_EXCEPTION, b"why"))
    with pytest.raises(JobFailed, match="why"):
        list(map_results(home, requests(3), 2, 5, ordered=True))


def test_a_map_that_waits_too_long(server: FakeServer, home: Home[Exchange]) -> None:
    with pytest.raises(JobTimeout):
        list(map_results(home, requests(1), 1, 0.02, ordered=True))


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_map_sends_lost_jobs_again_while_they_have_attempts(
    server: FakeServer, home: Home[Exchange], attempts: int
) -> None:
    def answer(connection: Any, packet: Packet) -> None:
        if len(server.packets) < 3:
            connection.hang_up()
        else:
            server.accept(connection, packet)
            connection.send(T.WORK_COMPLETE, b"H:1", b"at last")

    server._answer = answer
    results = map_results(home, requests(1, attempts=attempts), 1, 5, ordered=True)
    if attempts == 1:
        with pytest.raises(ConnectionLost):
            list(results)
    else:
        assert list(results) == [b"at last"]
