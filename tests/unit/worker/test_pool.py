"""The pool: slots, shares, batches and what a slot survives; links and jobs are fakes, no socket anywhere."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gearworker.job import GearmanJob
from gearworker.worker import pool as pool_module
from gearworker.worker.pool import Pool


class FakeGrabber:
    """Wants so many jobs for ever, and notes what it got."""

    def __init__(self, appetite: int = 0) -> None:
        self.appetite, self.grabbed, self.grabs = appetite, 0, list[int]()

    @property
    def wanted(self) -> int:
        return self.appetite

    def grab(self, count: int) -> None:
        self.appetite -= count
        self.grabbed += count
        self.grabs.append(count)


def job(name: str = "j", data: bytes = b"") -> GearmanJob:
    made = GearmanJob(None, name, "t", None, data)
    made.data_bytes = len(data)
    return made


def turn() -> None:
    """Let all that is due in the hub happen."""
    for _ in range(3):
        gevent.sleep(0)


@pytest.fixture
def make_pool() -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(concurrency: int, run: Callable[[GearmanJob], Any] = lambda job: None, **options: Any) -> Pool:
        made.append(Pool("p", concurrency, run, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.kill()


def reserve(pool: Pool, *jobs: GearmanJob) -> None:
    """What a link does with jobs that it grabbed."""
    pool.take_back(len(jobs))
    for one in jobs:
        pool.dispatch(one)


# ---------------------------------------------------------------------- running


def test_a_batch_whose_handlers_never_yield_runs_in_one_slot(make_pool: Callable[..., Pool]) -> None:
    slots, ran = list[Any](), list[str | None]()
    pool = make_pool(10, lambda one: (slots.append(gevent.getcurrent()), ran.append(one.handle)))
    reserve(pool, *(job(str(n)) for n in range(10)))
    turn()
    assert ran == [str(n) for n in range(10)]
    assert len(set(slots)) == 1
    assert (pool.free, pool.running, pool.reserved) == (10, set(), 0)


def test_other_slots_take_over_when_a_handler_waits_and_concurrency_is_never_exceeded(
    make_pool: Callable[..., Pool],
) -> None:
    go, seen = Event(), list[int]()

    def run(one: GearmanJob) -> None:
        seen.append(len(pool.running))
        go.wait()

    pool = make_pool(3, run)
    reserve(pool, *(job(str(n)) for n in range(5)))  # two more than it should: their slots are owed
    turn()
    assert seen == [1, 2, 3]
    assert len(pool.running) == 3
    assert pool.reserved == 2
    go.set()
    turn()
    assert len(seen) == 5
    assert max(seen) == 3
    assert (pool.free, pool.reserved) == (3, 0)


def test_a_slot_is_used_again(make_pool: Callable[..., Pool]) -> None:
    slots = set[Any]()
    pool = make_pool(5, lambda one: slots.add(gevent.getcurrent()))
    for n in range(20):
        reserve(pool, job(str(n)))
        turn()
    assert len(slots) == 1


def test_no_job_sees_the_context_variables_of_the_one_before(make_pool: Callable[..., Pool]) -> None:
    variable: ContextVar[str | None] = ContextVar("variable", default=None)
    seen = list[str | None]()

    def run(one: GearmanJob) -> None:
        seen.append(variable.get())
        variable.set(one.handle)
        gevent.sleep(0)
        seen.append(variable.get())

    pool = make_pool(1, run)
    reserve(pool, job("a"), job("b"))
    turn()
    turn()
    reserve(pool, job("c"))
    turn()
    turn()
    assert seen == [None, "a", None, "b", None, "c"]


def test_every_job_runs_once_whatever_the_mix_of_waiting_and_not(make_pool: Callable[..., Pool]) -> None:
    ran = list[int]()

    def run(one: GearmanJob) -> None:
        number = int(one.handle or "")
        for _ in range(number % 4):
            gevent.sleep(0)
        ran.append(number)

    pool = make_pool(7, run)
    for start in range(0, 210, 7):
        reserve(pool, *(job(str(n)) for n in range(start, start + 7)))
        with gevent.Timeout(10):
            while pool.free < 7:
                gevent.sleep(0)
    assert sorted(ran) == list(range(210))


def test_a_slot_lets_the_others_have_their_turn_after_a_while(make_pool: Callable[..., Pool]) -> None:
    ran_before_the_other = list[str]()

    def run(one: GearmanJob) -> None:
        one.started_at = monotonic()
        while monotonic() < one.started_at + pool_module.TURN_S / 3:
            pass
        ran_before_the_other.append(one.handle or "")

    pool = make_pool(30, run)
    reserve(pool, *(job(str(n)) for n in range(30)))
    gevent.spawn(lambda: None)
    gevent.sleep(0)
    gevent.sleep(0)
    assert 1 <= len(ran_before_the_other) < 30
    with gevent.Timeout(10):
        while pool.free < 30:
            gevent.sleep(0)


# ---------------------------------------------------------------------- what a slot survives


def test_a_slot_survives_a_run_that_raises(make_pool: Callable[..., Pool], caplog: pytest.LogCaptureFixture) -> None:
    def run(one: GearmanJob) -> None:
        if one.handle == "bad":
            raise SystemExit(1)

    pool = make_pool(1, run)
    for name in ("bad", "good", "bad", "good"):
        reserve(pool, job(name, b"12345"))
        turn()
    assert (pool.free, pool.running, pool.in_flight_bytes) == (1, set(), 0)
    assert "struck its slot: SystemExit(1)" in caplog.text


def test_a_slot_survives_a_timeout_that_a_job_left_running(
    make_pool: Callable[..., Pool], caplog: pytest.LogCaptureFixture
) -> None:
    ran = list[str | None]()

    def run(one: GearmanJob) -> None:
        ran.append(one.handle)
        if one.handle == "forgetful":
            gevent.Timeout.start_new(0.001)

    pool = make_pool(1, run)
    reserve(pool, job("forgetful"))
    with gevent.Timeout(5):
        while "struck its slot: <Timeout" not in caplog.text:
            gevent.sleep(0)
    for n in range(3):
        reserve(pool, job(str(n)))
        turn()
    assert ran == ["forgetful", "0", "1", "2"]
    assert pool.free == 1


def test_a_slot_struck_while_it_is_being_woken_runs_its_jobs_once(make_pool: Callable[..., Pool]) -> None:
    ran = list[str | None]()
    pool = make_pool(2, lambda one: ran.append(one.handle))
    reserve(pool, job("0"))
    turn()
    (slot,) = pool._idle
    gevent.get_hub().loop.run_callback(slot.throw, gevent.Timeout())
    reserve(pool, job("1"))
    for n in range(2, 6):
        turn()
        reserve(pool, job(str(n)))
    turn()
    assert ran == [str(n) for n in range(6)]
    assert pool.free == 2
    assert len(set(pool._idle)) == len(pool._idle)


def test_a_parked_slot_keeps_no_payload_in_memory(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(2)
    one = job(data=b"x" * 100)
    seen = weakref.ref(one)
    gc.disable()
    try:
        reserve(pool, one)
        turn()
        del one
        assert seen() is None
    finally:
        gc.enable()


# ---------------------------------------------------------------------- sharing


def test_free_slots_are_shared_evenly_and_the_rest_goes_to_whoever_wants_it(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(10)
    few, many = FakeGrabber(1), FakeGrabber(100)
    pool.join(few)
    pool.join(many)
    pool.schedule_refill()
    turn()
    assert (few.grabbed, many.grabbed, pool.free) == (1, 9, 0)
    assert pool.reserved == 10


def test_a_link_that_wants_nothing_gets_nothing(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(4)
    sated, negative = FakeGrabber(0), FakeGrabber(-3)
    pool.join(sated)
    pool.join(negative)
    pool.schedule_refill()
    turn()
    assert (sated.grabs, negative.grabs, pool.free) == ([], [], 4)


@pytest.mark.parametrize("refills_between", [0, 1, 2, 3])
@pytest.mark.parametrize("links", [2, 3])
def test_one_slot_goes_round_all_links_however_often_it_is_asked(
    make_pool: Callable[..., Pool], links: int, refills_between: int
) -> None:
    pool = make_pool(1)
    grabbers = [FakeGrabber(1000) for _ in range(links)]
    for grabber in [*grabbers, FakeGrabber(0)]:
        pool.join(grabber)
    for _ in range(links * 10):
        pool.schedule_refill()
        turn()
        for _ in range(refills_between):
            pool.schedule_refill()
            turn()
        pool.give_back(1)
        turn()
        pool.give_back(1)
    counts = [grabber.grabbed for grabber in grabbers]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) >= links * 10


def test_slots_given_back_are_shared_again_in_the_same_turn(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(2)
    grabber = FakeGrabber(5)
    pool.join(grabber)
    pool.schedule_refill()
    turn()
    pool.give_back(1)
    pool.give_back(1)
    assert grabber.grabs == [2]
    turn()
    assert grabber.grabs == [2, 2]


def test_owed_slots_come_out_of_what_is_freed_next(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(2)
    grabber = FakeGrabber(10)
    pool.join(grabber)
    pool.schedule_refill()
    turn()
    pool.take_back(2)
    pool.give_back(2)
    turn()
    assert (grabber.grabbed, pool.free, pool.reserved) == (2, 0, 2)
    pool.give_back(1)
    turn()
    assert grabber.grabbed == 3


# ---------------------------------------------------------------------- byte budget


def test_over_its_byte_budget_it_grabs_no_more_and_readers_wait(make_pool: Callable[..., Pool]) -> None:
    go = Event()
    pool = make_pool(5, lambda one: go.wait(), max_in_flight_bytes=100)
    grabber = FakeGrabber(5)
    pool.join(grabber)
    reserve(pool, job("a", b"x" * 60), job("b", b"x" * 60))
    pool.schedule_refill()
    turn()
    assert pool.in_flight_bytes == 120
    assert grabber.grabs == []
    reader = gevent.spawn(pool.wait_for_budget)
    turn()
    assert not reader.ready()
    go.set()
    reader.join(timeout=5)
    assert reader.ready()
    assert pool.in_flight_bytes == 0
    turn()
    assert grabber.grabbed == 5


def test_within_its_byte_budget_nobody_waits(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(1, max_in_flight_bytes=100)
    reserve(pool, job("a", b"x" * 100))
    pool.wait_for_budget()
    assert pool.in_flight_bytes == 100


# ---------------------------------------------------------------------- kill


def test_kill_ends_handlers_that_run_and_slots_that_wait(make_pool: Callable[..., Pool]) -> None:
    ended = list[str]()

    def run(one: GearmanJob) -> None:
        try:
            if one.handle != "short":
                Event().wait()
        except BaseException as error:
            ended.append(type(error).__name__)

    pool = make_pool(3, run)
    reserve(pool, job("short"))
    turn()
    reserve(pool, job("long"), job("longer"))
    turn()
    pool.dispatch(job("never"))
    pool.kill()
    turn()
    assert ended == ["GreenletExit", "GreenletExit"]
    assert pool.running == set()
    pool.kill()


def test_kill_leaves_a_handler_that_cannot_be_ended(
    make_pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "KILL_S", 0.02)
    release = Event()

    def run(one: GearmanJob) -> None:
        while not release.is_set():
            try:
                release.wait()
            except gevent.GreenletExit:
                continue

    pool = make_pool(1, run)
    reserve(pool, job("stubborn"))
    turn()
    pool.kill()
    assert len(pool.running) == 1
    release.set()
    turn()
    assert pool.running == set()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
