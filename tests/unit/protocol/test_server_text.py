"""The job server's answers to admin commands; tests/conformance holds their wording against gearmand."""

from __future__ import annotations

import pytest

from gearworker.protocol.queue import LOW, NORMAL, Job, JobStore, Peer
from gearworker.protocol.server_text import AdminDesk, Identity, leading_integer


class Desk(AdminDesk):
    """An admin desk with a store of its own, which notes whose clients it failed."""

    def __init__(self) -> None:
        identity = Identity(version=b"1.0", pid=7, log_level=b"INFO", handle_prefix=b"H:here")
        self.store = JobStore(b"H:here", max_jobs=10, max_bytes=10**6, max_tasks=2)
        self.peers = {1: Peer(1, b"127.0.0.1", 9), 2: Peer(2, b"::1", 10)}
        self.failed: list[Job] = []
        super().__init__(identity, self.store, self.peers, self.failed.append)


@pytest.fixture
def desk() -> Desk:
    """Two tasks, three jobs, of which a worker of both tasks holds one."""
    desk = Desk()
    a, b = desk.store.task(b"a"), desk.store.task(b"b c")
    worker, client = desk.peers.values()
    worker.client_id = b"an id"
    desk.store.register(worker, a)
    desk.store.register(worker, b)
    desk.store.submit(a, b"u1", b"d", LOW, None)
    desk.store.submit(a, b"u2", b"d", NORMAL, None, due_s=100)
    desk.store.submit(b, b"", b"d", NORMAL, client)
    assert desk.store.take(worker) is not None
    return desk


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"status", b"a\t2\t0\t1\nb c\t1\t1\t1\n.\n"),
        (b"PriorityStatus", b"a\t0\t1\t1\t1\nb c\t0\t0\t0\t1\n.\n"),
        (b"workers", b"9 127.0.0.1 an id : b c a\n10 ::1 - :\n.\n"),
        (b"show jobs", b"H:here:1\t0\t0\t1\nH:here:2\t0\t0\t1\nH:here:3\t0\t0\t0\n.\n"),
        (b"show unique jobs", b"u1\nu2\n\n.\n"),
        (b"show", b"ERR UNKNOWN_COMMAND Unknown+server+commandshow\r\n"),
        (b"show all jobs", b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"),
        (b"version", b"OK 1.0\n"),
        (b"getpid", b"OK 7\n"),
        (b"verbose", b"OK INFO\n"),
        (b"cancel job H:here:9", b"ERR UNKNOWN_JOB\r\n"),
        (b"cancel all H:here:1", b"ERR UNKNOWN_ERROR\r\n"),
        (b"cancel job", b"ERR UNKNOWN_COMMAND Unknown+server+commandcancel\r\n"),
        (b"create function a", b"OK\r\n"),
        (b"create function third", b"ERR CREATE_FUNCTION third\r\n"),
        (
            b"create function ",
            b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+create\r\n",
        ),
        (b"drop function a", b"ERR there are still connected workers or executing clients\r\n"),
        (b"drop function x", b"ERR function not found\r\n"),
        (b"drop", b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+drop\r\n"),
        (b"maxqueue", b"ERR INVALID_ARGUMENTS An+incomplete+set+of+arguments+was+sent+to+this+command+maxqueue\r\n"),
        (b"what", b"ERR UNKNOWN_COMMAND Unknown+server+commandwhat\r\n"),
        (b"1 2 3 4 5 6", None),
    ],
)
def test_replies(desk: Desk, line: bytes, reply: bytes | None) -> None:
    assert desk.answer(line) == reply


def test_a_cancelled_job_is_told_to_its_clients_once(desk: Desk) -> None:
    job = desk.store.jobs[b"H:here:1"]
    assert desk.answer(b"cancel job H:here:1") == b"OK\r\n"
    assert desk.failed == [job]
    assert desk.answer(b"show jobs") == b"H:here:1\t0\t1\t1\nH:here:2\t0\t0\t1\nH:here:3\t0\t0\t0\n.\n"


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        (b"5", [5, 5, 5]),
        (b"", [0, 0, 0]),
        (b" 1 2 3", [1, 2, 3]),
        (b"1 2", [1, 2, 0]),
        (b"-4", [0, 0, 0]),
        (b"many", [0, 0, 0]),
    ],
)
def test_maxqueue(desk: Desk, arguments: bytes, limits: list[int]) -> None:
    task = desk.store.tasks[b"a"]
    task.max_queue = [9, 9, 9]
    assert desk.answer(b"maxqueue a " + arguments if arguments else b"maxqueue a") == b"OK\r\n"
    assert task.max_queue == limits


def test_a_task_without_jobs_and_workers_can_be_dropped(desk: Desk) -> None:
    worker = desk.peers[1]
    desk.store.leave(worker)
    for job in list(desk.store.jobs.values()):
        desk.store.cancel(job)
    assert desk.answer(b"drop function a") == b"ERR there are still connected workers or executing clients\r\n"
    desk.store.release(100)
    desk.store.register(worker, desk.store.tasks[b"a"])
    assert desk.store.take(worker) is None
    desk.store.unregister_all(worker)
    assert desk.answer(b"drop function a") == b"OK\r\n"
    assert desk.answer(b"drop function a") == b"ERR function not found\r\n"


@pytest.mark.parametrize(
    ("raw", "number"),
    [(b"12", 12), (b" -3x", -3), (b"+7", 7), (b"x", 0), (b"", 0), (b"0.5", 0), (b"9" * 30, 10**19 - 1)],
)
def test_leading_integer(raw: bytes, number: int) -> None:
    assert leading_integer(raw) == number
