"""The processes as a whole: which of them count, and what stays of those that have ended."""

from __future__ import annotations

from time import monotonic
from typing import Any

from gevent.event import AsyncResult

from gearworker.counts import JobServerCounts, PoolCounts, TaskCounts, WorkerCounts
from gearworker.http.app import RunningJob
from gearworker.service.channel import Start
from gearworker.service.fleet import Fleet

START = Start("text", "file", "info", "text")


class FakeProcess:
    def __init__(self, jobs: int = 0, running: int = 0, *, answers: bool = True) -> None:
        self.retiring: str | None = None
        self.replaces: Any = None
        self.ready, self.beat_at, self.silent_s = True, 1.0, 0.0
        self.answers, self.asked = answers, 0
        task = TaskCounts(in_progress=running)
        task.outcomes["complete"] = jobs
        self.counts = WorkerCounts({"t": task}, {"p": PoolCounts(running)}, {"a:1": JobServerCounts(True, 1)})
        self.jobs = [RunningJob("p", "t", f"H:{n}", 0.0, 1, None) for n in range(running)]

    def ask_report(self) -> AsyncResult[None]:
        self.asked += 1
        result: AsyncResult[None] = AsyncResult()
        if self.answers:
            result.set(None)
        return result


def fleet_of(*processes: FakeProcess) -> Fleet:
    waiting: Any = iter(processes)
    fleet = Fleet(lambda: None, lambda start, changed: next(waiting))
    for _ in processes:
        fleet.launch(START)
    return fleet


def test_a_launched_process_gets_what_it_is_told_and_what_to_call() -> None:
    calls: list[Any] = []
    made: Any = FakeProcess()

    def launch(start: Start, changed: Any) -> Any:
        calls.append(start)
        changed()
        return made

    old: Any = FakeProcess()
    fleet = Fleet(lambda: calls.append("changed"), launch)
    assert fleet.launch(START, replaces=old) is made
    assert calls == [START, "changed"]
    assert made.replaces is old
    assert fleet.replacement is made
    assert fleet.active == []


def test_active_are_those_that_neither_retire_nor_wait() -> None:
    one, two, three = FakeProcess(), FakeProcess(), FakeProcess()
    fleet = fleet_of(one, two, three)
    two.retiring, three.replaces = "recycled", one
    assert fleet.active == [one]
    assert fleet.replacement is three
    three.retiring = "stopped"
    assert fleet.replacement is None


def test_ready_and_started_and_silent() -> None:
    one, two, three = FakeProcess(), FakeProcess(), FakeProcess()
    fleet = fleet_of(one, two, three)
    two.retiring = "replaced"
    three.ready, three.beat_at = False, None
    two.silent_s = 4.5
    assert (fleet.ready, fleet.started, fleet.silent_s) == (1, 1, 4.5)


def test_an_empty_fleet_has_answers_too() -> None:
    fleet = fleet_of()
    began = monotonic()
    assert fleet.counts() == WorkerCounts()
    assert fleet.running_jobs() == []
    assert monotonic() - began < 0.4  # nobody was waited for
    assert (fleet.ready, fleet.started, fleet.running, fleet.jobs_ended, fleet.silent_s) == (0, 0, 0, 0, 0.0)
    assert fleet.tasks == set()


def test_counters_of_a_removed_process_stay_and_its_gauges_vanish() -> None:
    one, two = FakeProcess(jobs=5, running=2), FakeProcess(jobs=3, running=1)
    fleet = fleet_of(one, two)
    assert (fleet.jobs_ended, fleet.running) == (8, 3)
    fleet.remove(one)  # type: ignore[arg-type]
    counts = fleet.counts()
    assert counts.tasks["t"].outcomes["complete"] == 8
    assert counts.tasks["t"].in_progress == 1
    assert counts.pools["p"].running == 1
    assert counts.job_servers["a:1"] == JobServerCounts(True, 2)
    assert (fleet.jobs_ended, fleet.running) == (8, 1)
    fleet.remove(two)  # type: ignore[arg-type]
    assert fleet.counts().tasks["t"].outcomes["complete"] == 8
    assert not fleet.counts().job_servers["a:1"].up


def test_a_process_that_does_not_answer_is_waited_for_briefly_and_stands_as_it_last_reported() -> None:
    blocked, lively = FakeProcess(jobs=1, running=1, answers=False), FakeProcess(jobs=2, running=1)
    fleet = fleet_of(blocked, lively)
    began = monotonic()
    assert fleet.counts().jobs_ended == 3
    assert 0.4 <= monotonic() - began < 5
    assert len(fleet.running_jobs()) == 2
    assert (blocked.asked, lively.asked) == (2, 2)
