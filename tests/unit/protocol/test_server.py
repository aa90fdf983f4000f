"""The job server's brain: what goes in and what comes out. tests/conformance holds it against gearmand; here are the
shape of its outputs, its clock, its bounds, and that no input breaks it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gearworker.errors import ProtocolError
from gearworker.protocol.codec import Decoder, Oversized, TextLine, encode_request
from gearworker.protocol.packets import PACKETS, REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType, Sender
from gearworker.protocol.server import JobServer, Limits, Outputs, pack
from gearworker.protocol.server_text import Identity

T = PacketType
IDENTITY = Identity(version=b"1.0", pid=7, log_level=b"INFO", handle_prefix=b"H:here")
CLIENT, WORKER, OTHER = 1, 2, 3


@pytest.fixture
def brain() -> JobServer:
    """A job server with three connections."""
    server = JobServer(IDENTITY)
    for connection in (CLIENT, WORKER, OTHER):
        assert server.connect(connection, b"127.0.0.1", connection)
    return server


def tell(brain: JobServer, connection: int, *packets: tuple[Any, ...], now_s: float = 0) -> Outputs:
    """Send packets, each given as its type and arguments."""
    return brain.receive(connection, [Packet(p[0], list(p[1:])) for p in packets], now_s)


def test_outputs_name_connections_in_order(brain: JobServer) -> None:
    assert tell(brain, WORKER, (T.CAN_DO, b"t"), (T.GRAB_JOB,), (T.PRE_SLEEP,)) == [(WORKER, pack(T.NO_JOB))]
    assert tell(brain, CLIENT, (T.SUBMIT_JOB, b"t", b"u", b"d"), (T.ECHO_REQ, b"e")) == [
        (WORKER, pack(T.NOOP)),
        (CLIENT, pack(T.JOB_CREATED, b"H:here:1")),
        (CLIENT, pack(T.ECHO_RES, b"e")),
    ]
    assert tell(brain, WORKER, (T.GRAB_JOB,)) == [(WORKER, pack(T.JOB_ASSIGN, b"H:here:1", b"t", b"d"))]
    assert tell(brain, WORKER, (T.WORK_COMPLETE, b"H:here:1", b"r")) == [
        (CLIENT, pack(T.WORK_COMPLETE, b"H:here:1", b"r"))
    ]


def test_packets_are_packed_as_the_codec_reads_them() -> None:
    events = Decoder(RESPONSE_MAGIC).feed(pack(T.JOB_ASSIGN, b"h", b"t", b"\0d") + pack(T.NOOP) + pack(T.ECHO_RES, b""))
    assert events == [Packet(T.JOB_ASSIGN, [b"h", b"t", b"\0d"]), Packet(T.NOOP, []), Packet(T.ECHO_RES, [b""])]


def test_a_broken_stream_is_closed_after_the_answers_before_it(brain: JobServer) -> None:
    echo, late = Packet(T.ECHO_REQ, [b"1"]), Packet(T.ECHO_REQ, [b"2"])
    assert brain.receive(CLIENT, [echo, ProtocolError("bad magic")], 0) == [
        (CLIENT, pack(T.ECHO_RES, b"1")),
        (CLIENT, None),
    ]
    assert brain.receive(CLIENT, [TextLine(b"1 2 3 4 5 6"), late], 0) == [(CLIENT, None)]


def test_connections_come_and_go(brain: JobServer) -> None:
    tell(brain, WORKER, (T.CAN_DO, b"t"))
    tell(brain, OTHER, (T.CAN_DO, b"t"), (T.PRE_SLEEP,))
    tell(brain, CLIENT, (T.SUBMIT_JOB_BG, b"t", b"", b"d"))
    tell(brain, WORKER, (T.GRAB_JOB,))
    tell(brain, OTHER, (T.GRAB_JOB,), (T.PRE_SLEEP,))
    assert brain.disconnect(WORKER) == [(OTHER, pack(T.NOOP))]
    assert brain.disconnect(WORKER) == []
    assert tell(brain, WORKER, (T.ECHO_REQ, b"")) == []


def test_one_connection_too_many_is_refused() -> None:
    brain = JobServer(IDENTITY, Limits(connections=1))
    assert brain.connect(1, b"127.0.0.1", 1)
    assert not brain.connect(2, b"127.0.0.1", 2)
    brain.disconnect(1)
    assert brain.connect(2, b"127.0.0.1", 2)


def test_too_many_tasks_or_abilities() -> None:
    brain = JobServer(IDENTITY, Limits(tasks=2))
    brain.connect(1, b"127.0.0.1", 1)
    assert tell(brain, 1, (T.CAN_DO, b"a"), (T.CAN_DO, b"b")) == []
    assert tell(brain, 1, (T.SUBMIT_JOB, b"c", b"", b"")) == [(1, pack(T.ERROR, b"QUEUE_ERROR", b"Job queue is full"))]
    assert brain.receive(1, [TextLine(b"create function c")], 0) == [(1, b"ERR CREATE_FUNCTION c\r\n")]
    assert tell(brain, 1, (T.CAN_DO, b"a")) == [(1, None)]


def test_the_clock_is_an_argument(brain: JobServer) -> None:
    tell(brain, WORKER, (T.CAN_DO, b"t"), (T.PRE_SLEEP,))
    assert brain.next_due_s is None
    created = [(CLIENT, pack(T.JOB_CREATED, b"H:here:1"))]
    assert tell(brain, CLIENT, (T.SUBMIT_JOB_EPOCH, b"t", b"u", b"100", b"d"), now_s=99) == created
    assert brain.next_due_s == 100
    assert brain.tick(99.9) == []
    assert brain.tick(100) == [(WORKER, pack(T.NOOP))]
    assert brain.next_due_s is None
    assert tell(brain, WORKER, (T.GRAB_JOB,)) == [(WORKER, pack(T.JOB_ASSIGN, b"H:here:1", b"t", b"d"))]


def test_whoever_asks_after_the_time_gets_the_job_without_a_tick(brain: JobServer) -> None:
    tell(brain, CLIENT, (T.SUBMIT_JOB_EPOCH, b"t", b"u", b"100", b"d"))
    assert tell(brain, WORKER, (T.CAN_DO, b"t"), (T.GRAB_JOB,), now_s=99) == [(WORKER, pack(T.NO_JOB))]
    assert tell(brain, WORKER, (T.GRAB_JOB,), now_s=100)[0][1] == pack(T.JOB_ASSIGN, b"H:here:1", b"t", b"d")


def test_a_far_away_moment_is_far_away(brain: JobServer) -> None:
    tell(brain, CLIENT, (T.SUBMIT_JOB_EPOCH, b"t", b"u", b"9" * 40, b"d"))
    assert brain.next_due_s is not None
    assert brain.next_due_s > 10**18


def test_an_oversized_submit_is_refused(brain: JobServer) -> None:
    refusal = pack(T.ERROR, b"ARGUMENT_TOO_LARGE", b"Packet of 99 bytes is too large")
    assert brain.receive(CLIENT, [Oversized(T.SUBMIT_JOB, [b"t", b"u"], 99)], 0) == [(CLIENT, refusal)]


@pytest.mark.parametrize(
    ("packet_type", "ends"), [(T.WORK_COMPLETE, True), (T.WORK_EXCEPTION, True), (T.WORK_DATA, False)]
)
def test_an_oversized_end_fails_its_job(brain: JobServer, packet_type: PacketType, ends: bool) -> None:
    tell(brain, CLIENT, (T.SUBMIT_JOB, b"t", b"u", b"d"))
    tell(brain, WORKER, (T.CAN_DO, b"t"), (T.GRAB_JOB,))
    refusal = pack(T.ERROR, b"ARGUMENT_TOO_LARGE", b"Packet of 99 bytes is too large")
    expected: Outputs = [(WORKER, refusal)]
    if ends:
        expected.append((CLIENT, pack(T.WORK_FAIL, b"H:here:1")))
    assert brain.receive(WORKER, [Oversized(packet_type, [b"H:here:1"], 99)], 0) == expected
    assert (b"H:here:1" in brain.store.jobs) is not ends


def test_the_identity_is_what_it_says_of_itself(brain: JobServer) -> None:
    lines = [TextLine(b"version"), TextLine(b"getpid"), TextLine(b"verbose")]
    assert [data for _, data in brain.receive(CLIENT, lines, 0)] == [b"OK 1.0\n", b"OK 7\n", b"OK INFO\n"]


def test_a_later_job_counts_as_queued(brain: JobServer) -> None:
    tell(brain, CLIENT, (T.SUBMIT_JOB_EPOCH, b"t", b"u", b"100", b"d"))
    assert brain.receive(CLIENT, [TextLine(b"prioritystatus")], 0) == [(CLIENT, b"t\t0\t1\t0\t0\n.\n")]


_ARGUMENT = st.sampled_from(
    [b"", b"a", b"b", b"-", b"u", b"H:here:1", b"H:here:2", b"1", b"-7", b"x" * 70, b"exceptions"]
)
_PACKETS = st.sampled_from(sorted(PACKETS)).flatmap(
    lambda number: st.tuples(st.just(PacketType(number)), st.lists(_ARGUMENT, min_size=8, max_size=8))
)
_LINES = st.lists(
    st.sampled_from(
        [
            b"status",
            b"cancel",
            b"job",
            b"H:here:1",
            b"maxqueue",
            b"a",
            b"2",
            b"drop",
            b"create",
            b"function",
            b"show",
            b"workers",
        ]
    ),
    max_size=7,
).map(lambda words: TextLine(b" ".join(words)))
_STEPS = st.lists(
    st.tuples(st.sampled_from([CLIENT, WORKER, OTHER]), st.one_of(_PACKETS, _LINES, st.none())), max_size=50
)


@settings(max_examples=150, deadline=None)
@given(steps=_STEPS)
def test_no_order_of_packets_breaks_it(steps: list[tuple[int, Any]]) -> None:
    """Every answer is a packet that the codec reads, or text; and what only a job server sends is always refused."""
    brain = JobServer(IDENTITY)
    for connection in (CLIENT, WORKER, OTHER):
        brain.connect(connection, b"127.0.0.1", connection)
    for now_s, (connection, step) in enumerate(steps):
        if step is None:
            outputs = brain.disconnect(connection)
            assert brain.connect(connection, b"127.0.0.1", connection)
        elif isinstance(step, TextLine):
            outputs = brain.receive(connection, [step], now_s)
        else:
            packet_type, arguments = step
            outputs = tell(
                brain, connection, (packet_type, *arguments[: len(PACKETS[packet_type].arguments)]), now_s=now_s
            )
            if PACKETS[packet_type].senders == Sender.SERVER:
                assert outputs[-1] == (connection, pack(T.ERROR, b"INVALID_COMMAND", b"Command not expected"))
        for _, data in outputs:
            if data is not None and data.startswith(b"\0"):
                (event,) = Decoder(RESPONSE_MAGIC).feed(data)
                assert isinstance(event, Packet)
                assert PACKETS[event.type].senders & Sender.SERVER


def test_it_takes_what_our_codec_sends(brain: JobServer) -> None:
    decoder = Decoder(REQUEST_MAGIC)
    events = decoder.feed(encode_request(T.SUBMIT_JOB_BG, b"t", b"u", b"\0d") + b"status\r\n")
    assert brain.receive(CLIENT, events, 0) == [
        (CLIENT, pack(T.JOB_CREATED, b"H:here:1")),
        (CLIENT, b"t\t1\t0\t0\n.\n"),
    ]


def test_a_clients_requests_and_their_answers(brain: JobServer) -> None:
    assert tell(brain, CLIENT, (T.OPTION_REQ, b"Exceptions"), (T.OPTION_REQ, b"x")) == [
        (CLIENT, pack(T.OPTION_RES, b"Exceptions")),
        (CLIENT, pack(T.ERROR, b"UNKNOWN_OPTION", b"Server does not recognize given option")),
    ]
    assert tell(brain, CLIENT, (T.SUBMIT_JOB_BG, b"t", b"u" * 65, b""), (T.SUBMIT_JOB_HIGH, b"t", b"u" * 64, b"")) == [
        (CLIENT, pack(T.ERROR, b"ARGUMENT_TOO_LARGE", b"Unique value too large")),
        (CLIENT, pack(T.JOB_CREATED, b"H:here:1")),
    ]
    assert tell(brain, CLIENT, (T.GET_STATUS, b"H:here:1\0"), (T.GET_STATUS, b"H:here:2")) == [
        (CLIENT, pack(T.STATUS_RES, b"H:here:1", b"1", b"0", b"0", b"0")),
        (CLIENT, pack(T.STATUS_RES, b"H:here:2", b"0", b"0", b"0", b"0")),
    ]
    assert tell(brain, OTHER, (T.GET_STATUS_UNIQUE, b"u" * 64), (T.GET_STATUS_UNIQUE, b"x")) == [
        (OTHER, pack(T.STATUS_RES_UNIQUE, b"u" * 64, b"1", b"0", b"0", b"0", b"1")),
        (OTHER, pack(T.STATUS_RES_UNIQUE, b"x", b"0", b"0", b"0", b"0", b"0")),
    ]


def test_a_workers_requests_and_their_answers(brain: JobServer) -> None:
    tell(brain, CLIENT, (T.SUBMIT_REDUCE_JOB, b"t", b"u", b"sum", b"", b"d"), (T.SUBMIT_JOB_LOW, b"t", b"v", b"d"))
    assert tell(
        brain,
        WORKER,
        (T.SET_CLIENT_ID, b"an id" + b"x" * 200),
        (T.CAN_DO_TIMEOUT, b"t", b"1"),
        (T.PRE_SLEEP,),
        (T.GRAB_JOB_ALL,),
        (T.GRAB_JOB_UNIQ,),
        (T.WORK_STATUS, b"H:here:1", b"1", b"-1"),
    ) == [
        (WORKER, pack(T.NOOP)),
        (WORKER, pack(T.JOB_ASSIGN_ALL, b"H:here:1", b"t", b"u", b"sum", b"d")),
        (WORKER, pack(T.JOB_ASSIGN_UNIQ, b"H:here:2", b"t", b"v", b"d")),
        (CLIENT, pack(T.WORK_STATUS, b"H:here:1", b"1", b"-1")),
    ]
    job = brain.store.jobs[b"H:here:1"]
    assert (job.numerator, job.denominator) == (1, 2**32 - 1)
    assert tell(brain, WORKER, (T.WORK_WARNING, b"H:here:1", b"w"), (T.WORK_FAIL, b"H:here:1")) == [
        (CLIENT, pack(T.WORK_WARNING, b"H:here:1", b"w")),
        (CLIENT, pack(T.WORK_FAIL, b"H:here:1")),
    ]
    workers = brain.receive(OTHER, [TextLine(b"workers")], 0)[0][1]
    assert workers is not None
    assert b"2 127.0.0.1 an id" + b"x" * 122 + b" : t\n" in workers


def test_an_exception_reaches_each_client_as_it_asked(brain: JobServer) -> None:
    tell(brain, CLIENT, (T.OPTION_REQ, b"exceptions"), (T.SUBMIT_JOB, b"t", b"u", b"d"))
    tell(brain, OTHER, (T.SUBMIT_JOB, b"t", b"u", b"d"), (T.SUBMIT_JOB, b"t", b"u", b"d"))
    tell(brain, WORKER, (T.CAN_DO, b"t"), (T.GRAB_JOB,))
    assert tell(brain, WORKER, (T.WORK_EXCEPTION, b"H:here:1", b"e")) == [
        (CLIENT, pack(T.WORK_EXCEPTION, b"H:here:1", b"e")),
        (OTHER, pack(T.WORK_FAIL, b"H:here:1")),
        (OTHER, pack(T.WORK_FAIL, b"H:here:1")),
    ]


@pytest.mark.parametrize("packet", [(T.CANT_DO, b"t"), (T.RESET_ABILITIES,)])
def test_a_job_given_back_wakes_a_sleeper(brain: JobServer, packet: tuple[Any, ...]) -> None:
    tell(brain, CLIENT, (T.SUBMIT_JOB_BG, b"t", b"", b"d"))
    tell(brain, WORKER, (T.CAN_DO, b"t"), (T.GRAB_JOB,), (T.CANT_DO, b"unknown"))
    tell(brain, OTHER, (T.CAN_DO, b"t"), (T.PRE_SLEEP,))
    assert tell(brain, WORKER, packet) == [(OTHER, pack(T.NOOP))]


@pytest.mark.parametrize("packet_type", [t for t in PacketType if t.name.startswith("WORK_")])
def test_updates_of_a_job_that_is_not_held_are_refused(brain: JobServer, packet_type: PacketType) -> None:
    arguments = [b"H:here:1" for _ in PACKETS[packet_type].arguments]
    ((connection, data),) = tell(brain, WORKER, (packet_type, *arguments))
    assert connection == WORKER
    assert data is not None
    assert data.startswith(pack(T.ERROR, b"")[:8])
    assert b"JOB_NOT_FOUND\0" in data
