"""One job server as a client sees it: connecting, carrying answers to requests, giving up on silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from support.fake_connection import FakeNet, FakeServer

from gearworker.client.link import Link
from gearworker.client.submission import prepare
from gearworker.client.waiting import Deadline, Gathering, is_accepted, is_finished
from gearworker.encoders import BYTES
from gearworker.errors import (
    ConnectionLost,
    InvalidClientState,
    JobLost,
    JobServerError,
    PayloadError,
    ServerUnavailable,
)
from gearworker.job import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    GearmanJob,
    GearmanJobRequest,
)
from gearworker.net.address import Address
from gearworker.protocol.packets import Packet
from gearworker.protocol.packets import PacketType as T


def soon() -> Deadline:
    """A deadline that begins now."""
    return Deadline(5)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def make_link(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Link]:
    monkeypatch.setattr("gearworker.client.link.connect", FakeNet(server).connect)
    monkeypatch.setattr("gearworker.client.link._TICK_S", 0.01)

    def make(**options: Any) -> Link:
        link = Link(Address.parse(server.address), **options)
        link.open(soon())
        return link

    return make


@pytest.fixture
def link(make_link: Callable[..., Link]) -> Link:
    return make_link()


def request_of(data: bytes = b"x", *, background: bool = False) -> GearmanJobRequest:
    request = GearmanJobRequest(GearmanJob(None, None, "t", "u", data), background=background)
    prepare(request, BYTES, lambda: "fresh")
    return request


def submitted(link: Link, count: int = 1) -> list[GearmanJobRequest]:
    requests = [request_of() for _ in range(count)]
    link.submit(requests)
    assert Gathering(requests, is_accepted).wait(soon())
    return requests


def test_it_connects_once_for_all_who_need_it(server: FakeServer, make_link: Callable[..., Link]) -> None:
    link = Link(Address.parse(server.address))
    gevent.joinall([gevent.spawn(link.open, soon()) for _ in range(10)], raise_error=True)
    assert (server.attempts, link.is_connected) == (1, True)


def test_it_rests_after_a_failure_and_comes_back(server: FakeServer, make_link: Callable[..., Link]) -> None:
    link = Link(Address.parse(server.address))
    server.is_up = False
    with pytest.raises(ServerUnavailable):
        link.open(soon())
    assert (link.is_resting, link.is_connected) == (True, False)
    server.is_up = True
    link.open(soon())
    assert (link.is_resting, link.is_connected) == (False, True)


def test_what_the_job_server_sends_reaches_the_request(server: FakeServer, link: Link) -> None:
    (request,) = submitted(link)
    assert (request.state, request.gearman_job.handle, request.gearman_job.connection) == (JOB_CREATED, "H:1", link)
    connection = server.connections[0]
    connection.send(T.WORK_DATA, b"H:1", b"data")
    connection.send(T.WORK_WARNING, b"H:1", b"warning")
    connection.send(T.WORK_STATUS, b"H:1", b"1", b"2")
    connection.send(T.WORK_COMPLETE, b"H:1", b"result")
    assert Gathering([request], is_finished).wait(soon())
    assert (list(request.data_updates), list(request.warning_updates)) == ([b"data"], [b"warning"])
    assert (request.status["numerator"], request.state, request.result) == (1, JOB_COMPLETE, b"result")


@pytest.mark.parametrize(
    ("packet_type", "args", "exception"),
    [(T.WORK_FAIL, (), None), (T.WORK_EXCEPTION, (b"boom",), b"boom")],
)
def test_the_ways_of_failing(
    server: FakeServer, link: Link, packet_type: T, args: tuple[bytes, ...], exception: bytes | None
) -> None:
    (request,) = submitted(link)
    server.connections[0].send(packet_type, b"H:1", *args)
    assert Gathering([request], is_finished).wait(soon())
    assert (request.state, request.exception) == (JOB_FAILED, exception)


@pytest.mark.parametrize(("raw", "number"), [(b"7", 7), (b"0.5", 0), (b"", 0), (b"x", 0)])
def test_a_status_that_is_no_number(server: FakeServer, link: Link, raw: bytes, number: int) -> None:
    (request,) = submitted(link)
    body = b"H:1\0" + raw + b"\x009"
    server.connections[0].send_raw(b"\0RES\0\0\0\x0c" + len(body).to_bytes(4, "big") + body)
    assert Gathering([request], lambda request: bool(request.status)).wait(soon())
    assert (request.status["numerator"], request.status["denominator"]) == (number, 9)


def test_an_error_refuses_its_request(server: FakeServer, make_link: Callable[..., Link]) -> None:
    def answer(connection: Any, packet: Packet) -> None:
        if packet.args[2] == b"no":
            connection.send(T.ERROR, b"QUEUE_ERROR", b"full")
        else:
            connection.send(T.JOB_CREATED, b"H:" + packet.args[2])

    server._answer = answer
    requests = [request_of(data) for data in (b"1", b"no", b"3")]
    link = make_link()
    link.submit(requests)
    assert Gathering(requests, is_accepted).wait(soon())
    assert [request.gearman_job.handle for request in requests] == ["H:1", None, "H:3"]
    error = requests[1].exception
    assert isinstance(error, JobServerError)
    assert (error.code, error.text, error.address) == ("QUEUE_ERROR", "full", link.address)


def test_an_oversized_result_fails_its_request(server: FakeServer, make_link: Callable[..., Link]) -> None:
    link = make_link(max_packet_bytes=2000)
    big, small = submitted(link, 2)
    server.connections[0].send(T.WORK_COMPLETE, b"H:1", b"x" * 3000)
    server.connections[0].send(T.WORK_COMPLETE, b"H:2", b"small")
    assert Gathering([big, small], is_finished).wait(soon())
    assert isinstance(big.exception, PayloadError)
    assert small.result == b"small"


def test_an_oversized_update_fails_its_request_and_what_follows_is_dropped(
    server: FakeServer, make_link: Callable[..., Link]
) -> None:
    link = make_link(max_packet_bytes=2000)
    request, other = submitted(link, 2)
    server.connections[0].send(T.WORK_DATA, b"H:1", b"x" * 3000)
    server.connections[0].send(T.WORK_DATA, b"H:1", b"more")
    server.connections[0].send(T.WORK_COMPLETE, b"H:1", b"result")
    server.connections[0].send(T.WORK_COMPLETE, b"H:2", b"result")
    assert Gathering([request, other], is_finished).wait(soon())
    assert (request.state, request.result, len(request.data_updates)) == (JOB_FAILED, None, 0)


def test_a_lost_connection_loses_what_was_open(server: FakeServer, link: Link) -> None:
    done, running = submitted(link, 2)
    server.connections[0].send(T.WORK_COMPLETE, b"H:1", b"")
    background = request_of(background=True)
    link.submit([background])
    assert Gathering([done, background], is_finished).wait(soon())
    server._answer = lambda connection, packet: connection.hang_up()
    pending = request_of()
    answers: list[Any] = []
    link.ask(link.protocol.get_status, answers.append, b"H:2")
    link.submit([pending])
    assert Gathering([running, pending], lambda request: request.state == JOB_UNKNOWN).wait(soon())
    assert (done.state, background.state, link.is_connected, answers) == (JOB_COMPLETE, JOB_CREATED, False, [None])
    with pytest.raises(ConnectionLost):
        link.submit([request_of()])


@pytest.mark.parametrize("nonsense", [b"\0RES\0\0\0\x63\0\0\0\0", b"hello\n" + b"x" * 20, b"\0RES\0\0\0\x06\0\0\0\0"])
def test_nonsense_ends_the_connection(server: FakeServer, link: Link, nonsense: bytes) -> None:
    (request,) = submitted(link)
    server.connections[0].send_raw(nonsense)
    assert Gathering([request], is_finished).wait(soon())
    assert (request.state, server.connections[0].closed) == (JOB_UNKNOWN, True)


def test_an_error_in_a_watcher_ends_the_connection_but_not_the_others(server: FakeServer, link: Link) -> None:
    class Wrong:
        def request_changed(self, request: GearmanJobRequest) -> None:
            raise ZeroDivisionError

    first, second = submitted(link, 2)
    first.watch(Wrong())
    server.connections[0].send(T.WORK_COMPLETE, b"H:1", b"")
    assert Gathering([second], is_finished).wait(soon())
    assert (first.state, second.state, link.is_connected) == (JOB_COMPLETE, JOB_UNKNOWN, False)


def test_silence_on_open_questions_ends_the_connection(server: FakeServer, make_link: Callable[..., Link]) -> None:
    link = make_link(answer_timeout_s=0.05)
    server._answer = lambda connection, packet: None
    request = request_of()
    link.submit([request])
    assert request.state == JOB_PENDING
    assert Gathering([request], is_accepted).wait(soon())
    assert request.state == JOB_UNKNOWN
    assert "no answer" in server.connections[0].close_reason


def test_a_silent_job_is_asked_for_and_ends_when_it_is_unknown(
    server: FakeServer, make_link: Callable[..., Link]
) -> None:
    def answer(connection: Any, packet: Packet) -> None:
        server.accept(connection, packet)
        if packet.type == T.GET_STATUS:
            known = b"1" if packet.args[0] == b"H:1" else b"0"
            connection.send(T.STATUS_RES, packet.args[0], known, b"0", b"0", b"0")

    server._answer = answer
    link = make_link(status_interval_s=0.02, answer_timeout_s=1.0)
    kept, lost, same = submitted(link, 3)
    assert Gathering([lost, same], is_finished).wait(soon())
    assert (kept.state, lost.state, same.state) == (JOB_CREATED, JOB_FAILED, JOB_FAILED)
    assert isinstance(lost.exception, JobLost)
    assert lost.exception.handle == "H:2"


def test_a_request_that_was_reset_gets_nothing_of_its_past(server: FakeServer, link: Link) -> None:
    request, other = submitted(link, 2)
    request.reset()
    prepare(request, BYTES, lambda: "fresh")
    link.submit([request])
    server.connections[0].send(T.WORK_COMPLETE, b"H:1", b"past")
    server.connections[0].send(T.WORK_COMPLETE, b"H:3", b"present")
    assert Gathering([request], is_finished).wait(soon())
    assert request.result == b"present"
    assert other.state == JOB_CREATED


def test_an_ended_connection_is_noticed_where_nothing_is_open(
    server: FakeServer, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    gevent.sleep(0)
    monkeypatch.setattr(server.connections[0], "peer_has_ended", lambda: True)
    link.notice_end()
    assert not link.is_connected


def test_a_request_that_is_there_twice_is_refused_and_no_answer_goes_astray(server: FakeServer, link: Link) -> None:
    first = request_of()
    with pytest.raises(InvalidClientState, match="PENDING"):
        link.submit([first, first])
    (second,) = submitted(link)
    assert (first.state, first.gearman_job.handle, second.gearman_job.handle) == (JOB_CREATED, "H:1", "H:2")
    assert len(server.packets) == 2


def test_large_batches_go_out_in_chunks(server: FakeServer, link: Link) -> None:
    requests = [request_of(b"x" * 1000) for _ in range(1000)]
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    counting = gevent.spawn(count)
    link.submit(requests)
    counting.kill()
    assert turns > 5
    assert len(server.packets) == 1000


def test_a_client_sends_no_updates_of_its_jobs(link: Link) -> None:
    (request,) = submitted(link)
    with pytest.raises(InvalidClientState, match="WORK_DATA"):
        request.gearman_job.send_data(b"x")


def test_an_unprepared_request(link: Link) -> None:
    with pytest.raises(InvalidClientState, match="not prepared"):
        link.submit([GearmanJobRequest(GearmanJob(None, None, "t", "u", b""))])


def test_closing_loses_what_is_open_at_once(server: FakeServer, link: Link) -> None:
    (request,) = submitted(link)
    link.close()
    assert (request.state, link.is_connected, server.connections[0].closed) == (JOB_UNKNOWN, False, True)
    link.close()
