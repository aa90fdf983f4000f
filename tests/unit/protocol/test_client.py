"""The client's side of a connection: answers in order, jobs shared by several requests, broken streams."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gearworker.errors import ProtocolError, UnknownCommandError
from gearworker.protocol.client import (
    SUBMITS,
    ClientProtocol,
    Delivery,
    Submission,
    task_bytes,
    unique_bytes,
)
from gearworker.protocol.codec import Decoder, Oversized, encode_response
from gearworker.protocol.packets import PACKETS, REQUEST_MAGIC, Packet, PacketType, Sender

T = PacketType


def res(packet_type: PacketType, *args: bytes) -> bytes:
    return encode_response(packet_type, *args)


def submit(protocol: ClientProtocol, request: Any, *, background: bool = False) -> bytes:
    packet_type = SUBMITS[None, background]
    return protocol.submit(request, Submission(packet_type, b"t\0u\0", b"da\0ta"), background=background)


def created(protocol: ClientProtocol, request: Any, handle: bytes = b"H:x:1") -> None:
    submit(protocol, request)
    assert protocol.receive(res(T.JOB_CREATED, handle)) == [Delivery(request, Packet(T.JOB_CREATED, [handle]))]


def requests_of(deliveries: list[Any]) -> list[Any]:
    return [delivery.request for delivery in deliveries]


@pytest.fixture
def protocol() -> ClientProtocol:
    return ClientProtocol()


@pytest.mark.parametrize(("kind", "packet_type"), SUBMITS.items())
def test_a_submission_on_the_wire(
    protocol: ClientProtocol, kind: tuple[str | None, bool], packet_type: PacketType
) -> None:
    data = protocol.submit("r", Submission(packet_type, b"t\0u\0", b"da\0ta"), background=kind[1])
    assert Decoder(REQUEST_MAGIC).feed(data) == [Packet(packet_type, [b"t", b"u", b"da\0ta"])]


@pytest.mark.parametrize(
    ("packet_type", "head", "args"),
    [
        (T.SUBMIT_JOB_EPOCH, b"t\0u\0999\0", [b"t", b"u", b"999", b"x"]),
        (T.SUBMIT_REDUCE_JOB, b"t\0u\0r\0\0", [b"t", b"u", b"r", b"", b"x"]),
    ],
)
def test_submissions_with_more_arguments(
    protocol: ClientProtocol, packet_type: PacketType, head: bytes, args: list[bytes]
) -> None:
    data = protocol.submit("r", Submission(packet_type, head, b"x"), background=False)
    assert Decoder(REQUEST_MAGIC).feed(data) == [Packet(packet_type, args)]


def test_answers_go_to_the_questions_in_order(protocol: ClientProtocol) -> None:
    submit(protocol, "one")
    protocol.get_status("two", b"H:x:9")
    submit(protocol, "three", background=True)
    protocol.get_unique_status("four", b"u")
    protocol.echo("five", b"e")
    protocol.set_option("six", b"exceptions")
    assert protocol.open_questions == 6
    deliveries = protocol.receive(
        res(T.JOB_CREATED, b"H:x:1")
        + res(T.STATUS_RES, b"H:x:9", b"1", b"0", b"0", b"0")
        + res(T.JOB_CREATED, b"H:x:2")
        + res(T.STATUS_RES_UNIQUE, b"u", b"1", b"0", b"0", b"0", b"1")
        + res(T.ECHO_RES, b"e")
        + res(T.OPTION_RES, b"exceptions")
    )
    assert requests_of(deliveries) == ["one", "two", "three", "four", "five", "six"]
    assert protocol.open_questions == 0


def test_an_error_answers_the_oldest_question_and_shifts_nothing(protocol: ClientProtocol) -> None:
    for request in ("one", "two", "three"):
        submit(protocol, request)
    deliveries = protocol.receive(
        res(T.JOB_CREATED, b"H:x:1") + res(T.ERROR, b"QUEUE_ERROR", b"full") + res(T.JOB_CREATED, b"H:x:3")
    )
    assert deliveries == [
        Delivery("one", Packet(T.JOB_CREATED, [b"H:x:1"])),
        Delivery("two", Packet(T.ERROR, [b"QUEUE_ERROR", b"full"])),
        Delivery("three", Packet(T.JOB_CREATED, [b"H:x:3"])),
    ]
    assert requests_of(protocol.receive(res(T.WORK_COMPLETE, b"H:x:3", b""))) == ["three"]


def test_an_error_that_nobody_asked_for(protocol: ClientProtocol) -> None:
    assert protocol.receive(res(T.ERROR, b"X", b"y")) == [Delivery(None, Packet(T.ERROR, [b"X", b"y"]))]


@pytest.mark.parametrize(
    "packet",
    [
        res(T.JOB_CREATED, b"H:x:1"),
        res(T.STATUS_RES, b"H:x:1", b"0", b"0", b"0", b"0"),
        res(T.STATUS_RES_UNIQUE, b"u", b"0", b"0", b"0", b"0", b"0"),
        res(T.OPTION_RES, b"exceptions"),
    ],
)
def test_another_answer_than_was_due_breaks_the_connection(protocol: ClientProtocol, packet: bytes) -> None:
    protocol.echo("asker", b"e")
    (error,) = protocol.receive(packet)
    assert isinstance(error, ProtocolError)
    assert "ECHO_RES was due" in str(error)


def test_an_answer_to_nothing_breaks_the_connection(protocol: ClientProtocol) -> None:
    (error,) = protocol.receive(res(T.JOB_CREATED, b"H:x:1"))
    assert isinstance(error, ProtocolError)
    assert "nothing was asked" in str(error)


@pytest.mark.parametrize(
    "packet_type",
    [
        row.type
        for row in PACKETS.values()
        if Sender.SERVER not in row.senders or row.type in (T.NOOP, T.NO_JOB, T.JOB_ASSIGN, T.JOB_ASSIGN_UNIQ)
    ],
)
def test_packets_that_are_not_for_clients_break_the_connection(
    protocol: ClientProtocol, packet_type: PacketType
) -> None:
    args = [b"1" for _ in PACKETS[packet_type].arguments]
    (error,) = protocol.receive(res(packet_type, *args))
    assert isinstance(error, ProtocolError)
    assert packet_type.name in str(error)


def test_a_text_line_breaks_the_connection(protocol: ClientProtocol) -> None:
    (error,) = protocol.receive(b"ERR something\r\n" + b"x" * 20)
    assert isinstance(error, ProtocolError)
    assert "ERR something" in str(error)


def test_what_came_before_a_break_is_delivered(protocol: ClientProtocol) -> None:
    created(protocol, "r")
    deliveries = protocol.receive(res(T.WORK_DATA, b"H:x:1", b"a") + b"\0RES\0\0\0\x63\0\0\0\0")
    assert deliveries[0] == Delivery("r", Packet(T.WORK_DATA, [b"H:x:1", b"a"]))
    assert isinstance(deliveries[1], UnknownCommandError)


def test_one_job_from_its_creation_to_its_end(protocol: ClientProtocol) -> None:
    created(protocol, "r")
    packets = (
        res(T.WORK_DATA, b"H:x:1", b"a"), res(T.WORK_WARNING, b"H:x:1", b"b"), res(T.WORK_STATUS, b"H:x:1", b"1", b"2"),
        res(T.WORK_COMPLETE, b"H:x:1", b"c"),
    )  # fmt: skip
    assert requests_of(protocol.receive(b"".join(packets))) == ["r"] * 4
    assert protocol.tracked_jobs == 0
    assert protocol.receive(packets[-1]) == []


def test_background_jobs_are_not_tracked(protocol: ClientProtocol) -> None:
    for index in range(1000):
        submit(protocol, index, background=True)
        protocol.receive(res(T.JOB_CREATED, b"H:x:%d" % index))
    assert (protocol.tracked_jobs, protocol.open_questions) == (0, 0)


@pytest.mark.parametrize("final", [T.WORK_COMPLETE, T.WORK_EXCEPTION])
def test_requests_that_share_a_job_get_each_packet_once(protocol: ClientProtocol, final: PacketType) -> None:
    created(protocol, "one")
    assert requests_of(protocol.receive(res(T.WORK_DATA, b"H:x:1", b"early"))) == ["one"]
    created(protocol, "two")
    created(protocol, "three")
    copies = protocol.receive(res(T.WORK_DATA, b"H:x:1", b"a") * 3 + res(T.WORK_STATUS, b"H:x:1", b"1", b"2") * 3)
    assert requests_of(copies) == ["one", "two", "three"] * 2
    assert requests_of(protocol.receive(res(final, b"H:x:1", b"end") * 3)) == ["one", "two", "three"]
    assert protocol.tracked_jobs == 0


def test_a_job_shared_by_all_ends_for_all_even_where_the_final_packet_comes_once(protocol: ClientProtocol) -> None:
    created(protocol, "one")
    created(protocol, "two")
    assert requests_of(protocol.receive(res(T.WORK_FAIL, b"H:x:1"))) == ["one", "two"]


def test_the_nul_behind_the_handle_of_a_work_fail(protocol: ClientProtocol) -> None:
    created(protocol, "r")
    raw = b"\0RES" + (14).to_bytes(4, "big") + (6).to_bytes(4, "big") + b"H:x:1\0"
    assert requests_of(protocol.receive(raw)) == ["r"]


@pytest.mark.parametrize("packet_type", [T.WORK_COMPLETE, T.WORK_EXCEPTION, T.WORK_DATA, T.WORK_WARNING])
def test_an_oversized_packet_reaches_its_request(packet_type: PacketType) -> None:
    protocol = ClientProtocol(max_packet_bytes=2000)
    created(protocol, "r")
    created(protocol, "s", b"H:x:2")
    stream = res(packet_type, b"H:x:1", b"x" * 5000) + res(T.WORK_COMPLETE, b"H:x:2", b"ok")
    deliveries = []
    for start in range(0, len(stream), 700):
        deliveries += protocol.receive(stream[start : start + 700])
    assert deliveries == [
        Delivery("r", Oversized(packet_type, [b"H:x:1"], 5006)),
        Delivery("s", Packet(T.WORK_COMPLETE, [b"H:x:2", b"ok"])),
    ]
    assert protocol.tracked_jobs == (1 if packet_type in (T.WORK_DATA, T.WORK_WARNING) else 0)


def test_an_oversized_answer_breaks_the_connection() -> None:
    protocol = ClientProtocol(max_packet_bytes=2000)
    protocol.echo("asker", b"e")
    (error,) = protocol.receive(res(T.ECHO_RES, b"e" * 3000))
    assert isinstance(error, ProtocolError)


def test_silent_jobs_are_those_without_a_packet_since_they_were_last_asked_for(protocol: ClientProtocol) -> None:
    created(protocol, "one", b"H:x:1")
    created(protocol, "two", b"H:x:2")
    assert protocol.silent_jobs() == []
    protocol.receive(res(T.WORK_DATA, b"H:x:2", b""))
    assert protocol.silent_jobs() == [b"H:x:1"]
    assert protocol.silent_jobs() == [b"H:x:1", b"H:x:2"]
    protocol.receive(res(T.WORK_COMPLETE, b"H:x:1", b""))
    assert protocol.silent_jobs() == [b"H:x:2"]


def test_a_dropped_job_is_forgotten(protocol: ClientProtocol) -> None:
    created(protocol, "one")
    created(protocol, "two")
    assert protocol.drop(b"H:x:1") == ["one", "two"]
    assert protocol.drop(b"H:x:1") == []
    assert protocol.receive(res(T.WORK_COMPLETE, b"H:x:1", b"")) == []


def test_a_lost_connection_gives_back_all_that_was_open(protocol: ClientProtocol) -> None:
    created(protocol, "running")
    submit(protocol, "ended")
    protocol.receive(res(T.JOB_CREATED, b"H:x:2") + res(T.WORK_COMPLETE, b"H:x:2", b""))
    submit(protocol, "accepted in background", background=True)
    protocol.receive(res(T.JOB_CREATED, b"H:x:3"))
    submit(protocol, "sent")
    protocol.echo("asked", b"")
    assert protocol.lost() == ["sent", "asked", "running"]
    assert protocol.lost() == []


@pytest.mark.parametrize("task", ["", "x" * 256, "a\0b", None, b"bytes"])
def test_unusable_tasks(task: Any) -> None:
    with pytest.raises(ProtocolError, match="task"):
        task_bytes(task)


@pytest.mark.parametrize("unique", ["", "-", "x" * 64, "ü" * 32, "a\0b", 5])
def test_unusable_uniques(unique: Any) -> None:
    with pytest.raises(ProtocolError, match="unique"):
        unique_bytes(unique)


def test_usable_names() -> None:
    assert task_bytes("x" * 255) == b"x" * 255
    assert unique_bytes("ü" * 31 + "x") == ("ü" * 31 + "x").encode()
    assert unique_bytes("--") == b"--"


def test_a_payload_over_the_protocols_limit_is_refused_before_anything_is_open(
    protocol: ClientProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gearworker.protocol.client.MAX_BODY_BYTES", 8)
    with pytest.raises(ProtocolError, match="SUBMIT_JOB of 9 bytes"):
        submit(protocol, "r")
    assert protocol.open_questions == 0


class ModelServer:
    """A job server that coalesces, fails, and sends each client as many copies as it has submitted."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.copies: dict[int, int] = {}
        self.jobs = 0

    def submit(self, unique: str) -> bytes:
        if unique not in self.numbers:
            self.jobs += 1
            self.numbers[unique] = self.jobs
            self.copies[self.jobs] = 0
        number = self.numbers[unique]
        self.copies[number] += 1
        return res(T.JOB_CREATED, b"H:x:%d" % number)

    def work(self, unique: str, packet_type: PacketType, text: bytes) -> bytes:
        number = self.numbers[unique]
        copies = self.copies[number]
        if packet_type is T.WORK_COMPLETE:
            del self.numbers[unique]
        return res(packet_type, b"H:x:%d" % number, text) * copies


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["submit", "submit", "data", "complete", "refuse"])),
        max_size=60,
    ),
    chunk_bytes=st.integers(1, 97),
)
def test_every_request_sees_its_job_once_from_when_it_joined(steps: list[tuple[str, str]], chunk_bytes: int) -> None:
    protocol, server = ClientProtocol(), ModelServer()
    stream = b""
    wanted: dict[int, list[bytes]] = {}
    joined: dict[str, list[int]] = {}
    for number, (unique, step) in enumerate(steps):
        if step == "submit":
            submit(protocol, number)
            stream += server.submit(unique)
            wanted[number] = []
            joined.setdefault(unique, []).append(number)
        elif step == "refuse":
            submit(protocol, number)
            stream += res(T.ERROR, b"QUEUE_ERROR", b"full")
            wanted[number] = [b"refused"]
        elif unique in server.numbers:
            text = b"%d" % number
            stream += server.work(unique, T.WORK_COMPLETE if step == "complete" else T.WORK_DATA, text)
            for request in joined[unique]:
                wanted[request].append(text)
            if step == "complete":
                joined[unique] = []
    got: dict[int, list[bytes]] = {request: [] for request in wanted}
    for start in range(0, len(stream), chunk_bytes):
        for delivery in protocol.receive(stream[start : start + chunk_bytes]):
            assert isinstance(delivery, Delivery)
            if delivery.packet.type is T.ERROR:
                got[delivery.request].append(b"refused")
            elif delivery.packet.type is not T.JOB_CREATED:
                got[delivery.request].append(delivery.packet.args[1])
    assert got == wanted
    assert protocol.open_questions == 0
