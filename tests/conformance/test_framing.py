"""How packets and lines travel: split, pipelined, mixed; and what a job server does with bytes that make no sense."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from support.wire import Wire, request, response

from gearworker.protocol.packets import PACKETS, PacketType, Sender

T = PacketType
Connect = Callable[[], Wire]

NOT_EXPECTED = response(T.ERROR, b"INVALID_COMMAND", b"Command not expected")


@pytest.mark.parametrize("data", [b"", b"x", b"\0\0RES\0", bytes(range(256)), b"x" * 1_000_000])
def test_an_echo_brings_back_any_bytes(client: Wire, data: bytes) -> None:
    client.send(request(T.ECHO_REQ, data))
    client.expect(response(T.ECHO_RES, data))


def test_a_packet_may_come_byte_by_byte(client: Wire) -> None:
    for byte in request(T.ECHO_REQ, b"slow") + b"version\r\n":
        client.send(bytes([byte]))
    client.expect(response(T.ECHO_RES, b"slow"))
    assert client.read_line().startswith(b"OK ")


def test_answers_come_in_the_order_of_requests(client: Wire) -> None:
    client.send(
        request(T.SUBMIT_JOB_BG, b"t", b"a", b"1"),
        request(T.ECHO_REQ, b"e"),
        request(T.OPTION_REQ, b"no such option"),
        request(T.GET_STATUS, b"H:unknown:1"),
        request(T.GRAB_JOB),
        request(T.SUBMIT_JOB, b"t", b"b", b"2"),
    )
    assert [client.read().type for _ in range(6)] == [
        T.JOB_CREATED,
        T.ECHO_RES,
        T.ERROR,
        T.STATUS_RES,
        T.NO_JOB,
        T.JOB_CREATED,
    ]


def test_text_and_binary_mix_on_one_connection(client: Wire) -> None:
    client.send(request(T.ECHO_REQ, b"1"), b"status\r\n", request(T.ECHO_REQ, b"2"), b"show jobs\nstatus\n")
    client.expect(response(T.ECHO_RES, b"1"), b".\n", response(T.ECHO_RES, b"2"), b".\n", b".\n")


def test_one_connection_may_be_worker_client_and_admin(client: Wire) -> None:
    client.can_do(b"t")
    handle = client.submit(b"t", kind=T.SUBMIT_JOB)
    assert client.grab().args[0] == handle
    assert client.text_list(b"status") == b"t\t1\t1\t1\n.\n"
    client.send(request(T.WORK_COMPLETE, handle, b"done"))
    client.expect(response(T.WORK_COMPLETE, handle, b"done"))
    client.expect_nothing()


def test_payloads_may_hold_nuls(client: Wire, worker: Wire) -> None:
    worker.can_do(b"t")
    handle = client.submit(b"t", b"u", b"\0a\0b\0", kind=T.SUBMIT_JOB)
    worker.send(request(T.GRAB_JOB_UNIQ))
    worker.expect(response(T.JOB_ASSIGN_UNIQ, handle, b"t", b"u", b"\0a\0b\0"))
    worker.send(request(T.WORK_DATA, handle, b"\0\0"), request(T.WORK_COMPLETE, handle, b"\0c\0"))
    client.expect(response(T.WORK_DATA, handle, b"\0\0"), response(T.WORK_COMPLETE, handle, b"\0c\0"))


def test_a_payload_of_several_megabytes(client: Wire, worker: Wire) -> None:
    data = bytes(range(256)) * 20_000
    worker.can_do(b"t")
    handle = client.submit(b"t", b"u", data, kind=T.SUBMIT_JOB)
    worker.send(request(T.GRAB_JOB))
    worker.expect(response(T.JOB_ASSIGN, handle, b"t", data))
    worker.send(request(T.WORK_COMPLETE, handle, data))
    client.expect(response(T.WORK_COMPLETE, handle, data))


def test_handles_count_from_one(client: Wire) -> None:
    handles = [client.submit(b"t") for _ in range(3)]
    prefix = handles[0].rpartition(b":")[0]
    assert prefix.startswith(b"H:")
    assert handles == [prefix + b":%d" % n for n in (1, 2, 3)]


_SERVERS_OWN = sorted(row.type for row in PACKETS.values() if row.senders == Sender.SERVER)


@pytest.mark.parametrize("packet_type", [*_SERVERS_OWN, T.ALL_YOURS, T.SUBMIT_JOB_SCHED])
def test_packets_that_only_a_job_server_sends_are_refused(client: Wire, packet_type: PacketType) -> None:
    client.send(request(packet_type, *(b"1" for _ in PACKETS[packet_type].arguments)))
    client.expect(NOT_EXPECTED)
    client.expect_nothing()


@pytest.mark.parametrize(
    "packet_type", [T.WORK_STATUS, T.WORK_COMPLETE, T.WORK_FAIL, T.WORK_EXCEPTION, T.WORK_DATA, T.WORK_WARNING]
)
def test_updates_of_a_job_that_is_not_held(client: Wire, packet_type: PacketType) -> None:
    messages = {
        T.WORK_DATA: b"Job does not exist on server",
        T.WORK_WARNING: b"Job does not exist on server",
        T.WORK_EXCEPTION: b"An exception was received for a job that does not exist",
    }
    handle = client.submit(b"t")
    client.send(request(packet_type, handle, *(b"1" for _ in PACKETS[packet_type].arguments[1:])))
    client.expect(response(T.ERROR, b"JOB_NOT_FOUND", messages.get(packet_type, b"Job given in work result not found")))
    client.expect_nothing()


@pytest.mark.parametrize("option", [b"exceptions", b"EXCEPTIONS"])
def test_the_option_for_exceptions(client: Wire, option: bytes) -> None:
    client.send(request(T.OPTION_REQ, option))
    client.expect(response(T.OPTION_RES, option))


def test_other_options_are_unknown(client: Wire) -> None:
    client.send(request(T.OPTION_REQ, b"exception"))
    client.expect(response(T.ERROR, b"UNKNOWN_OPTION", b"Server does not recognize given option"))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0REX" + struct.pack(">II", T.ECHO_REQ, 0),
        b"\0REQ" + struct.pack(">II", 0, 0),
        b"\0REQ" + struct.pack(">II", 43, 0),
        b"\0REQ" + struct.pack(">II", 2**31 - 1, 0),
        b"one two three four five six\r\n",
        b"x" * 9000 + b"\r\n",
    ],
    ids=["magic", "type 0", "type 43", "type 2^31-1", "six words", "long line"],
)
def test_garbage_ends_the_connection_without_an_answer(client: Wire, connect: Connect, garbage: bytes) -> None:
    client.sync()
    client.send(garbage)
    client.expect_end()
    connect().sync()


@pytest.mark.parametrize(
    "packet",
    [
        request(T.SUBMIT_JOB_BG, b"no separators"),
        request(T.SUBMIT_JOB_BG, b"one", b"separator"),
        request(T.SUBMIT_REDUCE_JOB, b"t", b"u", b"reducer", b"data without an aggregator"),
        request(T.WORK_COMPLETE, b"H:no separator:1"),
    ],
    ids=["no separators", "one separator", "reduce", "WORK_COMPLETE"],
)
def test_missing_arguments_swallow_what_follows_and_end_the_connection(client: Wire, packet: bytes) -> None:
    client.sync()
    client.send(packet, request(T.ECHO_REQ, b"swallowed") * 2)
    client.expect_end()


def test_an_unfinished_packet_is_forgotten_with_its_connection(connect: Connect) -> None:
    broken = connect()
    broken.send(b"\0REQ" + struct.pack(">II", T.SUBMIT_JOB_BG, 100) + b"t\0u\0half")
    broken.close()
    assert connect().text_list(b"status") == b".\n"


def test_a_unique_of_65_bytes_is_refused(client: Wire) -> None:
    client.send(request(T.SUBMIT_JOB_BG, b"t", b"u" * 65, b"data"))
    client.expect(response(T.ERROR, b"ARGUMENT_TOO_LARGE", b"Unique value too large"))
    assert client.submit(b"t", b"u" * 63)


def test_a_client_id_is_cut_at_127_bytes(client: Wire) -> None:
    assert client.text_list(b"workers").endswith(b" 127.0.0.1 - :\n.\n")
    client.send(request(T.SET_CLIENT_ID, b"an id: " + b"x" * 200))
    assert client.text_list(b"workers").endswith(b" 127.0.0.1 an id: " + b"x" * 120 + b" :\n.\n")
