"""Waiting for many requests and answers, with deadlines, without sockets."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from gearworker.client.updates import StreamedRequest
from gearworker.client.waiting import Answers, Arrivals, Deadline, Gathering, has_news, is_accepted, is_finished
from gearworker.errors import JobLost, ServerUnavailable
from gearworker.job import GearmanJob, GearmanJobRequest
from gearworker.protocol.packets import Packet, PacketType

NOW = Deadline(0)
SOON = Deadline(None)


def request_in(state: str, *, background: bool = False, attempts: int = 1) -> GearmanJobRequest:
    request = GearmanJobRequest(GearmanJob(None, None, "t", "u", b""), background=background, max_attempts=attempts)
    if state != "UNKNOWN":
        request.submit_sent(None)
    if state == "FAILED":
        request.failed(JobLost("H:x:1"))
    if state in ("CREATED", "COMPLETE"):
        request.job_created("H:x:1")
    if state == "COMPLETE":
        request.work_complete(b"")
    return request


def test_deadlines() -> None:
    assert Deadline(None).remaining_s() is None
    assert Deadline(None).remaining_s(5.0) == 5.0
    assert not Deadline(None).is_over
    assert Deadline(0).is_over
    assert Deadline(-1).remaining_s() == 0.0
    assert 99 < (Deadline(100).remaining_s() or 0) <= 100
    assert Deadline(100).remaining_s(5.0) == 5.0


@pytest.mark.parametrize(
    ("state", "background", "accepted", "finished"),
    [
        ("UNKNOWN", False, True, True),
        ("PENDING", False, False, False),
        ("CREATED", False, True, False),
        ("CREATED", True, True, True),
        ("FAILED", False, True, True),
        ("FAILED", True, True, True),
        ("COMPLETE", False, True, True),
    ],
)
def test_what_is_waited_for(state: str, background: bool, accepted: bool, finished: bool) -> None:
    request = request_in(state, background=background)
    assert (is_accepted(request), is_finished(request)) == (accepted, finished)


def test_news_of_a_stream() -> None:
    request = StreamedRequest(GearmanJob(None, None, "t", "u", b""))
    request.submit_sent(None)
    request.job_created("H:x:1")
    assert not has_news(request)
    request.work_data(b"a")
    assert has_news(request)
    request.updates.clear()
    request.work_complete(b"")
    assert has_news(request)


def test_a_gathering_of_what_is_done_does_not_wait() -> None:
    assert Gathering([], is_finished).wait(NOW)
    assert Gathering([request_in("COMPLETE")], is_finished).wait(NOW)


def test_a_gathering_waits_for_the_last_and_counts_each_once() -> None:
    first, second = request_in("CREATED"), request_in("CREATED")
    gathering = Gathering([first, second, first], is_finished)
    waiting = gevent.spawn(gathering.wait, SOON)
    gevent.sleep(0)
    first.work_data(b"")
    first.work_complete(b"")
    first.status_received(False, False, 0, 0, 0.0)
    gevent.sleep(0)
    assert not waiting.ready()
    second.work_fail()
    assert waiting.get(timeout=5) is True
    assert not first._watchers
    assert not second._watchers


def test_a_gathering_that_runs_out_of_time_leaves_nothing_behind() -> None:
    done, request = request_in("CREATED"), request_in("CREATED")
    gathering = Gathering([done, request], is_finished)
    done.work_complete(b"")
    assert gathering.wait(NOW) is False
    assert not request._watchers


def test_answers() -> None:
    answers = Answers()
    assert answers.wait(NOW)
    packet = Packet(PacketType.ECHO_RES, [b""])
    first, second = answers.expect("first"), answers.expect("second")
    first(packet)
    assert not answers.wait(NOW)
    second(None)
    assert answers.wait(NOW)
    assert answers.by_key == {"first": packet, "second": None}


class Server:
    """Takes what is sent; the test says what comes of it."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.sent: list[GearmanJobRequest] = []
        self.accepts = accepts

    def send(self, requests: Any, deadline: Deadline) -> None:
        for request in requests:
            self.sent.append(request)
            request.submit_sent(None)
            if self.accepts:
                request.job_created("H:x:1")


def test_arrivals_in_order() -> None:
    server, arrivals = Server(), Arrivals(ordered=True)
    first, second, third = (request_in("UNKNOWN") for _ in range(3))
    arrivals.submit(server.send, [first, second, third], SOON)
    second.work_complete(b"")
    assert arrivals.take(server.send, NOW) == []
    first.work_fail()
    assert arrivals.take(server.send, NOW) == [first, second]
    assert len(arrivals) == 1
    third.work_complete(b"")
    assert arrivals.take(server.send, NOW) == [third]
    assert len(arrivals) == 0


def test_arrivals_as_they_come() -> None:
    server, arrivals = Server(), Arrivals(ordered=False)
    first, second = request_in("UNKNOWN"), request_in("UNKNOWN")
    arrivals.submit(server.send, [first, second], SOON)
    taking = gevent.spawn(arrivals.take, server.send, SOON)
    gevent.sleep(0)
    second.work_complete(b"")
    assert taking.get(timeout=5) == [second]
    first.work_complete(b"")
    assert arrivals.take(server.send, NOW) == [first]


@pytest.mark.parametrize("ordered", [True, False])
def test_lost_ones_are_sent_again_and_keep_their_place(ordered: bool) -> None:
    server, arrivals = Server(), Arrivals(ordered=ordered)
    first, second = request_in("UNKNOWN", attempts=2), request_in("UNKNOWN", attempts=2)
    arrivals.submit(server.send, [first, second], SOON)
    first.connection_lost()
    second.work_complete(b"")
    assert arrivals.take(server.send, NOW) == ([] if ordered else [second])
    assert server.sent == [first, second, first]
    first.work_complete(b"")
    assert arrivals.take(server.send, NOW) == ([first, second] if ordered else [first])


@pytest.mark.parametrize("ordered", [True, False])
def test_lost_ones_without_attempts_left_are_given_back(ordered: bool) -> None:
    server, arrivals = Server(accepts=False), Arrivals(ordered=ordered)
    request = request_in("UNKNOWN")
    arrivals.submit(server.send, [request], SOON)
    request.connection_lost()
    assert arrivals.take(server.send, NOW) == [request]


@pytest.mark.parametrize("ordered", [True, False])
def test_one_that_ends_while_it_is_sent(ordered: bool) -> None:
    def send(requests: Any, deadline: Deadline) -> None:
        for request in requests:
            request.submit_sent(None)
            request.failed(JobLost("H:x:1"))

    arrivals = Arrivals(ordered=ordered)
    request = request_in("UNKNOWN")
    arrivals.submit(send, [request], SOON)
    assert arrivals.take(send, NOW) == [request]
    assert len(arrivals) == 0


def test_an_error_of_sending_is_raised() -> None:
    def send(requests: Any, deadline: Deadline) -> None:
        raise ServerUnavailable(None, "gone")

    with pytest.raises(ServerUnavailable):
        Arrivals(ordered=True).submit(send, [request_in("UNKNOWN")], SOON)
