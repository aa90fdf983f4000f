"""Updates from native threads: written in the hub's thread, in order, and none stops the others."""

from __future__ import annotations

import threading
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from gearworker.errors import InvalidWorkerState
from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType
from gearworker.worker.thread_updates import ThreadUpdates


class FakeConnection:
    """A connection whose output is empty."""

    closed = False
    unsent_bytes = 0
    high_water_bytes = 1


def make_job() -> GearmanJob:
    return GearmanJob(None, "H:1", "t", None, b"")


def test_they_are_written_in_the_hub_and_in_order() -> None:
    written: list[tuple[bytes, int]] = []

    def write(job: GearmanJob, packet_type: PacketType, args: tuple[bytes, ...]) -> None:
        written.append((args[0], threading.get_ident()))

    updates, job = ThreadUpdates(FakeConnection(), write), make_job()  # type: ignore[arg-type]

    def handler() -> bool:
        for number in range(100):
            updates.put(job, PacketType.WORK_DATA, (b"%d" % number,))
        return updates.is_foreign_thread

    threads = ThreadPool(1)
    assert threads.apply(handler)
    updates.flush()
    threads.kill()
    assert [data for data, _ in written] == [b"%d" % number for number in range(100)]
    assert {thread for _, thread in written} == {threading.get_ident()}
    assert not updates.is_foreign_thread


def test_one_that_comes_too_late_does_not_stop_the_others() -> None:
    written: list[bytes] = []

    def write(job: GearmanJob, packet_type: PacketType, args: tuple[bytes, ...]) -> None:
        if args == (b"late",):
            raise InvalidWorkerState("ended")
        written.append(args[0])

    updates, job = ThreadUpdates(FakeConnection(), write), make_job()  # type: ignore[arg-type]
    for data in (b"a", b"late", b"b"):
        updates.put(job, PacketType.WORK_DATA, (data,))
    assert len(updates) == 3
    updates.flush()
    assert written == [b"a", b"b"]


def test_a_thread_does_not_wait_for_a_connection_that_has_ended() -> None:
    connection: Any = FakeConnection()
    connection.unsent_bytes = 2
    updates = ThreadUpdates(connection, lambda *args: None)
    threads = ThreadPool(1)
    putting = threads.spawn(updates.put, make_job(), PacketType.WORK_DATA, (b"x",))
    gevent.sleep(0)
    assert not putting.ready()
    connection.closed = True
    putting.get(timeout=10)
    threads.kill()
