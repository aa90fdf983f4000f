"""The admin commands: their replies to the byte, and what they do to queues."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.servers import ServerProcess
from support.wire import Wire, request, response

from gearworker.protocol import text
from gearworker.protocol.packets import PacketType

T = PacketType
Connect = Callable[[], Wire]
FULL = response(T.ERROR, b"QUEUE_ERROR", b"Job queue is full")
INCOMPLETE = b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+%b\r\n"
UNKNOWN = b"ERR UNKNOWN_COMMAND Unknown+server+command%b\r\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"foo bar baz", UNKNOWN % b"foo"),
        (b"", UNKNOWN % b""),
        (b"   ", UNKNOWN % b""),
        (b" version", UNKNOWN % b""),
        (b"a b c d e", UNKNOWN % b"a"),
        (b"foo\0bar", UNKNOWN % b"foo"),
        (b"shutdown", UNKNOWN % b"shutdown"),
        (b"shutdown graceful", UNKNOWN % b"shutdown"),
        (b"show", UNKNOWN % b"show"),
        (b"show foo", b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        (b"show unique", b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        (b"show unique foo", b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        (b"show jobs extra", b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        (b"cancel", UNKNOWN % b"cancel"),
        (b"cancel job", UNKNOWN % b"cancel"),
        (b"cancel foo H:x", b"ERR UNKNOWN_ERROR\r\n"),
        (b"cancel job H:x", b"ERR UNKNOWN_JOB\r\n"),
        (b"maxqueue", INCOMPLETE % b"maxqueue"),
        (b"maxqueue unknown", b"OK\r\n"),
        (b"maxqueue unknown 1 2 3", b"OK\r\n"),
        (b"maxqueue unknown foo", b"OK\r\n"),
        (b"create", INCOMPLETE % b"create"),
        (b"create function", INCOMPLETE % b"create"),
        (b"create foo f", INCOMPLETE % b"create"),
        (b"drop", INCOMPLETE % b"drop"),
        (b"drop function", INCOMPLETE % b"drop"),
        (b"drop foo f", INCOMPLETE % b"drop"),
        (b"drop function unknown", b"ERR function not found\r\n"),
    ],
)
def test_replies_of_one_line(client: Wire, line: bytes, reply: bytes) -> None:
    client.send(line + b"\r\n")
    client.expect(reply)
    client.expect_nothing()


@pytest.mark.parametrize(
    "line", [b"status", b"STATUS", b"status extra", b"prioritystatus", b"show jobs", b"Show Unique Jobs", b"status\0x"]
)
def test_empty_lists(client: Wire, line: bytes) -> None:
    client.send(line + b"\r\n")
    client.expect(b".\n")
    client.expect_nothing()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b" \r\n"])
def test_single_values(client: Wire, job_server: ServerProcess, end: bytes) -> None:
    client.send(b"getpid" + end, b"VERSION x" + end, b"verbose" + end)
    client.expect(b"OK %d\n" % job_server.pid)
    assert text.version().parse(client.read_line())
    assert text.verbose().parse(client.read_line()) in ("ERROR", "WARNING")


def test_workers_lists_every_connection(connect: Connect) -> None:
    asker = connect()
    asker.sync()
    first = connect()
    first.send(request(T.SET_CLIENT_ID, b"my id :x"))
    first.can_do(b"a", b"b b", b"c\xff")
    rows = text.workers().parse(asker.text_list(b"workers"))
    assert len({row.file_descriptor for row in rows}) == 2
    assert sorted(row[1:] for row in rows) == [
        ("127.0.0.1", "-", ()),
        ("127.0.0.1", "my id :x", ("c\udcff", "b", "b", "a")),
    ]
    assert b" 127.0.0.1 my id :x : c\xff b b a\n" in asker.text_list(b"workers")


def test_status_counts_queued_and_running_and_prints_names_raw(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t\t\xff x")
    for _ in range(3):
        client.submit(b"t\t\xff x")
    worker.grab()
    assert client.text_list(b"status") == b"t\t\xff x\t3\t1\t1\n.\n"
    assert client.text_list(b"prioritystatus") == b"t\t\xff x\t0\t2\t0\t1\n.\n"


def test_a_task_stays_known_without_jobs_or_workers(client: Wire, connect: Connect) -> None:
    passing = connect()
    passing.can_do(b"t")
    passing.close()
    client.wait_for_connections(1)
    assert client.text_list(b"status") == b"t\t0\t0\t0\n.\n"


def test_jobs_and_uniques_are_listed(worker: Wire, client: Wire) -> None:
    handle = client.submit(b"t", b"a unique")
    assert client.text_list(b"show jobs") == handle + b"\t0\t0\t1\n.\n"
    assert client.text_list(b"show unique jobs") == b"a unique\n.\n"
    foreground = client.submit(b"t", b"", kind=T.SUBMIT_JOB)
    rows = text.show_jobs().parse(client.text_list(b"show jobs"))
    assert sorted(rows) == [(handle.decode(), 0, False, True), (foreground.decode(), 0, False, False)]
    assert sorted(text.show_unique_jobs().parse(client.text_list(b"show unique jobs"))) == ["", "a unique"]


# Cancelling


def test_a_cancelled_queued_job_fails_and_never_runs(worker: Wire, client: Wire, connect: Connect) -> None:
    admin = connect()
    handle = client.submit(b"t", b"u", kind=T.SUBMIT_JOB)
    assert admin.text(b"cancel job " + handle) == b"OK\r\n"
    client.expect(response(T.WORK_FAIL, handle))
    assert admin.text_list(b"show jobs") == handle + b"\t0\t1\t0\n.\n"
    worker.can_do(b"t")
    assert worker.grab_data() is None
    assert admin.text_list(b"show jobs") == b".\n"


def test_a_cancelled_running_job_fails_but_its_result_is_forwarded(
    worker: Wire, client: Wire, connect: Connect
) -> None:
    admin = connect()
    worker.can_do(b"t")
    handle = client.submit(b"t", b"u", kind=T.SUBMIT_JOB)
    worker.grab()
    assert admin.text(b"cancel job " + handle) == b"OK\r\n"
    client.expect(response(T.WORK_FAIL, handle))
    worker.expect_nothing()
    worker.send(request(T.WORK_COMPLETE, handle, b"r"))
    client.expect(response(T.WORK_COMPLETE, handle, b"r"))


def test_a_cancelled_running_job_is_not_run_again(worker: Wire, client: Wire, connect: Connect) -> None:
    dying = connect()
    dying.can_do(b"t")
    handle = client.submit(b"t")
    dying.grab()
    assert client.text(b"cancel job " + handle) == b"OK\r\n"
    dying.close()
    client.wait_for_connections(2)
    worker.can_do(b"t")
    assert worker.grab_data() is None
    assert client.text_list(b"show jobs") == b".\n"


# Limits of queues


def test_maxqueue_counts_queued_and_running_jobs(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    assert client.text(b"maxqueue t 2") == b"OK\r\n"
    handle = client.submit(b"t", b"1")
    worker.grab()
    client.submit(b"t", b"2")
    for kind in (T.SUBMIT_JOB, T.SUBMIT_JOB_BG, T.SUBMIT_JOB_HIGH_BG, T.SUBMIT_JOB_LOW):
        client.send(request(kind, b"t", b"3", b"d"))
        client.expect(FULL)
    assert client.submit(b"t", b"2", kind=T.SUBMIT_JOB)
    client.submit(b"other")
    worker.send(request(T.WORK_COMPLETE, handle, b""))
    worker.sync()
    client.submit(b"t", b"3")
    assert client.text(b"maxqueue t") == b"OK\r\n"
    client.submit(b"t", b"4")


def test_maxqueue_of_three_priorities(client: Wire) -> None:
    assert client.text(b"create function t") == b"OK\r\n"
    assert client.text(b"maxqueue t 3 2 1") == b"OK\r\n"
    client.submit(b"t", b"1", kind=T.SUBMIT_JOB_LOW_BG)
    client.send(request(T.SUBMIT_JOB_LOW_BG, b"t", b"2", b"d"))
    client.expect(FULL)
    client.submit(b"t", b"2")
    client.send(request(T.SUBMIT_JOB_BG, b"t", b"3", b"d"))
    client.expect(FULL)
    client.submit(b"t", b"3", kind=T.SUBMIT_JOB_HIGH_BG)
    client.send(request(T.SUBMIT_JOB_HIGH_BG, b"t", b"4", b"d"))
    client.expect(FULL)


def test_maxqueue_of_less_than_nothing_is_no_limit(client: Wire) -> None:
    client.submit(b"t", b"1")
    assert client.text(b"maxqueue t -1") == b"OK\r\n"
    client.submit(b"t", b"2")


# Making and dropping tasks


def test_tasks_are_made_and_dropped(worker: Wire, client: Wire) -> None:
    assert client.text(b"create function t") == b"OK\r\n"
    assert client.text(b"create function t") == b"OK\r\n"
    assert client.text_list(b"status") == b"t\t0\t0\t0\n.\n"
    worker.can_do(b"t")
    in_use = b"ERR there are still connected workers or executing clients\r\n"
    assert client.text(b"drop function t") == in_use
    worker.send(request(T.CANT_DO, b"t"))
    worker.sync()
    assert client.text(b"drop function t") == b"OK\r\n"
    assert client.text_list(b"status") == b".\n"
    assert client.text(b"drop function t") == b"ERR function not found\r\n"
