"""A session over a connection that is a list and a queue: what it says, in which order, and what it never says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original
from gevent.queue import SimpleQueue

from gearworker.errors import ConnectionLost, InvalidWorkerState
from gearworker.job import GearmanJob
from gearworker.protocol.codec import Decoder, encode_response
from gearworker.protocol.packets import REQUEST_MAGIC, Packet, PacketType
from gearworker.protocol.worker import WorkerProtocol
from gearworker.worker import session as session_module
from gearworker.worker.pool import Pool
from gearworker.worker.session import LinkSettings, Session

_T = PacketType
NO_JOB = encode_response(_T.NO_JOB)
NOOP = encode_response(_T.NOOP)
REGISTERED = encode_response(_T.ECHO_RES, b"registered")
_NEVER = {_T.CANT_DO, _T.RESET_ABILITIES, _T.CAN_DO_TIMEOUT}


def assign(handle: bytes, data: bytes = b"", task: bytes = b"t", unique: bytes = b"u") -> bytes:
    return encode_response(_T.JOB_ASSIGN_UNIQ, handle, task, unique, data)


class FakeConnection:
    """What was written is decoded at once; what is to be read is put into a queue."""

    address = "there:4730"

    def __init__(self) -> None:
        self.closed, self.close_reason = False, ""
        self.unsent_bytes, self.high_water_bytes = 0, 1000
        self.waited = 0
        self.sent: list[Packet] = []
        self._decoder = Decoder(REQUEST_MAGIC)
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()

    def recv(self) -> bytes:
        data = None if self.closed else self._inbox.get()
        if data is None:
            self.close("the peer closed the connection")
            raise ConnectionLost(self.address, self.close_reason)
        return data

    def put(self, *data: bytes | None) -> None:
        for one in data:
            self._inbox.put(one)
        turn()

    def write(self, data: bytes) -> None:
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)
        for packet in self._decoder.feed(data):
            assert isinstance(packet, Packet)
            assert packet.type not in _NEVER
            self.sent.append(packet)

    def wait_writable(self) -> None:
        self.waited += 1
        self.unsent_bytes = 0
        if self.closed:
            raise ConnectionLost(self.address, self.close_reason)

    def close(self, reason: str = "closed") -> None:
        if not self.closed:
            self.closed, self.close_reason = True, reason
            self._inbox.put(None)

    def take(self) -> list[tuple[Any, ...]]:
        """What was sent since the last look, as (name, arguments...)."""
        taken = [(packet.type.name, *packet.args) for packet in self.sent]
        self.sent.clear()
        return taken


def turn() -> None:
    for _ in range(4):
        gevent.sleep(0)


class House:
    """A pool and one session in it."""

    def __init__(self, run: Callable[[GearmanJob], Any] | None = None, concurrency: int = 4, **settings: Any) -> None:
        self.settings = LinkSettings(**settings)
        self.pool = Pool("p", concurrency, run or self.complete)
        self.jobs: list[GearmanJob] = []
        self.up = 0
        self.updates: list[tuple[Any, ...]] = []
        self.connection = FakeConnection()
        self.protocol = WorkerProtocol(
            [b"t"], b"me", max_grabs=concurrency, max_packet_bytes=self.settings.max_packet_bytes
        )
        connection: Any = self.connection
        self.session = Session(
            connection, self.protocol, self.pool, {b"t": "t"}, self.settings,
            on_registered=self.registered, after_update=(lambda *args: self.updates.append(args),),
        )  # fmt: skip
        self.pool.join(self.session)
        self.serving = gevent.spawn(self.session.serve)
        turn()

    def registered(self) -> None:
        self.up += 1

    def complete(self, job: GearmanJob) -> None:
        self.jobs.append(job)
        self.session.finish(job, _T.WORK_COMPLETE, b"done " + job.data)

    def end(self) -> None:
        self.session.close("over")
        self.serving.join(timeout=5)
        self.pool.kill()


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(*args: Any, **settings: Any) -> House:
        made.append(House(*args, **settings))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the session's clock on."""
    now = [1000.0]
    monkeypatch.setattr(session_module, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


# ---------------------------------------------------------------------- registration and jobs


def test_it_registers_asks_for_an_echo_and_grabs_in_the_first_turn(house: Callable[..., House]) -> None:
    made = house()
    assert made.connection.take() == [
        ("SET_CLIENT_ID", b"me"), ("CAN_DO", b"t"), ("ECHO_REQ", b"registered"), ("GRAB_JOB_UNIQ",)
    ]  # fmt: skip
    assert not made.session.registered
    made.connection.put(REGISTERED)
    assert made.session.registered
    assert made.up == 1


def test_a_job_is_run_answered_and_followed_by_more_grabs_in_the_same_turn(house: Callable[..., House]) -> None:
    made = house()
    made.connection.put(REGISTERED)
    made.connection.take()
    made.connection.put(assign(b"H:1", b"x"))
    (job,) = made.jobs
    assert (job.handle, job.task, job.unique, job.data, job.data_bytes) == ("H:1", "t", "u", b"x", 1)
    assert job.connection is made.session
    assert made.connection.take() == [("WORK_COMPLETE", b"H:1", b"done x"), ("GRAB_JOB_UNIQ",), ("GRAB_JOB_UNIQ",)]


def test_a_job_without_a_unique_has_none_and_an_odd_handle_comes_back_as_it_was(house: Callable[..., House]) -> None:
    made = house()
    made.connection.put(REGISTERED, assign(b"H:\xff:1", b"", unique=b""))
    assert made.jobs[0].unique is None
    assert ("WORK_COMPLETE", b"H:\xff:1", b"done ") in made.connection.take()


def test_a_job_of_a_task_not_served_is_failed_and_its_slot_is_free_again(
    house: Callable[..., House], caplog: pytest.LogCaptureFixture
) -> None:
    made = house()
    made.connection.put(REGISTERED)
    made.connection.take()
    made.connection.put(assign(b"H:1", task=b"stranger") + NO_JOB[:0])
    assert made.connection.take()[0] == ("WORK_FAIL", b"H:1")
    assert made.jobs == []
    assert "b'stranger', which is not served here" in caplog.text
    assert made.pool.free + made.protocol.grabs == 4


def test_a_job_too_large_is_failed_once_and_the_next_runs(
    house: Callable[..., House], caplog: pytest.LogCaptureFixture
) -> None:
    made = house(max_packet_bytes=2000)
    made.connection.put(REGISTERED)
    made.connection.take()
    big = assign(b"H:1", b"x" * 5000)
    made.connection.put(big[:3000], big[3000:])
    assert made.connection.take() == [("WORK_FAIL", b"H:1"), ("GRAB_JOB_UNIQ",), ("GRAB_JOB_UNIQ",)]
    assert "payload of 5008 bytes is over the limit of 2000" in caplog.text
    made.connection.put(assign(b"H:2"))
    assert made.connection.take()[0] == ("WORK_COMPLETE", b"H:2", b"done ")


def test_a_job_too_large_on_a_connection_that_has_just_ended_costs_no_slot(house: Callable[..., House]) -> None:
    made = house(max_packet_bytes=2000)
    made.session._on_registered = lambda: made.session.close("by a hook")
    made.connection.put(REGISTERED + assign(b"H:1", b"x" * 5000))
    assert made.serving.dead
    assert made.pool.free == 4


def test_an_error_packet_is_logged(house: Callable[..., House], caplog: pytest.LogCaptureFixture) -> None:
    made = house()
    made.connection.put(REGISTERED, encode_response(_T.ERROR, b"JOB_NOT_FOUND", b"Job given in work result not found"))
    assert "answered with an error: b'JOB_NOT_FOUND' b'Job given in work result not found'" in caplog.text


# ---------------------------------------------------------------------- sleeping


def test_it_sleeps_after_no_job_and_grabs_after_a_noop(house: Callable[..., House]) -> None:
    made = house()
    made.connection.put(REGISTERED)
    made.connection.take()
    made.connection.put(NO_JOB)
    assert made.connection.take() == [("PRE_SLEEP",)]
    assert made.pool.free == 4
    made.connection.put(NOOP)
    assert made.connection.take() == [("GRAB_JOB_UNIQ",)]


def test_a_woken_session_without_a_free_slot_grabs_when_one_is_freed(house: Callable[..., House]) -> None:
    go = Event()

    def run(job: GearmanJob) -> None:
        go.wait()
        job.connection.finish(job, _T.WORK_COMPLETE, b"")  # type: ignore[union-attr]

    made = house(run, 1)
    made.connection.put(REGISTERED, assign(b"H:1"))
    made.connection.take()
    made.connection.put(NOOP)
    assert made.connection.take() == []
    go.set()
    turn()
    assert made.connection.take() == [("WORK_COMPLETE", b"H:1", b""), ("GRAB_JOB_UNIQ",)]


def test_fruitless_wakes_make_it_rest_and_then_it_grabs_all_the_same(house: Callable[..., House]) -> None:
    made = house()
    made.connection.put(REGISTERED, NO_JOB)
    for _ in range(9):
        made.connection.put(NOOP)
        made.connection.put(NO_JOB)
    made.connection.take()
    made.connection.put(NOOP)
    assert made.connection.take() == []
    with gevent.Timeout(5):
        while not made.connection.sent:
            gevent.sleep(0.001)
    assert made.connection.take() == [("GRAB_JOB_UNIQ",)]


def test_a_sleeper_grabs_after_poll_s_in_any_case(clock: Callable[[float], None], house: Callable[..., House]) -> None:
    made = house(poll_s=10)
    made.connection.put(REGISTERED, NO_JOB)
    made.connection.take()
    clock(9)
    made.session.tick()
    turn()
    assert made.connection.take() == []
    clock(1)
    made.session.tick()
    turn()
    assert made.connection.take() == [("GRAB_JOB_UNIQ",)]


# ---------------------------------------------------------------------- a job server that is silent


def test_a_silent_job_server_is_asked_and_given_up_after_its_ticks(
    clock: Callable[[float], None], house: Callable[..., House]
) -> None:
    made = house(heartbeat_s=15, heartbeat_timeout_s=3, poll_s=1000)
    made.connection.put(REGISTERED, NO_JOB)
    made.connection.take()
    clock(14)
    made.session.tick()
    assert made.connection.take() == []
    clock(1)
    made.session.tick()
    assert made.connection.take() == [("ECHO_REQ", b"heartbeat")]
    for _ in range(3):
        clock(1)
        made.session.tick()
        assert not made.session.closed
    clock(1)
    made.session.tick()
    made.serving.join(timeout=5)
    assert made.serving.value == "no answer to a heartbeat within 3 s"
    made.session.tick()


def test_an_answered_heartbeat_keeps_the_connection(
    clock: Callable[[float], None], house: Callable[..., House]
) -> None:
    made = house(heartbeat_s=5, heartbeat_timeout_s=2, poll_s=1000)
    made.connection.put(REGISTERED, NO_JOB)
    for _ in range(5):
        clock(5)
        made.session.tick()
        assert made.connection.take()[-1] == ("ECHO_REQ", b"heartbeat")
        made.connection.put(encode_response(_T.ECHO_RES, b"heartbeat"))
    assert not made.session.closed


def test_a_hub_that_was_blocked_for_long_counts_as_one_tick(
    clock: Callable[[float], None], house: Callable[..., House]
) -> None:
    made = house(heartbeat_s=5, heartbeat_timeout_s=2, poll_s=1000)
    made.connection.put(REGISTERED, NO_JOB)
    clock(1000)
    made.session.tick()
    clock(1000)
    made.session.tick()
    assert not made.session.closed


def test_a_job_server_that_never_takes_the_registration_is_given_up(
    clock: Callable[[float], None], house: Callable[..., House]
) -> None:
    made = house(heartbeat_timeout_s=2)
    for _ in range(4):
        clock(1)
        made.session.tick()
    assert made.session.closed


def test_slots_of_a_stalled_job_server_are_lent_and_come_back_into_the_count(
    clock: Callable[[float], None], house: Callable[..., House]
) -> None:
    go = Event()

    def run(job: GearmanJob) -> None:
        go.wait()
        job.connection.finish(job, _T.WORK_COMPLETE, b"")  # type: ignore[union-attr]

    made = house(run, heartbeat_s=1000, poll_s=1000)
    made.connection.put(REGISTERED, assign(b"H:1"))
    assert (made.protocol.grabs, made.pool.free) == (2, 1)
    for _ in range(2):
        clock(1)
        made.session.tick()
    assert made.pool.free == 3
    made.connection.put(assign(b"H:2"))  # it wakes after all: the slot is taken back
    assert made.pool.free <= 2
    made.connection.put(NO_JOB)
    go.set()
    turn()
    assert made.pool.free + made.protocol.grabs == 4
    made.end()
    assert made.pool.free == 4


def test_lent_slots_are_not_given_back_twice_when_the_connection_ends(
    clock: Callable[[float], None], house: Callable[..., House]
) -> None:
    made = house(heartbeat_s=1000)
    made.connection.put(REGISTERED)
    for _ in range(2):
        clock(1)
        made.session.tick()
    assert (made.protocol.grabs, made.pool.free) == (1, 4)
    made.connection.put(None)
    made.serving.join(timeout=5)
    assert made.pool.free == 4


# ---------------------------------------------------------------------- the end of a connection


def test_the_end_of_the_connection_frees_the_slots_of_open_grabs(house: Callable[..., House]) -> None:
    made = house()
    made.connection.put(REGISTERED, assign(b"H:1"))
    assert made.pool.free == 2
    made.connection.put(None)
    made.serving.join(timeout=5)
    assert made.serving.value == "the peer closed the connection"
    assert (made.pool.free, made.session.wanted) == (4, 0)


@pytest.mark.parametrize("broken", [b"hello\n", b"\0RES\0\0\0\x63\0\0\0\0", assign(b"H:1"), NO_JOB * 9])
def test_a_broken_protocol_ends_the_connection_and_leaves_all_slots_free(
    broken: bytes, house: Callable[..., House]
) -> None:
    made = house()
    made.connection.put(REGISTERED, assign(b"H:0"))
    made.connection.put(assign(b"H:1") + broken)
    made.serving.join(timeout=5)
    assert made.serving.value.startswith("protocol error: ")
    turn()
    assert (made.pool.free, made.pool.running) == (4, set())
    assert len(made.jobs) == 1


def test_a_job_that_outlives_its_connection_is_told(house: Callable[..., House]) -> None:
    go, seen = Event(), list[Any]()

    def run(job: GearmanJob) -> None:
        go.wait()
        try:
            job.send_data(b"x")
        except ConnectionLost as error:
            seen.append(error.address)
        seen.append(made.session.finish(job, _T.WORK_COMPLETE, b""))

    made = house(run)
    made.connection.put(REGISTERED, assign(b"H:1"), None)
    go.set()
    turn()
    assert seen == ["there:4730", False]
    assert made.pool.free == 4


# ---------------------------------------------------------------------- updates


def test_updates_go_out_with_their_hooks_and_too_late_ones_raise(house: Callable[..., House]) -> None:
    seen = list[str]()

    def run(job: GearmanJob) -> None:
        job.send_data(b"abc")
        job.send_warning(b"w")
        job.send_status(1, 2)
        made.session.finish(job, _T.WORK_COMPLETE, b"")
        with pytest.raises(InvalidWorkerState, match="WORK_DATA comes too late"):
            job.send_data(b"late")
        seen.append("done")

    made = house(run)
    made.connection.put(REGISTERED)
    made.connection.take()
    made.connection.put(assign(b"H:1"))
    assert seen == ["done"]
    assert made.connection.take()[:4] == [
        ("WORK_DATA", b"H:1", b"abc"), ("WORK_WARNING", b"H:1", b"w"),
        ("WORK_STATUS", b"H:1", b"1", b"2"), ("WORK_COMPLETE", b"H:1", b""),
    ]  # fmt: skip
    assert [(kind, size) for _, kind, size in made.updates] == [
        (_T.WORK_DATA, 3), (_T.WORK_WARNING, 1), (_T.WORK_STATUS, 0)
    ]  # fmt: skip


def test_a_handler_waits_while_the_output_is_over_its_mark(house: Callable[..., House]) -> None:
    def run(job: GearmanJob) -> None:
        made.connection.unsent_bytes = 1001
        job.send_data(b"x")
        assert made.connection.waited == 1
        made.connection.unsent_bytes = 1001
        made.session.finish(job, _T.WORK_COMPLETE, b"")

    made = house(run)
    made.connection.put(REGISTERED, assign(b"H:1"))
    assert made.connection.waited == 2


def test_updates_of_a_native_thread_come_before_its_jobs_end_and_in_order(house: Callable[..., House]) -> None:
    def work(job: GearmanJob) -> None:
        for n in range(50):
            job.send_data(b"%d" % n)
        job.send_status(1, 1)

    def run(job: GearmanJob) -> None:
        gevent.get_hub().threadpool.apply(work, (job,))
        made.session.finish(job, _T.WORK_COMPLETE, b"")
        ended.set()

    ended = Event()
    made = house(run)
    made.connection.put(REGISTERED)
    made.connection.take()
    made.connection.put(assign(b"H:1"))
    assert ended.wait(5)
    names = [packet[0] for packet in made.connection.take() if packet[0] != "GRAB_JOB_UNIQ"]
    assert names == ["WORK_DATA"] * 50 + ["WORK_STATUS", "WORK_COMPLETE"]


def test_a_native_thread_is_told_that_its_job_is_over_or_its_connection_gone(house: Callable[..., House]) -> None:
    errors = list[type]()
    step, go_on = get_original("threading", "Event")(), Event()

    def work(job: GearmanJob) -> None:
        for _ in range(2):
            step.wait(5)
            step.clear()
            try:
                job.send_data(b"late")
            except Exception as error:
                errors.append(type(error))
            gevent.get_hub()
            watcher.send()

    def run(job: GearmanJob) -> None:
        made.session.finish(job, _T.WORK_FAIL, b"")
        running.append(gevent.get_hub().threadpool.spawn(work, job))

    running = list[Any]()
    watcher = gevent.get_hub().loop.async_()
    watcher.start(go_on.set)
    made = house(run)
    made.connection.put(REGISTERED, assign(b"H:1"))
    step.set()
    assert go_on.wait(5)
    go_on.clear()
    made.session.close("gone")
    step.set()
    running[0].get(timeout=5)
    watcher.stop()
    watcher.close()
    assert errors == [InvalidWorkerState, ConnectionLost]


def test_a_native_thread_waits_while_too_much_of_it_has_not_been_taken(house: Callable[..., House]) -> None:
    def work(job: GearmanJob) -> None:
        for _ in range(1000):
            job.send_data(b"x" * 10)
            seen.append(len(made.session._thread_updates))

    def run(job: GearmanJob) -> None:
        result = gevent.get_hub().threadpool.spawn(work, job)
        sleep = get_original("time", "sleep")
        sleep(0.02)  # a hub that is busy elsewhere
        result.get()
        made.session.finish(job, _T.WORK_COMPLETE, b"")
        ended.set()

    seen, ended = list[int](), Event()
    made = house(run)
    made.connection.put(REGISTERED, assign(b"H:1"))
    assert ended.wait(10)
    assert len(seen) == 1000
    assert max(seen) <= 64


# ---------------------------------------------------------------------- draining


def test_a_drain_answers_all_jobs_asks_for_an_echo_last_and_then_closes(house: Callable[..., House]) -> None:
    go = Event()

    def run(job: GearmanJob) -> None:
        go.wait()
        made.session.finish(job, _T.WORK_COMPLETE, b"")

    made = house(run)
    made.connection.put(REGISTERED, assign(b"H:1"))
    made.connection.take()
    drain = gevent.spawn(made.session.drain)
    turn()
    made.connection.put(assign(b"H:2"))
    made.connection.put(NO_JOB)
    assert made.connection.take() == []
    go.set()
    turn()
    assert made.connection.take() == [
        ("WORK_COMPLETE", b"H:1", b""), ("WORK_COMPLETE", b"H:2", b""), ("ECHO_REQ", b"drained")
    ]  # fmt: skip
    assert not drain.ready()
    made.connection.put(NOOP)
    assert not made.session.closed
    made.connection.put(encode_response(_T.ECHO_RES, b"drained"))
    drain.join(timeout=5)
    made.serving.join(timeout=5)
    assert made.serving.value == "drained"
    assert made.connection.take() == []
    assert made.pool.free == 4


def test_a_drain_of_an_idle_session_asks_for_the_echo_at_once(house: Callable[..., House]) -> None:
    made = house()
    made.connection.put(REGISTERED, NO_JOB)
    made.connection.take()
    drain = gevent.spawn(made.session.drain)
    turn()
    assert made.connection.take() == [("ECHO_REQ", b"drained")]
    made.connection.put(encode_response(_T.ECHO_RES, b"drained"))
    drain.join(timeout=5)
    assert drain.ready()


@pytest.mark.parametrize("stream", [[assign(b"H:1", task=b"stranger")], [assign(b"H:1", b"x" * 3000)], [NO_JOB]])
def test_a_drain_goes_on_when_the_last_grab_brings_no_job_to_run(
    stream: list[bytes], house: Callable[..., House]
) -> None:
    made = house(max_packet_bytes=2000)
    made.connection.put(REGISTERED)
    gevent.spawn(made.session.drain)
    turn()
    made.connection.put(*stream)
    assert made.connection.take()[-1] == ("ECHO_REQ", b"drained")


def test_a_drain_ends_when_the_connection_does(house: Callable[..., House]) -> None:
    for when in ("before", "waiting", "echo"):
        made = house()
        made.connection.put(REGISTERED)
        if when == "echo":
            made.connection.put(NO_JOB)
        if when == "before":
            made.connection.put(None)
        drain = gevent.spawn(made.session.drain)
        turn()
        if when != "before":
            made.connection.put(None)
        drain.join(timeout=5)
        assert drain.ready(), when


# ---------------------------------------------------------------------- byte budget


def test_it_reads_no_more_while_payloads_are_over_the_budget(house: Callable[..., House]) -> None:
    go = Event()

    def run(job: GearmanJob) -> None:
        go.wait()
        made.session.finish(job, _T.WORK_COMPLETE, b"")

    made = house(run)
    made.pool.max_in_flight_bytes = 100
    made.connection.put(REGISTERED, assign(b"H:1", b"x" * 200), assign(b"H:2", b"y"))
    assert len(made.pool.running) == 1
    assert not made.serving.ready()
    go.set()
    turn()
    assert [packet[:2] for packet in made.connection.take() if packet[0] == "WORK_COMPLETE"] == [
        ("WORK_COMPLETE", b"H:1"), ("WORK_COMPLETE", b"H:2")
    ]  # fmt: skip


def test_while_it_does_not_read_silence_is_nobodys_fault(
    clock: Callable[[float], None], house: Callable[..., House]
) -> None:
    go = Event()

    def run(job: GearmanJob) -> None:
        go.wait()
        made.session.finish(job, _T.WORK_COMPLETE, b"")

    made = house(run, heartbeat_s=2, heartbeat_timeout_s=1)
    made.pool.max_in_flight_bytes = 100
    made.connection.put(REGISTERED, assign(b"H:1", b"x" * 200))
    made.connection.take()
    for _ in range(10):
        clock(5)
        made.session.tick()
    assert made.connection.take() == []
    assert not made.session.closed
    go.set()
    turn()
