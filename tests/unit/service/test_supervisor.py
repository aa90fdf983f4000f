"""The supervisor's rules, step by step: no process and no clock but fakes."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gearworker.config import Config, parse_config
from gearworker.counts import TaskCounts, WorkerCounts
from gearworker.errors import ConfigError
from gearworker.service.channel import Start
from gearworker.service.fleet import Fleet
from gearworker.service.starts import EXIT_CANT_START, EXIT_CRASHED
from gearworker.service.supervisor import Supervisor, process_count

GRACE_S, MARGIN_S = 10.0, 3.0
HUP, TERM, INT, QUIT = signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
TTIN, TTOU, USR1, USR2 = signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeProcess:
    """Looks like ``Process``; the test says how it fares."""

    def __init__(self, start: Start, pid: int, clock: Clock) -> None:
        self.start, self.pid = start, pid
        self.started_at = clock()
        self.beat_at: float | None = None
        self.ready = False
        self.retiring: str | None = None
        self.replaces: Any = None
        self.counts = WorkerCounts()
        self.jobs: list[Any] = []
        self.exit_code: int | None = None
        self.kill_at: float | None = None
        self.stack_logged = False
        self.rss_bytes, self.cpu_s = 1024, 0.5
        self.kills = self.stops = self.stacks = self.reports = 0
        self._clock = clock

    @property
    def age_s(self) -> float:
        return self._clock() - self.started_at

    @property
    def silent_s(self) -> float:
        return 0.0 if self.beat_at is None or self.exit_code is not None else self._clock() - self.beat_at

    def drain(self, reason: str, grace_s: float) -> None:
        if self.retiring is None:
            self.retiring, self.kill_at = reason, self._clock() + grace_s

    def stop_at_once(self) -> None:
        self.retiring = self.retiring or "stopped"
        self.stops += 1

    def kill(self) -> None:
        self.kills += 1

    def log_stacks(self) -> None:
        self.stacks += 1

    def ask_report(self) -> Any:
        self.reports += 1
        done: gevent.event.AsyncResult[None] = gevent.event.AsyncResult()
        done.set(None)
        return done

    def take_blocked_stack(self) -> str:
        return "in a_guilty_handler"

    # ---- for the test

    def beat(self, *, ready: bool = True) -> None:
        self.beat_at, self.ready, self.stack_logged = self._clock(), ready, False

    def end(self, code: int) -> None:
        self.exit_code, self.ready, self.jobs = code, False, []


class Service:
    """A supervisor over fake processes."""

    def __init__(self, **config: Any) -> None:
        self.clock = Clock()
        self.launched: list[Any] = []
        self.refuse: Exception | None = None
        self.no_process: OSError | None = None
        self.changes = 0
        self.next = self.configuration(**config)
        self.sup = Supervisor(*self.next, self._read, self._changed, self._fleet, self.clock)

    @staticmethod
    def configuration(name: str = "first", **config: Any) -> tuple[Config, Start]:
        whole = {"tasks": ["t"], "shutdown": {"grace_s": GRACE_S}, "watchdog": {"warn_s": 1, "blocked_s": 5}, **config}
        return parse_config(str(whole)), Start(config_text=name, config_file="c", log_level="info", log_format="text")

    def _read(self) -> tuple[Config, Start]:
        if self.refuse is not None:
            raise self.refuse
        config, start = self.next
        return config, Start(start.config_text, "c", "info", "text")  # each reading gives another message

    def _changed(self, supervisor: Supervisor) -> None:
        self.changes += 1

    def _fleet(self, changed: Callable[[], None]) -> Fleet:
        return Fleet(changed, self._launch)

    def _launch(self, start: Start, changed: Callable[[], None]) -> Any:
        if self.no_process is not None:
            raise self.no_process
        made = FakeProcess(start, 100 + len(self.launched), self.clock)
        self.launched.append(made)
        return made

    def step(self, *signals: signal.Signals, after_s: float = 0.0) -> int | None:
        """Let time pass, beat for whoever beats, note signals, take a step."""
        self.clock.now += after_s
        for process in self.alive:
            if after_s and process.beat_at is not None:
                process.beat(ready=process.ready)
        for number in signals:
            self.sup.note(number)
        return self.sup.step()

    def silence(self, seconds: float) -> None:
        """Step as ever while nobody beats."""
        for _ in range(int(seconds / 0.125)):
            self.clock.now += 0.125
            self.step()

    @property
    def alive(self) -> list[Any]:
        return [p for p in self.launched if p.exit_code is None]

    @property
    def names(self) -> list[str]:
        """What the living processes that do not retire run."""
        return [p.start.config_text for p in self.alive if p.retiring is None]

    def up(self) -> Service:
        """Step until as many processes as wanted are ready."""
        for _ in range(10):
            self.step()
            for process in self.alive:
                if process.retiring is None:
                    process.beat()
            if len(self.names) >= self.sup.wanted:
                break
        self.step()
        return self

    def settle(self, *, after_s: float = 0.25, steps: int = 60) -> None:
        """Everybody starts well and drains at once, for a while."""
        for _ in range(steps):
            self.step(after_s=after_s)
            for process in self.alive:
                process.end(0) if process.retiring is not None else process.beat()
        self.step()


def run_greenlets() -> None:
    for _ in range(20):
        gevent.sleep(0)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    yield
    run_greenlets()  # what is still to be logged is not the next test's


# ---------------------------------------------------------------------- starting


def test_the_first_process_shows_whether_processes_can_start() -> None:
    service = Service(processes=3)
    service.step()
    service.step()
    assert len(service.launched) == 1
    assert not service.sup.started
    service.launched[0].beat()
    service.step()
    assert len(service.launched) == 3
    assert not service.sup.started
    for process in service.launched:
        process.beat()
    assert service.sup.started
    assert service.sup.ready
    assert service.changes == 3


def test_auto_wants_a_process_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 5})
    assert process_count(Service.configuration(processes="auto")[0]) == 3


def test_a_process_that_says_why_it_can_not_start_ends_everything(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=2)
    service.step()
    service.launched[0].end(EXIT_CANT_START)
    assert service.step() == EXIT_CANT_START
    assert "can't start; stopping" in caplog.text


@pytest.mark.parametrize("code", [-signal.SIGSEGV, 7, 0])
def test_three_crashes_before_the_first_beat_end_everything(code: int) -> None:
    service = Service()
    for launched in (1, 2, 3):
        service.step()
        service.step(after_s=40)
        assert len(service.launched) == launched
        service.launched[-1].end(code)
    assert service.step() == EXIT_CRASHED


# ---------------------------------------------------------------------- crashes


def test_a_crash_is_followed_by_another_start_after_a_growing_delay(caplog: pytest.LogCaptureFixture) -> None:
    service = Service().up()
    delays_s = []
    for _ in range(8):
        service.launched[-1].end(9)
        assert service.step() is None
        waited_s, count = 0.0, len(service.launched)
        while len(service.launched) == count:
            service.step(after_s=0.25)
            waited_s += 0.25
        delays_s.append(waited_s)
        service.launched[-1].beat()
    assert 0.5 <= delays_s[0] <= 1.25
    assert all(full / 2 <= s <= full + 0.25 for s, full in zip(delays_s, (1, 2, 4, 8, 16, 30, 30, 30), strict=True))
    assert service.sup.fleet.restarts.crash == 8
    assert "ended unexpectedly: exit code 9" in caplog.text


def test_the_delay_begins_anew_after_a_process_that_lived() -> None:
    service = Service().up()
    for _ in range(6):
        service.launched[-1].end(9)
        service.step()
        service.step(after_s=31)
        service.launched[-1].beat()
    service.step(after_s=31)
    service.launched[-1].end(9)
    service.step()
    count = len(service.launched)
    service.step(after_s=1.0)
    assert len(service.launched) == count + 1


def test_a_process_that_ends_by_itself_is_replaced_but_not_in_a_spin(caplog: pytest.LogCaptureFixture) -> None:
    service = Service().up()
    for _ in range(5):
        service.launched[-1].end(0)
        service.step()
        service.step(after_s=0.25)
        assert service.alive == []
        service.step(after_s=31)
        service.launched[-1].beat()
    assert service.sup.fleet.restarts.crash == 0
    assert "drained and ended by itself" in caplog.text


def test_a_system_without_room_for_a_process_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=3).up()
    service.no_process = BlockingIOError(11, "Resource temporarily unavailable")
    service.launched[0].end(9)
    service.launched[1].end(9)
    for _ in range(10):
        assert service.step(after_s=5) is None
    assert "no process can be started: Resource temporarily unavailable" in caplog.text
    assert len(service.alive) == 1
    service.no_process = None
    service.step(after_s=31)
    assert len(service.alive) == 3


def test_a_system_without_room_for_a_first_process_ends_everything() -> None:
    service = Service()
    service.no_process = BlockingIOError(11, "Resource temporarily unavailable")
    codes = [service.step(after_s=31) for _ in range(3)]
    assert codes == [None, None, EXIT_CRASHED]


def test_a_crash_leaves_the_others_alone() -> None:
    service = Service(processes=2).up()
    service.launched[0].end(-9)
    service.step()
    assert service.alive == [service.launched[1]]
    assert service.launched[1].retiring is None
    assert service.sup.ready
    service.step(after_s=1)
    assert len(service.alive) == 2


# ---------------------------------------------------------------------- reloads


def test_a_reload_replaces_one_process_after_another_and_each_only_when_its_successor_is_ready() -> None:
    service = Service(processes=2).up()
    one, two = service.launched
    service.next = service.configuration("second", processes=2)
    service.step(HUP)
    assert len(service.launched) == 3
    third = service.launched[2]
    assert third.start.config_text == "second"
    third.beat(ready=False)
    service.step()
    assert [one.retiring, two.retiring] == [None, None]
    assert service.sup.reloading
    third.beat()
    service.step()
    assert [one.retiring, two.retiring] == ["replaced", None]
    assert one.kill_at == service.clock() + GRACE_S + MARGIN_S
    fourth = service.launched[3]
    fourth.beat()
    service.step()
    assert two.retiring == "replaced"
    service.step()
    assert not service.sup.reloading
    assert service.names == ["second", "second"]
    assert service.sup.fleet.restarts.reload == 2


def test_without_a_job_server_a_successor_only_has_to_start() -> None:
    service = Service()
    service.step()
    service.launched[0].beat(ready=False)
    service.step(HUP)
    service.launched[1].beat(ready=False)
    service.step()
    assert service.launched[0].retiring == "replaced"


def test_a_configuration_that_can_not_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    service = Service().up()
    service.refuse = ConfigError("no good")
    service.step(HUP)
    assert len(service.launched) == 1
    assert not service.sup.reloading
    assert "reload refused, the old configuration stays: no good" in caplog.text


@pytest.mark.parametrize("code", [EXIT_CANT_START, 0, -9])
def test_a_reload_whose_first_process_ends_is_given_up(code: int, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=2).up()
    service.next = service.configuration("broken", processes=5)
    service.step(HUP)
    service.launched[2].end(code)
    service.step()
    assert "reload given up" in caplog.text
    assert not service.sup.reloading
    assert service.sup.wanted == 2
    service.settle()
    assert service.names == ["first", "first"]
    service.launched[0].end(9)
    service.step()
    service.step(after_s=5)
    assert service.names == ["first", "first"]


def test_a_successor_that_crashes_later_in_a_reload_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=2).up()
    service.next = service.configuration("second", processes=2)
    service.step(HUP)
    service.launched[2].beat()
    service.step()
    service.launched[3].end(9)
    service.step()
    assert service.sup.reloading
    assert "given up" not in caplog.text
    assert len(service.launched) == 4  # not at once
    service.settle()
    assert service.names == ["second", "second"]
    assert not service.sup.reloading


def test_the_old_process_crashes_before_its_successor_is_up() -> None:
    service = Service().up()
    service.next = service.configuration("second")
    service.step(HUP)
    service.launched[0].end(9)
    service.step()
    service.step(after_s=40)
    assert len(service.alive) == 1  # the successor is all that is wanted
    assert service.sup.reloading
    assert service.sup.config is not service.next[0]  # it has not shown yet that it runs
    service.launched[1].beat()
    service.step()
    assert service.sup.config is service.next[0]
    assert not service.sup.reloading


def test_the_old_process_crashes_and_its_successor_can_not_start(caplog: pytest.LogCaptureFixture) -> None:
    service = Service().up()
    service.next = service.configuration("broken")
    service.step(HUP)
    service.launched[0].end(9)
    service.step()
    service.launched[1].end(EXIT_CANT_START)
    assert service.step() is None
    assert "reload given up" in caplog.text
    service.settle()
    assert service.names == ["first"]


def test_a_process_started_during_a_reload_is_replaced_too() -> None:
    service = Service(processes=1).up()
    service.next = service.configuration("second")
    service.step(HUP)
    service.step(TTIN)
    assert [p.start.config_text for p in service.launched] == ["first", "second", "first"]
    service.settle()
    assert service.names == ["second", "second"]


def test_a_second_reload_overtakes_the_first() -> None:
    service = Service(processes=2).up()
    service.next = service.configuration("second")
    service.step(HUP)
    hung = service.launched[2]  # it never beats
    service.next = service.configuration("third", processes=2)
    service.step(HUP)
    assert hung.retiring == "overtaken by another reload"
    service.settle()
    assert service.names == ["third", "third"]
    assert service.sup.config is service.next[0]


def test_a_second_reload_after_the_first_process_took_over() -> None:
    service = Service(processes=2).up()
    service.next = service.configuration("second", processes=2)
    second = service.next[0]
    service.step(HUP)
    service.launched[2].beat()
    service.step()
    service.next = service.configuration("broken", processes=2)
    service.step(HUP)
    assert service.launched[3].start.config_text == "second"
    service.launched[3].beat()
    service.step()
    assert service.sup.config is second  # the third configuration has not begun anywhere
    assert service.launched[4].start.config_text == "broken"
    service.launched[4].end(EXIT_CANT_START)
    service.settle()
    assert service.names == ["second", "second"]
    assert not service.sup.reloading


def test_a_reload_while_a_process_is_recycled_is_not_judged_by_it(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(recycle={"max_age_s": 100}).up()
    service.step(after_s=120)
    assert [p.start.config_text for p in service.launched] == ["first", "first"]
    service.next = service.configuration("broken")
    service.step(HUP)
    service.launched[1].beat()
    service.step()
    assert service.sup.config is not service.next[0]
    service.step(after_s=1)
    service.launched[2].end(EXIT_CANT_START)
    service.step()
    assert "reload given up" in caplog.text
    service.settle()
    assert service.names == ["first"]


def test_a_crash_of_a_recycled_process_s_successor_does_not_end_a_reload() -> None:
    service = Service(recycle={"max_age_s": 100}).up()
    service.step(after_s=120)
    service.next = service.configuration("second")
    service.step(HUP)
    service.launched[1].end(9)
    service.step()
    assert service.sup.reloading
    service.settle()
    assert service.names == ["second"]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_a_reload_can_change_how_many_processes_there_are(before: int, after: int) -> None:
    service = Service(processes=before).up()
    service.next = service.configuration("second", processes=after)
    service.step(HUP)
    assert service.sup.wanted == before
    service.launched[before].beat()
    service.step()
    assert service.sup.wanted == after
    service.settle()
    assert service.names == ["second"] * after


def test_a_reload_with_the_same_count_keeps_what_signals_asked_for() -> None:
    service = Service(processes=1).up()
    service.step(TTIN)
    service.settle()
    service.next = service.configuration("second", processes=1)
    service.step(HUP)
    service.settle()
    assert service.names == ["second", "second"]


def test_less_processes_in_the_middle_of_a_reload() -> None:
    service = Service(processes=2).up()
    service.next = service.configuration("second", processes=2)
    service.step(HUP)
    service.step(TTOU)
    assert service.sup.fleet.ready == 1
    service.settle()
    assert service.names == ["second"]
    assert not service.sup.reloading


def test_a_reload_heals_a_service_whose_processes_only_crash() -> None:
    service = Service(processes=2).up()
    for process in service.launched:
        process.end(9)
    service.step()
    service.next = service.configuration("mended", processes=2)
    service.step(HUP)
    assert service.names == ["mended"]
    service.settle()
    assert service.names == ["mended", "mended"]


def test_a_broken_reload_without_a_living_process_goes_back_to_the_old_configuration() -> None:
    service = Service().up()
    service.launched[0].end(9)
    service.step()
    service.next = service.configuration("broken")
    service.step(HUP)
    assert service.names == ["broken"]
    service.launched[1].end(EXIT_CANT_START)
    service.step()
    service.step(after_s=40)
    assert service.names == ["first"]


# ---------------------------------------------------------------------- recycling


def test_recycling_starts_the_successor_first_and_one_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=3, recycle={"max_age_s": 100}).up()
    service.step(after_s=120)
    service.step()
    assert len(service.launched) == 4
    assert all(process.retiring is None for process in service.launched)
    assert "is recycled: 120 s old" in caplog.text
    service.launched[3].beat()
    service.step()
    assert [p.retiring for p in service.launched[:3]].count("replaced") == 1
    assert len(service.launched) == 4  # the next one not within the same second
    service.step(after_s=1)
    assert len(service.launched) == 5
    assert service.sup.fleet.restarts.recycled == 2


def test_a_process_is_recycled_by_its_jobs() -> None:
    service = Service(recycle={"max_jobs": 100}).up()
    counts = TaskCounts()
    counts.outcomes["complete"] = 111
    service.launched[0].counts = WorkerCounts(tasks={"t": counts})
    service.step()
    assert service.launched[1].replaces is service.launched[0]


def test_a_process_that_has_not_begun_is_not_recycled() -> None:
    service = Service(recycle={"max_age_s": 1})
    service.step()
    service.step(after_s=60)
    assert len(service.launched) == 1


def test_a_recycled_process_that_crashes_meanwhile_is_not_replaced_twice() -> None:
    service = Service(recycle={"max_age_s": 100}).up()
    service.step(after_s=120)
    service.launched[0].end(9)
    service.step()
    service.step(after_s=40)
    assert service.alive == [service.launched[1]]
    assert service.launched[1].replaces is None


# ---------------------------------------------------------------------- more and less


def test_ttin_and_ttou_want_one_more_and_one_less_but_never_none(caplog: pytest.LogCaptureFixture) -> None:
    service = Service().up()
    service.step(TTIN, TTIN)
    assert service.sup.wanted == 3
    service.settle()
    assert len(service.names) == 3
    service.step(TTOU)
    assert service.launched[0].retiring == "one process less wanted"
    service.settle()
    service.step(TTOU, TTOU, TTOU)
    service.settle()
    assert (service.sup.wanted, len(service.names)) == (1, 1)
    assert "SIGTTOU: 1 processes wanted" in caplog.text


def test_one_that_takes_no_jobs_yet_goes_before_one_that_does() -> None:
    service = Service().up()
    service.step(TTIN)
    service.step(TTOU)
    assert [process.retiring for process in service.launched] == [None, "one process less wanted"]
    assert service.sup.ready


# ---------------------------------------------------------------------- stopping


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_stop_drains_every_process_and_starts_no_other(number: signal.Signals) -> None:
    service = Service(processes=2).up()
    assert service.step(number) is None
    assert [p.retiring for p in service.launched] == ["stopped", "stopped"]
    assert not service.sup.ready
    assert service.sup.status() == "draining: 2 processes left, 0 jobs running"
    service.launched[0].end(0)
    assert service.step() is None
    service.launched[1].end(0)
    assert service.step() == 0
    assert len(service.launched) == 2


def test_the_second_signal_stops_at_once() -> None:
    service = Service().up()
    service.step(TERM)
    assert service.launched[0].stops == 0
    service.step(INT)
    assert service.launched[0].stops == 1
    service.launched[0].end(128 + QUIT)
    assert service.step() == 128 + INT


def test_quit_stops_at_once() -> None:
    service = Service().up()
    service.step(QUIT)
    service.launched[0].end(-QUIT)
    assert service.step() == 128 + QUIT


def test_a_process_that_does_not_end_within_the_grace_is_killed_once(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(watchdog={"warn_s": 0, "blocked_s": 0}).up()
    service.step(TERM)
    service.step(after_s=GRACE_S + MARGIN_S - 0.1)
    assert service.launched[0].kills == 0
    service.step(after_s=0.2)
    service.step(after_s=0.2)
    assert service.launched[0].kills == 1
    assert "did not end in time and is killed" in caplog.text
    service.launched[0].end(-9)
    assert service.step() == 3


def test_a_process_that_gave_its_jobs_back_makes_the_exit_code() -> None:
    service = Service(processes=2).up()
    service.step(TERM)
    service.launched[0].end(3)
    service.launched[1].end(0)
    assert service.step() == 3


def test_a_process_that_crashes_while_it_drains_makes_the_exit_code(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=2).up()
    service.step(TERM)
    service.launched[0].end(-signal.SIGSEGV)
    service.launched[1].end(0)
    assert service.step() == EXIT_CRASHED
    assert "every job answered" not in caplog.text


def test_what_a_recycled_process_left_undone_is_not_held_against_a_later_stop() -> None:
    service = Service(recycle={"max_age_s": 100}).up()
    for code in (3, -9):
        service.step(after_s=120)
        service.launched[-1].beat()
        service.step()
        service.step(after_s=GRACE_S + MARGIN_S)
        service.launched[-2].end(code)
        service.step()
    service.step(TERM)
    service.launched[-1].end(0)
    assert service.step() == 0


def test_a_stop_while_the_first_process_starts() -> None:
    service = Service()
    service.step()
    service.step(TERM)
    service.launched[0].end(EXIT_CANT_START)
    assert service.step() == 0


def test_a_stop_before_any_process_was_started() -> None:
    service = Service()
    assert service.step(TERM) == 0
    assert service.launched == []


def test_a_stop_in_the_middle_of_a_reload_ends_the_successor_too() -> None:
    service = Service().up()
    service.step(HUP)
    service.step(TERM)
    assert [p.retiring for p in service.launched] == ["stopped", "stopped"]
    service.launched[0].end(0)
    service.launched[1].end(0)
    assert service.step() == 0


def test_a_service_that_stops_neither_reloads_nor_grows() -> None:
    service = Service().up()
    service.refuse = AssertionError("read while stopping")
    service.step(TERM)
    service.step(HUP, TTIN, TTOU)
    assert not service.sup.reloading
    assert service.sup.wanted == 1
    assert len(service.launched) == 1


# ---------------------------------------------------------------------- the watchdog


def log_of(service: Service, caplog: pytest.LogCaptureFixture) -> str:
    run_greenlets()
    return "\n".join(f"{record.getMessage()} {record.__dict__.get('stack', '')}" for record in caplog.records)


def test_a_silent_hub_is_reported_once_with_its_stack_and_the_process_killed_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service().up()
    process = service.launched[0]
    service.silence(0.875)
    assert "blocked" not in log_of(service, caplog)
    service.silence(1)
    assert log_of(service, caplog).count("it is blocked in in a_guilty_handler") == 1
    assert service.sup.alive
    assert process.kills == 0
    service.silence(4)
    assert not service.sup.alive
    assert process.kills == 1
    assert service.sup.fleet.restarts.blocked == 1
    process.end(-9)
    service.step()
    assert service.sup.fleet.restarts.crash == 0
    service.settle()
    assert len(service.names) == 1
    assert service.sup.alive


def test_one_limit_for_both_reports_before_it_kills(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(watchdog={"warn_s": 2, "blocked_s": 2}).up()
    service.silence(2.0)
    assert service.launched[0].kills == 0
    assert log_of(service, caplog).count("it is blocked in") == 1
    service.silence(0.25)
    assert service.launched[0].kills == 1


def test_a_supervisor_that_stood_still_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=2).up()
    service.clock.now += 3600  # paused, and the processes with it or not: their beats wait to be read
    service.step()
    assert "blocked" not in log_of(service, caplog)
    assert [process.kills for process in service.launched] == [0, 0]
    service.launched[1].beat()
    service.silence(5.5)
    assert [process.kills for process in service.launched[:2]] == [1, 1]  # who stays silent from then on is blocked


def test_a_successor_whose_hub_blocks_ends_the_reload(caplog: pytest.LogCaptureFixture) -> None:
    service = Service().up()
    service.step(HUP)
    service.launched[1].beat(ready=False)
    for _ in range(48):
        service.launched[0].beat()
        service.silence(0.125)
    assert service.launched[1].kills == 1
    service.launched[1].end(-9)
    service.step()
    assert "reload given up" in caplog.text
    assert not service.sup.reloading


def test_a_hub_that_turns_again_can_be_reported_again(caplog: pytest.LogCaptureFixture) -> None:
    service = Service().up()
    for _ in range(2):
        service.silence(1.5)
        service.launched[0].beat()
    assert log_of(service, caplog).count("it is blocked in") == 2


def test_a_watchdog_that_is_off_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(watchdog={"warn_s": 0, "blocked_s": 0}).up()
    service.silence(100)
    assert service.launched[0].kills == 0
    assert "blocked" not in log_of(service, caplog)
    assert service.sup.alive


# ---------------------------------------------------------------------- what else signals do


def test_the_state_is_logged_from_fresh_reports(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(processes=2).up()
    service.step(USR1)
    text = log_of(service, caplog)
    assert [process.reports for process in service.launched] == [1, 1]
    assert "2 of 2 processes ready, 0 jobs running, 0 done" in text
    assert "process 100: ready" in text


def test_stacks_are_asked_of_every_process() -> None:
    service = Service(processes=2).up()
    service.step(USR2)
    assert [process.stacks for process in service.launched] == [1, 1]


def test_signals_that_come_together_are_acted_on_in_order() -> None:
    service = Service().up()
    service.step(TTIN, TERM, TERM)
    assert service.sup.wanted == 2
    assert service.launched[0].stops == 1
    assert len(service.launched) == 1
