"""Which job goes to whom and when: priorities, order, sleeping and waking, and jobs whose worker is gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.wire import Wire, request, response

from gearworker.protocol.packets import PacketType

T = PacketType
Connect = Callable[[], Wire]
NOOP = response(T.NOOP)
NO_JOB = response(T.NO_JOB)


def drain(worker: Wire) -> list[bytes]:
    """The payloads of all jobs that can be had, in order."""
    found = []
    while (data := worker.grab_data()) is not None:
        found.append(data)
    return found


# Order


def test_high_before_normal_before_low_and_first_in_first_out(worker: Wire, client: Wire) -> None:
    kinds = [
        (T.SUBMIT_JOB_LOW_BG, b"low 1"),
        (T.SUBMIT_JOB_BG, b"normal 1"),
        (T.SUBMIT_JOB_HIGH_BG, b"high 1"),
        (T.SUBMIT_JOB_LOW, b"low 2"),
        (T.SUBMIT_JOB, b"normal 2"),
        (T.SUBMIT_JOB_HIGH, b"high 2"),
    ]
    for kind, data in kinds:
        client.submit(b"t", b"", data, kind=kind)
    assert client.text_list(b"prioritystatus") == b"t\t2\t2\t2\t0\n.\n"
    worker.can_do(b"t")
    assert drain(worker) == [b"high 1", b"high 2", b"normal 1", b"normal 2", b"low 1", b"low 2"]


def test_the_ability_registered_last_is_served_first(worker: Wire, client: Wire) -> None:
    for task in (b"a", b"b", b"c"):
        client.submit(task, b"", task + b" low", kind=T.SUBMIT_JOB_LOW_BG)
        client.submit(task, b"", task + b" normal")
    worker.can_do(b"b", b"c", b"a")
    assert drain(worker) == [b"a normal", b"a low", b"c normal", b"c low", b"b normal", b"b low"]


def test_a_grab_without_abilities_brings_nothing(worker: Wire, client: Wire) -> None:
    client.submit(b"t")
    assert worker.grab_data() is None


def test_several_grabs_in_flight_are_answered_in_order(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    handles = [client.submit(b"t", b"", b"%d" % n) for n in range(3)]
    worker.send(request(T.GRAB_JOB) * 5)
    worker.expect(*(response(T.JOB_ASSIGN, h, b"t", b"%d" % n) for n, h in enumerate(handles)), NO_JOB, NO_JOB)


# Sleeping


def test_a_job_wakes_every_sleeper_once(client: Wire, connect: Connect) -> None:
    sleepers = [connect() for _ in range(3)]
    for sleeper in sleepers:
        sleeper.can_do(b"t")
        sleeper.sleep()
    client.submit(b"t", b"1")
    client.submit(b"t", b"2")
    for sleeper in sleepers:
        sleeper.expect(NOOP)
        sleeper.expect_nothing()


def test_an_awake_worker_gets_no_noop(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    client.submit(b"t")
    worker.expect_nothing()


def test_a_sleeper_is_not_woken_for_what_it_cannot_do(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    worker.sleep()
    client.submit(b"other")
    worker.expect_nothing()


def test_no_sleep_while_there_is_a_job(worker: Wire, client: Wire) -> None:
    """A job that arrives between NO_JOB and PRE_SLEEP is not lost."""
    worker.can_do(b"t")
    assert worker.grab_data() is None
    client.submit(b"t")
    worker.send(request(T.PRE_SLEEP))
    worker.expect(NOOP)
    assert worker.grab_data() == b"data"


def test_after_a_grab_a_sleeper_is_woken_again(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    for n in range(3):
        worker.sleep()
        client.submit(b"t", b"", b"%d" % n)
        worker.expect(NOOP)
        assert drain(worker) == [b"%d" % n]


def test_a_sleeper_that_holds_jobs_is_woken(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    client.submit(b"t", b"1")
    worker.grab()
    worker.sleep()
    client.submit(b"t", b"2")
    worker.expect(NOOP)


def test_a_grab_ends_the_sleep(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    worker.sleep()
    assert worker.grab_data() is None
    client.submit(b"t")
    worker.expect_nothing()


def test_grab_and_pre_sleep_in_one_go(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    worker.send(request(T.GRAB_JOB), request(T.PRE_SLEEP))
    worker.expect(NO_JOB)
    worker.expect_nothing()
    client.submit(b"t")
    worker.expect(NOOP)


def test_an_ability_registered_asleep_is_for_later_jobs(worker: Wire, client: Wire) -> None:
    client.submit(b"t", b"1")
    worker.can_do(b"other")
    worker.sleep()
    worker.can_do(b"t")
    worker.expect_nothing()
    client.submit(b"t", b"2")
    worker.expect(NOOP)


def test_a_noop_without_a_grab_is_the_last(worker: Wire, client: Wire, connect: Connect) -> None:
    """Why a worker always grabs after a NOOP: sleeping again without a grab, it is never woken again."""
    thief = connect()
    worker.can_do(b"t")
    thief.can_do(b"t")
    worker.sleep()
    client.submit(b"t", b"1")
    worker.expect(NOOP)
    thief.grab()
    worker.sleep()
    client.submit(b"t", b"2")
    worker.expect_nothing()
    assert worker.grab_data() == b"data"


def test_a_requeued_job_wakes_sleepers(worker: Wire, client: Wire, connect: Connect) -> None:
    dying = connect()
    dying.can_do(b"t")
    client.submit(b"t")
    dying.grab()
    worker.can_do(b"t")
    worker.sleep()
    dying.close()
    worker.expect(NOOP)
    assert worker.grab_data() == b"data"


def test_a_cancelled_job_keeps_nobody_awake(worker: Wire, client: Wire) -> None:
    handle = client.submit(b"t")
    assert client.text(b"cancel job " + handle) == b"OK\r\n"
    worker.can_do(b"t")
    worker.sleep()
    worker.expect_nothing()


# Jobs whose worker is gone


def test_jobs_of_a_lost_connection_go_to_the_tail_in_reverse(worker: Wire, client: Wire, connect: Connect) -> None:
    dying = connect()
    dying.can_do(b"t")
    for n in range(1, 5):
        client.submit(b"t", b"", b"%d" % n)
    client.submit(b"t", b"", b"low", kind=T.SUBMIT_JOB_LOW_BG)
    assert [dying.grab_data() for _ in range(3)] == [b"1", b"2", b"3"]
    dying.close()
    client.wait_for_connections(2)
    worker.can_do(b"t")
    assert drain(worker) == [b"4", b"3", b"2", b"1", b"low"]


@pytest.mark.parametrize("packet", [request(T.CANT_DO, b"t"), request(T.RESET_ABILITIES)], ids=["CANT_DO", "RESET"])
def test_a_worker_that_gives_up_an_ability_loses_its_jobs(worker: Wire, client: Wire, packet: bytes) -> None:
    worker.can_do(b"other", b"t")
    handles = [client.submit(b"t", b"", b"%d" % n, kind=T.SUBMIT_JOB) for n in range(3)]
    assert [worker.grab_data() for _ in range(2)] == [b"0", b"1"]
    worker.send(packet, request(T.WORK_COMPLETE, handles[0], b"too late"))
    worker.expect(response(T.ERROR, b"JOB_NOT_FOUND", b"Job given in work result not found"))
    assert worker.grab_data() is None
    client.expect_nothing()
    worker.can_do(b"t")
    assert drain(worker) == [b"2", b"1", b"0"]


def test_giving_up_one_ability_keeps_the_others(worker: Wire, client: Wire) -> None:
    worker.can_do(b"a", b"b")
    client.submit(b"a", b"", b"held")
    assert worker.grab_data() == b"held"
    worker.send(request(T.CANT_DO, b"b"), request(T.CANT_DO, b"unknown"))
    client.submit(b"a", b"", b"a")
    client.submit(b"b", b"", b"b")
    assert drain(worker) == [b"a"]
    assert client.text_list(b"status").count(b"a\t2\t2\t1\n") == 1


def test_retries_are_counted_and_a_job_survives_many_workers(client: Wire, connect: Connect) -> None:
    handle = client.submit(b"t", kind=T.SUBMIT_JOB)
    for attempt in range(4):
        assert client.text_list(b"show jobs") == handle + b"\t%d\t0\t0\n.\n" % attempt
        dying = connect()
        dying.can_do(b"t")
        assert dying.grab().args[0] == handle
        dying.close()
        client.wait_for_connections(1)
    worker = connect()
    worker.can_do(b"t")
    worker.grab()
    worker.send(request(T.WORK_COMPLETE, handle, b"at last"))
    client.expect(response(T.WORK_COMPLETE, handle, b"at last"))


def test_a_repeated_ability_counts_again_and_goes_at_once(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t", b"t", b"t")
    assert client.text_list(b"status") == b"t\t0\t0\t3\n.\n"
    client.submit(b"t")
    assert drain(worker) == [b"data"]
    worker.send(request(T.CANT_DO, b"t"))
    worker.sync()
    assert client.text_list(b"status") == b"t\t1\t0\t0\n.\n"
