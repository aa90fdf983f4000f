"""GearmanAdminClient on the real gearmand, and on job servers that answer late, oddly or not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from support.pauses import suspend
from support.servers import Gearmand, free_port, wait_until
from support.tiny_worker import TinyWorker
from support.wire import Wire

from gearworker.client import GearmanClient
from gearworker.client.admin import GearmanAdminClient
from gearworker.errors import (
    ConnectionLost,
    InvalidAdminClientState,
    JobServerError,
    ProtocolError,
    ServerUnavailable,
)
from gearworker.protocol.packets import PacketType as T
from gearworker.request import JOB_FAILED

pytestmark = pytest.mark.gearmand
WAIT_S = 10.0


@pytest.fixture
def admin(gearmand: Gearmand) -> Iterator[GearmanAdminClient]:
    with GearmanAdminClient([gearmand.address]) as admin:
        yield admin


@pytest.fixture
def client(gearmand: Gearmand) -> Iterator[GearmanClient]:
    with GearmanClient(gearmand.address) as client:
        yield client


@pytest.fixture
def wire(gearmand: Gearmand) -> Iterator[Wire]:
    wire = Wire(gearmand.port)
    yield wire
    wire.close()


@pytest.fixture(params=["thread", "greenlet"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a function in this plain thread, or in a greenlet."""
    if request.param == "thread":
        return lambda function, *args: function(*args)
    return lambda function, *args: gevent.spawn(function, *args).get()


@pytest.mark.parametrize("hosts", [None, [], ["a", "b"]])
def test_exactly_one_host(hosts: Any) -> None:
    with pytest.raises(InvalidAdminClientState, match="exactly one host"):
        GearmanAdminClient(hosts)


def test_ping_version_pid_and_log_level(
    admin: GearmanAdminClient, gearmand: Gearmand, call: Callable[..., Any]
) -> None:
    assert 0 < call(admin.ping_server) < WAIT_S
    assert call(admin.get_version)[0].isdigit()
    assert call(admin.get_pid) == gearmand.pid
    assert call(admin.get_verbosity)
    assert call(admin.ping_server) > 0


def test_status(admin: GearmanAdminClient, client: GearmanClient, wire: Wire) -> None:
    assert admin.get_status() == ()
    jobs = [{"task": "t", "data": b"x", "priority": priority} for priority in ("HIGH", None, None, "LOW")]
    client.submit_multiple_jobs(jobs, background=True, poll_timeout=WAIT_S)
    wire.can_do(b"t", b"u")
    wire.grab_data()
    assert sorted(admin.get_status(), key=lambda row: row["task"]) == [
        {"task": "t", "queued": 4, "running": 1, "workers": 1},
        {"task": "u", "queued": 0, "running": 0, "workers": 1},
    ]
    assert {"task": "t", "high": 0, "normal": 2, "low": 1, "workers": 1} in admin.get_priority_status()


def test_workers_with_odd_names(admin: GearmanAdminClient, wire: Wire) -> None:
    wire.send(b"\0REQ\0\0\0\x16\0\0\0\x09my : id 7")
    wire.can_do(b"t", "größe".encode(), b"\xff")
    (worker,) = [row for row in admin.get_workers() if row["tasks"]]
    assert (worker["client_id"], worker["ip"], set(worker["tasks"])) == (
        "my : id 7", "127.0.0.1", {"t", "größe", "\udcff"},
    )  # fmt: skip
    assert worker["file_descriptor"].isdigit()


def test_tasks_with_odd_names(admin: GearmanAdminClient, wire: Wire) -> None:
    for task in (b"with space", b"with\ttab", b".", b"\xff", b"OK", b"ERR x"):
        wire.submit(task, b"u-" + task)
    wanted = ["with space", "with\ttab", ".", "\udcff", "OK", "ERR x"]
    assert sorted(row["task"] for row in admin.get_status()) == sorted(wanted)
    assert sorted(admin.get_unique_jobs()) == sorted("u-" + task for task in wanted)
    assert admin.ping_server() > 0


def test_jobs_and_cancelling(admin: GearmanAdminClient, client: GearmanClient) -> None:
    assert admin.get_jobs() == ()
    background = client.submit_job("t", b"x", unique="b", background=True, poll_timeout=WAIT_S)
    foreground = client.submit_job("t", b"x", unique="f", wait_until_complete=False, poll_timeout=WAIT_S)
    handles = {row["handle"]: row for row in admin.get_jobs()}
    assert set(handles) == {background.gearman_job.handle, foreground.gearman_job.handle}
    assert handles[background.gearman_job.handle]["background"] is True
    assert not any(row["ignored"] for row in handles.values())
    admin.cancel_job(foreground.gearman_job.handle)
    assert {row["handle"] for row in admin.get_jobs() if row["ignored"]} == {foreground.gearman_job.handle}
    with pytest.raises(JobServerError, match="UNKNOWN_JOB") as caught:
        admin.cancel_job("H:nowhere:1")
    assert (caught.value.code, caught.value.address) == ("UNKNOWN_JOB", str(admin.address))


def test_maxqueue(admin: GearmanAdminClient, client: GearmanClient) -> None:
    admin.create_function("t")
    admin.send_maxqueue("t", 1)
    jobs = [{"task": "t", "data": b"x"}] * 2
    states = [request.state for request in client.submit_multiple_jobs(jobs, background=True, poll_timeout=WAIT_S)]
    assert states.count(JOB_FAILED) == 1
    admin.send_maxqueue("t", (5, 0, 5))
    assert all(request.complete for request in client.submit_multiple_jobs(jobs * 5, background=True))
    admin.send_maxqueue("t", 0)
    admin.send_maxqueue("t")
    with pytest.raises(ProtocolError, match="maxqueue"):
        admin.send_maxqueue("t", -1)


def test_functions_are_created_and_dropped(admin: GearmanAdminClient, client: GearmanClient, wire: Wire) -> None:
    admin.create_function("name")
    assert [row["task"] for row in admin.get_status()] == ["name"]
    client.submit_job("name", b"x", background=True, poll_timeout=WAIT_S)
    with pytest.raises(InvalidAdminClientState, match="1 jobs"):
        admin.drop_function("name")
    admin.drop_function("name", with_jobs=True)
    assert admin.get_status() == ()
    with pytest.raises(JobServerError, match="function not found"):
        admin.drop_function("name")
    wire.can_do(b"busy")
    with pytest.raises(JobServerError, match="still connected workers"):
        admin.drop_function("busy")


def test_shutdown_says_that_gearmand_has_none(admin: GearmanAdminClient, gearmand: Gearmand) -> None:
    for graceful in (True, False):
        with pytest.raises(JobServerError, match="SIGTERM"):
            admin.send_shutdown(graceful=graceful)
    assert gearmand.running


@pytest.mark.parametrize("name", ["", "two words", "line\nend", "nul\0", "x" * 256])
def test_names_that_a_text_command_cannot_carry(admin: GearmanAdminClient, name: str) -> None:
    with pytest.raises(ProtocolError):
        admin.create_function(name)
    assert admin.ping_server() > 0


def test_a_long_list(start_gearmand: Callable[..., Gearmand]) -> None:
    gearmand = start_gearmand("--hashtable-buckets", "100003")
    with GearmanClient(gearmand.address) as client, GearmanAdminClient(gearmand.address) as admin:
        client.submit_multiple_jobs([{"task": "t", "data": b"x"}] * 20_000, background=True, poll_timeout=WAIT_S)
        assert len({row["handle"] for row in admin.get_jobs()}) == 20_000
        assert len(set(admin.get_unique_jobs())) == 20_000


def test_many_callers_share_an_admin_client(admin: GearmanAdminClient, gearmand: Gearmand) -> None:
    admin.create_function("t")
    faults: list[Any] = []

    def work() -> None:
        for _ in range(20):
            if admin.get_pid() != gearmand.pid or [row["task"] for row in admin.get_status()] != ["t"]:
                faults.append("a wrong answer")

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()

    def run() -> None:
        gevent.joinall([gevent.spawn(work) for _ in range(5)], raise_error=True)

    gevent.spawn(run).get()
    for thread in threads:
        thread.join(WAIT_S)
    assert not faults
    assert len(gearmand.admin("workers")) == 3  # of the threads, of the greenlets, and the asker


def test_a_call_that_times_out_does_not_answer_the_next(gearmand: Gearmand, call: Callable[..., Any]) -> None:
    with GearmanAdminClient(gearmand.address, poll_timeout=0.2) as admin:
        assert call(admin.get_pid) == gearmand.pid
        suspend(gearmand)
        started = time.monotonic()
        with pytest.raises(InvalidAdminClientState, match=r"version.* in time"):
            call(admin.get_version)
        assert time.monotonic() - started < 2
        gearmand.resume()
        assert wait_until(lambda: _succeeds(call, admin.get_pid)) == gearmand.pid


def _succeeds(call: Callable[..., Any], function: Callable[[], Any]) -> Any:
    with contextlib.suppress(InvalidAdminClientState):
        return call(function)


def test_a_restarted_job_server_is_asked_afresh(gearmand: Gearmand, admin: GearmanAdminClient) -> None:
    assert admin.get_pid() == gearmand.pid
    gearmand.restart()
    assert admin.get_pid() == gearmand.pid


def test_no_job_server(call: Callable[..., Any]) -> None:
    with pytest.raises(ServerUnavailable, match="refused"):
        call(GearmanAdminClient(f"127.0.0.1:{free_port()}").get_version)


@contextlib.contextmanager
def replies(*chunks: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """A job server that answers whatever it is sent with these bytes and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(1000)
                for chunk in chunks:
                    connection.sendall(chunk)
                    time.sleep(pause_s)
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(WAIT_S)


def test_a_reply_in_pieces() -> None:
    with replies(b"t\t1\t", b"0\t1\n", b".", b"\n", pause_s=0.02) as address:
        assert GearmanAdminClient(address).get_status()[0]["task"] == "t"


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        ([b"t\tone\t0\t1\n.\n"], ProtocolError),
        ([b"t\t1\t0\t1\n"], ConnectionLost),
        ([], ConnectionLost),
        ([b"ERR NO_WAY Not+today\r\n"], JobServerError),
    ],
)
def test_replies_that_are_none(chunks: list[bytes], error: type[Exception]) -> None:
    with replies(*chunks) as address, pytest.raises(error):
        GearmanAdminClient(address).get_status()


def test_an_echo_of_something_else() -> None:
    echo = b"\0RES" + T.ECHO_RES.to_bytes(4, "big") + b"\0\0\0\x04nope" + b"x" * 100
    with replies(echo) as address, pytest.raises(ProtocolError, match="echoed"):
        GearmanAdminClient(address).ping_server()


def test_a_reply_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gearworker.client.admin.MAX_REPLY_BYTES", 100_000)
    with replies(b"t\t1\t0\t1\n" * 50_000) as address, pytest.raises(ProtocolError, match="over 100000"):
        GearmanAdminClient(address).get_status()


def test_a_shutdown_that_ends_the_connection_has_worked() -> None:
    with replies() as address:
        GearmanAdminClient(address).send_shutdown()
    with replies(b"OK\r\n") as address:
        GearmanAdminClient(address).send_shutdown()


def test_a_shutdown_that_ends_the_job_server_has_worked_on_a_client_in_use_too() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    while line := connection.recv(1000):
                        if line.startswith(b"shutdown"):
                            listener.close()
                            return
                        connection.sendall(b"OK 1\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with GearmanAdminClient(f"127.0.0.1:{listener.getsockname()[1]}") as admin:
        assert admin.get_version() == "1"
        admin.send_shutdown()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_the_worker_of_these_tests_counts_as_one(admin: GearmanAdminClient, gearmand: Gearmand) -> None:
    with TinyWorker(gearmand.port, {"a": lambda job: b"", "b": lambda job: b""}):
        wait_until(lambda: sum(row["workers"] for row in admin.get_status()) == 2)
