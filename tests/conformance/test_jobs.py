"""A job's life: submitted, coalesced, assigned, told about, ended."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.wire import Wire, request, response

from gearworker.protocol.packets import PacketType

T = PacketType
Connect = Callable[[], Wire]


def held(worker: Wire, client: Wire, *, unique: bytes = b"u", kind: PacketType = T.SUBMIT_JOB) -> bytes:
    """The handle of a job that the client submitted and the worker holds."""
    worker.can_do(b"t")
    handle = client.submit(b"t", unique, kind=kind)
    assert worker.grab().args[0] == handle
    return handle


def status_of(wire: Wire, handle: bytes) -> list[bytes]:
    """known, running, numerator and denominator."""
    packet = wire.ask(T.GET_STATUS, handle)
    assert (packet.type, packet.args[0]) == (T.STATUS_RES, handle)
    return packet.args[1:]


# Assigning


def test_each_grab_has_its_kind_of_assignment(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    handles = [client.submit(b"t", b"u%d" % n, b"d") for n in range(3)]
    worker.send(request(T.GRAB_JOB), request(T.GRAB_JOB_UNIQ), request(T.GRAB_JOB_ALL), request(T.GRAB_JOB))
    worker.expect(
        response(T.JOB_ASSIGN, handles[0], b"t", b"d"),
        response(T.JOB_ASSIGN_UNIQ, handles[1], b"t", b"u1", b"d"),
        response(T.JOB_ASSIGN_UNIQ, handles[2], b"t", b"u2", b"d"),
        response(T.NO_JOB),
    )


@pytest.mark.parametrize("kind", [T.SUBMIT_REDUCE_JOB, T.SUBMIT_REDUCE_JOB_BACKGROUND])
def test_a_reduce_job_carries_its_reducer(worker: Wire, client: Wire, kind: PacketType) -> None:
    worker.can_do(b"t")
    handles = [client.ask(kind, b"t", b"u%d" % n, b"sum", b"unused", b"d\0d").args[0] for n in range(2)]
    worker.send(request(T.GRAB_JOB_ALL), request(T.GRAB_JOB_UNIQ))
    worker.expect(
        response(T.JOB_ASSIGN_ALL, handles[0], b"t", b"u0", b"sum", b"d\0d"),
        response(T.JOB_ASSIGN_UNIQ, handles[1], b"t", b"u1", b"d\0d"),
    )
    worker.send(request(T.WORK_COMPLETE, handles[0], b"r"))
    if kind == T.SUBMIT_REDUCE_JOB:
        client.expect(response(T.WORK_COMPLETE, handles[0], b"r"))
    worker.sync()
    client.expect_nothing()


def test_a_reducer_over_64_bytes_is_refused(client: Wire) -> None:
    client.send(request(T.SUBMIT_REDUCE_JOB_BACKGROUND, b"t", b"u", b"r" * 65, b"", b"d"))
    client.expect(response(T.ERROR, b"ARGUMENT_TOO_LARGE", b"Unique value too large"))


def test_empty_payloads_and_uniques_are_kept(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    handle = client.submit(b"t", b"", b"")
    worker.send(request(T.GRAB_JOB_UNIQ))
    worker.expect(response(T.JOB_ASSIGN_UNIQ, handle, b"t", b"", b""))


# Updates and ends


def test_updates_reach_the_client_in_order_and_unchanged(worker: Wire, client: Wire) -> None:
    handle = held(worker, client)
    worker.send(
        request(T.WORK_DATA, handle, b"one"),
        request(T.WORK_STATUS, handle, b"1", b"10"),
        request(T.WORK_WARNING, handle, b"careful"),
        request(T.WORK_DATA, handle, b""),
        request(T.WORK_COMPLETE, handle, b"done"),
        request(T.WORK_COMPLETE, handle, b"again"),
    )
    client.expect(
        response(T.WORK_DATA, handle, b"one"),
        response(T.WORK_STATUS, handle, b"1", b"10"),
        response(T.WORK_WARNING, handle, b"careful"),
        response(T.WORK_DATA, handle, b""),
        response(T.WORK_COMPLETE, handle, b"done"),
    )
    worker.expect(response(T.ERROR, b"JOB_NOT_FOUND", b"Job given in work result not found"))
    client.expect_nothing()


def test_a_background_client_hears_nothing(worker: Wire, client: Wire) -> None:
    handle = held(worker, client, kind=T.SUBMIT_JOB_BG)
    worker.send(request(T.WORK_DATA, handle, b"one"), request(T.WORK_COMPLETE, handle, b"done"))
    worker.sync()
    client.expect_nothing()


def test_a_failed_job_has_ended(worker: Wire, client: Wire) -> None:
    handle = held(worker, client)
    worker.send(request(T.WORK_FAIL, handle))
    client.expect(response(T.WORK_FAIL, handle))
    assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]
    assert worker.grab().type == T.NO_JOB


def test_an_exception_ends_the_job(worker: Wire, client: Wire) -> None:
    client.ask(T.OPTION_REQ, b"exceptions")
    handle = held(worker, client)
    worker.send(request(T.WORK_EXCEPTION, handle, b"Oh\0no"), request(T.WORK_FAIL, handle))
    client.expect(response(T.WORK_EXCEPTION, handle, b"Oh\0no"))
    worker.expect(response(T.ERROR, b"JOB_NOT_FOUND", b"Job given in work result not found"))
    client.expect_nothing()


def test_an_exception_is_a_failure_to_a_client_without_the_option(worker: Wire, client: Wire) -> None:
    handle = held(worker, client)
    worker.send(request(T.WORK_EXCEPTION, handle, b"Oh no"))
    packet = client.read()
    assert (packet.type, packet.args[0].rstrip(b"\0")) == (T.WORK_FAIL, handle)
    client.expect_nothing()


def test_jobs_of_one_connection_may_end_in_any_order(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    handles = [client.submit(b"t", b"u%d" % n, kind=T.SUBMIT_JOB) for n in range(5)]
    worker.send(request(T.GRAB_JOB) * 5)
    assert [worker.read().args[0] for _ in handles] == handles
    for handle in (3, 0, 4, 2, 1):
        worker.send(request(T.WORK_COMPLETE, handles[handle], b"%d" % handle))
    client.expect(*(response(T.WORK_COMPLETE, handles[n], b"%d" % n) for n in (3, 0, 4, 2, 1)))


def test_a_job_is_not_ended_by_a_stranger(worker: Wire, client: Wire, connect: Connect) -> None:
    handle = held(worker, client)
    stranger = connect()
    stranger.can_do(b"t")
    stranger.send(request(T.WORK_COMPLETE, handle, b"mine"))
    stranger.expect(response(T.ERROR, b"JOB_NOT_FOUND", b"Job given in work result not found"))
    client.expect_nothing()


# Status


def test_the_status_follows_a_job(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    handle = client.submit(b"t")
    assert status_of(client, handle) == [b"1", b"0", b"0", b"0"]
    worker.grab()
    assert status_of(client, handle) == [b"1", b"1", b"0", b"0"]
    worker.send(request(T.WORK_STATUS, handle, b"3", b"4"))
    worker.sync()
    assert status_of(client, handle) == [b"1", b"1", b"3", b"4"]
    worker.send(request(T.WORK_COMPLETE, handle, b""))
    worker.sync()
    assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]


@pytest.mark.parametrize(("sent", "stored"), [(b"-3", b"4294967293"), (b"0.5", b"0"), (b" 7x", b"7"), (b"", b"0")])
def test_odd_numbers_are_forwarded_raw_and_stored_as_c_reads_them(
    worker: Wire, client: Wire, sent: bytes, stored: bytes
) -> None:
    handle = held(worker, client)
    worker.send(request(T.WORK_STATUS, handle, sent, b"9"))
    client.expect(response(T.WORK_STATUS, handle, sent, b"9"))
    assert status_of(client, handle) == [b"1", b"1", stored, b"9"]


def test_a_requeued_job_has_no_progress(worker: Wire, client: Wire) -> None:
    handle = held(worker, client)
    worker.send(request(T.WORK_STATUS, handle, b"3", b"4"), request(T.RESET_ABILITIES))
    client.expect(response(T.WORK_STATUS, handle, b"3", b"4"))
    worker.sync()
    assert status_of(client, handle) == [b"1", b"0", b"0", b"0"]


def test_the_status_by_unique_ignores_the_task(worker: Wire, client: Wire) -> None:
    client.send(request(T.GET_STATUS_UNIQUE, b"u"))
    client.expect(response(T.STATUS_RES_UNIQUE, b"u", b"0", b"0", b"0", b"0", b"0"))
    handle = held(worker, client)
    client.submit(b"t", b"u", kind=T.SUBMIT_JOB)
    worker.send(request(T.WORK_STATUS, handle, b"1", b"2"))
    worker.send(request(T.GET_STATUS_UNIQUE, b"u"))
    worker.expect(response(T.STATUS_RES_UNIQUE, b"u", b"1", b"1", b"1", b"2", b"2"))


def test_unknown_handles(client: Wire) -> None:
    for handle in (b"H:unknown:1", b"x", b""):
        assert status_of(client, handle) == [b"0", b"0", b"0", b"0"]


# Coalescing


def test_a_unique_coalesces_within_its_task(worker: Wire, client: Wire, connect: Connect) -> None:
    other = connect()
    handle = client.submit(b"t", b"u", b"first", kind=T.SUBMIT_JOB)
    assert other.submit(b"t", b"u", b"second", kind=T.SUBMIT_JOB_HIGH) == handle
    assert client.submit(b"other task", b"u") != handle
    assert client.text_list(b"prioritystatus").count(b"t\t0\t1\t0\t0\n") == 1
    worker.can_do(b"t")
    assert worker.grab_data() == b"first"
    assert other.submit(b"t", b"u", b"third", kind=T.SUBMIT_JOB) == handle
    assert worker.grab_data() is None
    worker.send(request(T.WORK_DATA, handle, b"d"), request(T.WORK_COMPLETE, handle, b"r"))
    client.expect(response(T.WORK_DATA, handle, b"d"), response(T.WORK_COMPLETE, handle, b"r"))
    other.expect(response(T.WORK_DATA, handle, b"d") * 2, response(T.WORK_COMPLETE, handle, b"r") * 2)
    assert client.submit(b"t", b"u") != handle


def test_exceptions_go_to_each_client_as_it_asked(worker: Wire, client: Wire, connect: Connect) -> None:
    plain = connect()
    client.ask(T.OPTION_REQ, b"exceptions")
    handle = held(worker, client)
    assert plain.submit(b"t", b"u", kind=T.SUBMIT_JOB) == handle
    worker.send(request(T.WORK_EXCEPTION, handle, b"e"))
    client.expect(response(T.WORK_EXCEPTION, handle, b"e"))
    assert plain.read().type == T.WORK_FAIL


def test_the_unique_dash_compares_payloads(client: Wire) -> None:
    handle = client.submit(b"t", b"-", b"same")
    assert client.submit(b"t", b"-", b"same") == handle
    assert client.submit(b"t", b"-", b"other") != handle
    assert client.submit(b"t", b"same", b"same") != handle
    assert client.submit(b"t", b"-", b"") != client.submit(b"t", b"-", b"")


def test_without_a_unique_nothing_coalesces(client: Wire) -> None:
    assert client.submit(b"t", b"", b"d") != client.submit(b"t", b"", b"d")


# Clients that leave


def test_a_queued_foreground_job_goes_with_its_last_client(worker: Wire, client: Wire, connect: Connect) -> None:
    leaving, staying = connect(), connect()
    leaving.submit(b"t", b"alone", b"alone", kind=T.SUBMIT_JOB)
    leaving.submit(b"t", b"shared", b"shared", kind=T.SUBMIT_JOB)
    staying.submit(b"t", b"shared", b"shared", kind=T.SUBMIT_JOB)
    leaving.submit(b"t", b"background", b"background")
    leaving.close()
    client.wait_for_connections(3)
    worker.can_do(b"t")
    assert [worker.grab_data() for _ in range(3)] == [b"shared", b"background", None]
    assert client.text_list(b"status") == b"t\t2\t2\t1\n.\n"


def test_the_result_of_a_running_job_is_discarded_with_its_last_client(
    worker: Wire, client: Wire, connect: Connect
) -> None:
    leaving = connect()
    handle = held(worker, leaving)
    leaving.close()
    client.wait_for_connections(2)
    worker.send(request(T.WORK_DATA, handle, b"d"), request(T.WORK_COMPLETE, handle, b"r"))
    worker.expect_nothing()
    assert client.text_list(b"status") == b"t\t0\t0\t1\n.\n"


# Jobs for later


@pytest.mark.parametrize("moment", [b"0", b"1", b"-5", b"soon"])
def test_a_moment_that_has_passed_is_now(worker: Wire, client: Wire, moment: bytes) -> None:
    worker.can_do(b"t")
    handle = client.ask(T.SUBMIT_JOB_EPOCH, b"t", b"u", moment, b"d").args[0]
    worker.send(request(T.GRAB_JOB))
    worker.expect(response(T.JOB_ASSIGN, handle, b"t", b"d"))


def test_a_job_for_later_waits_and_lets_others_pass(worker: Wire, client: Wire) -> None:
    worker.can_do(b"t")
    due_s = int(time.time()) + 2
    handle = client.ask(T.SUBMIT_JOB_EPOCH, b"t", b"u", b"%d" % due_s, b"later").args[0]
    assert status_of(client, handle) == [b"1", b"0", b"0", b"0"]
    assert client.text_list(b"status") == b"t\t1\t0\t1\n.\n"
    assert client.text_list(b"prioritystatus") == b"t\t0\t1\t0\t1\n.\n"
    client.submit(b"t", b"now", b"now")
    assert [worker.grab_data(), worker.grab_data()] == [b"now", None]
    while (data := worker.grab_data()) is None:
        assert time.time() < due_s + 3, "the job for later is never assigned"
        time.sleep(0.02)
    assert data == b"later"
    assert time.time() >= due_s
