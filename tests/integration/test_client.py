"""GearmanClient on the real gearmand: what python-gearman's users rely on, its bugs mended, the traps avoided."""

from __future__ import annotations

import gc
import json
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from support.pauses import suspend
from support.scripted_server import Peer, ScriptedServer
from support.servers import EmbeddedServer, Gearmand, free_port, running, wait_until
from support.tiny_worker import (
    WORK_DATA,
    WORK_EXCEPTION,
    WORK_FAIL,
    WORK_STATUS,
    WORK_WARNING,
    TinyJob,
    TinyWorker,
)
from support.wire import Wire

from gearworker.client import GearmanClient, UniqueStatus
from gearworker.client.updates import JobUpdate
from gearworker.encoders import DataEncoder, JSONEncoder
from gearworker.errors import (
    ConnectionLost,
    ExceededConnectionAttempts,
    InvalidClientState,
    JobFailed,
    JobLost,
    JobServerError,
    JobTimeout,
    PayloadError,
    ProtocolError,
    ServerUnavailable,
)
from gearworker.job import (
    JOB_COMPLETE,
    JOB_CREATED,
    JOB_FAILED,
    JOB_PENDING,
    JOB_UNKNOWN,
    PRIORITY_HIGH,
    PRIORITY_LOW,
    GearmanJob,
    GearmanJobRequest,
)
from gearworker.protocol.packets import Packet
from gearworker.protocol.packets import PacketType as T

pytestmark = pytest.mark.gearmand
WAIT_S = 10.0


def reverse(job: TinyJob) -> bytes:
    return job.data[::-1]


def chatty(job: TinyJob) -> bytes:
    job.send(WORK_DATA, b"one")
    job.send(WORK_WARNING, b"careful")
    job.send(WORK_STATUS, b"1", b"2")
    job.send(WORK_DATA, b"two")
    return b"end"


def raises(job: TinyJob) -> None:
    job.end(WORK_EXCEPTION, b"ValueError: no")


def fails(job: TinyJob) -> None:
    job.end(WORK_FAIL)


HANDLERS: dict[str, Callable[[TinyJob], bytes | None]] = {
    "reverse": reverse, "chatty": chatty, "raises": raises, "fails": fails,
}  # fmt: skip


@pytest.fixture
def worker(gearmand: Gearmand) -> Iterator[TinyWorker]:
    with TinyWorker(gearmand.port, HANDLERS) as worker:
        yield worker


@pytest.fixture
def client(gearmand: Gearmand) -> Iterator[GearmanClient]:
    with GearmanClient([gearmand.address]) as client:
        yield client


@pytest.fixture(params=["thread", "greenlet"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a function in this plain thread, or in a greenlet."""
    if request.param == "thread":
        return lambda function, *args, **kwargs: function(*args, **kwargs)
    return lambda function, *args, **kwargs: gevent.spawn(function, *args, **kwargs).get()


# Submitting and waiting


def test_a_foreground_job_from_anywhere(client: GearmanClient, worker: TinyWorker, call: Callable[..., Any]) -> None:
    request = call(client.submit_job, "reverse", b"abc", poll_timeout=WAIT_S)
    assert (request.state, request.result, request.complete, request.timed_out) == (JOB_COMPLETE, b"cba", True, False)
    assert request.connection_attempts == 1
    assert len(request.gearman_job.unique) == 32
    assert int(request.gearman_job.unique, 16) >= 0


def test_the_ways_a_job_fails_are_states(client: GearmanClient, worker: TinyWorker) -> None:
    failed = client.submit_job("fails", b"x", poll_timeout=WAIT_S)
    assert (failed.state, failed.exception, failed.complete) == (JOB_FAILED, None, True)
    raised = client.submit_job("raises", b"x", poll_timeout=WAIT_S)
    assert (raised.state, raised.exception, raised.result) == (JOB_FAILED, b"ValueError: no", None)


def test_updates_are_collected(client: GearmanClient, worker: TinyWorker) -> None:
    request = client.submit_job("chatty", b"x", poll_timeout=WAIT_S)
    assert (list(request.data_updates), list(request.warning_updates)) == ([b"one", b"two"], [b"careful"])
    assert (request.status["numerator"], request.status["denominator"], request.result) == (1, 2, b"end")


@pytest.mark.parametrize("wait", [True, False])
def test_a_background_job_returns_when_it_is_accepted(client: GearmanClient, gearmand: Gearmand, wait: bool) -> None:
    request = client.submit_job("t", b"x", background=True, wait_until_complete=wait, poll_timeout=WAIT_S)
    assert (request.state, request.complete, request.result) == (JOB_CREATED, True, None)
    assert gearmand.queue("t") == (1, 0, 0)


def test_a_foreground_job_may_be_waited_for_later(client: GearmanClient, gearmand: Gearmand) -> None:
    request = client.submit_job("reverse", b"abc", wait_until_complete=False)
    assert (request.state, request.complete, request.timed_out) == (JOB_CREATED, False, False)
    assert client.wait_until_jobs_completed([request], poll_timeout=0.05) == [request]
    assert (request.state, request.timed_out) == (JOB_CREATED, True)
    with TinyWorker(gearmand.port, HANDLERS):
        client.submit_multiple_requests([request], poll_timeout=WAIT_S)
    assert (request.result, request.timed_out) == (b"cba", False)


def test_many_jobs_with_their_own_options(client: GearmanClient, gearmand: Gearmand) -> None:
    jobs = [
        {"task": "t", "data": b"low", "priority": PRIORITY_LOW},
        {"task": "t", "data": b"normal", "unique": "mine"},
        {"task": "t", "data": b"high", "priority": PRIORITY_HIGH},
    ]
    requests = client.submit_multiple_jobs(jobs, background=True, poll_timeout=WAIT_S)
    assert [request.priority for request in requests] == ["LOW", None, "HIGH"]
    with TinyWorker(gearmand.port, {"t": lambda job: b""}) as worker:
        wait_until(lambda: len(worker.seen) == 3)
    assert [data for _, _, data in worker.seen] == [b"high", b"normal", b"low"]
    assert worker.seen[1][1] == "mine"


def test_the_data_encoder_serves_both_ways(gearmand: Gearmand, worker: TinyWorker) -> None:
    class Text(DataEncoder):
        @classmethod
        def encode(cls, encodable_object: Any) -> bytes:
            return json.dumps(encodable_object).encode()

        @classmethod
        def decode(cls, decodable_string: bytes) -> Any:
            return json.loads(decodable_string)

    class TextClient(GearmanClient):
        data_encoder = Text

    with TextClient([gearmand.address]) as client:
        assert client.submit_job("reverse", 123, poll_timeout=WAIT_S).result == 321
        request = client.submit_job("chatty", "x", poll_timeout=WAIT_S)
        assert request.state == JOB_FAILED
        assert isinstance(request.exception, json.JSONDecodeError)
        assert client.submit_job("reverse", 12, poll_timeout=WAIT_S).result == 21


def test_an_encoder_for_one_call(client: GearmanClient, worker: TinyWorker) -> None:
    encoder = JSONEncoder()
    assert client.submit_job("reverse", 12, encoder=encoder, poll_timeout=WAIT_S).result == 21
    assert list(client.map("reverse", [12, 34], encoder=encoder, timeout_s=WAIT_S)) == [21, 43]
    assert [update.data for update in client.stream("reverse", 12, encoder=encoder, timeout_s=WAIT_S)] == [21]
    assert client.submit_job("reverse", b"12", poll_timeout=WAIT_S).result == b"21"


def test_numbers_of_connections_of_many_greenlets(
    client: GearmanClient, gearmand: Gearmand, worker: TinyWorker
) -> None:
    def run() -> list[Any]:
        greenlets = [gevent.spawn(client.submit_job, "reverse", b"%d" % i, poll_timeout=WAIT_S) for i in range(200)]
        return [greenlet.get() for greenlet in greenlets]

    requests = gevent.spawn(run).get()
    assert [request.result for request in requests] == [(b"%d" % i)[::-1] for i in range(200)]
    assert len(gearmand.admin("workers")) == 3  # the worker, the client's one connection, and the asker


def test_many_plain_threads_share_a_client(client: GearmanClient, gearmand: Gearmand, worker: TinyWorker) -> None:
    results: dict[int, Any] = {}

    def run(number: int) -> None:
        for step in range(20):
            data = b"%d-%d" % (number, step)
            results[number, step] = client.submit_job("reverse", data, poll_timeout=WAIT_S).result == data[::-1]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 200
    assert all(results.values())
    assert len(gearmand.admin("workers")) == 3


def test_a_request_may_be_waited_for_elsewhere(client: GearmanClient, gearmand: Gearmand) -> None:
    here = client.submit_job("reverse", b"here", wait_until_complete=False, poll_timeout=WAIT_S)

    def elsewhere() -> None:
        there = client.submit_job("reverse", b"there", wait_until_complete=False, poll_timeout=WAIT_S)
        with TinyWorker(gearmand.port, HANDLERS):
            client.wait_until_jobs_completed([here, there], poll_timeout=WAIT_S)
        assert (here.result, there.result) == (b"ereh", b"ereht")

    gevent.spawn(elsewhere).get()


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"task": ""}, ProtocolError, "task ''"),
        ({"task": "x" * 256}, ProtocolError, "256"),
        ({"unique": "x" * 64}, ProtocolError, "64"),
        ({"unique": "-"}, ProtocolError, "unique '-'"),
        ({"unique": "a\0b"}, ProtocolError, "NUL"),
        ({"priority": "URGENT"}, ProtocolError, "URGENT"),
        ({"data": object()}, PayloadError, "object"),
        ({"data": b"", "background": True}, PayloadError, "empty|at least one byte"),
        ({"when_to_run": 10}, ProtocolError, "background"),
        ({"when_to_run": -1, "background": True}, ProtocolError, "-1"),
        ({"reducer": "r", "priority": "LOW"}, ProtocolError, "priority"),
    ],
)
def test_what_cannot_be_submitted_is_refused_at_once(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    client = GearmanClient(["127.0.0.1:1"])
    with pytest.raises(error, match=text):
        client.submit_job(**{"task": "t", "data": b"x", **arguments})


def test_an_empty_unique_is_a_fresh_one(client: GearmanClient, gearmand: Gearmand) -> None:
    for _ in range(5):
        client.submit_job("t", b"same", unique="", background=True, poll_timeout=WAIT_S)
    assert gearmand.queue("t")[0] == 5


def test_empty_background_payloads_where_they_are_allowed(gearmand: Gearmand) -> None:
    class Careless(GearmanClient):
        allow_empty_background = True

    with Careless(gearmand.address) as client:
        assert client.submit_job("t", b"", background=True, poll_timeout=WAIT_S).complete


def test_hosts_in_every_form(gearmand: Gearmand, worker: TinyWorker) -> None:
    port = gearmand.port
    for hosts in (
        f"127.0.0.1:{port}",
        ("127.0.0.1", port),
        [("127.0.0.1", port)],
        [{"host": "127.0.0.1", "port": port}],
    ):
        with GearmanClient(hosts) as client:
            assert client.submit_job("reverse", b"ab", poll_timeout=WAIT_S).result == b"ba"
    assert len(GearmanClient([f"127.0.0.1:{port}", ("127.0.0.1", port)]).addresses) == 1


# Errors of the job server


def test_an_error_reaches_its_request_and_shifts_no_other(client: GearmanClient, gearmand: Gearmand) -> None:
    gearmand.admin("create function full")
    gearmand.admin("maxqueue full 1")
    jobs = [{"task": task, "data": task.encode()} for task in ("a", "full", "b", "full", "full", "c")]
    requests = client.submit_multiple_jobs(jobs, wait_until_complete=False, poll_timeout=WAIT_S)
    assert [request.state for request in requests] == [
        JOB_CREATED, JOB_CREATED, JOB_CREATED, JOB_FAILED, JOB_FAILED, JOB_CREATED,
    ]  # fmt: skip
    assert isinstance(requests[3].exception, JobServerError)
    assert (requests[3].exception.code, requests[3].exception.address) == ("QUEUE_ERROR", gearmand.address)
    with TinyWorker(gearmand.port, dict.fromkeys(("a", "b", "c", "full"), reverse)):
        client.wait_until_jobs_completed(requests, poll_timeout=WAIT_S)
    assert [request.result for request in requests] == [b"a", b"lluf", b"b", None, None, b"c"]


def test_a_refused_background_job_is_not_complete(client: GearmanClient, gearmand: Gearmand) -> None:
    gearmand.admin("create function full")
    gearmand.admin("maxqueue full 1")
    first, second = client.submit_multiple_jobs([{"task": "full", "data": b"x"}] * 2, background=True)
    assert (first.complete, second.complete, second.state) == (True, False, JOB_FAILED)


def test_an_oversized_result_is_an_error_of_its_request_only(gearmand: Gearmand) -> None:
    class Small(GearmanClient):
        max_packet_bytes = 10_000

    handlers = {"big": lambda job: b"x" * int(job.data)}
    with Small(gearmand.address) as client, TinyWorker(gearmand.port, handlers):
        jobs = [{"task": "big", "data": b"%d" % size} for size in (10, 3_000_000, 9_000)]
        small, big, other = client.submit_multiple_jobs(jobs, poll_timeout=WAIT_S)
        assert (small.result, other.result) == (b"x" * 10, b"x" * 9_000)
        assert big.state == JOB_FAILED
        assert isinstance(big.exception, PayloadError)
        assert "3000" in str(big.exception)


# Uniques


def test_two_requests_of_one_client_with_one_unique_both_end(client: GearmanClient, gearmand: Gearmand) -> None:
    jobs = [{"task": "chatty", "data": b"x", "unique": "same"}] * 3
    requests = client.submit_multiple_jobs(jobs, wait_until_complete=False, poll_timeout=WAIT_S)
    assert len({request.gearman_job.handle for request in requests}) == 1
    with TinyWorker(gearmand.port, HANDLERS) as worker:
        client.wait_until_jobs_completed(requests, poll_timeout=WAIT_S)
    assert len(worker.seen) == 1
    for request in requests:
        assert (request.result, list(request.data_updates)) == (b"end", [b"one", b"two"])
        assert list(request.warning_updates) == [b"careful"]


def test_requests_of_several_clients_coalesce_on_several_servers(start_gearmand: Callable[..., Gearmand]) -> None:
    servers = [start_gearmand() for _ in range(3)]
    addresses = [server.address for server in servers]
    clients = [GearmanClient(addresses), GearmanClient(addresses[::-1]), GearmanClient(addresses)]
    uniques = [f"unique-{number}" for number in range(30)]
    requests = [
        client.submit_multiple_jobs(
            [{"task": "t", "data": b"x", "unique": unique} for unique in uniques], wait_until_complete=False
        )
        for client in clients
    ]
    totals = [server.queue("t")[0] for server in servers]
    assert sum(totals) == len(uniques)
    assert min(totals) > 0
    workers = [TinyWorker(server.port, {"t": lambda job: job.unique}) for server in servers]
    for client, mine in zip(clients, requests, strict=True):
        client.wait_until_jobs_completed(mine, poll_timeout=WAIT_S)
        assert [request.result for request in mine] == [unique.encode() for unique in uniques]
        client.close()
    for worker in workers:
        worker.close()


def test_servers_are_shuffled_where_that_is_wanted(start_gearmand: Callable[..., Gearmand]) -> None:
    class Shuffling(GearmanClient):
        shuffle_servers = True
        check_uniques = False

    servers = [start_gearmand(), start_gearmand()]
    with Shuffling([server.address for server in servers]) as client:
        client.submit_multiple_jobs([{"task": "t", "data": b"x", "unique": "u"}] * 40, background=True)
    assert [server.queue("t")[0] for server in servers] == [1, 1]


@pytest.mark.parametrize("held_by", ["background", "foreground"])
def test_jobs_of_both_kinds_with_one_unique_are_not_mixed(
    client: GearmanClient, gearmand: Gearmand, held_by: str
) -> None:
    """gearmand drops the background job when the foreground client leaves."""
    is_background = held_by == "background"
    with GearmanClient(gearmand.address) as holder:
        first = holder.submit_job(
            "t", b"first", unique="u", background=is_background, wait_until_complete=False, poll_timeout=WAIT_S
        )
        second = client.submit_job("t", b"second", unique="u", background=not is_background, poll_timeout=WAIT_S)
        assert (second.state, second.complete) == (JOB_FAILED, is_background)
        assert isinstance(second.exception, InvalidClientState)
        assert "'u'" in str(second.exception)
        assert first.state == JOB_CREATED
    client.close()
    if is_background:
        with TinyWorker(gearmand.port, {"t": reverse}) as worker:
            wait_until(lambda: worker.seen == [("t", "u", b"first")])


def test_jobs_of_both_kinds_with_one_unique_are_not_mixed_in_one_call(
    client: GearmanClient, gearmand: Gearmand
) -> None:
    def request(background: bool) -> GearmanJobRequest:
        return GearmanJobRequest(GearmanJob(None, None, "t", "u", b"x"), background=background)

    requests = [request(True), request(False), request(True)]
    client.submit_multiple_requests(requests, poll_timeout=WAIT_S)
    assert [request.state for request in requests] == [JOB_CREATED, JOB_FAILED, JOB_CREATED]


def test_greenlets_that_mix_kinds_at_once(client: GearmanClient, gearmand: Gearmand) -> None:
    def run() -> list[GearmanJobRequest]:
        greenlets = [
            gevent.spawn(client.submit_job, "t", b"x", unique="u", background=bool(i % 2), wait_until_complete=False)
            for i in range(20)
        ]
        return [greenlet.get() for greenlet in greenlets]

    requests = gevent.spawn(run).get()
    accepted = {request.background for request in requests if request.state == JOB_CREATED}
    assert len(accepted) == 1
    assert sum(request.state == JOB_CREATED for request in requests) == 10


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("how", ["abandoned", "cancelled"])
def test_a_submit_onto_a_queued_job_that_is_never_to_run(
    client: GearmanClient, gearmand: Gearmand, how: str, background: bool
) -> None:
    with GearmanClient(gearmand.address) as leaving:
        first = leaving.submit_job("t", b"x", unique="u", wait_until_complete=False, poll_timeout=WAIT_S)
        if how == "cancelled":
            gearmand.admin(f"cancel job {first.gearman_job.handle}")
    wait_until(lambda: client.get_unique_status("u").clients == 0)
    request = client.submit_job("t", b"x", unique="u", background=background, poll_timeout=WAIT_S)
    assert (request.state, request.timed_out, request.complete) == (JOB_FAILED, False, not background)
    assert isinstance(request.exception, JobLost if background else InvalidClientState)


def test_background_jobs_with_one_unique_are_one_job(client: GearmanClient, gearmand: Gearmand) -> None:
    requests = [client.submit_job("t", b"x", unique="u", background=True, poll_timeout=WAIT_S) for _ in range(3)]
    assert all(request.complete for request in requests)
    assert len({request.gearman_job.handle for request in requests}) == 1
    assert gearmand.queue("t")[0] == 1


def test_a_submit_onto_a_running_job_that_its_client_has_left(client: GearmanClient, gearmand: Gearmand) -> None:
    worker = Wire(gearmand.port)
    worker.can_do(b"t")
    leaving = GearmanClient(gearmand.address)
    leaving.submit_job("t", b"x", unique="u", wait_until_complete=False, poll_timeout=WAIT_S)
    assert worker.grab_data() == b"x"
    leaving.close()
    wait_until(lambda: client.get_unique_status("u").clients == 0)
    request = client.submit_job("t", b"x", unique="u", poll_timeout=WAIT_S)
    assert request.state == JOB_FAILED
    assert isinstance(request.exception, InvalidClientState)
    worker.close()


# Lost jobs and lost connections


def test_a_job_that_the_server_no_longer_knows_is_lost() -> None:
    class Impatient(GearmanClient):
        status_interval_s = 1.0

    def answer(peer: Peer, packet: Packet) -> None:
        if packet.type == T.SUBMIT_JOB:
            peer.send(T.JOB_CREATED, b"H:" + packet.args[2])
        elif packet.type == T.GET_STATUS:
            known = b"0" if packet.args[0] == b"H:lost" else b"1"
            peer.send(T.STATUS_RES, packet.args[0], known, b"0", b"0", b"0")

    with ScriptedServer(answer) as server, Impatient(server.address) as client:
        lost, kept = client.submit_multiple_jobs(
            [{"task": "t", "data": b"lost"}, {"task": "t", "data": b"kept"}], wait_until_complete=False
        )
        client.wait_until_jobs_completed([lost], poll_timeout=WAIT_S)
        assert (lost.state, lost.complete, lost.timed_out) == (JOB_FAILED, True, False)
        assert isinstance(lost.exception, JobLost)
        assert (lost.exception.handle, lost.exception.address) == ("H:lost", server.address)
        assert kept.state == JOB_CREATED


def test_a_job_that_was_cancelled_fails(client: GearmanClient, gearmand: Gearmand) -> None:
    request = client.submit_job("t", b"x", wait_until_complete=False, poll_timeout=WAIT_S)
    gearmand.admin(f"cancel job {request.gearman_job.handle}")
    with TinyWorker(gearmand.port, {"t": reverse}):
        client.wait_until_jobs_completed([request], poll_timeout=WAIT_S)
    assert (request.state, request.exception) == (JOB_FAILED, None)


def test_no_server_at_all(call: Callable[..., Any]) -> None:
    client = GearmanClient([f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"])
    for _ in range(3):
        with pytest.raises(ServerUnavailable, match="refused"):
            call(client.submit_job, "t", b"x")
    with pytest.raises(ServerUnavailable, match="no job servers"):
        call(GearmanClient().submit_job, "t", b"x")


def test_losing_the_only_server_while_waiting(
    client: GearmanClient, gearmand: Gearmand, call: Callable[..., Any]
) -> None:
    request = call(client.submit_job, "t", b"x", wait_until_complete=False, poll_timeout=WAIT_S)
    background = call(client.submit_job, "t", b"x", background=True, poll_timeout=WAIT_S)
    killer = threading.Timer(0.2, gearmand.kill)
    killer.start()
    with pytest.raises(ServerUnavailable, match=gearmand.address):
        call(client.wait_until_jobs_completed, [request, background], poll_timeout=WAIT_S)
    killer.join()
    assert (request.state, background.state, background.complete) == (JOB_UNKNOWN, JOB_CREATED, True)


def test_a_complete_request_is_not_touched_by_a_lost_connection(
    client: GearmanClient, gearmand: Gearmand, worker: TinyWorker
) -> None:
    done = client.submit_job("reverse", b"abc", poll_timeout=WAIT_S)
    open_one = client.submit_job("t", b"x", wait_until_complete=False, poll_timeout=WAIT_S)
    gearmand.kill()
    wait_until(lambda: open_one.state == JOB_UNKNOWN)
    assert (done.state, done.result) == (JOB_COMPLETE, b"cba")


def test_losing_one_of_two_servers_while_waiting(start_gearmand: Callable[..., Gearmand]) -> None:
    servers = [start_gearmand(), start_gearmand()]
    with GearmanClient([server.address for server in servers]) as client:
        requests = client.submit_multiple_jobs(
            [{"task": "reverse", "data": b"%d" % number} for number in range(50)], wait_until_complete=False
        )
        victim, survivor = servers
        on_victim = [r for r in requests if r.gearman_job.connection.address == victim.address]
        assert 0 < len(on_victim) < 50
        victim.kill()
        client.wait_until_jobs_completed(on_victim, poll_timeout=WAIT_S)
        assert {request.state for request in on_victim} == {JOB_UNKNOWN}
        with TinyWorker(survivor.port, HANDLERS):
            client.submit_multiple_requests(requests, poll_timeout=WAIT_S)
        assert [request.result for request in requests] == [(b"%d" % number)[::-1] for number in range(50)]
        assert {request.connection_attempts for request in requests} == {1}


def test_new_jobs_go_to_the_next_server(start_gearmand: Callable[..., Gearmand]) -> None:
    servers = [start_gearmand(), start_gearmand()]
    servers[0].stop()
    with GearmanClient([server.address for server in servers]) as client:
        jobs = [{"task": "t", "data": b"x"}] * 20
        client.submit_multiple_jobs(jobs, background=True, poll_timeout=WAIT_S)
        assert servers[1].queue("t")[0] == 20
        servers[0].start()
        wait_until(lambda: client.submit_job("t", b"x", background=True) and servers[0].queue("t")[0] > 0)


def test_attempts_are_counted_until_acceptance() -> None:
    with ScriptedServer(lambda peer, packet: peer.hang_up()) as server, GearmanClient(server.address) as client:
        with pytest.raises(ExceededConnectionAttempts, match="3 times"):
            client.submit_job("t", b"x", max_retries=2, poll_timeout=WAIT_S)
        submits = [packet for packet in server.packets if packet.type == T.SUBMIT_JOB]
    assert len(submits) == 3
    assert len({packet.args[1] for packet in submits}) == 3  # the first may still lie in a queue, with nobody waiting


def test_a_background_job_is_sent_again_under_its_unique() -> None:
    with ScriptedServer(lambda peer, packet: peer.hang_up()) as server, GearmanClient(server.address) as client:
        with pytest.raises(ExceededConnectionAttempts, match="2 times"):
            client.submit_job("t", b"x", background=True, max_retries=1, poll_timeout=WAIT_S)
        assert len({packet.args[1] for packet in server.packets if packet.type == T.SUBMIT_JOB_BG}) == 1


def test_a_job_server_that_talks_nonsense_loses_its_connection() -> None:
    with (
        ScriptedServer(lambda peer, packet: peer.send(T.NOOP)) as server,
        GearmanClient(server.address) as client,
        pytest.raises(ExceededConnectionAttempts),
    ):
        client.submit_job("t", b"x", poll_timeout=WAIT_S)


def test_a_server_that_hangs_is_given_up(gearmand: Gearmand) -> None:
    class Impatient(GearmanClient):
        answer_timeout_s = 2.0
        status_interval_s = 1.0

    with Impatient(gearmand.address) as client:
        request = client.submit_job("t", b"x", wait_until_complete=False, poll_timeout=WAIT_S)
        suspend(gearmand)
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            client.wait_until_jobs_completed([request])
        assert request.state == JOB_UNKNOWN
        with pytest.raises(ExceededConnectionAttempts):
            client.submit_job("t", b"x")
        assert time.monotonic() - started < 20
        gearmand.resume()


def test_a_submit_into_silence_times_out_in_its_time(gearmand: Gearmand, client: GearmanClient) -> None:
    client.submit_job("t", b"x", background=True, poll_timeout=WAIT_S)
    suspend(gearmand)
    request = client.submit_job("t", b"x", poll_timeout=0.3)
    assert (request.state, request.timed_out) == (JOB_PENDING, True)
    gearmand.resume()
    client.wait_until_jobs_accepted([request], poll_timeout=WAIT_S)
    assert (request.state, request.timed_out) == (JOB_CREATED, False)


@pytest.mark.parametrize("kills", [1, 3])
def test_every_job_ends_somehow_when_gearmand_is_killed_in_between(
    gearmand: Gearmand, client: GearmanClient, kills: int
) -> None:
    requests: list[GearmanJobRequest] = []
    for _ in range(kills):
        with TinyWorker(gearmand.port, HANDLERS) as worker:
            batch = client.submit_multiple_jobs(
                [{"task": "reverse", "data": b"%d" % number} for number in range(3000)], wait_until_complete=False
            )
            requests += batch
            wait_until(lambda worker=worker: len(worker.seen) > 100)  # type: ignore[misc]
            gearmand.kill()
            started = time.monotonic()
            with pytest.raises(ServerUnavailable):
                client.wait_until_jobs_completed(batch, poll_timeout=WAIT_S)
            assert time.monotonic() - started < 5
        gearmand.start()
    assert {request.state for request in requests} == {JOB_COMPLETE, JOB_UNKNOWN}
    with TinyWorker(gearmand.port, HANDLERS):
        client.submit_multiple_requests(requests, poll_timeout=WAIT_S)
    wanted = [(b"%d" % number)[::-1] for number in range(3000)] * kills
    assert [request.result for request in requests] == wanted


@pytest.mark.parametrize("place", ["threads", "greenlets"])
def test_no_call_outlives_its_time_while_gearmand_comes_and_goes(gearmand: Gearmand, place: str) -> None:
    """Every call ends by its deadline, with a right result, a documented state or a typed error."""
    ends: Counter[str] = Counter()
    slowest_s = 0.0
    stop = threading.Event()

    def work(client: GearmanClient, number: int) -> None:
        nonlocal slowest_s
        step = 0
        while not stop.is_set():
            step += 1
            data = b"%d-%d" % (number, step)
            started = time.monotonic()
            try:
                request = client.submit_job("reverse", data, max_retries=1, poll_timeout=1.0)
                assert request.state != JOB_COMPLETE or request.result == data[::-1]
                assert request.state == JOB_COMPLETE or request.timed_out or request.state == JOB_UNKNOWN
                ends[request.state] += 1
            except (ServerUnavailable, ExceededConnectionAttempts) as error:
                ends[type(error).__name__] += 1
                gevent.sleep(0.01) if place == "greenlets" else time.sleep(0.01)
            slowest_s = max(slowest_s, time.monotonic() - started)

    def disturb() -> None:
        worker = TinyWorker(gearmand.port, HANDLERS)
        try:
            for _ in range(4):
                time.sleep(0.3)  # not a wait: the time between two faults
                gearmand.restart()
                worker = TinyWorker(gearmand.port, HANDLERS)
            wait_until(lambda: len(worker.seen) > 20)
        finally:
            stop.set()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    with GearmanClient(gearmand.address) as client:
        if place == "threads":
            threads = [threading.Thread(target=work, args=(client, number)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
        else:
            gevent.joinall([gevent.spawn(work, client, number) for number in range(30)], timeout=30, raise_error=True)
    disturbing.join(30)
    assert ends[JOB_COMPLETE] > 20
    assert slowest_s < 3


def test_a_closed_client_leaves_requests_unknown_and_may_be_used_again(
    client: GearmanClient, gearmand: Gearmand, worker: TinyWorker
) -> None:
    request = client.submit_job("t", b"x", wait_until_complete=False, poll_timeout=WAIT_S)
    client.close()
    assert request.state == JOB_UNKNOWN
    assert client.submit_job("reverse", b"ab", poll_timeout=WAIT_S).result == b"ba"


def test_requests_of_a_closed_client(client: GearmanClient, gearmand: Gearmand, worker: TinyWorker) -> None:
    request = client.submit_job("t", b"x", background=True, poll_timeout=WAIT_S)
    client.close()
    assert client.get_job_status(request, WAIT_S).status["known"] is True
    other = GearmanClient(gearmand.address)
    foreground = other.submit_job("reverse", b"ab", wait_until_complete=False, poll_timeout=WAIT_S)
    other.close()
    assert client.submit_multiple_requests([foreground], poll_timeout=WAIT_S)[0].result == b"ba"


def test_a_connection_that_ended_while_the_hub_did_not_run(gearmand: Gearmand, client: GearmanClient) -> None:
    def run() -> GearmanJobRequest:
        client.submit_job("t", b"x", background=True, poll_timeout=WAIT_S)
        gearmand.restart()  # blocks this thread and its hub
        return client.submit_job("t", b"x", background=True, poll_timeout=WAIT_S)

    request = gevent.spawn(run).get()
    assert (request.complete, request.connection_attempts) == (True, 1)


# Status


def test_the_status_of_a_job_before_and_while_it_runs(
    client: GearmanClient, gearmand: Gearmand, call: Callable[..., Any]
) -> None:
    request = call(client.submit_job, "t", b"x", background=True, poll_timeout=WAIT_S)
    assert call(client.get_job_status, request, poll_timeout=WAIT_S) is request
    assert (request.status["known"], request.status["running"], request.timed_out) == (True, False, False)
    worker = Wire(gearmand.port)
    worker.can_do(b"t")
    assert worker.grab_data() == b"x"
    call(client.get_job_statuses, [request], poll_timeout=WAIT_S)
    assert (request.status["known"], request.status["running"]) == (True, True)
    worker.close()


def test_the_status_of_several_requests(client: GearmanClient, gearmand: Gearmand) -> None:
    handlers = {"halfway": lambda job: job.send(WORK_STATUS, b"5", b"10") or time.sleep(0.5) or b"done"}
    running = client.submit_job("halfway", b"x", background=True, poll_timeout=WAIT_S)
    queued = client.submit_job("t", b"x", background=True, poll_timeout=WAIT_S)
    never = GearmanJobRequest(GearmanJob(None, None, "t", None, b"x"))
    with TinyWorker(gearmand.port, handlers) as worker:
        wait_until(lambda: worker.seen)
        wait_until(lambda: client.get_job_status(running, WAIT_S).status["numerator"] == 5)
        client.get_job_statuses([running, queued, never], poll_timeout=WAIT_S)
        assert (running.status["running"], running.status["denominator"]) == (True, 10)
        assert (running.status["handle"], queued.status["running"]) == (running.gearman_job.handle, False)
        assert abs(time.time() - running.status["time_received"]) < 60
        assert (never.status, never.state) == ({}, JOB_UNKNOWN)
        wait_until(lambda: not client.get_job_status(running, WAIT_S).status["known"])


def test_the_status_of_a_background_job_after_a_lost_connection(
    client: GearmanClient, start_gearmand: Callable[..., Gearmand]
) -> None:
    request = client.submit_job("t", b"x", background=True, poll_timeout=WAIT_S)
    request.gearman_job.connection.close("test")
    assert client.get_job_status(request, WAIT_S).status["known"] is True


def test_the_status_of_a_unique(client: GearmanClient, gearmand: Gearmand) -> None:
    assert client.get_unique_status("nobody") == UniqueStatus(False, False, 0, 0, 0)
    client.submit_job("t", b"x", unique="u", wait_until_complete=False, poll_timeout=WAIT_S)
    assert client.get_unique_status("u") == UniqueStatus(True, False, 0, 0, 1)


# Delayed and reduce jobs


def test_a_delayed_job_runs_when_it_is_due(client: GearmanClient, gearmand: Gearmand) -> None:
    due = time.time() + 2
    client.submit_job("t", b"x", background=True, when_to_run=due, poll_timeout=WAIT_S)
    wire = Wire(gearmand.port)
    wire.can_do(b"t")
    assert wire.grab_data() is None
    assert wait_until(wire.grab_data) == b"x"
    assert time.time() > int(due) - 0.1
    wire.close()


def test_a_reduce_job_carries_its_reducer(client: GearmanClient, gearmand: Gearmand) -> None:
    with TinyWorker(gearmand.port, {"t": lambda job: job.reducer + b"/" + job.data}):
        request = client.submit_job("t", b"x", reducer="sum", poll_timeout=WAIT_S)
        assert request.result == b"sum/x"
        request = client.submit_job("t", b"x", reducer="sum", background=True, poll_timeout=WAIT_S)
        assert request.complete


# Streams and maps


def test_a_stream(client: GearmanClient, worker: TinyWorker, call: Callable[..., Any]) -> None:
    assert call(lambda: list(client.stream("chatty", b"x", timeout_s=WAIT_S))) == [
        JobUpdate("data", b"one"),
        JobUpdate("warning", b"careful"),
        JobUpdate("status", None, 1, 2),
        JobUpdate("data", b"two"),
        JobUpdate("result", b"end"),
    ]
    assert call(lambda: list(client.stream("fails", b"x", timeout_s=WAIT_S))) == [JobUpdate("fail")]
    assert call(lambda: list(client.stream("raises", b"x", timeout_s=WAIT_S)))[-1].data == b"ValueError: no"


def test_updates_of_a_stream_come_while_the_job_runs(client: GearmanClient, gearmand: Gearmand) -> None:
    go_on = threading.Event()

    def slow(job: TinyJob) -> bytes:
        job.send(WORK_DATA, b"first")
        go_on.wait(WAIT_S)
        return b"end"

    with TinyWorker(gearmand.port, {"slow": slow}):
        stream = client.stream("slow", b"x", timeout_s=WAIT_S)
        assert next(stream).data == b"first"
        go_on.set()
        assert [update.kind for update in stream] == ["result"]


def test_a_stream_that_takes_too_long(client: GearmanClient) -> None:
    with pytest.raises(JobTimeout):
        list(client.stream("t", b"x", timeout_s=0.1))


def test_a_stream_whose_server_is_lost(client: GearmanClient, gearmand: Gearmand) -> None:
    killer = threading.Timer(0.2, gearmand.kill)
    killer.start()
    with pytest.raises(ConnectionLost):
        list(client.stream("t", b"x", timeout_s=WAIT_S))
    killer.join()


def test_a_stream_that_is_refused(client: GearmanClient, gearmand: Gearmand) -> None:
    gearmand.admin("create function full")
    gearmand.admin("maxqueue full 1")
    client.submit_job("full", b"x", background=True)
    with pytest.raises(JobServerError, match="QUEUE_ERROR"):
        list(client.stream("full", b"x", timeout_s=WAIT_S))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("concurrency", [1, 7, 1000])
def test_a_map_takes_payloads_as_it_has_room(
    client: GearmanClient, worker: TinyWorker, call: Callable[..., Any], ordered: bool, concurrency: int
) -> None:
    taken = 0

    def payloads() -> Iterator[bytes]:
        nonlocal taken
        for number in range(300):
            taken += 1
            yield b"%d" % number

    def run() -> list[bytes]:
        results = []
        for result in client.map("reverse", payloads(), concurrency=concurrency, ordered=ordered, timeout_s=WAIT_S):
            assert taken - len(results) <= concurrency
            results.append(result)
        return results

    results = call(run)
    wanted = [(b"%d" % number)[::-1] for number in range(300)]
    assert (results if ordered else sorted(results)) == (wanted if ordered else sorted(wanted))


def test_a_map_with_a_job_that_fails(client: GearmanClient, worker: TinyWorker) -> None:
    with pytest.raises(JobFailed, match="ValueError: no"):
        list(client.map("raises", [b"x"], timeout_s=WAIT_S))


def test_a_map_over_nothing(client: GearmanClient) -> None:
    assert list(client.map("t", [])) == []
    with pytest.raises(ValueError, match="concurrency"):
        client.map("t", [], concurrency=0)


def test_a_map_sends_lost_jobs_again(gearmand: Gearmand, client: GearmanClient) -> None:
    results = []
    worker = TinyWorker(gearmand.port, HANDLERS)
    for result in client.map(
        "reverse", (b"%d" % i for i in range(500)), concurrency=50, max_retries=5, timeout_s=WAIT_S
    ):
        results.append(result)
        if len(results) == 200:
            gearmand.restart()
            worker = TinyWorker(gearmand.port, HANDLERS)
    worker.close()
    assert results == [(b"%d" % i)[::-1] for i in range(500)]


# Load


def living_requests() -> int:
    """How many requests are held by anybody, other tests included."""
    gc.collect()
    return sum(1 for thing in gc.get_objects() if isinstance(thing, GearmanJobRequest))


def test_waiting_costs_no_time_of_the_processor(client: GearmanClient, call: Callable[..., Any]) -> None:
    call(client.submit_job, "t", b"x", wait_until_complete=False, poll_timeout=WAIT_S)
    before_s = time.process_time()
    call(client.submit_job, "t", b"x", poll_timeout=1.5)
    assert time.process_time() - before_s < 0.15


def test_accepted_background_requests_are_not_kept(client: GearmanClient) -> None:
    before = living_requests()
    client.submit_multiple_jobs([{"task": "t", "data": b"x"}] * 1000, background=True, poll_timeout=WAIT_S)
    assert living_requests() <= before


def test_large_payloads_both_ways(client: GearmanClient, worker: TinyWorker) -> None:
    data = bytes(range(256)) * 40_000
    request = client.submit_job("reverse", data, poll_timeout=WAIT_S)
    assert request.result == data[::-1]


def test_ipv6() -> None:
    def answer(peer: Peer, packet: Packet) -> None:
        peer.send(T.JOB_CREATED, b"H:1")

    try:
        server = ScriptedServer(answer, host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with server, GearmanClient(f"[::1]:{server.port}") as client:
        assert client.submit_job("t", b"x", background=True, poll_timeout=WAIT_S).complete


def test_the_embedded_job_server_serves_as_well(tmp_path: Path) -> None:
    with running(EmbeddedServer(tmp_path)) as server, GearmanClient(server.address) as client:
        assert client.submit_job("t", b"x", unique="u", background=True, poll_timeout=WAIT_S).complete
        assert client.get_unique_status("u") == UniqueStatus(True, False, 0, 0, 0)
        same = client.submit_multiple_jobs(
            [{"task": "chatty", "data": b"x", "unique": "same"}] * 2, wait_until_complete=False, poll_timeout=WAIT_S
        )
        with TinyWorker(server.port, HANDLERS):
            client.wait_until_jobs_completed(same, poll_timeout=WAIT_S)
            assert [(request.result, list(request.data_updates)) for request in same] == [
                (b"end", [b"one", b"two"])
            ] * 2
            assert [update.kind for update in client.stream("raises", b"x", timeout_s=WAIT_S)] == ["exception"]
            assert list(client.map("reverse", [b"12", b"34"], timeout_s=WAIT_S)) == [b"21", b"43"]


def test_a_hundred_thousand_background_jobs(start_gearmand: Callable[..., Gearmand]) -> None:
    gearmand = start_gearmand("--hashtable-buckets", "1000003")
    with GearmanClient(gearmand.address) as client:
        jobs = [{"task": "t", "data": b"x" * 100}] * 100_000
        started = time.perf_counter()
        requests = client.submit_multiple_jobs(jobs, background=True, poll_timeout=60)
        elapsed_s = time.perf_counter() - started
        assert all(request.complete for request in requests)
        assert len({request.gearman_job.unique for request in requests}) == 100_000
    assert gearmand.queue("t")[0] == 100_000
    print(f"{100_000 / elapsed_s:.0f} jobs/s")
    assert elapsed_s < 20  # on an idle machine it is under 2


def test_ten_thousand_foreground_jobs_in_flight_and_the_memory_afterwards(
    start_gearmand: Callable[..., Gearmand],
) -> None:
    gearmand = start_gearmand("--hashtable-buckets", "1000003")

    def round_trip(client: GearmanClient) -> None:
        jobs = [{"task": "reverse", "data": b"%d" % number} for number in range(10_000)]
        requests = client.submit_multiple_jobs(jobs, wait_until_complete=False, poll_timeout=30)
        assert gearmand.queue("reverse")[0] == 10_000
        with TinyWorker(gearmand.port, HANDLERS):
            client.wait_until_jobs_completed(requests, poll_timeout=60)
        assert [request.result for request in requests] == [(b"%d" % number)[::-1] for number in range(10_000)]

    with GearmanClient(gearmand.address) as client:
        before = living_requests()
        round_trip(client)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(2):
            round_trip(client)
        assert living_requests() <= before
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < rss + 20_000


def test_json_clients_are_one_line(gearmand: Gearmand, worker: TinyWorker) -> None:
    class JSONClient(GearmanClient):
        data_encoder = JSONEncoder()

    with JSONClient(gearmand.address) as client:
        assert client.submit_job("reverse", [1, 2], poll_timeout=WAIT_S).exception is not None
        assert client.submit_job("reverse", 12, poll_timeout=WAIT_S).result == 21
