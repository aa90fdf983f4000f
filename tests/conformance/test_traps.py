"""Where gearmand 1.1.20 loses jobs, breaks or stalls, and what the embedded job server does instead.

Each scenario states both outcomes, so that it is noticed when a gearmand mends one, and so that the rest of the project
can point at the trap that it works around.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from support.servers import EmbeddedServer, Gearmand, ServerProcess, wait_until
from support.wire import Wire, request, response

from gearworker.protocol.packets import PacketType

T = PacketType
Connect = Callable[[], Wire]


@pytest.fixture
def trapped(job_server: ServerProcess) -> bool:
    """Whether this job server has the traps."""
    return isinstance(job_server, Gearmand)


# Uniques


@pytest.mark.parametrize("background_first", [True, False])
def test_a_background_job_that_shares_its_unique_with_a_foreground_client_that_leaves(
    worker: Wire, client: Wire, connect: Connect, trapped: bool, background_first: bool
) -> None:
    leaving = connect()
    if background_first:
        client.submit(b"t", b"u", b"acknowledged")
    leaving.submit(b"t", b"u", b"acknowledged", kind=T.SUBMIT_JOB)
    if not background_first:
        client.submit(b"t", b"u", b"acknowledged")
    leaving.close()
    client.wait_for_connections(2)
    worker.can_do(b"t")
    assert worker.grab_data() == (None if trapped else b"acknowledged")


@pytest.mark.parametrize("how", ["abandoned", "cancelled"])
def test_a_submit_onto_a_queued_unique_that_is_never_to_run(
    worker: Wire, client: Wire, connect: Connect, trapped: bool, how: str
) -> None:
    leaving = connect()
    dead = leaving.submit(b"t", b"u", b"dead", kind=T.SUBMIT_JOB)
    if how == "cancelled":
        assert client.text(b"cancel job " + dead) == b"OK\r\n"
    leaving.close()
    client.wait_for_connections(2)
    handle = client.submit(b"t", b"u", b"acknowledged")
    worker.can_do(b"t")
    assert (handle == dead, worker.grab_data()) == ((True, None) if trapped else (False, b"acknowledged"))


def test_a_background_submit_onto_an_abandoned_running_job_whose_worker_dies(
    worker: Wire, client: Wire, connect: Connect, trapped: bool
) -> None:
    leaving, dying = connect(), connect()
    dying.can_do(b"t")
    handle = leaving.submit(b"t", b"u", b"acknowledged", kind=T.SUBMIT_JOB)
    dying.grab()
    leaving.close()
    client.wait_for_connections(3)
    assert client.submit(b"t", b"u", b"acknowledged") == handle
    dying.close()
    client.wait_for_connections(2)
    worker.can_do(b"t")
    assert worker.grab_data() == (None if trapped else b"acknowledged")


def test_a_unique_of_64_bytes(worker: Wire, client: Wire, trapped: bool) -> None:
    unique = b"u" * 64
    first, second = client.submit(b"t", unique), client.submit(b"t", unique)
    assert (first == second) is not trapped
    worker.can_do(b"t")
    worker.send(request(T.GRAB_JOB_UNIQ))
    assigned = worker.read().args
    assert assigned[2:] == ([unique[:63], b"\0data"] if trapped else [unique, b"data"])


# Jobs and tasks that get lost


def test_dropping_a_task_with_queued_jobs(worker: Wire, client: Wire, trapped: bool) -> None:
    client.submit(b"t")
    in_use = b"ERR there are still connected workers or executing clients\r\n"
    assert client.text(b"drop function t") == (b"OK\r\n" if trapped else in_use)
    worker.can_do(b"t")
    assert worker.grab_data() == (None if trapped else b"data")


def test_a_job_for_later_wakes_a_sleeper_at_its_time(worker: Wire, client: Wire, trapped: bool) -> None:
    worker.can_do(b"t")
    worker.sleep()
    due_s = int(time.time() + 1.5)
    client.ask(T.SUBMIT_JOB_EPOCH, b"t", b"u", b"%d" % due_s, b"later")
    worker.expect(response(T.NOOP))
    if trapped:
        assert worker.grab_data() is None
        worker.sleep()
        wait_until(lambda: time.time() > due_s + 0.3)
        worker.expect_nothing()
    else:
        assert time.time() >= due_s
    assert worker.grab_data() == b"later"


def test_a_job_for_later_holds_up_those_of_low_priority(worker: Wire, client: Wire, trapped: bool) -> None:
    client.ask(T.SUBMIT_JOB_EPOCH, b"t", b"u", b"%d" % (time.time() + 3600), b"later")
    client.submit(b"t", b"", b"low", kind=T.SUBMIT_JOB_LOW_BG)
    worker.can_do(b"t")
    assert worker.grab_data() == (None if trapped else b"low")


# Framing


def test_a_failure_made_of_an_exception_has_a_stray_nul(worker: Wire, client: Wire, trapped: bool) -> None:
    worker.can_do(b"t")
    handle = client.submit(b"t", kind=T.SUBMIT_JOB)
    worker.grab()
    worker.send(request(T.WORK_EXCEPTION, handle, b"e"))
    client.expect(response(T.WORK_FAIL, handle + b"\0" if trapped else handle))


def test_the_status_of_an_overlong_handle(client: Wire, trapped: bool) -> None:
    """gearmand never tells it; whether the connection ends before or after the next answer is a matter of luck."""
    client.send(request(T.GET_STATUS, b"H:" + b"x" * 62))
    if trapped:
        client.send(request(T.ECHO_REQ, b"x"))
        assert client.sock.recv(65536) in (b"", response(T.ECHO_RES, b"x"))
    else:
        client.expect(response(T.STATUS_RES, b"H:" + b"x" * 62, b"0", b"0", b"0", b"0"))


def test_a_response_magic(client: Wire, trapped: bool) -> None:
    client.sync()
    client.send(response(T.ECHO_REQ, b"x"))
    if trapped:
        client.expect(response(T.ERROR, b"INVALID_MAGIC", b"Request magic expected"))
        client.expect_nothing()
    else:
        client.expect_end()


def test_a_line_that_ends_without_a_carriage_return(client: Wire, trapped: bool) -> None:
    client.send(b"create function name\n")
    client.expect(b"OK\r\n")
    assert client.text_list(b"status") == (b"nam" if trapped else b"name") + b"\t0\t0\t0\n.\n"


@pytest.mark.gearmand
def test_a_packet_type_from_2_31_ends_gearmand(gearmand: Gearmand, connect_to: Callable[[ServerProcess], Wire]) -> None:
    connect_to(gearmand).send(b"\0REQ" + struct.pack(">II", 2**31, 0))
    wait_until(lambda: not gearmand.running, what="the end of gearmand")


def test_a_packet_type_from_2_31_ends_the_connection_only(
    embedded: EmbeddedServer, connect_to: Callable[[ServerProcess], Wire]
) -> None:
    wire = connect_to(embedded)
    wire.send(b"\0REQ" + struct.pack(">II", 2**31, 0))
    wire.expect_end()
    connect_to(embedded).sync()


# Bounds and departures of the embedded job server alone


def test_an_ability_with_a_time_limit_has_none(
    embedded: EmbeddedServer, connect_to: Callable[[ServerProcess], Wire]
) -> None:
    worker, client = connect_to(embedded), connect_to(embedded)
    worker.send(request(T.CAN_DO_TIMEOUT, b"t", b"1"))
    worker.sync()
    handle = client.submit(b"t", kind=T.SUBMIT_JOB)
    assert worker.grab_data() == b"data"
    worker.send(request(T.WORK_COMPLETE, handle, b"r"))
    client.expect(response(T.WORK_COMPLETE, handle, b"r"))


def test_a_payload_over_the_limit_is_refused_and_the_connection_goes_on(
    embedded: EmbeddedServer, connect_to: Callable[[ServerProcess], Wire]
) -> None:
    client = connect_to(embedded)
    size = 65 * 1024 * 1024
    client.send(b"\0REQ" + struct.pack(">II", T.SUBMIT_JOB_BG, size) + b"t\0u\0")
    client.send(b"x" * (size - 4))
    client.expect(response(T.ERROR, b"ARGUMENT_TOO_LARGE", b"Packet of %d bytes is too large" % size))
    client.expect_nothing()
