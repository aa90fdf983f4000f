"""The worker's side of a connection: its state machine by table, and against a small job server in every weather."""

from __future__ import annotations

import random
import struct
from collections import deque

import pytest

from gearworker.errors import InvalidWorkerState, ProtocolError
from gearworker.protocol.codec import Decoder, encode_request, encode_response
from gearworker.protocol.packets import REQUEST_MAGIC, RESPONSE_MAGIC, Packet, PacketType
from gearworker.protocol.worker import (
    Echoed,
    GrabUnanswered,
    JobAssigned,
    JobTooLarge,
    Refused,
    WorkerProtocol,
)

_T = PacketType
NO_JOB = encode_response(_T.NO_JOB)
NOOP = encode_response(_T.NOOP)
GRAB_UNIQ = encode_request(_T.GRAB_JOB_UNIQ)
GRAB = encode_request(_T.GRAB_JOB)


def assign(handle: bytes, data: bytes = b"", unique: bytes = b"u") -> bytes:
    return encode_response(_T.JOB_ASSIGN_UNIQ, handle, b"t", unique, data)


def refuse(code: bytes, text: bytes = b"why") -> bytes:
    return encode_response(_T.ERROR, code, text)


def protocol(max_grabs: int = 8) -> WorkerProtocol:
    return WorkerProtocol([b"t"], max_grabs=max_grabs)


def holding(*handles: bytes) -> WorkerProtocol:
    """A protocol that holds these jobs and has no grab open."""
    made = protocol(max_grabs=len(handles))
    made.grab(len(handles))
    made.receive(b"".join(map(assign, handles)))
    return made


# ---------------------------------------------------------------------- hello


def test_hello_says_who_and_registers_the_most_urgent_task_last() -> None:
    made = WorkerProtocol([b"urgent", b"later"], b"me")
    assert made.hello() == (
        encode_request(_T.SET_CLIENT_ID, b"me") + encode_request(_T.CAN_DO, b"later")
        + encode_request(_T.CAN_DO, b"urgent")
    )  # fmt: skip


def test_hello_without_a_client_id_sends_none() -> None:
    assert protocol().hello() == encode_request(_T.CAN_DO, b"t")


def test_hello_refuses_a_name_that_gearmand_would_not_take() -> None:
    with pytest.raises(ProtocolError, match="task is empty"):
        WorkerProtocol([b""]).hello()


# ---------------------------------------------------------------------- grabbing


def test_the_wish_starts_at_one_and_grows_with_each_job_up_to_the_limit() -> None:
    made, asked = protocol(max_grabs=8), list[int]()
    for turn in range(6):
        wanted = made.wanted
        asked.append(wanted)
        assert made.grab(wanted) == GRAB_UNIQ * wanted
        assert made.wanted == 0
        made.receive(b"".join(assign(b"H:%d:%d" % (turn, n)) for n in range(wanted)))
    assert asked == [1, 2, 4, 8, 8, 8]


def test_the_first_no_job_sets_the_wish_back_and_stops_grabbing() -> None:
    made = protocol()
    made.grab(1)
    made.receive(assign(b"H:1"))
    made.grab(2)
    assert made.receive(assign(b"H:2") + NO_JOB)[-1] == GrabUnanswered(1)
    assert (made.wanted, made.grabs) == (0, 0)
    made.receive(NOOP)
    assert made.wanted == 1


def test_a_job_after_a_no_job_makes_it_grab_again() -> None:
    made = protocol()
    made.grab(3)
    made.receive(NO_JOB)
    assert made.wanted == 0
    made.receive(assign(b"H:1"))
    assert made.wanted <= 2 - made.grabs + 1
    made.receive(NO_JOB)
    assert made.may_sleep
    made.receive(NOOP)
    assert made.wanted == 1


def test_unanswered_grabs_are_counted_once_for_each_receive() -> None:
    made = protocol()
    made.grab(3)
    assert made.receive(NO_JOB + assign(b"H:1", b"d") + NO_JOB) == [
        JobAssigned(b"H:1", b"t", b"u", b"d"), GrabUnanswered(2)
    ]  # fmt: skip


# ---------------------------------------------------------------------- sleeping


def test_it_sleeps_only_after_no_job_and_with_no_grab_open() -> None:
    made = protocol()
    assert not made.may_sleep
    made.grab(2)
    assert not made.may_sleep
    made.receive(NO_JOB)
    assert not made.may_sleep
    made.receive(NO_JOB)
    assert made.may_sleep
    assert made.sleep() == encode_request(_T.PRE_SLEEP)
    assert made.asleep
    assert not made.may_sleep
    assert made.wanted == 0


def asleep() -> WorkerProtocol:
    made = protocol()
    made.grab(1)
    made.receive(NO_JOB)
    made.sleep()
    return made


def test_a_noop_wakes_it_and_it_does_not_sleep_again_before_a_grab() -> None:
    made = asleep()
    assert made.receive(NOOP) == []
    assert (made.asleep, made.wanted, made.may_sleep) == (False, 1, False)


def test_a_probe_wakes_it_without_a_noop() -> None:
    made = asleep()
    made.probe()
    assert (made.asleep, made.wanted, made.may_sleep, made.fruitless_wakes) == (False, 1, False, 0)


def test_a_noop_that_crosses_a_grab_costs_one_more_grab() -> None:
    made = asleep()
    made.probe()
    made.grab(1)
    made.receive(NOOP + NO_JOB)
    assert made.may_sleep
    made = asleep()
    made.probe()
    made.grab(1)
    made.receive(NO_JOB + NOOP)
    assert not made.may_sleep
    assert made.wanted == 1


def test_fruitless_wakes_are_counted_until_a_job_comes() -> None:
    made = asleep()
    for count in (1, 2, 3):
        made.receive(NOOP)
        assert made.fruitless_wakes == count
        made.grab(1)
        made.receive(NO_JOB)
        made.sleep()
    made.receive(NOOP + NOOP)
    assert made.fruitless_wakes == 4
    made.grab(1)
    made.receive(assign(b"H:1"))
    assert made.fruitless_wakes == 0


# ---------------------------------------------------------------------- draining


def test_draining_it_neither_grabs_nor_sleeps_and_is_idle_when_all_is_answered() -> None:
    made = protocol()
    made.grab(2)
    made.drain()
    assert made.wanted == 0
    made.receive(assign(b"H:1"))
    assert not made.idle
    made.receive(NO_JOB)
    assert not made.idle
    assert not made.may_sleep
    made.finish(_T.WORK_COMPLETE, b"H:1")
    assert made.idle
    made.receive(NOOP)
    assert made.wanted == 0


def test_a_new_protocol_is_idle() -> None:
    assert protocol().idle


# ---------------------------------------------------------------------- jobs held


@pytest.mark.parametrize(
    ("packet_type", "data"), [(_T.WORK_COMPLETE, b"result"), (_T.WORK_EXCEPTION, b"why"), (_T.WORK_FAIL, b"")]
)
def test_a_job_is_finished_once(packet_type: PacketType, data: bytes) -> None:
    made = holding(b"H:1")
    packet = made.finish(packet_type, b"H:1", data)
    args = [b"H:1"] if packet_type is _T.WORK_FAIL else [b"H:1", data]
    assert packet == encode_request(packet_type, *args)
    assert made.held == set()
    with pytest.raises(InvalidWorkerState, match=f"H:1 has ended already; {packet_type.name} comes too late"):
        made.finish(packet_type, b"H:1", data)


def test_updates_go_out_while_the_job_is_held_and_not_after() -> None:
    made = holding(b"H:1")
    assert made.update(_T.WORK_DATA, b"H:1", b"x\0y") == encode_request(_T.WORK_DATA, b"H:1", b"x\0y")
    assert made.update(_T.WORK_WARNING, b"H:1", b"w") == encode_request(_T.WORK_WARNING, b"H:1", b"w")
    assert made.update(_T.WORK_STATUS, b"H:1", b"1", b"3") == encode_request(_T.WORK_STATUS, b"H:1", b"1", b"3")
    made.finish(_T.WORK_COMPLETE, b"H:1")
    with pytest.raises(InvalidWorkerState, match="H:1 has ended; WORK_DATA comes too late"):
        made.update(_T.WORK_DATA, b"H:1", b"x")
    with pytest.raises(InvalidWorkerState, match="H:2 has ended"):
        made.update(_T.WORK_STATUS, b"H:2", b"1", b"2")


def test_a_handle_longer_than_gearmands_is_answered_as_it_came() -> None:
    handle = b"H:" + b"long-host-name." * 5 + b":1"
    made = protocol()
    made.grab(2)
    for name in (handle, handle + b"2"):
        body = name + b"\0t\0u\0data"
        made.receive(struct.pack(">4sII", RESPONSE_MAGIC, _T.JOB_ASSIGN_UNIQ, len(body)) + body)
    assert made.update(_T.WORK_STATUS, handle, b"1", b"2").endswith(handle + b"\0001\0002")
    assert made.finish(_T.WORK_FAIL, handle).endswith(handle)
    assert made.finish(_T.WORK_COMPLETE, handle + b"2", b"r").endswith(handle + b"2\0r")


def test_a_handle_may_come_again_after_its_job_has_ended() -> None:
    made = holding(b"H:1")
    made.finish(_T.WORK_COMPLETE, b"H:1")
    made.grab(1)
    made.receive(assign(b"H:1"))
    assert made.held == {b"H:1"}


def test_a_job_too_large_is_held_so_that_it_can_be_failed() -> None:
    made = WorkerProtocol([b"t"], max_packet_bytes=2000)
    made.grab(1)
    (event,) = made.receive(assign(b"H:1", b"x" * 3000))
    assert event == JobTooLarge(b"H:1", b"t", b"u", 3000 + 8)
    assert made.finish(_T.WORK_FAIL, b"H:1") == encode_request(_T.WORK_FAIL, b"H:1")
    assert made.idle


def test_a_job_too_large_without_a_unique() -> None:
    made = WorkerProtocol([b"t"], max_packet_bytes=2000)
    made.grab(1)
    (event,) = made.receive(encode_response(_T.JOB_ASSIGN, b"H:1", b"t", b"x" * 3000))
    assert event == JobTooLarge(b"H:1", b"t", b"", 3000 + 6)


# ---------------------------------------------------------------------- errors


def test_job_not_found_answers_nothing_and_leaves_the_grab_open() -> None:
    made = protocol()
    made.grab(1)
    assert made.receive(refuse(b"JOB_NOT_FOUND")) == [Refused(b"JOB_NOT_FOUND", b"why")]
    assert made.grabs == 1
    made.receive(assign(b"H:1"))


def test_an_error_with_nothing_open_is_reported() -> None:
    assert protocol().receive(refuse(b"INVALID_COMMAND")) == [Refused(b"INVALID_COMMAND", b"why")]


def test_an_error_answers_the_oldest_open_request() -> None:
    made = protocol()
    made.echo(b"e")
    made.grab(1)
    made.receive(refuse(b"SOMETHING"))
    assert made.grabs == 1
    made.receive(NO_JOB)


def test_a_job_server_without_grab_job_uniq_gets_grab_job() -> None:
    made = protocol()
    assert made.grab(1) == GRAB_UNIQ
    assert made.receive(refuse(b"server_error")) == [Refused(b"server_error", b"why"), GrabUnanswered(1)]
    assert made.wanted == 1
    assert made.grab(1) == GRAB
    assert made.receive(encode_response(_T.JOB_ASSIGN, b"H:1", b"t", b"d")) == [JobAssigned(b"H:1", b"t", b"", b"d")]
    made.grab(1)
    with pytest.raises(ProtocolError, match="refuses GRAB_JOB: server_error why"):
        made.receive(refuse(b"server_error"))


def test_the_fall_back_waits_until_all_open_grabs_are_refused() -> None:
    made = protocol()
    made.grab(2)
    made.receive(refuse(b"server_error"))
    assert made.grab(0) == b""
    made.receive(refuse(b"server_error"))
    assert made.grab(1) == GRAB


def test_a_job_server_that_knows_only_grab_job_is_told_of_the_end_after_an_exception() -> None:
    made = protocol()
    made.grab(1)
    made.receive(refuse(b"server_error"))
    made.grab(1)
    made.receive(encode_response(_T.JOB_ASSIGN, b"H:1", b"t", b"d"))
    assert made.finish(_T.WORK_EXCEPTION, b"H:1", b"why") == (
        encode_request(_T.WORK_EXCEPTION, b"H:1", b"why") + encode_request(_T.WORK_FAIL, b"H:1")
    )


# ---------------------------------------------------------------------- answers that can't be


@pytest.mark.parametrize(
    ("prepare", "stream", "reason"),
    [
        ("", assign(b"H:1"), "JOB_ASSIGN_UNIQ came without a grab"),
        ("", NO_JOB, "NO_JOB came without a grab"),
        ("e", NO_JOB, "NO_JOB came without a grab"),
        ("eg", assign(b"H:1"), "JOB_ASSIGN_UNIQ came without a grab"),
        ("g", encode_response(_T.ECHO_RES, b""), "ECHO_RES came out of order"),
        ("", encode_response(_T.ECHO_RES, b""), "ECHO_RES came out of order"),
        ("gg", assign(b"H:1") * 2, "job H:1 was assigned while it is held"),
        ("", encode_response(_T.JOB_CREATED, b"H:1"), "JOB_CREATED is no packet for a worker"),
        ("", encode_response(_T.GRAB_JOB), "GRAB_JOB is no packet for a worker"),
        ("", b"OK\r\n", "a line of text came"),
        ("", b"\0RES\xff\0\0\0\0\0\0\0", "packet type 4278190080 is unknown"),
        ("", encode_response(_T.ERROR, b"E", b"x" * 3000), "ERROR came with 3002 bytes, over the limit"),
        ("", assign(b"H:1", b"x" * 3000), "JOB_ASSIGN_UNIQ came without a grab"),
    ],
)
def test_an_answer_that_cannot_be_breaks_the_connection(prepare: str, stream: bytes, reason: str) -> None:
    made = WorkerProtocol([b"t"], max_grabs=8, max_packet_bytes=2000)
    for request in prepare:
        made.grab(1) if request == "g" else made.echo(b"")
    with pytest.raises(ProtocolError, match=reason):
        made.receive(stream)


@pytest.mark.parametrize("end", [NO_JOB * 9, b"bye\n", assign(b"H:1"), struct.pack(">4sII", b"\0RES", 99, 0)])
def test_grabs_answered_in_a_broken_batch_count_as_open_because_nobody_heard_of_the_jobs(end: bytes) -> None:
    made = protocol()
    made.grab(5)
    with pytest.raises(ProtocolError):
        made.receive(assign(b"H:1") + NO_JOB + assign(b"H:2") + end)
    assert made.grabs == 5


def test_answers_come_in_the_order_of_the_requests() -> None:
    made = protocol()
    made.grab(1)
    assert made.echo(b"one") == encode_request(_T.ECHO_REQ, b"one")
    made.grab(1)
    assert made.receive(assign(b"H:1") + encode_response(_T.ECHO_RES, b"one") + NO_JOB) == [
        JobAssigned(b"H:1", b"t", b"u", b""), Echoed(b"one"), GrabUnanswered(1)
    ]  # fmt: skip


def test_an_option_answer_is_let_pass() -> None:
    assert protocol().receive(encode_response(_T.OPTION_RES, b"exceptions")) == []


# ---------------------------------------------------------------------- against a model of the job server


class ModelJobServer:
    """gearmand's rules of waking: a NOOP to sleepers on a new job, one each, until they grab."""

    def __init__(self) -> None:
        self.queue: deque[bytes] = deque()
        self.running: set[bytes] = set()
        self.done: list[bytes] = []
        self.sleeping = self.noop_sent = False
        self.out = bytearray()
        self.grabs_seen = 0
        self._decoder = Decoder(REQUEST_MAGIC)

    def submit(self, handle: bytes) -> None:
        self.queue.append(handle)
        self._wake()

    def steal(self) -> None:
        """Another worker takes a job."""
        if self.queue:
            self.done.append(self.queue.popleft())

    def _wake(self) -> None:
        if self.queue and self.sleeping and not self.noop_sent:
            self.noop_sent = True
            self.out += NOOP

    def receive(self, data: bytes) -> None:
        for event in self._decoder.feed(data):
            assert isinstance(event, Packet)
            if event.type is _T.GRAB_JOB_UNIQ:
                self.sleeping = self.noop_sent = False
                self._answer_grab()
            elif event.type is _T.PRE_SLEEP:
                self.sleeping = True
                self._wake()
            elif event.type is _T.WORK_COMPLETE:
                self.running.remove(event.args[0])
                self.done.append(event.args[0])
            else:
                assert event.type is _T.CAN_DO

    def _answer_grab(self) -> None:
        if self.queue:
            handle = self.queue.popleft()
            self.running.add(handle)
            self.out += assign(handle)
        else:
            self.out += NO_JOB


class Conversation:
    """A worker protocol and the model, with bytes under way in both directions, cut anywhere."""

    def __init__(self, rng: random.Random, slots: int) -> None:
        self.rng, self.slots, self.free = rng, slots, slots
        self.server, self.worker = ModelJobServer(), WorkerProtocol([b"t"], max_grabs=slots)
        self.to_server = bytearray(self.worker.hello())
        self.held: list[bytes] = []
        self.submitted = 0

    def step(self, *, calm: bool) -> None:
        act = self.rng.choice(["up", "down", "grab", "finish"] if calm else [
            "up", "down", "grab", "finish", "submit", "submit", "steal", "probe",
        ])  # fmt: skip
        getattr(self, act)()
        self.check()

    def up(self) -> None:
        data = self._cut(self.to_server)
        self.server.receive(data)

    def down(self) -> None:
        for event in self.worker.receive(self._cut(self.server.out)):
            if isinstance(event, JobAssigned):
                self.held.append(event.handle)
            elif isinstance(event, GrabUnanswered):
                self.free += event.grabs
        if self.worker.may_sleep:
            self.to_server += self.worker.sleep()

    def _cut(self, stream: bytearray) -> bytes:
        size = len(stream) if self.rng.random() < 0.5 else self.rng.randrange(len(stream) + 1)
        data = bytes(stream[:size])
        del stream[:size]
        return data

    def grab(self) -> None:
        count = min(self.worker.wanted, self.free)
        if count > 0:
            self.free -= count
            self.to_server += self.worker.grab(count)

    def finish(self) -> None:
        if self.held:
            handle = self.held.pop(self.rng.randrange(len(self.held)))
            self.to_server += self.worker.finish(_T.WORK_COMPLETE, handle)
            self.free += 1

    def submit(self) -> None:
        self.submitted += 1
        self.server.submit(b"H:%d" % self.submitted)

    def steal(self) -> None:
        self.server.steal()

    def probe(self) -> None:
        if self.worker.asleep and self.rng.random() < 0.1:
            self.worker.probe()

    def check(self) -> None:
        assert 0 <= self.free <= self.slots
        assert self.worker.grabs + len(self.held) + self.free == self.slots
        assert self.worker.wanted <= self.slots
        assert not (self.worker.asleep and self.worker.grabs)
        assert not (self.worker.asleep and self.worker.may_sleep)

    @property
    def at_rest(self) -> bool:
        return not (self.to_server or self.server.out or self.held or self.worker.grabs or self.worker.wanted > 0)


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_no_wake_up_is_lost_and_no_slot_either_whatever_crosses_on_the_wire(slots: int) -> None:
    for seed in range(150):
        talk = Conversation(random.Random(seed * 10 + slots), slots)
        for _ in range(200):
            talk.step(calm=False)
        for _ in range(5000):
            if talk.at_rest:
                break
            talk.step(calm=True)
        assert talk.at_rest, seed
        # Without a single probe in the calm: whatever was submitted has been run, and the worker sleeps, wakeable.
        assert talk.worker.asleep, seed
        assert talk.server.sleeping, seed
        assert sorted(talk.server.done) == sorted(b"H:%d" % n for n in range(1, talk.submitted + 1)), seed
        assert talk.free == slots
        assert talk.worker.idle


def test_a_drain_in_every_weather_leaves_nothing_held() -> None:
    for seed in range(150):
        talk = Conversation(random.Random(seed), 4)
        for _ in range(120):
            talk.step(calm=False)
        talk.worker.drain()
        grabbed = talk.worker.grabs
        for _ in range(3000):
            if talk.worker.idle and not talk.to_server:
                break
            talk.step(calm=True)
            assert talk.worker.grabs <= grabbed
        assert talk.worker.idle
        assert talk.server.running == set()


def test_the_model_speaks_the_job_servers_side() -> None:
    server = ModelJobServer()
    server.receive(encode_request(_T.CAN_DO, b"t") + encode_request(_T.PRE_SLEEP))
    server.submit(b"H:1")
    server.submit(b"H:2")
    assert bytes(server.out) == NOOP
    assert Decoder(RESPONSE_MAGIC).feed(bytes(server.out)) == [Packet(_T.NOOP, [])]
