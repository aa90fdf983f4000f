"""A shift and an exchange by themselves: who may note what, when slots are taken, and that a job is answered once."""

from __future__ import annotations

import threading
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gearworker.errors import FailJob, InvalidWorkerState
from gearworker.gearman_shift import Exchange, Shift
from gearworker.job import GearmanJob
from gearworker.protocol.packets import PacketType

JOB = GearmanJob(None, "H:1", "t", None, b"")


class FakePool:
    concurrency = 3

    def __init__(self) -> None:
        self.taken = 0

    def take_back(self, count: int) -> None:
        self.taken += count


class FakeLink:
    session: Any = None

    def __init__(self) -> None:
        self.drained = Event()

    def drain(self) -> None:
        self.drained.wait()


class FakeWorker:
    def __init__(self) -> None:
        self.pools = [FakePool()]
        self.links = [FakeLink(), FakeLink()]
        self.running: list[GearmanJob] = []

    def running_jobs(self) -> list[GearmanJob]:
        return self.running


class FakeSession:
    address, closed = "a:1", False

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.is_delivered = True

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        self.sent.append((packet_type, *args))

    def finish(self, job: GearmanJob, packet_type: PacketType, data: bytes) -> bool:
        self.sent.append((packet_type, data))
        return self.is_delivered

    def close(self, reason: str) -> None:
        self.closed = True
        self.sent.append((reason,))

    def abandon(self) -> None:
        self.sent.append(("abandoned",))


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def shift(worker: FakeWorker) -> Shift:
    made = Shift()
    made.begin(worker)  # type: ignore[arg-type]
    return made


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def exchange(session: FakeSession) -> Exchange:
    return Exchange(session, lambda worker, job: None)


# ---------------------------------------------------------------------- shifts


def test_an_end_takes_every_slot_once_and_wakes(shift: Shift, worker: FakeWorker) -> None:
    assert not shift.is_over
    shift.hold_if_ended()
    assert worker.pools[0].taken == 0
    shift.end(ValueError("first"))
    shift.end(ValueError("second"))
    assert shift.ends
    assert shift.is_over
    assert str(shift.error) == "first"
    assert worker.pools[0].taken == 3
    shift.wait(5)


def test_a_stop_from_another_thread_wakes_it_and_takes_the_slots_in_its_hub(shift: Shift, worker: FakeWorker) -> None:
    thread = threading.Thread(target=shift.stop)
    thread.start()
    thread.join()
    assert shift.ends
    shift.wait(5)
    assert worker.pools[0].taken == 3


def test_other_tasks_are_over_without_an_end_and_forgotten_by_the_next_engine(shift: Shift) -> None:
    shift.job_server_away("a:1", "default", "refused")
    shift.wait(5)
    thread = threading.Thread(target=shift.change)
    thread.start()
    thread.join()
    shift.wait(5)
    assert shift.is_over
    assert not shift.ends
    shift.begin(FakeWorker())  # type: ignore[arg-type]
    assert not shift.is_over
    assert shift.away == {}


def test_activity_is_what_the_engine_tells(shift: Shift) -> None:
    assert not shift.take_activity()
    for tell in (
        lambda: shift.after_job(JOB, "complete", 0.1, 0, None), lambda: shift.job_server_up("a:1", "default"),
        lambda: shift.job_server_down("a:1", "default", "why"),
    ):  # fmt: skip
        tell()
        shift.wait(5)
        assert shift.take_activity()
        assert not shift.take_activity()
    shift.job_server_away("a:1", "default", "refused")
    assert not shift.take_activity()
    assert shift.away == {"a:1": "refused"}
    shift.job_server_up("a:1", "default")
    assert shift.away == {}


def test_it_finishes_when_all_links_have_drained_and_no_job_runs(shift: Shift, worker: FakeWorker) -> None:
    worker.running = [JOB]
    shift.end()
    finishing = gevent.spawn(shift.finish, 60)
    for link in worker.links:
        gevent.sleep(0)
        assert not finishing.ready()
        link.drained.set()
    gevent.sleep(0)
    assert not finishing.ready()
    assert shift.is_busy
    worker.running = []
    shift.after_job(JOB, "lost", 0.1, 0, None)
    finishing.get(timeout=5)


@pytest.mark.parametrize("how", ["grace", "second stop", "last moment"])
def test_it_waits_no_longer_than_it_may(
    shift: Shift, worker: FakeWorker, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gearworker.gearman_shift._LAST_MOMENT_S", 0.01)
    if how == "grace":
        shift.end()
    elif how == "last moment":
        shift.end(KeyboardInterrupt())
    finishing = gevent.spawn(shift.finish, 0.01 if how == "grace" else 60)
    if how == "second stop":
        gevent.sleep(0)
        shift.stop()
        gevent.sleep(0)
        assert not finishing.ready()
        shift.stop()
    finishing.get(timeout=5)
    assert "jobs still run" in caplog.text


def test_other_tasks_alone_press_nobody_until_it_ends(shift: Shift, worker: FakeWorker) -> None:
    shift.change()
    finishing = gevent.spawn(shift.finish, 0.0)
    for _ in range(5):
        gevent.sleep(0)
    assert not finishing.ready()
    shift.stop()
    finishing.get(timeout=5)


def test_a_forked_child_lets_go_of_every_connection(shift: Shift, worker: FakeWorker, session: FakeSession) -> None:
    worker.links[1].session = session
    shift.leave_parent()
    assert session.sent == [("abandoned",)]
    Shift().leave_parent()


def test_however_many_calls_of_work_there_are_the_process_has_one_hook_for_forks(
    shift: Shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks: list[object] = []
    monkeypatch.setattr("os.register_at_fork", lambda **options: hooks.append(options))
    for _ in range(3):
        Shift()
    assert hooks == []


# ---------------------------------------------------------------------- exchanges


def test_an_exchange_is_the_jobs_connection(exchange: Exchange, session: FakeSession) -> None:
    assert (exchange.address, exchange.closed) == ("a:1", False)
    exchange.send_update(JOB, PacketType.WORK_DATA, b"part")
    exchange.send_answer(JOB, PacketType.WORK_COMPLETE, b"result")
    assert session.sent == [(PacketType.WORK_DATA, b"part"), (PacketType.WORK_COMPLETE, b"result")]
    assert exchange.close(JOB) is None
    assert exchange.finish(JOB, PacketType.WORK_COMPLETE, b"")
    exchange.give_back("no")
    assert len(session.sent) == 2


def test_a_second_answer_is_refused(exchange: Exchange, session: FakeSession) -> None:
    exchange.send_answer(JOB, PacketType.WORK_FAIL, b"")
    with pytest.raises(InvalidWorkerState, match="got WORK_COMPLETE, but WORK_FAIL was sent before"):
        exchange.send_answer(JOB, PacketType.WORK_COMPLETE, b"")
    assert len(session.sent) == 1


@pytest.mark.parametrize("answer", [PacketType.WORK_FAIL, PacketType.WORK_EXCEPTION])
def test_a_failure_that_the_callback_sent_is_what_the_job_failed_with(exchange: Exchange, answer: PacketType) -> None:
    exchange.send_answer(JOB, answer, b"")
    assert str(exchange.close(JOB)) == f"its callback sent {answer.name}"


def test_a_job_without_an_answer_fails(exchange: Exchange, session: FakeSession) -> None:
    fault = exchange.close(JOB)
    assert isinstance(fault, FailJob)
    assert "without an answer" in str(fault)
    assert session.sent == [(PacketType.WORK_FAIL, b"")]


def test_what_a_hook_raised_is_what_the_job_failed_with(exchange: Exchange, session: FakeSession) -> None:
    exchange.error = ValueError("hook")
    assert exchange.close(JOB) is exchange.error
    assert session.sent == [(PacketType.WORK_FAIL, b"")]


def test_the_engines_own_answer_is_a_failure_where_there_was_none(exchange: Exchange, session: FakeSession) -> None:
    session.is_delivered = False
    assert not exchange.finish(JOB, PacketType.WORK_EXCEPTION, b"GreenletExit")
    assert session.sent == [(PacketType.WORK_FAIL, b"")]


def test_a_job_that_is_given_back_has_its_connection_closed(exchange: Exchange, session: FakeSession) -> None:
    exchange.give_back("the worker ends")
    assert session.sent == [("the worker ends",)]


def test_another_thread_can_not_answer(exchange: Exchange, session: FakeSession) -> None:
    errors: list[str] = []

    def answer() -> None:
        try:
            exchange.send_answer(JOB, PacketType.WORK_COMPLETE, b"")
        except InvalidWorkerState as error:
            errors.append(str(error))

    thread = threading.Thread(target=answer)
    thread.start()
    thread.join()
    assert errors == ["job H:1 got WORK_COMPLETE in another thread than its callback's"]
    assert session.sent == []
